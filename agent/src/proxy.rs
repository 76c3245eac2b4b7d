//! Connections: how each is taken, decided on, carried and ended.
//!
//! | file | what it knows |
//! |---|---|
//! | `outbound` | a pod's application dials: take, reach, relay |
//! | `reach` | finding the way of an outbound connection, and another one when it is closed |
//! | `upstream` | one attempt to go such a way |
//! | `ejections` | peers that lately could not be reached |
//! | `inbound` | a tunnel brings a CONNECT: admit, authorise, deliver, relay |
//! | `gateway` | the same for a whole network: pick an endpoint, pipe |
//! | `terminate` | accepting tunnels, common to pods and gateways |
//! | `pool` | tunnels we dialled, shared by the streams of one pod |
//! | `dial` | reaching the other side, with its timeouts |
//! | `relay` | bytes both ways, half-close, resets |
//! | `leg` | a TCP connection that is reset unless it was finished |
//! | `tunnel_socket` | the TCP connection below a tunnel |
//! | `connections` | what is open, and cutting it |
//! | `tunnels` | which tunnels are open, for status |
//! | `accept` | a listener that survives a lack of descriptors |
//! | `descriptors` | the budget of descriptors |
//! | `open_connection` | what is told of a connection while it lives |
//! | `close` | why a connection ended |
//! | `access_log` | one line per connection |
//! | `tuning` | numbers that an operator may change |
//! | `sockets` | the seam to a pod's network namespace |

mod accept;
mod access_log;
mod close;
mod connections;
mod descriptors;
mod dial;
mod ejections;
pub mod gateway;
mod inbound;
mod leg;
mod open_connection;
mod outbound;
mod pool;
mod reach;
mod relay;
pub mod sockets;
mod terminate;
mod tuning;
mod tunnel_socket;
mod tunnels;
mod upstream;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::{access_log::Book, connections::Connections, ejections::Ejections, pool::Pool, terminate::Parts};
pub use self::{
    close::{Cause, CloseCode, CloseReason, Phase, Who},
    descriptors::Descriptors,
    gateway::{Gateway, GatewayParts},
    open_connection::{Carried, OpenConnection, Requested},
    sockets::{PlainSockets, Sockets},
    tuning::{PoolLimits, SocketOptions, Tuning},
    tunnels::TunnelInfo,
};
use crate::{
    dns::Names,
    identity::{Certificates, SpiffeId},
    mesh::{Mesh, Snapshot, Workload, wants},
    telemetry::{Telemetry, exposition::Families, metric},
};

#[cfg(test)]
mod tests;

/// Who a pod is, as its enrolment said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Kubernetes UID, or any name unique on this node.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Kubernetes service account; `None` leaves it to the mesh.
    pub service_account: Option<String>,
}

/// What a pod's connections are made of.
#[derive(Clone)]
pub struct ProxyParts {
    /// Sockets in the pod's network namespace.
    pub sockets: Arc<dyn Sockets>,
    /// What is known of the mesh.
    pub mesh: Mesh,
    /// Where certificates come from.
    pub certificates: Certificates,
    /// Addresses of endpoints known by name only.
    pub names: Names,
    /// The network the pod's address belongs to.
    pub network: Arc<str>,
    /// Numbers of tunnels, sockets and pools.
    pub tuning: Tuning,
    /// Who is told of connections.
    pub telemetry: Arc<Telemetry>,
}

/// How much of a pod is open at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCounts {
    /// Connections the pod's applications made.
    pub connections_out: usize,
    /// Connections to the pod's applications that came through tunnels.
    pub connections_in: usize,
    /// Tunnels dialled.
    pub tunnels_out: usize,
    /// Tunnels accepted, also those still in their handshake.
    pub tunnels_in: usize,
}

/// Serves the connections of one pod. All of it runs on the runtime where it is first used.
pub struct PodProxy {
    pod: PodFacts,
    network: Arc<str>,
    sockets: Arc<dyn Sockets>,
    mesh: Mesh,
    certificates: Certificates,
    names: Names,
    pool: Pool,
    ejections: Ejections,
    /// Who this pod is among those who tell `ejections` of failures.
    witness: u64,
    outgoing: Connections,
    /// Tunnels that were dialled.
    dialled: Connections,
    parts: Parts,
    self_calls: AtomicU64,
}

