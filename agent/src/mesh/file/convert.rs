//! From what is written to what is meant, one entry at a time.

use std::sync::Arc;

use serde_saphyr::Location;

use super::problem::{Problem, contradiction, fault};
use super::scalar::{Port, Range, Scalar};
use super::schema::{
    ActionEntry, ApplicationTunnelEntry, AtScalar, GatewayAddressEntry, HealthEntry, HealthPolicyEntry,
    IpFamiliesEntry, LoadBalancerEntry, MatchEntry, ModeEntry, NetworkModeEntry, PolicyEntry, PolicyScopeEntry,
    PortsEntry, ProtocolEntry, ScopeEntry, ServiceAccountEntry, StringMatchEntry, TunnelProtocolEntry, VisibilityEntry,
    WeightedWaypointEntry,
};
use crate::mesh::HBONE_PORT;
use crate::mesh::address::GatewayAddress;
use crate::mesh::policy::{
    Action, Clause, Match, Policy, Rule, Scope as PolicyScope, ServiceAccountMatch, StringMatch,
};
use crate::mesh::service::{HealthPolicy, IpFamilies, LoadBalancing, Mode, Scope, Visibility, WeightedWaypoint};
use crate::mesh::workload::{ApplicationTunnel, Health, NetworkMode, Ports, Protocol, TunnelProtocol};

/// Is the text a Kubernetes-like name, such as may stand in a SPIFFE ID?
pub(super) fn check_name(text: &str, location: Location) -> Result<Arc<str>, Problem> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text == "." || text == ".." || !text.bytes().all(usable) {
        let text = format!("{text:?} is not a name: expected one or more of a-z A-Z 0-9 . - _");
        return Err(fault(location, text));
    }
    Ok(text.into())
}

pub(super) fn ports(entries: &PortsEntry) -> Result<Ports, Problem> {
    let mut seen: Vec<&AtScalar<Port>> = Vec::with_capacity(entries.0.len());
    for (port, _) in &entries.0 {
        // `80` and `"80"` are two keys to YAML.
        if let Some(other) = seen.iter().find(|other| other.value == port.value) {
            let text = format!("port {} is given twice", port.value.0.0);
            return Err(contradiction(port.referenced, text, other.referenced));
        }
        seen.push(port);
    }
    Ok(entries
        .0
        .iter()
        .map(|(port, target)| (port.value.0.0, target.0.0))
        .collect())
}

pub(super) fn gateway_address(entry: GatewayAddressEntry) -> GatewayAddress {
    GatewayAddress {
        destination: entry.destination.0,
        hbone_port: entry.hbone_mtls_port.map_or(HBONE_PORT, |port| port.0.0),
    }
}

pub(super) fn weighted_waypoint(entry: WeightedWaypointEntry) -> WeightedWaypoint {
    WeightedWaypoint {
        waypoint: gateway_address(entry.destination),
        weight: entry.weight.0.0,
    }
}

pub(super) fn application_tunnel(entry: &ApplicationTunnelEntry) -> ApplicationTunnel {
    ApplicationTunnel {
        protocol: match entry.protocol {
            TunnelProtocolEntry::None => TunnelProtocol::None,
            TunnelProtocolEntry::Proxy => TunnelProtocol::Proxy,
        },
        port: entry.port.as_ref().map(|port| port.0.0),
    }
}

pub(super) fn load_balancing(entry: &LoadBalancerEntry) -> LoadBalancing {
    let scope = |scope: &ScopeEntry| match scope {
        ScopeEntry::Region => Scope::Region,
        ScopeEntry::Zone => Scope::Zone,
        ScopeEntry::Subzone => Scope::Subzone,
        ScopeEntry::Node => Scope::Node,
        ScopeEntry::Cluster => Scope::Cluster,
        ScopeEntry::Network => Scope::Network,
    };
    LoadBalancing {
        mode: match entry.mode {
            ModeEntry::Standard => Mode::Standard,
            ModeEntry::Strict => Mode::Strict,
            ModeEntry::Failover => Mode::Failover,
            ModeEntry::Passthrough => Mode::Passthrough,
        },
        preferences: entry.routing_preferences.iter().map(scope).collect(),
        health: match entry.health_policy {
            HealthPolicyEntry::OnlyHealthy => HealthPolicy::OnlyHealthy,
            HealthPolicyEntry::AllowAll => HealthPolicy::AllowAll,
        },
    }
}

