//! One identity's certificate, looked after.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::demand::Demand;
use super::state::{State, judge};
use super::turns::Turns;
use super::{Clock, News, Shared};
use crate::identity::{Certificate, CertificateSource, IssueError, MaterialError, SpiffeId};
use crate::tls::with_causes;

/// How long a source may take over one certificate. istiod needs milliseconds; who hangs is asked again, perhaps another.
const ISSUE_LIMIT: Duration = Duration::from_secs(10);
pub(super) const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
pub(super) const LONGEST_BACK_OFF: Duration = Duration::from_secs(150);
/// An identity without a certificate is given up when nobody asked for so long.
pub(super) const IDLE_WITHOUT_CERTIFICATE: Duration = Duration::from_secs(300);
/// New roots make every certificate be asked for anew, at a random moment within this time.
pub(super) const SPREAD: Duration = Duration::from_secs(30);
/// Where the CA gives now these roots, now those, a certificate is not asked for more often than this because of it.
pub(super) const ROOTS_PAUSE: Duration = Duration::from_secs(600);

/// The task that looks after one identity's certificate.
pub(super) struct Keeper {
    pub(super) id: SpiffeId,
    /// Tells this entry of the cache from another of the same identity.
    pub(super) birth: u64,
    pub(super) source: Arc<dyn CertificateSource>,
    pub(super) turns: Arc<Turns>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) state: watch::Sender<State>,
    pub(super) demand: Arc<Demand>,
    pub(super) news: watch::Receiver<News>,
    pub(super) home: Weak<Shared>,
}

