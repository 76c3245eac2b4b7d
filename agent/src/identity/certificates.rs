//! The certificates in use: asked for once, renewed in time.
//!
//! Each identity has a keeper, a task which issues, sleeps until half of the certificate's life is over, and issues
//! again. Callers read what it published last, and wait only while it asks and there is nothing valid to give.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Certificate, CertificateSource, IssueError, MaterialError, SpiffeId};
use crate::tls::with_causes;

#[cfg(test)]
mod tests;

/// How long a source may take over one certificate.
const ISSUE_LIMIT: Duration = Duration::from_secs(30);
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(150);
/// An identity without a certificate is given up when nobody asked for so long.
const IDLE_WITHOUT_CERTIFICATE: Duration = Duration::from_secs(300);

/// The certificates of the identities on this node. Clones share them.
///
/// Must be used inside a tokio runtime; the keeper of an identity lives in the runtime of who asked first.
#[derive(Clone)]
pub struct Certificates {
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
}

struct Shared {
    source: Arc<dyn CertificateSource>,
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
}

/// The wall clock, which tests replace by one that follows tokio's paused time.
trait Clock: Send + Sync + 'static {
    fn now(&self) -> SystemTime;
}

struct SystemClock;

/// One identity in the map. Dropping it ends its keeper.
struct Entry {
    state: watch::Receiver<State>,
    demand: Arc<Demand>,
    keeper: JoinHandle<()>,
}

/// What a keeper last published.
#[derive(Default)]
struct State {
    certificate: Option<Arc<Certificate>>,
    /// How the last attempt ended; none after a success.
    failure: Option<Arc<IssueError>>,
    /// An attempt is under way.
    asking: bool,
}

/// How callers reach a keeper.
struct Demand {
    born: Instant,
    /// Milliseconds from `born` to the last time somebody asked.
    asked: AtomicU64,
    /// Rung when the certificate turns out to be unusable before its renewal was due: the clock was set, or stood still.
    wake: Notify,
}

/// The task that looks after one identity's certificate.
struct Keeper {
    id: SpiffeId,
    source: Arc<dyn CertificateSource>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<State>,
    demand: Arc<Demand>,
    home: Weak<Shared>,
}

impl Certificates {
    /// An empty cache in front of `source`.
    pub fn new(source: Arc<dyn CertificateSource>) -> Self {
        Self::with_clock(source, Arc::new(SystemClock))
    }