impl PodProxy {
    /// A pod that nobody is served for yet.
    #[must_use]
    pub fn new(pod: PodFacts, parts: ProxyParts) -> Arc<Self> {
        let ProxyParts {
            sockets,
            mesh,
            certificates,
            names,
            network,
            tuning,
            telemetry,
        } = parts;
        telemetry.proxy_started();
        let book = Book {
            telemetry,
            pod: pod.to_string().into(),
        };
        let parts = Parts::new(Descriptors::of_process(), tuning, book);
        let dialled = Connections::new();
        let pool = Pool::new(
            Arc::clone(&sockets),
            certificates.clone(),
            dialled.clone(),
            parts.abrupt.clone(),
            tuning,
            parts.listed.clone(),
        );
        Arc::new(Self {
            pod,
            network,
            sockets,
            mesh,
            certificates,
            names,
            pool,
            ejections: Ejections::of_process(),
            witness: Ejections::witness(),
            outgoing: Connections::new(),
            dialled,
            parts,
            self_calls: AtomicU64::new(0),
        })
    }

    /// Connections open now, both directions.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.outgoing.len() + self.parts.streams.len()
    }

    /// Tunnels open now, both directions.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.dialled.len() + self.parts.tunnels.len()
    }

    /// Open now: connections the pod's applications made, connections made to them, tunnels dialled, tunnels accepted.
    #[must_use]
    pub fn open(&self) -> OpenCounts {
        OpenCounts {
            connections_out: self.outgoing.len(),
            connections_in: self.parts.streams.len(),
            tunnels_out: self.dialled.len(),
            tunnels_in: self.parts.tunnels.len(),
        }
    }

    /// The oldest tunnels, at most `most`. Those still in their handshake are not among them.
    #[must_use]
    pub fn list_tunnels(&self, most: usize) -> Vec<TunnelInfo> {
        self.parts.listed.list(most)
    }

    /// What is being carried, at most `most` each way, the oldest first: what came to the pod, and what it made.
    #[must_use]
    pub fn list_connections(&self, most: usize) -> [Vec<Arc<OpenConnection>>; 2] {
        [self.parts.streams.list(most), self.outgoing.list(most)]
    }

    /// Connections that were reset because an application dialled our own listener.
    #[must_use]
    pub fn self_calls(&self) -> u64 {
        self.self_calls.load(Ordering::Relaxed)
    }

    /// The pod is gone: resets every connection and tunnel, now and to come, and
    /// [`PodProxy::outbound`] and [`PodProxy::inbound`] return. Their sockets hold nothing back in the
    /// kernel, which would keep the network namespace alive.
    pub fn abort_all(&self) {
        self.parts.abrupt.set();
        self.parts.gone.force();
        let reason = CloseReason::new(CloseCode::PodGone, "the pod is gone");
        self.pool.clear();
        for table in [&self.outgoing, &self.parts.streams, &self.dialled, &self.parts.tunnels] {
            table.close(&reason);
        }
    }

    fn count_self_call(&self) {
        self.self_calls.fetch_add(1, Ordering::Relaxed);
    }

    /// The pod's workload, if the mesh knows it.
    fn workload_now(&self) -> Option<Arc<Workload>> {
        self.workload_in(&self.mesh.current())
    }

    /// The pod's workload, if this mesh knows it.
    fn workload_in(&self, mesh: &Snapshot) -> Option<Arc<Workload>> {
        let PodFacts {
            namespace,
            name,
            service_account,
            ..
        } = &self.pod;
        mesh.workload_of_pod(namespace, name, service_account.as_deref())
    }

    /// The pod's workload, waiting for the mesh to learn of it.
    async fn workload_within(&self, wait: Duration) -> Option<Arc<Workload>> {
        if let Some(workload) = self.workload_now() {
            return Some(workload);
        }
        if let Some(demand) = self.mesh.demand() {
            // Nobody else may: istiod tells unasked of the pods of a node it knows.
            demand.mention(wants::of_own_pod(&self.network, self.sockets.addresses()));
        }
        let mut mesh = self.mesh.clone();
        let known = async {
            loop {
                if let Some(workload) = self.workload_now() {
                    return workload;
                }
                mesh.changed().await;
            }
        };
        tokio::time::timeout(wait, known).await.ok()
    }

    fn identity(&self, workload: &Workload) -> Result<SpiffeId, CloseReason> {
        workload.identity().ok_or_else(|| {
            let text = format!("the mesh's workload for pod {} makes no SPIFFE ID", self.pod);
            CloseReason::new(CloseCode::NoIdentity, text)
        })
    }
}

/// Whether connections of any pod pass this peer over now, because it could not be reached lately.
#[must_use]
pub fn passes_over(peer: SocketAddr) -> bool {
    Ejections::of_process().passes_over(peer)
}

/// Tells metrics how much of the budget of descriptors is taken.
pub fn describe_descriptors(families: &mut Families) {
    let budget = Descriptors::of_process();
    families.value(&metric::DESCRIPTORS_USED, budget.used() as u64);
    families.value(&metric::DESCRIPTORS_LIMIT, budget.limit() as u64);
}

impl Drop for PodProxy {
    fn drop(&mut self) {
        self.parts.book.telemetry.proxy_stopped();
    }
}

/// `NAMESPACE/NAME`.
impl fmt::Display for PodFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
