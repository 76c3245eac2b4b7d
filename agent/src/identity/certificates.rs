//! The certificates in use: asked for once, renewed in time.
//!
//! Each identity has a keeper, a task which issues, sleeps until half of the certificate's life is over, and issues
//! again. Callers read what it published last, and wait only while it asks and there is nothing valid to give.
//!
//! | file | what it knows |
//! |---|---|
//! | `keeper` | the task, and when it asks |
//! | `demand` | who wants an identity's certificate |
//! | `state` | what a keeper published, and what callers are told by it |
//! | `turns` | how many questions are under way, and whose comes first |

mod demand;
mod keeper;
mod state;
mod turns;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::demand::Demand;
use self::keeper::{Keeper, same_set};
use self::state::{State, judge};
use self::turns::Turns;
use super::shelf::{Shelf, Vault};
use super::{Certificate, CertificateSource, IssueError, SpiffeId};
use crate::tls::with_causes;

#[cfg(test)]
mod tests;

/// The certificates of the identities on this node. Clones share them.
///
/// Keepers live in the tokio runtime in which it was made; without one, in that of who asks first.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

/// Somebody on this node has an identity; its certificate is held ready as long as one of these lives, and dropped with
/// the last. Tunnels that stand keep theirs.
#[must_use = "the certificate is forgotten when this is dropped"]
pub struct Wanted {
    id: SpiffeId,
    shared: Arc<Shared>,
}

/// Why there is no certificate for an identity.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    /// There never was one, or the clock says that the last is not valid yet.
    #[error("no certificate for {id}")]
    Issue {
        /// Whose.
        id: SpiffeId,
        /// How the last attempt ended.
        #[source]
        cause: Arc<IssueError>,
    },
    /// The last one is over, and no other could be had.
    #[error("the certificate of {id} expired {seconds} s ago and could not be renewed")]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// How long it has been over.
        seconds: u64,
        /// How the last attempt ended.
        #[source]
        cause: Arc<IssueError>,
    },
    /// The identity was forgotten, or its keeper ended, while the caller waited. Asking again starts anew.
    #[error("the identity {id} was released while its certificate was being issued")]
    Released {
        /// Whose.
        id: SpiffeId,
    },
}

/// What the cache holds of one identity.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The last certificate, valid or not.
    pub certificate: Option<Arc<Certificate>>,
    /// How the last attempt to get one failed; none when it did not.
    pub failure: Option<String>,
    /// When the CA is asked next; none while it is being asked.
    pub next_attempt: Option<SystemTime>,
}

struct Shared {
    source: Arc<dyn CertificateSource>,
    clock: Arc<dyn Clock>,
    runtime: Option<Handle>,
    turns: Arc<Turns>,
    shelf: Option<Shelf>,
    news: watch::Sender<News>,
    births: AtomicU64,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
}

/// What concerns all keepers.
#[derive(Clone, Default)]
struct News {
    /// How often all certificates were asked to be renewed.
    renewals: u64,
    /// Those that came with the last certificate.
    roots: Option<Arc<[CertificateDer<'static>]>>,
}

/// The wall clock, which tests replace by one that follows tokio's paused time.
trait Clock: Send + Sync + 'static {
    fn now(&self) -> SystemTime;
}

struct SystemClock;

/// One identity in the map. Dropping it ends its keeper.
struct Entry {
    birth: u64,
    state: watch::Receiver<State>,
    demand: Arc<Demand>,
    keeper: JoinHandle<()>,
}

impl Certificates {
    /// An empty cache in front of `source`.
    pub fn new(source: Arc<dyn CertificateSource>) -> Self {
        Self::made(source, Arc::new(SystemClock), None)
    }

    /// A cache whose certificates outlive this process in `vault`. `kept` is what an earlier process left there, by
    /// place: what is valid is used at once, and renewed when it is due.
    pub fn kept_in(
        vault: Arc<dyn Vault>,
        kept: impl IntoIterator<Item = (u32, Vec<u8>)>,
        source: Arc<dyn CertificateSource>,
    ) -> Self {
        let made = Self::made(source, Arc::new(SystemClock), Some(Shelf::new(vault)));
        for (place, bytes) in kept {
            made.shared.take_up(place, &bytes);
        }
        made
    }

