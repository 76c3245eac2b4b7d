//! Whether a pod whose network was just made is to be enrolled. The CNI plugin cannot know: labels are not told to it.

use futures_util::future::BoxFuture;
pub use isthmus_wire::NewPod;
use isthmus_wire::{Enrol, Response};

/// Who decides it. It may take a moment: what Kubernetes says of a pod can be late by one.
pub trait Admission: Send + Sync + 'static {
    /// Decides about one pod. Who asks gives up after some seconds and drops the future.
    fn admit(&self, pod: NewPod) -> BoxFuture<'static, Result<Admitted, NotAdmitted>>;

    /// Hears that a pod was added.
    fn added(&self) {}
}

/// What is to become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is to be enrolled, so. The service account is needed here, because the mesh does not know the pod yet.
    Enrol(Enrol),
    /// It is not of the mesh, and starts without us.
    Leave,
}

/// Why it cannot be decided, or why the pod must not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotAdmitted {
    /// What is wrong and what to do about it; one line for an operator.
    pub reason: String,
    /// Whether the same pod may be admitted later.
    pub retriable: bool,
}

impl From<NotAdmitted> for Response {
    fn from(NotAdmitted { reason, retriable }: NotAdmitted) -> Self {
        Self::Refused { reason, retriable }
    }
}

/// Enrols every pod: for nodes without Kubernetes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

impl Admission for Everybody {
    fn admit(&self, pod: NewPod) -> BoxFuture<'static, Result<Admitted, NotAdmitted>> {
        let enrol = Enrol {
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
            service_account: None,
            netns: pod.netns,
            mtls_required: None,
            reroute_interfaces: Vec::new(),
            capture: Box::default(),
        };
        Box::pin(std::future::ready(Ok(Admitted::Enrol(enrol))))
    }
}
