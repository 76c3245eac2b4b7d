//! Workloads: pods, virtual machines, network gateways and what stands for a whole service in another network
//! (wire-facts §1.9).

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{GatewayAddress, ServiceKey};
use crate::identity::SpiffeId;

/// The trust domain of a workload which names none (wire-facts §1.8).
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// The service account of a workload which names none (wire-facts §1.8).
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// The cluster of a workload which names none (wire-facts §1.8).
pub const DEFAULT_CLUSTER: &str = "Kubernetes";

/// Something that sends or receives traffic. Sources put the defaults above in; here every field is what holds.
#[derive(Debug, Clone)]
pub struct Workload {
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
    /// Name of the node it runs on.
    pub node: Arc<str>,
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

/// How a workload wants to be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// In clear.
    #[default]
    Tcp,
    /// Through a tunnel.
    Hbone,
}

/// Whether a workload is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Ready for traffic.
    #[default]
    Healthy,
    /// Not ready, or going away.
    Unhealthy,
}

/// Whose addresses a workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// Its own.
    #[default]
    Standard,
    /// Its node's, shared with others and therefore never looked up by address.
    HostNetwork,
}

/// Where a workload runs. An unknown part is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// How tunnelled traffic is handed to an application that asked for a special way (wire-facts §3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// What is written before the payload.
    pub protocol: TunnelProtocol,
    /// The port all traffic goes to, whatever was asked for.
    pub port: Option<u16>,
}

/// What an application tunnel writes before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelProtocol {
    /// Nothing.
    None,
    /// A PROXY protocol v2 header.
    Proxy,
}

/// That a workload is an endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The service.
    pub service: ServiceKey,
    /// Its ports here.
    pub ports: Ports,
}

/// Service port to target port, in order of service port. A target of 0 stands for a named port, which only the
/// endpoint knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports(Arc<[(u16, u16)]>);

impl Ports {
    /// The target of a service port; absent when it is not listed or is 0.
    pub fn target_of(&self, service_port: u16) -> Option<u16> {
        let at = self.0.binary_search_by_key(&service_port, |(port, _)| *port).ok()?;
        self.0.get(at).map(|(_, target)| *target).filter(|target| *target != 0)
    }

    /// Is the service port listed, with whatever target?
    pub fn serves(&self, service_port: u16) -> bool {
        self.0.binary_search_by_key(&service_port, |(port, _)| *port).is_ok()
    }

    /// Pairs of service port and target port.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> {
        self.0.iter().copied()
    }
}

impl FromIterator<(u16, u16)> for Ports {
    fn from_iter<I: IntoIterator<Item = (u16, u16)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable();
        pairs.dedup_by_key(|(port, _)| *port);
        Self(pairs.into())
    }
}

impl Workload {
    /// A plain workload of network `""` with every other field empty or at its default.
    pub fn new(uid: &str, namespace: &str, name: &str) -> Self {
        let empty: Arc<str> = Arc::from("");
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
            node: Arc::clone(&empty),
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

    /// Its SPIFFE ID; none when a part is empty or has a character no SPIFFE ID may have.
    pub fn identity(&self) -> Option<SpiffeId> {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.service_account).ok()
    }

    /// Is this an east-west gateway, as istiod and the mesh file name them (wire-facts §1.10)?
    pub fn is_network_gateway(&self) -> bool {
        self.uid.starts_with("NetworkGateway/")
    }

    /// Was it made from a pod (wire-facts §1.10)?
    pub fn is_pod(&self) -> bool {
        self.uid.contains("//Pod/")
    }

    /// Its ports as an endpoint of a service, if it is one.
    pub fn ports_for(&self, service: &ServiceKey) -> Option<&Ports> {
        let membership = self.services.iter().find(|membership| membership.service == *service)?;
        Some(&membership.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_service_port_and_zero_is_none() {
        let ports: Ports = [(443, 0), (80, 8080)].into_iter().collect();
        assert_eq!(ports.target_of(80), Some(8080));
        assert_eq!(ports.target_of(443), None);
        assert!(ports.serves(443));
        assert!(!ports.serves(8080));
        assert_eq!(ports.target_of(81), None);
        assert_eq!(ports.iter().collect::<Vec<_>>(), [(80, 8080), (443, 0)]);
    }

    #[test]
    fn identity_needs_every_part() {
        let mut workload = Workload::new("u", "demo", "echo");
        let id = workload.identity().unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/demo/sa/default");
        workload.service_account = "".into();
        assert!(workload.identity().is_none());
    }

    #[test]
    fn kinds_are_told_by_uid() {
        assert!(Workload::new("Kubernetes//Pod/a/b", "a", "b").is_pod());
        assert!(!Workload::new("cluster1//v1/Pod/default/local", "a", "b").is_pod());
        assert!(Workload::new("NetworkGateway/net2/10.0.0.1/15008", "a", "b").is_network_gateway());
    }
}
