//! The mesh file as it is written. What is said here of a field stands in docs/mesh-file.md.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use super::scalar::{Entries, HostName, Ip, Number, Port, Range, Scalar};
use crate::identity::SpiffeId;
use crate::mesh::address::{GatewayDestination, ServiceKey};
use crate::mesh::service::Vip;

/// A value and where it stands.
pub(super) type At<T> = Spanned<T>;
/// A value in one piece of text and where it stands.
pub(super) type AtScalar<T> = Spanned<Scalar<T>>;
/// Service port to target port.
pub(super) type PortsEntry = Entries<AtScalar<Port>, Scalar<Port>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Root {
    pub(super) trust_domain: Option<At<String>>,
    pub(super) networks: Option<Vec<String>>,
    pub(super) gateways: Vec<At<GatewayEntry>>,
    /// Read by themselves, one by one.
    pub(super) workloads: IgnoredAny,
    pub(super) services: Vec<At<ServiceEntry>>,
    pub(super) policies: Vec<At<PolicyEntry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GatewayEntry {
    pub(super) network: At<String>,
    pub(super) address: AtScalar<Ip>,
    pub(super) port: Option<Scalar<Port>>,
    pub(super) namespace: At<String>,
    pub(super) service_account: At<String>,
    pub(super) trust_domain: Option<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadEntry {
    pub(super) uid: Option<At<String>>,
    #[serde(default)]
    pub(super) name: String,
    pub(super) namespace: At<String>,
    #[serde(default)]
    pub(super) workload_ips: Vec<AtScalar<Ip>>,
    pub(super) network: Option<At<String>>,
    #[serde(default)]
    pub(super) protocol: ProtocolEntry,
    pub(super) trust_domain: Option<String>,
    pub(super) service_account: Option<String>,
    pub(super) waypoint: Option<GatewayAddressEntry>,
    pub(super) network_gateway: Option<GatewayAddressEntry>,
    #[serde(default)]
    pub(super) network_mode: NetworkModeEntry,
    #[serde(default)]
    pub(super) node: String,
    #[serde(default)]
    pub(super) canonical_name: String,
    #[serde(default)]
    pub(super) canonical_revision: String,
    #[serde(default)]
    pub(super) workload_name: String,
    #[serde(default)]
    pub(super) workload_type: String,
    pub(super) hostname: Option<Scalar<HostName>>,
    #[serde(default)]
    pub(super) native_tunnel: bool,
    pub(super) application_tunnel: Option<ApplicationTunnelEntry>,
    #[serde(default)]
    pub(super) authorization_policies: Vec<At<String>>,
    #[serde(default)]
    pub(super) status: HealthEntry,
    pub(super) cluster_id: Option<String>,
    #[serde(default)]
    pub(super) locality: LocalityEntry,
    #[serde(default)]
    pub(super) services: Entries<AtScalar<ServiceKey>, PortsEntry>,
    pub(super) capacity: Option<Scalar<Number>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceEntry {
    pub(super) name: At<String>,
    pub(super) namespace: At<String>,
    pub(super) hostname: AtScalar<HostName>,
    #[serde(default)]
    pub(super) vips: Vec<AtScalar<Vip>>,
    #[serde(default)]
    pub(super) cidr_vips: Vec<At<CidrVipEntry>>,
    #[serde(default)]
    pub(super) ports: PortsEntry,
    #[serde(default)]
    pub(super) subject_alt_names: Vec<Scalar<SpiffeId>>,
    pub(super) waypoint: Option<GatewayAddressEntry>,
    #[serde(default)]
    pub(super) weighted_waypoints: Vec<WeightedWaypointEntry>,
    #[serde(default)]
    pub(super) load_balancer: LoadBalancerEntry,
    pub(super) ip_families: Option<IpFamiliesEntry>,
    #[serde(default)]
    pub(super) canonical: bool,
    #[serde(default)]
    pub(super) visibility: VisibilityEntry,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CidrVipEntry {
    #[serde(default)]
    pub(super) network: String,
    pub(super) cidr: Scalar<Range>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GatewayAddressEntry {
    pub(super) destination: Scalar<GatewayDestination>,
    pub(super) hbone_mtls_port: Option<Scalar<Port>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WeightedWaypointEntry {
    pub(super) destination: GatewayAddressEntry,
    pub(super) weight: Scalar<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ApplicationTunnelEntry {
    pub(super) protocol: TunnelProtocolEntry,
    pub(super) port: Option<Scalar<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LocalityEntry {
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) subzone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadBalancerEntry {
    pub(super) mode: ModeEntry,
    pub(super) routing_preferences: Vec<ScopeEntry>,
    pub(super) health_policy: HealthPolicyEntry,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyEntry {
    pub(super) name: At<String>,
    pub(super) namespace: At<String>,
    pub(super) scope: PolicyScopeEntry,
    pub(super) action: ActionEntry,
    #[serde(default)]
    pub(super) rules: Vec<Vec<Vec<MatchEntry>>>,
    #[serde(default)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MatchEntry {
    pub(super) namespaces: Vec<StringMatchEntry>,
    pub(super) not_namespaces: Vec<StringMatchEntry>,
    pub(super) service_accounts: Vec<ServiceAccountEntry>,
    pub(super) not_service_accounts: Vec<ServiceAccountEntry>,
    pub(super) principals: Vec<StringMatchEntry>,
    pub(super) not_principals: Vec<StringMatchEntry>,
    pub(super) source_ips: Vec<Scalar<Range>>,
    pub(super) not_source_ips: Vec<Scalar<Range>>,
    pub(super) destination_ips: Vec<Scalar<Range>>,
    pub(super) not_destination_ips: Vec<Scalar<Range>>,
    pub(super) destination_ports: Vec<Scalar<Port>>,
    pub(super) not_destination_ports: Vec<Scalar<Port>>,
}

#[derive(Debug, Deserialize)]
pub(super) enum StringMatchEntry {
    Exact(String),
    Prefix(String),
    Suffix(String),
    // Written `Presence: []`, which is how ztunnel's type reads.
    Presence(),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceAccountEntry {
    pub(super) namespace: String,
    pub(super) service_account: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum ProtocolEntry {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum NetworkModeEntry {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum HealthEntry {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum TunnelProtocolEntry {
    #[serde(rename = "NONE")]
    None,
    #[serde(rename = "PROXY")]
    Proxy,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum ModeEntry {
    #[default]
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum ScopeEntry {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum HealthPolicyEntry {
    #[default]
    OnlyHealthy,
    AllowAll,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum IpFamiliesEntry {
    Dual,
    IPv4,
    IPv6,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum VisibilityEntry {
    #[default]
    Public,
    Namespace,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum PolicyScopeEntry {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum ActionEntry {
    Allow,
    Deny,
}
