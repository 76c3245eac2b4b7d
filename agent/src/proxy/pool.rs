use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    PoolLimits, Tuning,
    connections::Connections,
    dial::{self, ANSWER_TIMEOUT, DialError},
    sockets::Sockets,
    tunnel_socket::Abrupt,
    tunnels::Tunnels,
};
use crate::{
    hbone::{
        ConnectRequest,
        client::{Opened, Tunnel},
    },
    identity::{Certificates, SpiffeId},
};

/// The tunnels of one pod.
///
/// - One dial per key at a time; all who need it wait for its outcome and share it, also its failure.
/// - A seat is taken under the pool's lock before anything is awaited, so a tunnel never has more streams than it may.
/// - A tunnel that is full stays and is used again when streams have ended; one with GOAWAY leaves and its streams
///   go on.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

/// Connections with equal keys may share a tunnel. The source's address is part of it: two pods of one account never
/// share, so that the peer sees who it really is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) source: SpiffeId,
    pub(crate) source_ip: IpAddr,
    pub(crate) expected: Arc<[SpiffeId]>,
    pub(crate) peer: SocketAddr,
}

/// A stream's place in a tunnel, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    pooled: Arc<Pooled>,
}

struct Shared {
    sockets: Arc<dyn Sockets>,
    certificates: Certificates,
    tunnels: Connections,
    abrupt: Abrupt,
    tuning: Tuning,
    listed: Tunnels,
    entries: Mutex<HashMap<Key, Entry>>,
}

#[derive(Default)]
struct Entry {
    pooled: Vec<Arc<Pooled>>,
    /// A dial under way. Those who wait subscribe; without any it is given up.
    dial: Option<Arc<watch::Sender<Option<Outcome>>>>,
}

type Outcome = Result<(), Arc<DialError>>;

