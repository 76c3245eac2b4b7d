//! Whether the agent is ready, and what it waits for if not (wire-facts §9.1).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Method, StatusCode};

use super::{
    reply::{self, Reply},
    server::{Asked, Site},
};

/// The mesh was loaded.
pub const MESH: &str = "state manager";
/// Redirection was proven on this kernel; for a gateway: it listens.
pub const PROXY: &str = "proxy";
/// The pods which an earlier agent left are served again.
pub const PODS: &str = "workload proxy manager";
/// The agent is ending.
pub const DRAIN: &str = "drain";

/// What stands between the agent and being ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// The agent is not ready until what is named is [done](Self::done). What ends on an error path stays pending.
    pub fn pend(&self, name: &'static str) {
        self.names().insert(name);
    }

    /// What is named no longer stands between the agent and being ready.
    pub fn done(&self, name: &'static str) {
        self.names().remove(name);
    }

    /// What is pending, by name; empty when the agent is ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.names().iter().copied().collect()
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Port 15021.
pub(super) struct ReadinessSite(pub(super) Readiness);

impl Site for ReadinessSite {
    const PATHS: &'static [(Method, &'static str, &'static str)] = &[(
        Method::GET,
        "/healthz/ready",
        "200 when the agent is ready, else 500 and what is pending",
    )];

    async fn answer(&self, _asked: Asked) -> Reply {
        let pending = self.0.pending();
        if pending.is_empty() {
            return reply::text(StatusCode::OK, "ready\n");
        }
        let text = format!("not ready, pending: {}\n", pending.join(", "));
        reply::text(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_the_last_name_is_done_and_not_again_once_it_drains() {
        let readiness = Readiness::default();
        readiness.pend(MESH);
        readiness.pend(PROXY);
        assert_eq!(readiness.pending(), [PROXY, MESH]);
        readiness.done(MESH);
        readiness.done(PODS);
        assert_eq!(readiness.pending(), [PROXY]);
        readiness.done(PROXY);
        assert!(readiness.pending().is_empty());
        readiness.pend(DRAIN);
        assert_eq!(readiness.pending(), [DRAIN]);
    }
}
