//! Addresses of host names, for endpoints and gateways that the mesh knows by name only.
//!
//! | file | what it knows |
//! |---|---|
//! | `dns` | answers kept for as long as they hold; one question per name at a time |
//! | `system` | asking the servers of `resolv.conf` |

mod system;

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Names kept.
const MOST: usize = 4096;
/// Addresses kept of one name.
const MOST_ADDRESSES: usize = 64;
/// An answer is kept for at least this long, so that a name without a time to live is not asked for by every connection.
const SHORTEST: Duration = Duration::from_secs(1);
/// An answer is kept for at most this long.
const LONGEST: Duration = Duration::from_secs(300);
/// How long a failure is kept.
const FAILURE: Duration = Duration::from_secs(2);
/// How long an answer may take.
const WAIT: Duration = Duration::from_secs(5);

/// Who asks.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a host name, of either family.
    fn resolve(&self, host: Arc<str>) -> Pin<Box<dyn Future<Output = Result<Answer, DnsError>> + Send>>;
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The addresses; none is a failure of its own.
    pub addresses: Vec<IpAddr>,
    /// For how long they hold.
    pub valid: Duration,
}

/// Why a name has no address for us.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DnsError {
    /// The servers say that there is none.
    #[error("DNS has no address for {host:?}")]
    NoAddress {
        /// The name.
        host: Arc<str>,
    },
    /// No answer came in time.
    #[error("DNS did not answer for {host:?} within {} s", WAIT.as_secs())]
    Silent {
        /// The name.
        host: Arc<str>,
    },
    /// Asking failed.
    #[error("cannot ask DNS for {host:?}: {reason}")]
    Failed {
        /// The name.
        host: Arc<str>,
        /// What was wrong.
        reason: Arc<str>,
    },
}

/// Names and their addresses. Clones share what they know.
#[derive(Clone)]
pub struct Names {
    resolver: Arc<dyn Resolve>,
    known: Arc<Mutex<HashMap<Arc<str>, Known>>>,
}

type Outcome = Result<Arc<[IpAddr]>, DnsError>;

/// What is known of a name.
enum Known {
    /// It is being asked for. The sender is gone if whoever asked was stopped.
    Asked(watch::Receiver<Option<Outcome>>),
    Told {
        outcome: Outcome,
        until: Instant,
    },
}

impl Names {
    /// The one memory of this process, which asks the servers of its `resolv.conf`.
    pub fn of_process() -> Self {
        static PROCESS: LazyLock<Names> = LazyLock::new(|| Names::new(system::SystemResolver::default()));
        PROCESS.clone()
    }

    /// A memory of what `resolver` says.
    pub fn new(resolver: impl Resolve) -> Self {
        Self {
            resolver: Arc::new(resolver),
            known: Arc::default(),
        }
    }

    /// The addresses of a name, at least one.
    ///
    /// # Errors
    /// When there are none, or no answer comes in time.
    pub async fn addresses(&self, host: &Arc<str>) -> Outcome {
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Ok([literal].into());
        }
        let mut asked = match self.look(host) {
            Ok(outcome) => return outcome,
            Err(asked) => asked,
        };
        let answered = timeout(WAIT, asked.wait_for(Option::is_some)).await;
        let outcome = answered.ok().and_then(|seen| seen.ok()?.clone());
        outcome.unwrap_or_else(|| Err(DnsError::Silent { host: Arc::clone(host) }))
    }

    /// What is known, or where it will be told.
    fn look(&self, host: &Arc<str>) -> Result<Outcome, watch::Receiver<Option<Outcome>>> {
        let mut known = self.known();
        match known.get(host) {
            Some(Known::Told { outcome, until }) if *until > Instant::now() => return Ok(outcome.clone()),
            Some(Known::Asked(asked)) if asked.has_changed().is_ok() => return Err(asked.clone()),
            _ => {}
        }
        make_room(&mut known);
        let (sender, asked) = watch::channel(None);
        known.insert(Arc::clone(host), Known::Asked(asked.clone()));
        drop(known);
        // On its own, so that others get the answer when this connection has gone away.
        tokio::spawn(self.clone().ask(Arc::clone(host), sender));
        Err(asked)
    }

    async fn ask(self, host: Arc<str>, told: watch::Sender<Option<Outcome>>) {
        let answer = timeout(WAIT, self.resolver.resolve(Arc::clone(&host))).await;
        let silent = |_| {
            Err(DnsError::Silent {
                host: Arc::clone(&host),
            })
        };
        let (outcome, valid) = match answer.unwrap_or_else(silent) {
            Ok(answer) if answer.addresses.is_empty() => (
                Err(DnsError::NoAddress {
                    host: Arc::clone(&host),
                }),
                FAILURE,
            ),
            Ok(Answer { mut addresses, valid }) => {
                addresses.truncate(MOST_ADDRESSES);
                (Ok(addresses.into()), valid.clamp(SHORTEST, LONGEST))
            }
            Err(error) => (Err(error), FAILURE),
        };
        let until = Instant::now() + valid;
        let entry = Known::Told {
            outcome: outcome.clone(),
            until,
        };
        self.known().insert(host, entry);
        told.send_replace(Some(outcome));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one more name: what is out of date goes, and if that is nothing, whatever is out of date next.
fn make_room(known: &mut HashMap<Arc<str>, Known>) {
    if known.len() < MOST {
        return;
    }
    let now = Instant::now();
    known.retain(|_, known| match known {
        Known::Asked(asked) => asked.has_changed().is_ok(),
        Known::Told { until, .. } => *until > now,
    });
    if known.len() < MOST {
        return;
    }
    let ends = known.iter().map(|(host, known)| match known {
        Known::Asked(_) => (now + WAIT, host),
        Known::Told { until, .. } => (*until, host),
    });
    if let Some(next) = ends.min().map(|(_, host)| Arc::clone(host)) {
        known.remove(&next);
    }
}

#[cfg(test)]
mod tests;