#[derive(Debug)]
struct Pooled {
    tunnel: Tunnel,
    limits: PoolLimits,
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// What a look into the pool brought.
enum Found {
    Seat(Seat),
    Dial(watch::Receiver<Option<Outcome>>),
}

impl Pool {
    /// `tunnels` counts what is open and can cut it; `abrupt` is given to their sockets; `listed` tells what is open.
    pub(crate) fn new(
        sockets: Arc<dyn Sockets>,
        certificates: Certificates,
        tunnels: Connections,
        abrupt: Abrupt,
        tuning: Tuning,
        listed: Tunnels,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                sockets,
                certificates,
                tunnels,
                abrupt,
                tuning,
                listed,
                entries: Mutex::default(),
            }),
        }
    }

    /// Opens a stream on a tunnel to the key's peer, which is dialled if need be; `patience` says how long that may take
    /// for this stream, others may wait for longer. The seat must live as long as the stream.
    pub(crate) async fn open(
        &self,
        key: &Key,
        request: &ConnectRequest,
        patience: impl Fn() -> Duration,
    ) -> Result<(Opened, SpiffeId, Seat), Arc<DialError>> {
        let peer = key.peer;
        let mut retried = false;
        loop {
            let (seat, fresh) = self.seat(key, &patience).await?;
            let tunnel = &seat.pooled.tunnel;
            match timeout(ANSWER_TIMEOUT, tunnel.open(request)).await {
                Ok(Ok(opened)) => {
                    let identity = tunnel.peer().clone();
                    return Ok((opened, identity, seat));
                }
                // A tunnel from the pool may have gone away a moment ago; a new one will not have.
                Ok(Err(cause)) if cause.unprocessed() && !fresh && !retried => {
                    retried = true;
                    self.shared.remove(key, &seat.pooled);
                }
                Ok(Err(cause)) => return Err(Arc::new(DialError::Open { peer, cause })),
                Err(_) => {
                    return Err(Arc::new(DialError::AnswerTimeout {
                        peer,
                        within: ANSWER_TIMEOUT,
                    }));
                }
            }
        }
    }

    /// A place in a tunnel, and whether it was dialled just now.
    async fn seat(&self, key: &Key, patience: impl Fn() -> Duration) -> Result<(Seat, bool), Arc<DialError>> {
        let mut fresh = false;
        let mut bound = None;
        loop {
            let mut dial = match self.shared.look(key) {
                Found::Seat(seat) => return Ok((seat, fresh)),
                Found::Dial(dial) => dial,
            };
            fresh = true;
            let (within, give_up) = *bound.get_or_insert_with(|| {
                let within = patience();
                (within, Instant::now() + within)
            });
            let outcome = match timeout_at(give_up, dial.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => outcome.clone(),
                Ok(Err(_)) => None,
                Err(_) => return Err(Arc::new(DialError::ConnectTimeout { to: key.peer, within })),
            };
            match outcome {
                // Given up by those before us just as we came: look again.
                None => {}
                Some(Err(error)) if matches!(*error, DialError::Abandoned { .. }) => {}
                Some(outcome) => outcome?,
            }
        }
    }

    /// Lets go of all tunnels; each closes when its streams have ended.
    pub(crate) fn clear(&self) {
        self.shared.entries().clear();
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat, or joins the dial, or starts it.
    fn look(self: &Arc<Self>, key: &Key) -> Found {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        // Full ones are not looked into: there may be many.
        while let Some(index) = entry.pooled.iter().position(|pooled| pooled.has_room()) {
            match entry.pooled.get(index).and_then(Pooled::take_seat) {
                Some(seat) => return Found::Seat(seat),
                None => drop(entry.pooled.swap_remove(index)),
            }
        }
        if let Some(dial) = &entry.dial {
            return Found::Dial(dial.subscribe());
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        entry.dial = Some(Arc::clone(&sender));
        drop(entries);
        tokio::spawn(Arc::clone(self).dial(key.clone(), sender));
        Found::Dial(receiver)
    }

    async fn dial(self: Arc<Self>, key: Key, waiters: Arc<watch::Sender<Option<Outcome>>>) {
        let expected = Arc::clone(&key.expected);
        let abrupt = (self.abrupt.clone(), &self.tuning);
        let dialled = tokio::select! {
            dialled = dial::tunnel(&*self.sockets, &self.certificates, (&key.source, key.source_ip), expected, key.peer, abrupt) => dialled,
            () = waiters.closed() => Err(DialError::Abandoned { to: key.peer }),
        };
        let (outcome, driven) = match dialled {
            Ok((tunnel, driver)) => (Ok(()), Some((Arc::new(Pooled::new(tunnel, self.tuning.pool)), driver))),
            Err(error) => (Err(Arc::new(error)), None),
        };
        {
            let mut entries = self.entries();
            let entry = entries.entry(key.clone()).or_default();
            entry.dial = None;
            entry.pooled.extend(driven.iter().map(|(pooled, _)| Arc::clone(pooled)));
            if entry.pooled.is_empty() {
                entries.remove(&key);
            }
        }
        waiters.send_replace(Some(outcome));
        if let Some((pooled, driver)) = driven {
            let weak = Arc::downgrade(&pooled);
            let identity = pooled.tunnel.peer().clone();
            drop(pooled);
            let counted = Weak::clone(&weak);
            let streams = move || {
                counted
                    .upgrade()
                    .map_or(0, |pooled| pooled.streams.load(Ordering::Relaxed))
            };
            let _listed = self.listed.dialled(key.peer, identity, streams);
            self.keep(key, &weak, driver).await;
        }
    }

    /// Drives a tunnel until it ends, and takes it out of the pool when nobody uses it.
    async fn keep(self: Arc<Self>, key: Key, pooled: &Weak<Pooled>, driver: impl Future<Output = ()>) {
        let mut guard = self.tunnels.enter(None);
        let mut driver = std::pin::pin!(driver);
        let idle = self.tuning.pool.idle;
        let mut look_at = Instant::now() + idle;
        loop {
            tokio::select! {
                () = &mut driver => break,
                _ = guard.cut() => break,
                () = tokio::time::sleep_until(look_at) => {}
            }
            look_at = Instant::now() + idle;
            if let Some(pooled) = pooled.upgrade() {
                match pooled.idle_until() {
                    Some(until) if until > Instant::now() && pooled.is_usable() => look_at = until,
                    None if pooled.is_usable() => {}
                    _ => self.remove_unused(&key, &pooled),
                }
            }
        }
        if let Some(pooled) = pooled.upgrade() {
            self.remove(&key, &pooled);
        }
    }

    fn remove(&self, key: &Key, pooled: &Arc<Pooled>) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(key) {
            entry.pooled.retain(|other| !Arc::ptr_eq(other, pooled));
            if entry.pooled.is_empty() && entry.dial.is_none() {
                entries.remove(key);
            }
        }
    }

    /// Removes a tunnel unless a seat was taken meanwhile or it can serve nobody anyway.
    fn remove_unused(&self, key: &Key, pooled: &Arc<Pooled>) {
        // Seats are taken under this lock, so none can be taken between the look and the removal.
        let mut entries = self.entries();
        if pooled.streams.load(Ordering::Relaxed) > 0 && pooled.is_usable() {
            return;
        }
        if let Some(entry) = entries.get_mut(key) {
            entry.pooled.retain(|other| !Arc::ptr_eq(other, pooled));
            if entry.pooled.is_empty() && entry.dial.is_none() {
                entries.remove(key);
            }
        }
    }
}

impl Pooled {
    fn new(tunnel: Tunnel, limits: PoolLimits) -> Self {
        Self {
            tunnel,
            limits,
            streams: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        }
    }

    fn is_usable(&self) -> bool {
        self.tunnel.clone().is_usable()
    }

    fn has_room(&self) -> bool {
        let streams = self.streams.load(Ordering::Relaxed);
        // The second bound takes the tunnel's lock.
        streams < self.limits.streams && streams < self.tunnel.stream_limit().max(1)
    }

    /// `None` when the tunnel takes no more streams, ever. Only called under the pool's lock, after
    /// [`Pooled::has_room`].
    fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        if !self.is_usable() {
            return None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            pooled: Arc::clone(self),
        })
    }

    /// When it will have been unused for long enough; `None` while it has streams.
    fn idle_until(&self) -> Option<Instant> {
        if self.streams.load(Ordering::Relaxed) > 0 {
            return None;
        }
        Some(*self.idle_since.lock().unwrap_or_else(PoisonError::into_inner) + self.limits.idle)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.pooled.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.pooled.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}
