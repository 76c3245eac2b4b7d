use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::mesh::route::Shunned;

/// Peers remembered.
const MOST: usize = 1024;
/// How long a peer is passed over after its first failure. Each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// How long it is passed over at most.
const LONGEST: Duration = Duration::from_secs(30);
/// How long one connection may take to find out whether a peer is back, while the others still pass it over.
const PROBE: Duration = Duration::from_secs(10);
/// How long after its time a peer is remembered, so that its next failure counts as a further one.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The peers of this process that lately could not be reached: endpoints, their tunnels, gateways. Who chooses passes
/// them over as long as there are others.
///
/// A pod passes over a peer that failed itself, or that failed two other pods: what a single pod makes of its own
/// connections must not decide where the connections of others go.
///
/// Readers take no lock; who has nothing to remember does not even look.
#[derive(Clone, Debug)]
pub(crate) struct Ejections(Arc<Table>);

#[derive(Debug)]
struct Table {
    peers: ArcSwap<Peers>,
    /// Held by who changes which peers there are.
    change: Mutex<()>,
    began: Instant,
    /// No peer is passed over after this time, in milliseconds since the beginning.
    last: AtomicU64,
}

type Peers = HashMap<SocketAddr, Arc<Peer>>;

#[derive(Debug)]
struct Peer {
    /// Who noticed first.
    witness: u64,
    by_many: AtomicBool,
    failures: AtomicU32,
    /// Passed over until then, in milliseconds since the beginning.
    until: AtomicU64,
    /// Somebody is finding out whether it is back.
    probed: AtomicBool,
}

/// Somebody's view of the peers to be passed over, at one moment.
#[derive(Debug)]
pub(crate) struct View {
    peers: Arc<Peers>,
    witness: u64,
    now: u64,
}

impl Ejections {
    /// The one memory of this process.
    pub(crate) fn of_process() -> Self {
        static PROCESS: LazyLock<Ejections> = LazyLock::new(Ejections::new);
        PROCESS.clone()
    }

    fn new() -> Self {
        Self(Arc::new(Table {
            peers: ArcSwap::default(),
            change: Mutex::default(),
            began: Instant::now(),
            last: AtomicU64::new(0),
        }))
    }

    /// A number that tells one witness from all others.
    pub(crate) fn witness() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// What a witness passes over now; none when that is nobody.
    pub(crate) fn seen_by(&self, witness: u64) -> Option<View> {
        let now = self.0.now();
        (self.0.last.load(Ordering::Relaxed) > now).then(|| View {
            peers: self.0.peers.load_full(),
            witness,
            now,
        })
    }

    /// Whether a peer is passed over now by anybody, for who shows it.
    pub(crate) fn passes_over(&self, at: SocketAddr) -> bool {
        let peers = self.0.peers.load();
        let now = self.0.now();
        peers
            .get(&at)
            .is_some_and(|peer| peer.until.load(Ordering::Relaxed) > now)
    }

    /// This peer is about to be tried. If its time is over, others pass it over until it is known how that went.
    pub(crate) fn trying(&self, at: SocketAddr) {
        let peers = self.0.peers.load();
        let Some(peer) = peers.get(&at) else { return };
        let (now, until) = (self.0.now(), peer.until.load(Ordering::Relaxed));
        let probe = now + millis(PROBE);
        let claimed = until <= now
            && peer
                .until
                .compare_exchange(until, probe, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if claimed {
            peer.probed.store(true, Ordering::Relaxed);
            self.0.last.fetch_max(probe, Ordering::Relaxed);
        }
    }

    /// It could not be reached.
    pub(crate) fn failed(&self, at: SocketAddr, witness: u64) {
        let now = self.0.now();
        if let Some(peer) = self.0.peers.load().get(&at) {
            if let Some(until) = peer.failed(witness, now) {
                self.0.last.fetch_max(until, Ordering::Relaxed);
            }
            return;
        }
        self.0.change(|peers| {
            if peers.len() >= MOST {
                peers.retain(|_, peer| peer.until.load(Ordering::Relaxed) + millis(REMEMBERED) > now);
            }
            // When all of them are down something else is wrong, and one more tells nothing.
            if peers.len() < MOST {
                let until = now + millis(FIRST);
                peers.entry(at).or_insert_with(|| Arc::new(Peer::new(witness, until)));
                self.0.last.fetch_max(until, Ordering::Relaxed);
            }
        });
    }

    /// It was reached.
    pub(crate) fn reached(&self, at: SocketAddr) {
        if self.0.peers.load().contains_key(&at) {
            self.0.change(|peers| drop(peers.remove(&at)));
        }
    }
}

impl Table {
    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn change(&self, change: impl FnOnce(&mut Peers)) {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut peers = Peers::clone(&self.peers.load());
        change(&mut peers);
        self.peers.store(Arc::new(peers));
    }
}

impl Peer {
    fn new(witness: u64, until: u64) -> Self {
        Self {
            witness,
            by_many: AtomicBool::new(false),
            failures: AtomicU32::new(1),
            until: AtomicU64::new(until),
            probed: AtomicBool::new(false),
        }
    }

