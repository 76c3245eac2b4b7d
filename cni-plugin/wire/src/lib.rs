//! What is said over the agent's unix socket, by the CNI plugin and by `isthmus pod` and `isthmus status`.
//!
//! One connection carries one [`Request`] and one [`Response`], each a line of JSON ended by `\n` and at most
//! [`LINE_LIMIT_BYTES`] long. The socket belongs to root; whoever may write to it may enrol pods.

mod ask;
mod capture;
mod namespaces;
mod status;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use ask::{AskError, ask};
pub use capture::{Capture, MOST_CAPTURE_ITEMS};
pub use namespaces::{Mode, NAMESPACES_NAME, Namespaces, NamespacesError};

pub use status::{
    CertificateStatus, CniStatus, Descriptors, Direction, Failure, IdentityStatus, IstiodState, IstiodStatus,
    KubernetesStatus, MOST_CERTIFICATES, MOST_GATEWAYS, MOST_TROUBLES, MOST_TUNNELS, MtlsBecause, NetworkGateway,
    OnDemandStatus, Plaintext, PodStatus, PodTrouble, ReceivedStatus, RejectedResource, Status, Tunnel, WorkerEnd,
};

/// Longest line either side accepts, in bytes. A node of a thousand pods answers `Status` well below it.
pub const LINE_LIMIT_BYTES: u64 = 4 << 20;

/// Name of the socket inside the agent's run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// Asked of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A pod's network was made: enrol the pod if it is to be. Answered when it is not to be, or when redirection stands
    /// and the certificate of its identity is there. Refused, nothing is left of it. Asked again it succeeds again.
    Add(NewPod),
    /// A pod's network goes: release the pod if it is held with this network namespace. A sandbox that is deleted late
    /// shares its pod's UID with the one that replaced it.
    Delete {
        /// The pod's UID.
        uid: String,
        /// Its network namespace, as it was added.
        netns: PathBuf,
    },
    /// Look whether the pod is enrolled with this network namespace, if it is to be enrolled at all.
    Check(NewPod),
    /// Look whether pods can be added now.
    Ready,
    /// Bring a running network namespace into the mesh. Answered when redirection stands.
    /// Asked again for the same pod and namespace it changes nothing and succeeds.
    Enrol(Enrol),
    /// Let a pod go. Answered when no new connection is redirected; open ones live on until they end or the
    /// agent's drain deadline passes. Succeeds for a pod that is not enrolled.
    Release {
        /// The pod's UID, as it was enrolled.
        uid: String,
    },
    /// What the agent holds now.
    Status,
}

/// A pod as a CNI plugin knows it: labels and service account are not told there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPod {
    /// Kubernetes pod UID, or any name unique on this node.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Path of the pod's network namespace on the node.
    pub netns: PathBuf,
}

/// A pod to enrol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// Kubernetes pod UID, or any name unique on this node.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Kubernetes service account; when absent the mesh's workload of that namespace and name tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Path of the pod's network namespace, as the agent sees it (e.g. `/run/netns/NAME`).
    pub netns: PathBuf,
    /// Whether plaintext from outside is refused. `None`: as the mesh's policies for this workload say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_required: Option<bool>,
    /// Interfaces inside the pod behind which guests sit (KubeVirt, Docker in Docker): TCP that comes in from them is the
    /// pod's outbound traffic. In Kubernetes: annotation `istio.io/reroute-virtual-interfaces`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reroute_interfaces: Vec<String>,
    /// What of its traffic is captured.
    #[serde(default, skip_serializing_if = "Capture::is_usual")]
    pub capture: Box<Capture>,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is not kept")]
pub enum Response {
    /// Done.
    Done,
    /// Not done; nothing was left half-way.
    Refused {
        /// What failed, where, and what to do about it; one line for an operator.
        reason: String,
        /// Whether the same request may succeed later without a change by the asker.
        retriable: bool,
    },
    /// Answer to [`Request::Status`].
    Status(Status),
}