    fn made(source: Arc<dyn CertificateSource>, clock: Arc<dyn Clock>, shelf: Option<Shelf>) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                clock,
                runtime: Handle::try_current().ok(),
                turns: Arc::new(Turns::new()),
                shelf,
                news: watch::Sender::default(),
                births: AtomicU64::new(0),
                entries: Mutex::default(),
            }),
        }
    }

    /// The certificate of `id`, valid now: at once when there is one, else after the attempt under way or due soon.
    ///
    /// Between failed attempts that are far apart this fails at once with the last cause; it does not make the source be
    /// asked more often.
    ///
    /// # Errors
    /// When there is none, or the last one has expired, and the source gives no other.
    pub async fn get(&self, id: &SpiffeId) -> Result<Arc<Certificate>, CertificateError> {
        let (mut state, demand) = self.shared.entry(id);
        let ended = state.borrow().attempts;
        let mut waiting = None;
        loop {
            if let Some(answer) = state
                .borrow_and_update()
                .answer(id, self.shared.clock.now(), &demand, ended)
            {
                return answer;
            }
            waiting.get_or_insert_with(|| Arc::clone(&demand).wait());
            state
                .changed()
                .await
                .map_err(|_| CertificateError::Released { id: id.clone() })?;
        }
    }

    /// Has the certificate of `id` fetched ahead, after those that connections wait for, and held ready.
    pub fn want(&self, id: &SpiffeId) -> Wanted {
        self.shared.want(id);
        Wanted {
            id: id.clone(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Asks again now where the last attempt failed and there is nothing valid: the CA may know better by now.
    pub fn retry(&self, id: &SpiffeId) {
        if let Some(entry) = self.shared.lock().get(id)
            && entry.state.borrow().failure.is_some()
        {
            entry.demand.wake.notify_one();
        }
    }

    /// Has every certificate asked for anew, spread over half a minute; what is held serves on until then.
    pub fn renew_all(&self) {
        self.shared.news.send_modify(|news| news.renewals += 1);
    }

    /// Drops the certificates of identities that nobody wants: of pods that left while no worker lived.
    pub fn keep_only_wanted(&self) {
        let unwanted: Vec<SpiffeId> = {
            let entries = self.shared.lock();
            let unwanted = entries.iter().filter(|(_, entry)| !entry.demand.is_wanted());
            unwanted.map(|(id, _)| id.clone()).collect()
        };
        for id in unwanted {
            self.shared.forget(&id, |demand| !demand.is_wanted());
        }
    }

    /// What is held for `id` now, without asking for anything; none while nobody wanted a certificate.
    #[must_use]
    pub fn held(&self, id: &SpiffeId) -> Option<Held> {
        let entries = self.shared.lock();
        Some(self.shared.held(entries.get(id)?))
    }

    /// What is held of every identity, by its name.
    #[must_use]
    pub fn list(&self) -> Vec<(SpiffeId, Held)> {
        let entries = self.shared.lock();
        let held = entries.iter().map(|(id, entry)| (id.clone(), self.shared.held(entry)));
        let mut list: Vec<_> = held.collect();
        drop(entries);
        list.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        list
    }
}

impl Wanted {
    /// Whose certificate is held ready.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.shared.forget(&self.id, |demand| {
            let before = demand.wanted.fetch_sub(1, Ordering::SeqCst);
            before == 1
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `id` is asked for, and starts its keeper when it has none that lives.
    fn entry(self: &Arc<Self>, id: &SpiffeId) -> (watch::Receiver<State>, Arc<Demand>) {
        let mut entries = self.lock();
        let entry = self.living(&mut entries, id);
        entry.demand.note();
        (entry.state.clone(), Arc::clone(&entry.demand))
    }

    fn want(self: &Arc<Self>, id: &SpiffeId) {
        let mut entries = self.lock();
        let entry = self.living(&mut entries, id);
        entry.demand.wanted.fetch_add(1, Ordering::SeqCst);
    }

    fn living<'a>(self: &Arc<Self>, entries: &'a mut HashMap<SpiffeId, Entry>, id: &SpiffeId) -> &'a mut Entry {
        let entry = entries
            .entry(id.clone())
            .or_insert_with(|| self.start(id, Arc::new(Demand::new()), None));
        if entry.keeper.is_finished() {
            *entry = self.start(id, Arc::clone(&entry.demand), None);
        }
        entry
    }

    fn start(self: &Arc<Self>, id: &SpiffeId, demand: Arc<Demand>, held: Option<(u64, Arc<Certificate>)>) -> Entry {
        let (birth, held) = match held {
            Some((birth, held)) => (birth, Some(held)),
            None => (self.next_birth(), None),
        };
        let (sender, state) = watch::channel(State {
            asking: held.is_none(),
            certificate: held.clone(),
            ..State::default()
        });
        let keeper = Keeper {
            id: id.clone(),
            birth,
            source: Arc::clone(&self.source),
            turns: Arc::clone(&self.turns),
            clock: Arc::clone(&self.clock),
            state: sender,
            demand: Arc::clone(&demand),
            news: self.news.subscribe(),
            home: Arc::downgrade(self),
        };
        let keeper = match &self.runtime {
            Some(runtime) => runtime.spawn(keeper.run(held)),
            None => tokio::spawn(keeper.run(held)),
        };
        Entry {
            birth,
            state,
            demand,
            keeper,
        }
    }

    fn next_birth(&self) -> u64 {
        self.births.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes up what an earlier process kept, if it still is of use.
    fn take_up(self: &Arc<Self>, place: u32, bytes: &[u8]) {
        let Some(shelf) = &self.shelf else { return };
        let birth = self.next_birth();
        match shelf.take_up(place, bytes, birth) {
            Err(error) => {
                tracing::warn!(place, error = with_causes(&error), "a kept certificate is not taken up");
                shelf.clear(place);
            }
            Ok(certificate) if judge(&certificate, self.clock.now()).is_err() => {
                shelf.release(certificate.id(), birth);
            }
            Ok(certificate) => {
                let id = certificate.id().clone();
                let entry = self.start(&id, Arc::new(Demand::new()), Some((birth, Arc::new(certificate))));
                self.lock().insert(id, entry);
            }
        }
    }

    /// Keeps a certificate past this process, if it is from the identity's entry of `birth`.
    fn keep(&self, certificate: &Certificate, birth: u64) {
        let is_current = || {
            let entries = self.lock();
            entries.get(certificate.id()).is_some_and(|entry| entry.birth == birth)
        };
        if let Some(shelf) = &self.shelf {
            shelf.keep(certificate, birth, is_current);
        }
    }

    /// The CA gave these roots: certificates with others are to be had anew.
    fn note_roots(&self, roots: &Arc<[CertificateDer<'static>]>) {
        self.news.send_if_modified(|news| {
            let is_same = news.roots.as_ref().is_some_and(|known| same_set(known, roots));
            if is_same {
                return false;
            }
            if news.roots.is_some() {
                tracing::info!(
                    count = roots.len(),
                    "the CA gives other roots than before; every certificate is renewed"
                );
            }
            news.roots = Some(Arc::clone(roots));
            true
        });
    }

    /// Drops the certificate of `id` and ends its renewal, if nobody has use for it.
    fn forget(&self, id: &SpiffeId, is_useless: impl FnOnce(&Demand) -> bool) {
        let mut entries = self.lock();
        if entries.get(id).is_some_and(|entry| is_useless(&entry.demand)) {
            let forgotten = entries.remove(id);
            drop(entries);
            self.let_go(id, forgotten.as_ref());
        }
    }

    /// A keeper takes its own entry out; true when it is no longer there.
    fn remove_if(&self, id: &SpiffeId, birth: u64, is_useless: impl FnOnce() -> bool) -> bool {
        let mut entries = self.lock();
        if !is_useless() {
            return false;
        }
        if entries.get(id).is_some_and(|entry| entry.birth == birth) {
            let forgotten = entries.remove(id);
            drop(entries);
            self.let_go(id, forgotten.as_ref());
        }
        true
    }

    fn let_go(&self, id: &SpiffeId, entry: Option<&Entry>) {
        if let (Some(shelf), Some(entry)) = (&self.shelf, entry) {
            shelf.release(id, entry.birth);
        }
    }

    fn held(&self, entry: &Entry) -> Held {
        let state = entry.state.borrow();
        let ahead = state.next.filter(|_| !state.asking);
        Held {
            certificate: state.certificate.clone(),
            failure: state.failure.as_deref().map(|failure| with_causes(failure)),
            next_attempt: ahead.map(|next| self.clock.now() + next.saturating_duration_since(Instant::now())),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}
