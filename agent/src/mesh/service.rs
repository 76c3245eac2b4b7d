//! Services: names and virtual addresses in front of workloads (wire-facts §1.9).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{GatewayAddress, ServiceKey};
use super::workload::Ports;
use crate::identity::SpiffeId;

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name of the object.
    pub name: Arc<str>,
    /// Namespace and host name.
    pub key: ServiceKey,
    /// Virtual addresses; a whole range where the prefix is shorter than the address.
    pub vips: Vec<Vip>,
    /// Service ports and their targets.
    pub ports: Ports,
    /// Identities acceptable besides an endpoint's own; across networks the only ones.
    pub subject_alt_names: Arc<[SpiffeId]>,
    /// Waypoint all traffic to the service goes through.
    pub waypoint: Option<GatewayAddress>,
    /// Shares of several waypoints; where one has weight, these rule instead of `waypoint`.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Which endpoint addresses may be used.
    pub ip_families: IpFamilies,
    /// Wins where host name or VIP is declared twice.
    pub canonical: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

/// A virtual address or range in one network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip {
    /// The network it is valid in.
    pub network: Arc<str>,
    /// The address, as a range of one or more.
    pub range: IpNet,
}

/// One of several waypoints of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub waypoint: GatewayAddress,
    /// Its share of connections.
    pub weight: u32,
}

/// How an endpoint is chosen (wire-facts §4.5).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadBalancing {
    /// What the preferences mean.
    pub mode: Mode,
    /// What source and endpoint should have in common, the most important first.
    pub preferences: Vec<Scope>,
    /// Whether health counts.
    pub health: HealthPolicy,
}

/// What routing preferences mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Nothing: capacity alone decides.
    #[default]
    Standard,
    /// Only endpoints that match all of them.
    Strict,
    /// Those that match most, and others when there are none.
    Failover,
    /// No choice: traffic goes to the address it was sent to.
    Passthrough,
}

/// Something a source and an endpoint may have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The region.
    Region,
    /// The zone.
    Zone,
    /// The subzone.
    Subzone,
    /// The node.
    Node,
    /// The cluster.
    Cluster,
    /// The network.
    Network,
}

/// Whether health counts in choosing an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    /// Only healthy endpoints.
    #[default]
    OnlyHealthy,
    /// All endpoints.
    AllowAll,
}

/// Which endpoint addresses a service uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpFamilies {
    /// Any; nothing was said.
    #[default]
    Automatic,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

/// Who may see a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Visibility {
    /// Everybody.
    #[default]
    Public,
    /// Clients in its namespace.
    Namespace,
}

impl Service {
    /// A service without addresses, ports or endpoints.
    pub fn new(namespace: &str, name: &str, hostname: &str) -> Self {
        Self {
            name: name.into(),
            key: ServiceKey {
                namespace: namespace.into(),
                hostname: hostname.into(),
            },
            vips: Vec::new(),
            ports: Ports::default(),
            subject_alt_names: Arc::from([]),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: LoadBalancing::default(),
            ip_families: IpFamilies::default(),
            canonical: false,
            visibility: Visibility::default(),
        }
    }

    /// May a client of this namespace see it?
    pub fn visible_to(&self, namespace: &str) -> bool {
        self.visibility == Visibility::Public || *self.key.namespace == *namespace
    }
}

impl IpFamilies {
    /// May this address be used?
    pub fn accepts(self, ip: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

impl Vip {
    /// The only address it stands for, if it is not a range.
    pub fn single(&self) -> Option<IpAddr> {
        (self.range.prefix_len() == self.range.max_prefix_len()).then(|| self.range.addr())
    }
}
