//! The reverse of [`decode`](super::decode), for what is stored: all that is kept of a resource, as istiod's message.

use std::net::IpAddr;

use ipnet::IpNet;
use isthmus_istio::{security, workload as proto};

use crate::mesh::policy::{Action, Match, Policy, Rule, Scope as PolicyScope, ServiceAccountMatch, StringMatch};
use crate::mesh::service::{
    HealthPolicy, IpFamilies, LoadBalancing, Mode, Scope, Service, Vip, Visibility, WeightedWaypoint,
};
use crate::mesh::workload::{
    ApplicationTunnel, DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Health, NetworkMode, Ports,
    Protocol, TunnelProtocol, Workload,
};
use crate::mesh::{GatewayAddress, GatewayDestination};

/// A workload.
pub(super) fn workload(workload: &Workload) -> proto::Address {
    let services = workload.services.iter().map(|membership| {
        let ports = ports(&membership.ports);
        (membership.service.to_string(), proto::PortList { ports })
    });
    let locality = &workload.locality;
    let message = proto::Workload {
        uid: workload.uid().to_string(),
        name: workload.name().to_owned(),
        namespace: workload.namespace.to_string(),
        addresses: workload.addresses.iter().map(bytes).collect(),
        hostname: workload.hostname.to_string(),
        network: workload.network.to_string(),
        tunnel_protocol: match workload.protocol {
            Protocol::Tcp => proto::TunnelProtocol::None,
            Protocol::Hbone => proto::TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: unless(&workload.trust_domain, DEFAULT_TRUST_DOMAIN),
        service_account: unless(&workload.service_account, DEFAULT_SERVICE_ACCOUNT),
        waypoint: workload.waypoint.as_ref().map(gateway),
        network_gateway: workload.network_gateway.as_ref().map(gateway),
        node: locality.node.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: match &*workload.workload_type {
            "cronjob" => proto::WorkloadType::Cronjob,
            "pod" => proto::WorkloadType::Pod,
            "job" => proto::WorkloadType::Job,
            _ => proto::WorkloadType::Deployment,
        }
        .into(),
        workload_name: workload.workload_name.to_string(),
        native_tunnel: workload.native_tunnel,
        application_tunnel: workload.application_tunnel.map(application_tunnel),
        services: services.collect(),
        authorization_policies: workload
            .authorization_policies
            .iter()
            .map(|key| key.to_string())
            .collect(),
        status: match workload.status {
            Health::Healthy => proto::WorkloadStatus::Healthy,
            Health::Unhealthy => proto::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: unless(&workload.cluster_id, DEFAULT_CLUSTER),
        locality: Some(proto::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            subzone: locality.subzone.to_string(),
        }),
        network_mode: match workload.network_mode {
            NetworkMode::Standard => proto::NetworkMode::Standard,
            NetworkMode::HostNetwork => proto::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: Vec::new(),
        capacity: Some(workload.capacity),
    };
    proto::Address {
        r#type: Some(proto::address::Type::Workload(message)),
    }
}

/// A service.
pub(super) fn service(service: &Service) -> proto::Address {
    let message = proto::Service {
        name: service.name.to_string(),
        namespace: service.key.namespace.to_string(),
        hostname: service.key.hostname.to_string(),
        addresses: service.vips.iter().map(vip).collect(),
        ports: ports(&service.ports),
        subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
        waypoint: service.waypoint.as_ref().map(gateway),
        load_balancing: Some(load_balancing(&service.load_balancing)),
        ip_families: match service.ip_families {
            IpFamilies::Automatic => proto::IpFamilies::Automatic,
            IpFamilies::V4 => proto::IpFamilies::Ipv4Only,
            IpFamilies::V6 => proto::IpFamilies::Ipv6Only,
            IpFamilies::Dual => proto::IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        canonical: service.canonical,
        ingress_use_waypoint: false,
        weighted_waypoints: service.weighted_waypoints.iter().map(weighted).collect(),
        visibility: match service.visibility {
            Visibility::Public => proto::Visibility::Public,
            Visibility::Namespace => proto::Visibility::Namespace,
        }
        .into(),
    };
    proto::Address {
        r#type: Some(proto::address::Type::Service(message)),
    }
}

/// A policy.
pub(super) fn policy(policy: &Policy) -> security::Authorization {
    let rule = |rule: &Rule| {
        let clauses = rule.clauses.iter().map(|clause| security::Clause {
            matches: clause.matches.iter().map(one_match).collect(),
        });
        security::Rule {
            clauses: clauses.collect(),
        }
    };
    security::Authorization {
        name: policy.name.to_string(),
        namespace: policy.namespace.to_string(),
        scope: match policy.scope {
            PolicyScope::Global => security::Scope::Global,
            PolicyScope::Namespace => security::Scope::Namespace,
            PolicyScope::WorkloadSelector => security::Scope::WorkloadSelector,
        }
        .into(),
        action: match policy.action {
            Action::Allow => security::Action::Allow,
            Action::Deny => security::Action::Deny,
        }
        .into(),
        rules: policy.rules.iter().map(rule).collect(),
        dry_run: policy.dry_run,
    }
}

fn unless(text: &str, default: &str) -> String {
    if text == default {
        String::new()
    } else {
        text.to_owned()
    }
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ports(ports: &Ports) -> Vec<proto::Port> {
    let port = |(service_port, target_port): (u16, u16)| proto::Port {
        service_port: service_port.into(),
        target_port: target_port.into(),
        app_protocol: 0,
    };
    ports.iter().map(port).collect()
}

fn gateway(gateway: &GatewayAddress) -> proto::GatewayAddress {
    use proto::gateway_address::Destination;
    proto::GatewayAddress {
        destination: Some(match &gateway.destination {
            GatewayDestination::Address(address) => Destination::Address(proto::NetworkAddress {
                network: address.network.to_string(),
                address: bytes(address.ip),
                length: None,
            }),
            GatewayDestination::Hostname(key) => Destination::Hostname(proto::NamespacedHostname {
                namespace: key.namespace.to_string(),
                hostname: key.hostname.to_string(),
            }),
        }),
        hbone_mtls_port: gateway.hbone_port.into(),
    }
}

fn application_tunnel(tunnel: ApplicationTunnel) -> proto::ApplicationTunnel {
    use proto::application_tunnel::Protocol as Written;
    proto::ApplicationTunnel {
        protocol: match tunnel.protocol {
            TunnelProtocol::None => Written::None,
            TunnelProtocol::Proxy => Written::Proxy,
        }
        .into(),
        port: tunnel.port.unwrap_or_default().into(),
    }
}

fn vip(vip: &Vip) -> proto::NetworkAddress {
    proto::NetworkAddress {
        network: vip.network.to_string(),
        address: bytes(vip.range.addr()),
        length: vip.single().is_none().then(|| vip.range.prefix_len().into()),
    }
}

fn weighted(waypoint: &WeightedWaypoint) -> proto::WeightedWaypoint {
    proto::WeightedWaypoint {
        destination: Some(gateway(&waypoint.waypoint)),
        weight: waypoint.weight,
    }
}

fn load_balancing(load_balancing: &LoadBalancing) -> proto::LoadBalancing {
    use proto::load_balancing as lb;
    let scope = |scope: &Scope| {
        let scope = match scope {
            Scope::Region => lb::Scope::Region,
            Scope::Zone => lb::Scope::Zone,
            Scope::Subzone => lb::Scope::Subzone,
            Scope::Node => lb::Scope::Node,
            Scope::Cluster => lb::Scope::Cluster,
            Scope::Network => lb::Scope::Network,
        };
        scope.into()
    };
    proto::LoadBalancing {
        routing_preference: load_balancing.preferences.iter().map(scope).collect(),
        mode: match load_balancing.mode {
            Mode::Standard => lb::Mode::UnspecifiedMode,
            Mode::Strict => lb::Mode::Strict,
            Mode::Failover => lb::Mode::Failover,
            Mode::Passthrough => lb::Mode::Passthrough,
        }
        .into(),
        health_policy: match load_balancing.health {
            HealthPolicy::OnlyHealthy => lb::HealthPolicy::OnlyHealthy,
            HealthPolicy::AllowAll => lb::HealthPolicy::AllowAll,
        }
        .into(),
    }
}

fn one_match(conditions: &Match) -> security::Match {
    let texts = |texts: &[StringMatch]| texts.iter().map(string_match).collect();
    let accounts = |accounts: &[ServiceAccountMatch]| accounts.iter().map(service_account).collect();
    let ranges = |ranges: &[IpNet]| ranges.iter().map(range).collect();
    let ports = |ports: &[u16]| ports.iter().map(|port| u32::from(*port)).collect();
    security::Match {
        namespaces: texts(&conditions.namespaces),
        not_namespaces: texts(&conditions.not_namespaces),
        principals: texts(&conditions.principals),
        not_principals: texts(&conditions.not_principals),
        source_ips: ranges(&conditions.source_ips),
        not_source_ips: ranges(&conditions.not_source_ips),
        destination_ips: ranges(&conditions.destination_ips),
        not_destination_ips: ranges(&conditions.not_destination_ips),
        destination_ports: ports(&conditions.destination_ports),
        not_destination_ports: ports(&conditions.not_destination_ports),
        service_accounts: accounts(&conditions.service_accounts),
        not_service_accounts: accounts(&conditions.not_service_accounts),
    }
}

fn string_match(wanted: &StringMatch) -> security::StringMatch {
    use security::string_match::MatchType;
    let match_type = match wanted {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(security::Presence {}),
    };
    security::StringMatch {
        match_type: Some(match_type),
    }
}

fn service_account(account: &ServiceAccountMatch) -> security::ServiceAccountMatch {
    security::ServiceAccountMatch {
        namespace: account.namespace.to_string(),
        service_account: account.service_account.to_string(),
    }
}

fn range(range: &IpNet) -> security::Address {
    security::Address {
        address: bytes(range.addr()),
        length: range.prefix_len().into(),
    }
}