impl Keeper {
    /// Until nobody has use for the certificate. `held` is one to begin with.
    pub(super) async fn run(mut self, held: Option<Arc<Certificate>>) {
        let mut failures = 0;
        let mut moved_for_roots = None;
        let mut next = held.map(|held| self.keep(held));
        let mut asked_for = self.news.borrow_and_update().renewals;
        loop {
            if let Some(next) = next.take() {
                self.rest(next, &mut asked_for, &mut moved_for_roots).await;
                if self.has_no_use() && self.leave() {
                    return;
                }
            }
            self.state.send_modify(|state| state.asking = true);
            let turn = self.turns.take(&self.demand).await;
            let issued = self.issue().await;
            drop(turn);
            next = Some(match issued {
                Ok(certificate) => {
                    failures = 0;
                    let next = self.keep(Arc::clone(&certificate));
                    self.tell(&certificate);
                    next
                }
                Err(error) => {
                    failures = u32::saturating_add(failures, 1);
                    self.fail(error, failures)
                }
            });
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

    /// Publishes a certificate and says when the next one is due.
    fn keep(&self, certificate: Arc<Certificate>) -> Instant {
        let wait = until_renewal(&certificate, self.clock.now(), rand::random_range(-1.0..=1.0));
        let next = Instant::now() + wait;
        tracing::debug!(id = %self.id, serial = certificate.serial(), renewal_in_s = wait.as_secs(), "certificate in use");
        self.state.send_modify(|state| {
            *state = State {
                certificate: Some(certificate),
                failure: None,
                asking: false,
                attempts: state.attempts + 1,
                next: Some(next),
                issued: Some(Instant::now()),
            }
        });
        next
    }

    /// What others need to know of a new certificate: who keeps it past this process, and who has other roots.
    fn tell(&self, certificate: &Arc<Certificate>) {
        let Some(home) = self.home.upgrade() else { return };
        home.keep(certificate, self.birth);
        home.note_roots(certificate.roots());
    }

    /// Publishes a failure beside the certificate there may be, and says when to try again.
    fn fail(&self, error: IssueError, failures: u32) -> Instant {
        let wait = back_off(failures, rand::random_range(0.0..=1.0));
        let next = Instant::now() + wait;
        let still_valid = self.state.borrow().usable(self.clock.now()).is_some();
        let (error_text, next_in_ms) = (with_causes(&error), wait.as_millis());
        tracing::warn!(id = %self.id, error = error_text, failures, still_valid, next_in_ms, "no new certificate");
        self.state.send_modify(|state| {
            state.failure = Some(Arc::new(error));
            state.asking = false;
            state.attempts += 1;
            state.next = Some(next);
        });
        next
    }

    /// Until the next attempt is due: at `next`, or sooner for one of the reasons there are.
    async fn rest(&mut self, mut next: Instant, asked_for: &mut u64, moved_for_roots: &mut Option<Instant>) {
        loop {
            tokio::select! {
                () = sleep_until(next) => return,
                () = needed(&self.demand, &self.state, &*self.clock) => return,
                Ok(()) = self.news.changed() => {
                    let sooner = self.moved(asked_for, moved_for_roots);
                    if let Some(sooner) = sooner.filter(|sooner| *sooner < next) {
                        next = sooner;
                        self.state.send_modify(|state| state.next = Some(next));
                    }
                }
            }
        }
    }

    /// When to ask because of roots that are new.
    fn moved(&mut self, asked_for: &mut u64, moved_for_roots: &mut Option<Instant>) -> Option<Instant> {
        let news = self.news.borrow_and_update().clone();
        let now = Instant::now();
        let soon = now + SPREAD.mul_f64(rand::random_range(0.0..=1.0));
        if std::mem::replace(asked_for, news.renewals) != news.renewals {
            return Some(soon);
        }
        let own = self.state.borrow().certificate.as_ref()?.roots().clone();
        if same_set(&own, news.roots.as_deref()?) {
            return None;
        }
        let at = moved_for_roots.map_or(soon, |last| soon.max(last + ROOTS_PAUSE));
        *moved_for_roots = Some(at);
        Some(at)
    }

    /// Renewing would be for nobody: no pod here has the identity, and nobody asked since the last one came, or for long.
    fn has_no_use(&self) -> bool {
        if self.demand.is_wanted() || self.demand.is_awaited() {
            return false;
        }
        let asked = self.demand.asked();
        let state = self.state.borrow();
        match (state.usable(self.clock.now()), state.issued) {
            (Some(_), Some(issued)) => asked <= issued,
            _ => asked.elapsed() > IDLE_WITHOUT_CERTIFICATE,
        }
    }

    /// Takes itself out of the map, unless somebody asked just now.
    fn leave(&self) -> bool {
        let Some(home) = self.home.upgrade() else { return true };
        home.remove_if(&self.id, self.birth, || self.has_no_use())
    }
}

/// Waits for somebody who finds the certificate unusable, and is right.
async fn needed(demand: &Demand, state: &watch::Sender<State>, clock: &dyn Clock) {
    loop {
        demand.wake.notified().await;
        if state.borrow().usable(clock.now()).is_none() {
            return;
        }
    }
}

/// Are they the same certificates, in whatever order?
pub(super) fn same_set<T: AsRef<[u8]>>(one: &[T], other: &[T]) -> bool {
    let has_all = |these: &[T], those: &[T]| {
        these
            .iter()
            .all(|this| those.iter().any(|that| this.as_ref() == that.as_ref()))
    };
    has_all(one, other) && has_all(other, one)
}

/// How long until half of the certificate's life is over, give or take a tenth (`jitter` is -1 to 1), so that the pods
/// of a node do not all ask at once. Half of what is left when that moment has passed.
pub(super) fn until_renewal(certificate: &Certificate, now: SystemTime, jitter: f64) -> Duration {
    let (begin, end) = (certificate.not_before(), certificate.not_after());
    let half_life = end.duration_since(begin).unwrap_or_default() / 2;
    let wait = match begin.checked_add(half_life).map(|due| due.duration_since(now)) {
        Some(Ok(wait)) => wait,
        _ => end.duration_since(now).unwrap_or_default() / 2,
    };
    wait.mul_f64(1.0 + jitter / 10.0).max(FIRST_BACK_OFF)
}

/// How long to wait after the given number of failures in a row, less up to a fifth (`jitter` is 0 to 1).
pub(super) fn back_off(failures: u32, jitter: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST_BACK_OFF
        .saturating_mul(doubled)
        .min(LONGEST_BACK_OFF)
        .mul_f64(1.0 - jitter / 5.0)
}