pub(super) fn ip_families(entry: Option<IpFamiliesEntry>) -> IpFamilies {
    match entry {
        None => IpFamilies::Automatic,
        Some(IpFamiliesEntry::Dual) => IpFamilies::Dual,
        Some(IpFamiliesEntry::IPv4) => IpFamilies::V4,
        Some(IpFamiliesEntry::IPv6) => IpFamilies::V6,
    }
}

pub(super) fn visibility(entry: VisibilityEntry) -> Visibility {
    match entry {
        VisibilityEntry::Public => Visibility::Public,
        VisibilityEntry::Namespace => Visibility::Namespace,
    }
}

pub(super) fn protocol(entry: ProtocolEntry) -> Protocol {
    match entry {
        ProtocolEntry::Tcp => Protocol::Tcp,
        ProtocolEntry::Hbone => Protocol::Hbone,
    }
}

pub(super) fn network_mode(entry: NetworkModeEntry) -> NetworkMode {
    match entry {
        NetworkModeEntry::Standard => NetworkMode::Standard,
        NetworkModeEntry::HostNetwork => NetworkMode::HostNetwork,
    }
}

pub(super) fn health(entry: HealthEntry) -> Health {
    match entry {
        HealthEntry::Healthy => Health::Healthy,
        HealthEntry::Unhealthy => Health::Unhealthy,
    }
}

pub(super) fn policy(entry: PolicyEntry) -> Result<Policy, Problem> {
    let clause = |matches: Vec<MatchEntry>| Clause {
        matches: matches.into_iter().map(one_match).collect(),
    };
    let rule = |clauses: Vec<Vec<MatchEntry>>| Rule {
        clauses: clauses.into_iter().map(clause).collect(),
    };
    Ok(Policy {
        name: check_name(&entry.name.value, entry.name.referenced)?,
        namespace: check_name(&entry.namespace.value, entry.namespace.referenced)?,
        scope: match entry.scope {
            PolicyScopeEntry::Global => PolicyScope::Global,
            PolicyScopeEntry::Namespace => PolicyScope::Namespace,
            PolicyScopeEntry::WorkloadSelector => PolicyScope::WorkloadSelector,
        },
        action: match entry.action {
            ActionEntry::Allow => Action::Allow,
            ActionEntry::Deny => Action::Deny,
        },
        rules: entry.rules.into_iter().map(rule).collect(),
        dry_run: entry.dry_run,
    })
}

fn one_match(entry: MatchEntry) -> Match {
    let texts = |entries: Vec<StringMatchEntry>| entries.into_iter().map(string_match).collect();
    let accounts = |entries: Vec<ServiceAccountEntry>| entries.into_iter().map(service_account).collect();
    let ranges = |entries: Vec<Scalar<Range>>| entries.into_iter().map(|range| range.0.0).collect();
    let ports = |entries: Vec<Scalar<Port>>| entries.into_iter().map(|port| port.0.0).collect();
    Match {
        namespaces: texts(entry.namespaces),
        not_namespaces: texts(entry.not_namespaces),
        service_accounts: accounts(entry.service_accounts),
        not_service_accounts: accounts(entry.not_service_accounts),
        principals: texts(entry.principals),
        not_principals: texts(entry.not_principals),
        source_ips: ranges(entry.source_ips),
        not_source_ips: ranges(entry.not_source_ips),
        destination_ips: ranges(entry.destination_ips),
        not_destination_ips: ranges(entry.not_destination_ips),
        destination_ports: ports(entry.destination_ports),
        not_destination_ports: ports(entry.not_destination_ports),
    }
}

fn string_match(entry: StringMatchEntry) -> StringMatch {
    match entry {
        StringMatchEntry::Exact(text) => StringMatch::Exact(text.into()),
        StringMatchEntry::Prefix(text) => StringMatch::Prefix(text.into()),
        StringMatchEntry::Suffix(text) => StringMatch::Suffix(text.into()),
        StringMatchEntry::Presence() => StringMatch::Presence,
    }
}

fn service_account(entry: ServiceAccountEntry) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: entry.namespace.into(),
        service_account: entry.service_account.into(),
    }
}