    fn with_clock(source: Arc<dyn CertificateSource>, clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                clock,
                entries: Mutex::default(),
            }),
        }
    }

    /// The certificate of `id`, valid now: at once when there is one, else after the attempt under way.
    ///
    /// Between failed attempts this fails at once with the last cause; it does not make the source be asked more often.
    ///
    /// # Errors
    /// When there is none, or the last one has expired, and the source gives no other.
    pub async fn get(&self, id: &SpiffeId) -> Result<Arc<Certificate>, CertificateError> {
        let (mut state, demand) = self.shared.entry(id);
        loop {
            if let Some(answer) = state.borrow_and_update().answer(id, self.shared.clock.now(), &demand) {
                return answer;
            }
            state
                .changed()
                .await
                .map_err(|_| CertificateError::Released { id: id.clone() })?;
        }
    }

    /// What is held for `id` now, without asking for anything; none while nobody wanted a certificate.
    #[must_use]
    pub fn held(&self, id: &SpiffeId) -> Option<Held> {
        let entries = self.shared.lock();
        let state = entries.get(id)?.state.borrow();
        Some(Held {
            certificate: state.certificate.clone(),
            failure: state.failure.as_deref().map(|failure| with_causes(failure)),
        })
    }

    /// Drops the certificate and ends its renewal; tunnels that stand keep theirs. For the end of `id`'s last pod.
    pub fn forget(&self, id: &SpiffeId) {
        let forgotten = self.shared.lock().remove(id);
        drop(forgotten);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `id` is asked for, and starts its keeper when it has none that lives.
    fn entry(self: &Arc<Self>, id: &SpiffeId) -> (watch::Receiver<State>, Arc<Demand>) {
        let mut entries = self.lock();
        match entries.get(id) {
            Some(entry) if !entry.keeper.is_finished() => {
                entry.demand.note();
                (entry.state.clone(), entry.demand.clone())
            }
            _ => {
                let entry = self.start(id);
                let reach = (entry.state.clone(), entry.demand.clone());
                entries.insert(id.clone(), entry);
                reach
            }
        }
    }

    fn start(self: &Arc<Self>, id: &SpiffeId) -> Entry {
        let (sender, state) = watch::channel(State {
            asking: true,
            ..State::default()
        });
        let demand = Arc::new(Demand {
            born: Instant::now(),
            asked: AtomicU64::new(0),
            wake: Notify::new(),
        });
        let keeper = Keeper {
            id: id.clone(),
            source: self.source.clone(),
            clock: self.clock.clone(),
            state: sender,
            demand: demand.clone(),
            home: Arc::downgrade(self),
        };
        Entry {
            state,
            demand,
            keeper: tokio::spawn(keeper.run()),
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

impl State {
    /// What a caller is told now; nothing means to wait for the keeper.
    fn answer(
        &self,
        id: &SpiffeId,
        now: SystemTime,
        demand: &Demand,
    ) -> Option<Result<Arc<Certificate>, CertificateError>> {
        if let Some(usable) = self.usable(now) {
            return Some(Ok(usable.clone()));
        }
        if self.asking {
            return None;
        }
        let Some(cause) = self.failure.clone() else {
            demand.wake.notify_one();
            return None;
        };
        let over = self
            .certificate
            .as_ref()
            .and_then(|last| now.duration_since(last.not_after()).ok());
        Some(Err(match over {
            Some(over) => CertificateError::Expired {
                id: id.clone(),
                seconds: over.as_secs(),
                cause,
            },
            None => CertificateError::Issue { id: id.clone(), cause },
        }))
    }

    fn usable(&self, now: SystemTime) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref().filter(|held| judge(held, now).is_ok())
    }
}

impl Demand {
    fn note(&self) {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.asked.store(millis, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        self.born
            .elapsed()
            .saturating_sub(Duration::from_millis(self.asked.load(Ordering::Relaxed)))
    }
}

impl Keeper {
    async fn run(self) {
        let mut failures = 0;
        loop {
            self.state.send_modify(|state| state.asking = true);
            let wait = match self.issue().await {
                Ok(certificate) => {
                    failures = 0;
                    self.keep(certificate)
                }
                Err(error) => {
                    failures = u32::saturating_add(failures, 1);
                    self.fail(error, failures)
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.needed() => {}
            }
            if self.idle() && self.leave() {
                return;
            }
        }
    }

    async fn issue(&self) -> Result<Arc<Certificate>, IssueError> {
        let answer = timeout(ISSUE_LIMIT, self.source.issue(self.id.clone())).await;
        let certificate = answer.map_err(|_| IssueError::TimedOut(ISSUE_LIMIT))??;
        if certificate.id() != &self.id {
            let (got, wanted) = (certificate.id().clone(), self.id.clone());
            return Err(MaterialError::WrongIdentity { got, wanted }.into());
        }
        judge(&certificate, self.clock.now())?;
        Ok(certificate)
    }

    /// Publishes a certificate and says how long it is good for.
    fn keep(&self, certificate: Arc<Certificate>) -> Duration {
        let wait = until_renewal(&certificate, self.clock.now(), rand::random_range(-1.0..=1.0));
        tracing::debug!(id = %self.id, renewal_in_s = wait.as_secs(), "certificate issued");
        self.state.send_replace(State {
            certificate: Some(certificate),
            failure: None,
            asking: false,
        });
        wait
    }

    /// Publishes a failure beside the certificate there may be, and says how long to wait.
    fn fail(&self, error: IssueError, failures: u32) -> Duration {
        let wait = back_off(failures, rand::random_range(0.0..=1.0));
        let still_valid = self.state.borrow().usable(self.clock.now()).is_some();
        let (error_text, next_in_ms) = (with_causes(&error), wait.as_millis());
        tracing::warn!(id = %self.id, error = error_text, failures, still_valid, next_in_ms, "no new certificate");
        self.state.send_modify(|state| {
            state.failure = Some(Arc::new(error));
            state.asking = false;
        });
        wait
    }

    /// Waits for somebody who finds the certificate unusable, and is right.
    async fn needed(&self) {
        loop {
            self.demand.wake.notified().await;
            if self.state.borrow().usable(self.clock.now()).is_none() {
                return;
            }
        }
    }

    /// Nobody asked for a whole life of the certificate, so it renews for nobody.
    fn idle(&self) -> bool {
        let state = self.state.borrow();
        let limit = state
            .usable(self.clock.now())
            .and_then(|held| held.not_after().duration_since(held.not_before()).ok())
            .unwrap_or(IDLE_WITHOUT_CERTIFICATE);
        self.demand.idle() > limit
    }

    /// Takes itself out of the map, unless somebody asked just now.
    fn leave(&self) -> bool {
        let Some(home) = self.home.upgrade() else { return true };
        let mut entries = home.lock();
        if !self.idle() {
            return false;
        }
        if entries
            .get(&self.id)
            .is_some_and(|entry| Arc::ptr_eq(&entry.demand, &self.demand))
        {
            entries.remove(&self.id);
        }
        true
    }
}

/// Is a certificate valid at this time?
fn judge(certificate: &Certificate, now: SystemTime) -> Result<(), IssueError> {
    let (begin, end) = (certificate.not_before(), certificate.not_after());
    if now < begin {
        return Err(IssueError::NotYetValid(begin.duration_since(now).unwrap_or_default()));
    }
    if end < now {
        return Err(IssueError::Expired(now.duration_since(end).unwrap_or_default()));
    }
    Ok(())
}

/// How long until half of the certificate's life is over, give or take a tenth (`jitter` is -1 to 1), so that the pods
/// of a node do not all ask at once. Half of what is left when that moment has passed.
fn until_renewal(certificate: &Certificate, now: SystemTime, jitter: f64) -> Duration {
    let (begin, end) = (certificate.not_before(), certificate.not_after());
    let half_life = end.duration_since(begin).unwrap_or_default() / 2;
    let wait = match begin.checked_add(half_life).map(|due| due.duration_since(now)) {
        Some(Ok(wait)) => wait,
        _ => end.duration_since(now).unwrap_or_default() / 2,
    };
    wait.mul_f64(1.0 + jitter / 10.0).max(FIRST_BACK_OFF)
}

/// How long to wait after the given number of failures in a row, less up to a fifth (`jitter` is 0 to 1).
fn back_off(failures: u32, jitter: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST_BACK_OFF
        .saturating_mul(doubled)
        .min(LONGEST_BACK_OFF)
        .mul_f64(1.0 - jitter / 5.0)
}
