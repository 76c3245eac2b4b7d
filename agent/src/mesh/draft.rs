//! Workloads as sources describe them.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::GatewayAddress;
use super::interner::Interner;
use super::workload::{
    ApplicationTunnel, DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Health, Locality, Membership,
    NetworkMode, Protocol, Workload,
};

/// A workload on its way into a [`Builder`](super::Builder), which keeps it as a [`Workload`]: there every field has the
/// same name and meaning. Sources put the defaults in; here every field is what holds.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Primary key, in one of the forms of wire-facts §1.10.
    pub uid: Arc<str>,
    /// Name of the pod or entry.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Addresses in `network`; none for a workload known by name only or behind its network's gateway.
    pub addresses: Vec<IpAddr>,
    /// The network its addresses belong to.
    pub network: Arc<str>,
    /// How it wants to be spoken to.
    pub protocol: Protocol,
    /// Trust domain of its identity.
    pub trust_domain: Arc<str>,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Waypoint for traffic to its addresses (not for traffic to its services).
    pub waypoint: Option<GatewayAddress>,
    /// East-west gateway of its network.
    pub network_gateway: Option<GatewayAddress>,
    /// `service.istio.io/canonical-name`.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`.
    pub canonical_revision: Arc<str>,
    /// Name of its controller.
    pub workload_name: Arc<str>,
    /// Kind of its controller: `deployment`, `cronjob`, `pod` or `job`.
    pub workload_type: Arc<str>,
    /// The application itself speaks HBONE.
    pub native_tunnel: bool,
    /// How tunnelled traffic is handed to the application, where that is special.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Keys `NAMESPACE/NAME` of policies that select it by label.
    pub authorization_policies: Vec<Arc<str>>,
    /// Whether services may send traffic to it.
    pub status: Health,
    /// Cluster it belongs to.
    pub cluster_id: Arc<str>,
    /// Name to be resolved where it has no address.
    pub hostname: Arc<str>,
    /// Services it is an endpoint of.
    pub services: Vec<Membership>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether its addresses are its own or its node's.
    pub network_mode: NetworkMode,
    /// Weight among the endpoints of a service; 0 gets no traffic.
    pub capacity: u32,
}

impl Draft {
    /// A plain workload of network `""` with every other field empty or at its default.
    pub fn new(uid: &str, namespace: &str, name: &str) -> Self {
        let empty: Arc<str> = Arc::default();
        Self {
            uid: uid.into(),
            name: name.into(),
            namespace: namespace.into(),
            addresses: Vec::new(),
            network: Arc::clone(&empty),
            protocol: Protocol::Tcp,
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            service_account: DEFAULT_SERVICE_ACCOUNT.into(),
            waypoint: None,
            network_gateway: None,
            canonical_name: Arc::clone(&empty),
            canonical_revision: Arc::clone(&empty),
            workload_name: Arc::clone(&empty),
            workload_type: Arc::clone(&empty),
            native_tunnel: false,
            application_tunnel: None,
            authorization_policies: Vec::new(),
            status: Health::Healthy,
            cluster_id: DEFAULT_CLUSTER.into(),
            hostname: empty,
            services: Vec::new(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
        }
    }
}

/// The workload by itself, sharing nothing: for what is no part of a mesh.
impl From<Draft> for Workload {
    fn from(draft: Draft) -> Self {
        Interner::default().workload(draft)
    }
}