    /// Until when it is passed over now, if that has changed.
    fn failed(&self, witness: u64, now: u64) -> Option<u64> {
        if witness != self.witness {
            self.by_many.store(true, Ordering::Relaxed);
        }
        let until = self.until.load(Ordering::Relaxed);
        let was_probed = self.probed.swap(false, Ordering::Relaxed);
        // Connections that were on their way together are one failure.
        if until > now && !was_probed {
            return None;
        }
        let forgotten = until + millis(REMEMBERED) < now;
        let before = if forgotten {
            0
        } else {
            self.failures.load(Ordering::Relaxed)
        };
        self.failures.store(before.saturating_add(1), Ordering::Relaxed);
        let pause = FIRST.saturating_mul(1_u32.checked_shl(before).unwrap_or(u32::MAX));
        let until = now + millis(pause.min(LONGEST));
        self.until.store(until, Ordering::Relaxed);
        Some(until)
    }
}

impl Shunned for View {
    fn contains(&self, at: SocketAddr) -> bool {
        self.peers.get(&at).is_some_and(|peer| {
            let known = peer.witness == self.witness || peer.by_many.load(Ordering::Relaxed);
            known && peer.until.load(Ordering::Relaxed) > self.now
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: u64 = 1;
    const OTHER: u64 = 2;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 15008))
    }

    fn is_shunned(ejections: &Ejections, by: u64, at: SocketAddr) -> bool {
        ejections.seen_by(by).is_some_and(|view| view.contains(at))
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_failed_is_passed_over_for_longer_and_longer_and_its_success_ends_that() {
        let ejections = Ejections::new();
        assert!(ejections.seen_by(POD).is_none(), "who remembers nothing has no view");
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            ejections.failed(peer(1), POD);
            assert!(is_shunned(&ejections, POD, peer(1)));
            assert!(!is_shunned(&ejections, POD, peer(2)));
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert!(
                is_shunned(&ejections, POD, peer(1)) && ejections.passes_over(peer(1)),
                "{seconds}"
            );
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(
                !is_shunned(&ejections, POD, peer(1)) && !ejections.passes_over(peer(1)),
                "{seconds}"
            );
        }
        ejections.failed(peer(1), POD);
        ejections.reached(peer(1));
        assert!(!is_shunned(&ejections, POD, peer(1)));
        ejections.failed(peer(1), POD);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!is_shunned(&ejections, POD, peer(1)), "it starts from the beginning");
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_finds_out_whether_a_peer_is_back() {
        let ejections = Ejections::new();
        ejections.failed(peer(1), POD);
        tokio::time::advance(FIRST).await;
        assert!(!is_shunned(&ejections, POD, peer(1)));
        ejections.trying(peer(1));
        assert!(is_shunned(&ejections, POD, peer(1)), "the others wait for its outcome");
        ejections.failed(peer(1), POD);
        tokio::time::advance(2 * FIRST - Duration::from_millis(1)).await;
        assert!(is_shunned(&ejections, POD, peer(1)), "a second failure counts double");
        tokio::time::advance(Duration::from_millis(1)).await;
        ejections.trying(peer(1));
        tokio::time::advance(PROBE).await;
        assert!(!is_shunned(&ejections, POD, peer(1)), "whoever probed has gone away");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_at_once_are_one_failure() {
        let ejections = Ejections::new();
        (0..100).for_each(|_| ejections.failed(peer(1), POD));
        tokio::time::advance(FIRST).await;
        assert!(!is_shunned(&ejections, POD, peer(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_pod_says_does_not_move_the_others() {
        let ejections = Ejections::new();
        (0..100).for_each(|_| ejections.failed(peer(1), POD));
        assert!(is_shunned(&ejections, POD, peer(1)));
        assert!(!is_shunned(&ejections, OTHER, peer(1)));
        assert!(!is_shunned(&ejections, 3, peer(1)));
        ejections.failed(peer(1), OTHER);
        assert!(is_shunned(&ejections, 3, peer(1)), "two of them are believed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded_and_makes_room_with_time() {
        let ejections = Ejections::new();
        let at = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        (0..2 * 1024).for_each(|n| ejections.failed(at(n), POD));
        assert_eq!(ejections.0.peers.load().len(), MOST);
        assert!(!is_shunned(&ejections, POD, at(2000)));
        tokio::time::advance(REMEMBERED + FIRST).await;
        ejections.failed(at(2000), POD);
        assert_eq!(ejections.0.peers.load().len(), 1);
        assert!(is_shunned(&ejections, POD, at(2000)));
    }
}
