//! What an agent says of itself. `isthmus status -o json` and `GET /state` of its admin port write it down as it is here.
//!
//! Ages are whole seconds, sizes bytes, moments text as in RFC 3339 (UTC). Numbers only ever grow while a worker lives,
//! unless a field says that it counts what is open now.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::Capture;

/// Most tunnels that [`Status::open_tunnels`] lists; how many more there are is told beside them.
pub const MOST_TUNNELS: usize = 2000;

/// Most gateways that [`Status::gateways`] lists.
pub const MOST_GATEWAYS: usize = 1000;
/// Most pods in trouble that [`KubernetesStatus::troubles`] lists.
pub const MOST_TROUBLES: usize = 200;
/// Most identities that [`Status::certificates`] lists.
pub const MOST_CERTIFICATES: usize = 1000;

/// What an agent holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Node name; empty for a gateway.
    pub node: String,
    /// Network this node is on.
    pub network: String,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// How long the worker has run, in seconds.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// Process id of the worker.
    pub worker_pid: u32,
    /// How often the worker was started again by its parent.
    pub worker_restarts: u64,
    /// How the worker before this one ended, if there was one and its parent said.
    #[serde(default)]
    pub worker_ended: Option<WorkerEnd>,
    /// What is not done yet before the agent is ready, or why it no longer is; empty when it is ready.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What the mesh source last said: `ok`, or its last error.
    pub mesh: String,
    /// How long it has been saying that, in seconds.
    #[serde(default)]
    pub mesh_since_seconds: u64,
    /// Age of the snapshot that serves now, in seconds; none when none was loaded yet.
    #[serde(default)]
    pub mesh_age_seconds: Option<u64>,
    /// The way to istiod; none when a mesh file is followed.
    #[serde(default)]
    pub istiod: Option<IstiodStatus>,
    /// The way to Kubernetes' API server; none when pods are not enrolled by it.
    #[serde(default)]
    pub kubernetes: Option<KubernetesStatus>,
    /// The CNI plugin's place in the node's network configuration; none when the agent does not look after it.
    #[serde(default)]
    pub cni: Option<CniStatus>,
    /// Number of workloads, services and policies in the snapshot that serves now.
    pub mesh_size: [usize; 3],
    /// Certificates by identity, at most [`MOST_CERTIFICATES`].
    #[serde(default)]
    pub certificates: Vec<IdentityStatus>,
    /// Gateways of networks, at most [`MOST_GATEWAYS`], in the order of their networks.
    #[serde(default)]
    pub gateways: Vec<NetworkGateway>,
    /// File descriptors for connections.
    #[serde(default)]
    pub descriptors: Descriptors,
    /// Memory of the worker that is in RAM, in bytes.
    #[serde(default)]
    pub resident_bytes: u64,
    /// Enrolled pods, by UID.
    pub pods: BTreeMap<String, PodStatus>,
    /// Verdicts of the eBPF programs by name, all pods together. Those that never happened are left out.
    pub verdicts: BTreeMap<String, u64>,
    /// How many tunnels to and from peers are open, all pods together.
    pub tunnels: usize,
    /// Connections being relayed now.
    pub connections: usize,
    /// Open tunnels, at most [`MOST_TUNNELS`].
    #[serde(default)]
    pub open_tunnels: Vec<Tunnel>,
    /// Open tunnels that `open_tunnels` had no room for.
    #[serde(default)]
    pub tunnels_not_listed: usize,
    /// The last connections that failed, newest last.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// How the CNI plugin stands in the node's network configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniStatus {
    /// `own` (a conflist that embeds the primary's plugins) or `chained` (an edit of the primary's).
    pub mode: String,
    /// The distribution by whose paths the directories were found; none when they were told.
    pub platform: Option<String>,
    /// Where the plugin's binary is.
    pub binary: PathBuf,
    /// The configuration by which the container runtime calls the plugin; none while there is none.
    pub configuration: Option<PathBuf>,
    /// Whether container runtimes call the plugin: its binary is in place, and that configuration is the first in order.
    #[serde(default)]
    pub called: bool,
    /// The primary's configuration it is made from.
    pub primary: Option<String>,
    /// What is wrong, and what to do about it.
    pub trouble: Option<String>,
}

/// The way to istiod, and what came over it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IstiodStatus {
    /// `https://HOST:PORT`.
    pub address: String,
    /// What is done now.
    pub state: IstiodState,
    /// Since when, in seconds.
    pub since_seconds: u64,
    /// How long all has not been as istiod told it last, in seconds; none while it is.
    pub out_of_sync_seconds: Option<u64>,
    /// Age of the stream that is open, in seconds.
    pub connected_seconds: Option<u64>,
    /// When the next try begins, in seconds from now.
    pub retry_seconds: Option<u64>,
    /// Why the last stream ended or could not be opened.
    pub last_error: Option<String>,
    /// Streams that were opened or tried after the first.
    pub reconnects: u64,
    /// Workloads and services.
    pub addresses: ReceivedStatus,
    /// Policies.
    pub authorizations: ReceivedStatus,
    /// Age of the mesh that was loaded from disk at the start, in seconds; none when none was.
    pub stored_mesh_age_seconds: Option<u64>,
    /// What is asked for one by one; none when all there is is asked for.
    #[serde(default)]
    pub on_demand: Option<OnDemandStatus>,
}

