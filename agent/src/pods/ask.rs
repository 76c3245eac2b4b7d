//! Asking the registry, over a channel.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use isthmus_wire::{Enrol, PodStatus, Response};
use tokio::sync::{mpsc, oneshot};

use crate::{
    identity::SpiffeId,
    proxy::{OpenConnection, TunnelInfo},
    telemetry::{NodeState, PodCounts},
};

/// Asked of the registry.
pub enum Ask {
    /// See `isthmus_wire::Request::Enrol`.
    Enrol(Enrol, oneshot::Sender<Response>),
    /// See `isthmus_wire::Request::Release`.
    Release(String, oneshot::Sender<Response>),
    /// See `isthmus_wire::Request::Add`: whoever asks waits for the certificate.
    Add(Enrol, oneshot::Sender<Result<Added, NotAdded>>),
    /// See `isthmus_wire::Request::Delete`.
    Delete(String, PathBuf, oneshot::Sender<Response>),
    /// Look for a pod by UID and network namespace.
    Find(String, PathBuf, oneshot::Sender<Found>),
    /// Take no more connections, and tell when the open ones have ended or were cut.
    Drain(Duration, oneshot::Sender<()>),
    /// The same; and change nothing on the node from the first answer on, because a successor does.
    HandOver(Duration, oneshot::Sender<()>, oneshot::Sender<()>),
    /// All pods, tunnels and connections.
    Survey(Depth, oneshot::Sender<Survey>),
    /// The open connections of every pod, by UID.
    Connections(oneshot::Sender<BTreeMap<String, PodConnections>>),
}

impl Ask {
    /// UID of the pod that it is about; nothing when it is about all.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Enrol(pod, _) | Self::Add(pod, _) => Some(&pod.uid),
            Self::Release(uid, _) | Self::Delete(uid, ..) | Self::Find(uid, ..) => Some(uid),
            Self::Drain(..) | Self::HandOver(..) | Self::Survey(..) | Self::Connections(_) => None,
        }
    }
}

/// A pod to which redirection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// It was neither served nor guarded before.
    pub is_new: bool,
    /// Whose certificate it needs, once the mesh or its service account tells.
    pub identity: Option<SpiffeId>,
}

/// Why a pod is not enrolled; nothing is left of the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdded {
    /// One line for an operator.
    pub reason: String,
    /// Whether it may succeed later.
    pub retriable: bool,
}

impl From<NotAdded> for Response {
    fn from(NotAdded { reason, retriable }: NotAdded) -> Self {
        Self::Refused { reason, retriable }
    }
}

/// How much a survey tells of each pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What the registry knows.
    Known,
    /// And what the kernel has counted.
    Counted,
    /// And its links and programs: for each, the kernel takes a lock that the network of the whole node has but once.
    Whole,
}

/// What the registry holds of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Found {
    /// It is enrolled with that network namespace.
    Enrolled,
    /// It is held in another way.
    Otherwise {
        /// As status names it.
        state: &'static str,
        /// With this namespace.
        netns: PathBuf,
    },
    /// Nothing.
    #[default]
    Nothing,
}

/// What the registry holds.
#[derive(Debug, Default)]
pub struct Survey {
    /// By UID.
    pub pods: BTreeMap<String, PodStatus>,
    /// All verdicts, also the node's own.
    pub verdicts: BTreeMap<String, u64>,
    /// Open tunnels.
    pub tunnels: usize,
    /// Open tunnels with the `NAMESPACE/NAME` of their pods, at most `isthmus_wire::MOST_TUNNELS`.
    pub open_tunnels: Vec<(String, TunnelInfo)>,
    /// Connections being relayed.
    pub connections: usize,
}

/// A pod and its open connections.
#[derive(Clone, Debug, Default)]
pub struct PodConnections {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Service account; empty while neither its enrolment nor the mesh says which.
    pub service_account: String,
    /// Whether it is served.
    pub served: bool,
    /// What came through tunnels, the oldest first.
    pub inbound: Vec<Arc<OpenConnection>>,
    /// What its applications made, the oldest first.
    pub outbound: Vec<Arc<OpenConnection>>,
    /// Connections that are open and not among these: there were too many, or they are on their way.
    pub not_listed: usize,
}

/// Asks the registry.
#[derive(Clone)]
pub struct Pods(pub(super) mpsc::Sender<Ask>);

