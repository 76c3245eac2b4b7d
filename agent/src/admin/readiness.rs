//! Whether the agent is ready, and what it waits for if not (wire-facts §9.1).

use std::{collections::BTreeSet, sync::Arc};

use http::{Method, StatusCode};
use tokio::sync::watch;

use super::{
    reply::{self, Reply},
    server::{Asked, Site},
};

/// Something the agent must have reached before it is ready. Which of them an agent has depends on its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Redirection was proven on this kernel; for a gateway: it listens.
    Proxy,
    /// The mesh was loaded.
    Mesh,
    /// The pods which an earlier agent left are served again.
    Pods,
    /// The control socket is served.
    Control,
    /// The CA gave a certificate.
    Certificates,
    /// All pods of this node and all namespaces were told once.
    Lists,
    /// The pods that were there when they were told are in the mesh, as far as they can be.
    Enrolment,
    /// Container runtimes call the CNI plugin.
    Plugin,
    /// It is not ending. Once pending, for good.
    Drain,
}

impl Part {
    /// What it is called in answers and in status; ztunnel's names where ztunnel has one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Mesh => "state manager",
            Self::Pods => "workload proxy manager",
            Self::Control => "control socket",
            Self::Certificates => "certificates",
            Self::Lists => "pods and namespaces",
            Self::Enrolment => "enrolment",
            Self::Plugin => "CNI plugin",
            Self::Drain => "drain",
        }
    }

    /// Whether a pod that is made now can be decided on without it. Container runtimes that are told of a CNI plugin that is
    /// not ready start no pod at all: only what concerns each of them may stop them.
    const fn is_for_every_pod(self) -> bool {
        matches!(self, Self::Proxy | Self::Mesh | Self::Pods | Self::Drain)
    }
}

/// What stands between the agent and being ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<watch::Sender<BTreeSet<Part>>>);

impl Readiness {
    /// The agent is not ready until this is [done](Self::done). What ends on an error path stays pending.
    pub fn pend(&self, part: Part) {
        self.0.send_if_modified(|pending| pending.insert(part));
    }

    /// This no longer stands between the agent and being ready.
    pub fn done(&self, part: Part) {
        self.0.send_if_modified(|pending| pending.remove(&part));
    }

    /// What is pending, by name; empty when the agent is ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.0.borrow().iter().map(|part| part.name()).collect()
    }

    /// What keeps every pod that is made now from starting; less than what keeps the agent from being ready.
    pub fn pending_for_pods(&self) -> Vec<&'static str> {
        let pending = self.0.borrow();
        let parts = pending.iter().filter(|part| part.is_for_every_pod());
        parts.map(|part| part.name()).collect()
    }

    /// Waits until nothing is pending.
    pub async fn reached(&self) {
        let mut pending = self.0.subscribe();
        // It cannot end while we are here.
        let _ended = pending.wait_for(BTreeSet::is_empty).await;
    }
}

/// Port 15021.
pub(super) struct ReadinessSite(pub(super) Readiness);

impl Site for ReadinessSite {
    const PATHS: &'static [(Method, &'static str, &'static str)] = &[(
        Method::GET,
        "/healthz/ready",
        "200 when the agent is ready, else 500 and what it waits for",
    )];

    async fn answer(&self, _asked: Asked) -> Reply {
        let pending = self.0.pending();
        if pending.is_empty() {
            return reply::text(StatusCode::OK, "ready\n");
        }
        let text = format!("not ready, waiting for: {}\n", pending.join(", "));
        reply::text(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn it_is_ready_when_the_last_part_is_done_and_not_again_once_it_drains() {
        let readiness = Readiness::default();
        readiness.pend(Part::Mesh);
        readiness.pend(Part::Proxy);
        assert_eq!(readiness.pending(), ["proxy", "state manager"]);
        readiness.done(Part::Mesh);
        readiness.done(Part::Pods);
        assert_eq!(readiness.pending(), ["proxy"]);
        assert_eq!(readiness.reached().now_or_never(), None);
        readiness.done(Part::Proxy);
        assert!(readiness.pending().is_empty());
        assert_eq!(readiness.reached().now_or_never(), Some(()));
        readiness.pend(Part::Drain);
        assert_eq!(readiness.pending(), ["drain"]);
    }

    /// An API server that is away must not make the node refuse pods that do not need it.
    #[test]
    fn what_does_not_concern_every_pod_keeps_none_from_starting() {
        let readiness = Readiness::default();
        for part in [
            Part::Control,
            Part::Certificates,
            Part::Lists,
            Part::Enrolment,
            Part::Plugin,
        ] {
            readiness.pend(part);
        }
        assert_eq!(readiness.pending().len(), 5);
        assert!(readiness.pending_for_pods().is_empty());
        for part in [Part::Proxy, Part::Mesh, Part::Pods, Part::Drain] {
            readiness.pend(part);
            assert_eq!(readiness.pending_for_pods(), [part.name()]);
            readiness.done(part);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_when_it_is_reached() {
        let readiness = Readiness::default();
        readiness.pend(Part::Plugin);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.reached().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        readiness.done(Part::Plugin);
        waiting.await.unwrap();
    }
}