/// The way to Kubernetes' API server, and what is wrong with pods that it tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesStatus {
    /// Its URL.
    pub address: String,
    /// Whether all pods and namespaces were told at least once.
    pub listed: bool,
    /// How long changes have not been followed, in seconds; none while they are.
    pub out_of_sync_seconds: Option<u64>,
    /// Why they are not.
    pub last_error: Option<String>,
    /// Pods of this node that are known.
    pub pods: usize,
    /// Pods that are not as they should be, at most [`MOST_TROUBLES`].
    pub troubles: Vec<PodTrouble>,
}

/// What is wrong with a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodTrouble {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// What is wrong.
    pub what: String,
    /// In how many seconds it is tried again; none when it is not.
    pub retry_seconds: Option<u64>,
}

/// What an agent asks istiod for one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemandStatus {
    /// Names in use: addresses, services and workloads.
    pub names: usize,
    /// Those that istiod has nothing for.
    pub absent: usize,
    /// Connections that wait for an answer.
    pub waiting: usize,
}

/// What an agent does about istiod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IstiodState {
    /// Reaching it.
    #[default]
    Connecting,
    /// Connected; not everything that was asked for was answered yet.
    Syncing,
    /// All is as istiod told it last.
    Synced,
    /// Not connected; it is tried again in a moment.
    Waiting,
}

/// What was received of one kind of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedStatus {
    /// Age of the last response, in seconds; none when none came yet.
    pub age_seconds: Option<u64>,
    /// Responses since the worker started.
    pub responses: u64,
    /// The last resources that were not taken and did not come right since, oldest first.
    pub rejected: Vec<RejectedResource>,
}

/// A resource that was not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedResource {
    /// Its name.
    pub name: String,
    /// The field, and what is wrong with it.
    pub reason: String,
}

/// What is known of one identity's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// SPIFFE ID.
    pub identity: String,
    /// Its certificate.
    #[serde(flatten)]
    pub certificate: CertificateStatus,
}

/// A gateway through which a network is entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkGateway {
    /// The network behind it.
    pub network: String,
    /// What it is named by: `NETWORK/ADDRESS` or `NAMESPACE/HOSTNAME`.
    pub gateway: String,
    /// The port for tunnels; 0 where the mesh says that it takes none. None where that is not known.
    pub port: Option<u16>,
    /// Whether workloads or the network name it, so that connections go through it.
    pub named: bool,
    /// Its identity; none while the mesh knows neither workload nor service of that name.
    pub identity: Option<String>,
    /// Whether the mesh says that it is healthy.
    pub healthy: bool,
    /// Addresses of it that are passed over, because they could not be reached lately.
    #[serde(default)]
    pub unreachable: Vec<SocketAddr>,
}

/// How a worker ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEnd {
    /// When.
    pub time: String,
    /// Exit code or signal, in words.
    pub how: String,
}

/// The budget of file descriptors that connections share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// Taken now.
    pub used: usize,
    /// Most that may be taken.
    pub limit: usize,
}

/// An enrolled pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// `entering` (it is being brought in), `enrolled`, `draining` (released, open connections live on), `lingering` (its
    /// network namespace lost its path while processes still run in it: guarded, not served) or `unserved` (it could not be
    /// taken up again: guarded, tried again).
    pub state: String,
    /// Why it is unserved, as far as that was found out.
    #[serde(default)]
    pub trouble: Option<String>,
    /// What istio-cni left in it, and why that is there still.
    #[serde(default)]
    pub leftover: Option<String>,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Addresses seen on its links.
    pub addresses: Vec<IpAddr>,
    /// SPIFFE ID it speaks with, once the mesh knows the pod.
    pub identity: Option<String>,
    /// Its certificate, once one was asked for.
    #[serde(default)]
    pub certificate: Option<CertificateStatus>,
    /// Whether plaintext from outside is refused.
    pub mtls_required: bool,
    /// Who decided that.
    #[serde(default)]
    pub mtls_because: MtlsBecause,
    /// What of its traffic is captured, as the kernel was told.
    #[serde(default, skip_serializing_if = "Capture::is_usual")]
    pub capture: Capture,
    /// Its interfaces behind which guests are redirected, as the kernel was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reroute_interfaces: Vec<String>,
    /// Connections its applications made, open now.
    #[serde(default)]
    pub connections_out: usize,
    /// Connections to its applications that came through tunnels, open now.
    #[serde(default)]
    pub connections_in: usize,
    /// Tunnels dialled for it, open now.
    #[serde(default)]
    pub tunnels_out: usize,
    /// Tunnels accepted for it, open now.
    #[serde(default)]
    pub tunnels_in: usize,
    /// Verdicts of the eBPF programs for this pod by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Plaintext connections admitted to the pod's own sockets.
    pub plaintext: Plaintext,
    /// Ids of the kernel's links for this pod, by name; they outlive the agent.
    pub links: BTreeMap<String, u32>,
    /// Ids of the programs behind those links.
    pub programs: BTreeMap<String, u32>,
}

