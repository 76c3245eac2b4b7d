//! What is said over the agent's unix socket, by the CNI plugin and by `isthmus pod` and `isthmus status`.
//!
//! One connection carries one [`Request`] and one [`Response`], each a line of JSON ended by `\n` and at most
//! [`LINE_LIMIT_BYTES`] long. The socket belongs to root; whoever may write to it may enrol pods.

mod status;

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use status::{
    CertificateStatus, Descriptors, Direction, Failure, IdentityStatus, IstiodState, IstiodStatus, KubernetesStatus,
    MOST_CERTIFICATES, MOST_GATEWAYS, MOST_TROUBLES, MOST_TUNNELS, MtlsBecause, NetworkGateway, OnDemandStatus,
    Plaintext, PodStatus, PodTrouble, ReceivedStatus, RejectedResource, Status, Tunnel, WorkerEnd,
};

/// Longest line either side accepts, in bytes. A node of a thousand pods answers `Status` well below it.
pub const LINE_LIMIT_BYTES: u64 = 4 << 20;

/// Name of the socket inside the agent's run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// Asked of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
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

/// Why an exchange with the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent answers on that socket.
    #[error("no agent answers on {path} (is the agent of this node running, and is this its run directory?)")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The connection failed or ran into the bound.
    #[error("the agent's answer did not arrive within {}s", .bound.as_secs())]
    Exchange {
        /// How long was waited.
        bound: Duration,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The agent said something this version does not understand.
    #[error("the agent's answer is not understood (are plugin and agent of one version?)")]
    Answer(#[source] serde_json::Error),
}

/// Sends one request and waits for its answer, no longer than `bound` for each read or write.
pub fn ask(socket: &Path, request: &Request, bound: Duration) -> Result<Response, AskError> {
    let exchange = |cause| AskError::Exchange { bound, cause };
    let mut stream = UnixStream::connect(socket).map_err(|cause| AskError::Connect {
        path: socket.to_owned(),
        cause,
    })?;
    stream.set_read_timeout(Some(bound)).map_err(exchange)?;
    stream.set_write_timeout(Some(bound)).map_err(exchange)?;
    let mut line = serde_json::to_vec(request).map_err(AskError::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(exchange)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_LIMIT_BYTES))
        .read_line(&mut answer)
        .map_err(exchange)?;
    serde_json::from_str(&answer).map_err(AskError::Answer)
}