impl From<&Survey> for NodeState {
    /// What metrics tell of a survey. Restarts are not in it.
    fn from(survey: &Survey) -> Self {
        let mut verdicts = survey.verdicts.clone();
        let mut pods = BTreeMap::new();
        for (uid, pod) in &survey.pods {
            // The survey's sums contain those of the pods.
            for (name, count) in &pod.verdicts {
                if let Some(sum) = verdicts.get_mut(name) {
                    *sum = sum.saturating_sub(*count);
                }
            }
            let plain = pod.plaintext;
            let counts = PodCounts {
                served: pod.state == "enrolled",
                verdicts: pod.verdicts.clone(),
                plaintext: [plain.opened, plain.closed, plain.received_bytes, plain.sent_bytes],
            };
            pods.insert(uid.clone(), counts);
        }
        Self {
            pods,
            verdicts,
            tunnels: survey.tunnels,
            connections: survey.connections,
            restarts: 0,
        }
    }
}

impl Pods {
    /// Enrols a pod.
    pub async fn enrol(&self, pod: Enrol) -> Response {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Enrol(pod, answer), answered)
            .await
            .unwrap_or_else(|| ending().into())
    }

    /// Releases a pod.
    pub async fn release(&self, uid: String) -> Response {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Release(uid, answer), answered)
            .await
            .unwrap_or_else(|| ending().into())
    }

    /// Enrols a pod, and tells what it still needs; or why it is not enrolled.
    pub async fn add(&self, pod: Enrol) -> Result<Added, NotAdded> {
        let (answer, answered) = oneshot::channel();
        let added = self.ask(Ask::Add(pod, answer), answered).await;
        added.unwrap_or_else(|| Err(ending()))
    }

    /// Releases a pod if it is held with this network namespace.
    pub async fn delete(&self, uid: String, netns: PathBuf) -> Response {
        let (answer, answered) = oneshot::channel();
        let deleted = self.ask(Ask::Delete(uid, netns, answer), answered).await;
        deleted.unwrap_or_else(|| ending().into())
    }

    /// Looks for a pod.
    pub async fn find(&self, uid: String, netns: PathBuf) -> Found {
        let (answer, answered) = oneshot::channel();
        let found = self.ask(Ask::Find(uid, netns, answer), answered).await;
        found.unwrap_or_default()
    }

    /// Asks whoever reads the other end: a registry that is made up.
    #[cfg(test)]
    pub fn scripted() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, asks) = mpsc::channel(64);
        (Self(sender), asks)
    }

    /// What is held now; nothing when the agent ends.
    pub async fn survey(&self, depth: Depth) -> Survey {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Survey(depth, answer), answered).await.unwrap_or_default()
    }

    /// The open connections of every pod, by UID; nothing when the agent ends.
    pub async fn connections(&self) -> BTreeMap<String, PodConnections> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Connections(answer), answered).await.unwrap_or_default()
    }

    /// Takes no more connections; returns when the open ones have ended, or were cut at the deadline.
    pub async fn drain(&self, deadline: Duration) {
        let (answer, answered) = oneshot::channel();
        if self.ask(Ask::Drain(deadline, answer), answered).await.is_none() {
            tracing::warn!("the registry ended before its pods were drained");
        }
    }

    /// As [`Pods::drain`], for a successor: `quiet` is called when nothing on the node is changed here any more.
    pub async fn hand_over(&self, deadline: Duration, quiet: impl FnOnce()) {
        let ((still, stilled), (answer, answered)) = (oneshot::channel(), oneshot::channel());
        if self
            .ask(Ask::HandOver(deadline, still, answer), stilled)
            .await
            .is_none()
        {
            tracing::warn!("the registry ended before its pods were handed over");
        }
        quiet();
        if answered.await.is_err() {
            tracing::warn!("the registry ended before its pods were drained");
        }
    }

    async fn ask<T>(&self, ask: Ask, answered: oneshot::Receiver<T>) -> Option<T> {
        self.0.send(ask).await.ok()?;
        answered.await.ok()
    }
}

/// Whoever asks now is to ask again in a moment.
pub(super) fn ending() -> NotAdded {
    NotAdded {
        reason: "the agent is ending; ask its successor".to_owned(),
        retriable: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_get_the_nodes_own_verdicts_apart_from_the_pods() {
        let verdicts = |count| BTreeMap::from([("guard_dropped_syn".to_owned(), count)]);
        let pod = |state: &str, count| PodStatus {
            state: state.to_owned(),
            verdicts: verdicts(count),
            ..PodStatus::default()
        };
        let survey = Survey {
            pods: BTreeMap::from([
                ("a".to_owned(), pod("enrolled", 2)),
                ("b".to_owned(), pod("lingering", 3)),
            ]),
            verdicts: verdicts(10),
            tunnels: 4,
            connections: 5,
            ..Survey::default()
        };
        let state = NodeState::from(&survey);
        assert_eq!(state.verdicts, verdicts(5));
        assert_eq!(state.pods["b"].verdicts, verdicts(3));
        assert!(state.pods["a"].served && !state.pods["b"].served);
        assert_eq!((state.tunnels, state.connections), (4, 5));
    }
}