/// Who decides whether plaintext from outside is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsBecause {
    /// The enrolment said so.
    Enrolment,
    /// The mesh's policies for the workload.
    Policies,
    /// The mesh does not know the pod, so that any policy may hold for it.
    #[default]
    UnknownToMesh,
}

/// What is known of a pod's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its last moment; none when there is no certificate.
    pub not_after: Option<String>,
    /// How long it is still good, in seconds; negative when it is over.
    pub remaining_seconds: Option<i64>,
    /// Its first moment.
    #[serde(default)]
    pub not_before: Option<String>,
    /// Its serial number, decimal.
    #[serde(default)]
    pub serial: Option<String>,
    /// When the next one is asked for; none while that happens.
    #[serde(default)]
    pub next_attempt: Option<String>,
    /// Why the last attempt to get one failed.
    pub failure: Option<String>,
}

/// Connections that reached a pod without the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plaintext {
    /// Connections accepted.
    pub opened: u64,
    /// Connections ended.
    pub closed: u64,
    /// Payload bytes from the clients, counted as connections end.
    pub received_bytes: u64,
    /// Payload bytes to the clients, counted as connections end.
    pub sent_bytes: u64,
}

/// Seen from the pod or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// We dialled.
    Outbound,
    /// The peer dialled.
    Inbound,
}

/// An open tunnel: one TLS connection. The inner tunnel of double HBONE runs in a stream of one, and is not listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `NAMESPACE/NAME` of the pod; `gateway` where there is none.
    pub pod: String,
    /// Who dialled.
    pub direction: Direction,
    /// The other end.
    pub peer: SocketAddr,
    /// SPIFFE ID which the other end proved.
    pub peer_identity: String,
    /// Streams open now.
    pub streams: usize,
    /// How long it has been open, in seconds.
    pub age_seconds: u64,
}

/// A connection that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When it ended.
    pub time: String,
    /// `NAMESPACE/NAME` of our pod.
    pub pod: String,
    /// Who dialled: an address, and the workload where it is known.
    pub source: String,
    /// Who was dialled, in the same way.
    pub destination: String,
    /// Seen from our pod.
    pub direction: Direction,
    /// The reason's code, stable from version to version.
    pub code: String,
    /// What happened and what to look at.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LINE_LIMIT_BYTES, Response};

    #[test]
    fn a_full_node_fits_into_a_line() {
        let text = |length: usize| "x".repeat(length);
        let counts = |number: usize| (0..number).map(|n| (format!("{}{n}", text(26)), u64::MAX)).collect();
        let pod = PodStatus {
            namespace: text(30),
            name: text(60),
            state: "lingering".to_owned(),
            netns: text(60).into(),
            addresses: vec!["2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(); 4],
            identity: Some(text(120)),
            certificate: Some(CertificateStatus {
                not_after: Some(text(20)),
                remaining_seconds: Some(i64::MAX),
                ..CertificateStatus::default()
            }),
            verdicts: counts(18),
            leftover: Some(text(600)),
            ..PodStatus::default()
        };
        let tunnel = Tunnel {
            pod: text(91),
            direction: Direction::Outbound,
            peer: "[2001:db8:1111:2222:3333:4444:5555:6666]:15008".parse().unwrap(),
            peer_identity: text(120),
            streams: 100,
            age_seconds: 1_000_000,
        };
        let failure = Failure {
            time: text(30),
            pod: text(91),
            source: text(140),
            destination: text(140),
            direction: Direction::Inbound,
            code: text(40),
            reason: text(300),
        };
        let identity = IdentityStatus {
            identity: text(120),
            certificate: pod.certificate.clone().unwrap(),
        };
        let gateway = NetworkGateway {
            network: text(40),
            gateway: text(91),
            identity: Some(text(120)),
            ..NetworkGateway::default()
        };
        let rejected = RejectedResource {
            name: text(120),
            reason: text(200),
        };
        let received = ReceivedStatus {
            rejected: vec![rejected; 16],
            ..ReceivedStatus::default()
        };
        let status = Status {
            istiod: Some(IstiodStatus {
                addresses: received.clone(),
                authorizations: received,
                ..IstiodStatus::default()
            }),
            certificates: vec![identity; MOST_CERTIFICATES],
            gateways: vec![gateway; MOST_GATEWAYS],
            pods: (0..1023).map(|n| (format!("{}{n}", text(36)), pod.clone())).collect(),
            open_tunnels: vec![tunnel; MOST_TUNNELS],
            failures: vec![failure; 256],
            verdicts: counts(18),
            ..Status::default()
        };
        let line = serde_json::to_vec(&Response::Status(status)).unwrap();
        assert!((line.len() as u64) < LINE_LIMIT_BYTES, "{} bytes", line.len());
    }
}
