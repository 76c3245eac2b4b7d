//! Workloads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_istio::workload as proto;

use super::{Mistake, gateway, ip, known, port, ports, service_key, text, text_or};
use crate::mesh::Draft;
use crate::mesh::workload::{
    ApplicationTunnel, DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Health, Locality, Membership,
    NetworkMode, Protocol, TunnelProtocol,
};

pub(super) fn draft(message: proto::Workload) -> Result<Draft, Mistake> {
    if message.uid.is_empty() {
        return Err(Mistake::new("uid", "missing"));
    }
    let waypoint = message.waypoint.map(gateway).transpose();
    let network_gateway = message.network_gateway.map(gateway).transpose();
    Ok(Draft {
        addresses: addresses(&message.addresses)?,
        protocol: protocol(message.tunnel_protocol)?,
        waypoint: waypoint.map_err(|mistake| mistake.within("waypoint"))?,
        network_gateway: network_gateway.map_err(|mistake| mistake.within("network_gateway"))?,
        workload_type: workload_type(known(message.workload_type, "workload_type")?).into(),
        application_tunnel: message.application_tunnel.map(application_tunnel).transpose()?,
        status: health(known(message.status, "status")?),
        services: services(message.services)?,
        network_mode: network_mode(known(message.network_mode, "network_mode")?),
        uid: text(message.uid),
        name: text(message.name),
        namespace: text(message.namespace),
        network: text(message.network),
        trust_domain: text_or(message.trust_domain, DEFAULT_TRUST_DOMAIN),
        service_account: text_or(message.service_account, DEFAULT_SERVICE_ACCOUNT),
        canonical_name: text(message.canonical_name),
        canonical_revision: text(message.canonical_revision),
        workload_name: text(message.workload_name),
        native_tunnel: message.native_tunnel,
        authorization_policies: message.authorization_policies.into_iter().map(Arc::from).collect(),
        cluster_id: text_or(message.cluster_id, DEFAULT_CLUSTER),
        hostname: text(message.hostname),
        locality: locality(message.locality.unwrap_or_default(), message.node),
        capacity: message.capacity.unwrap_or(1),
    })
}

fn addresses(messages: &[Vec<u8>]) -> Result<Vec<IpAddr>, Mistake> {
    let read = |(place, bytes): (usize, &Vec<u8>)| ip(bytes).map_err(|mistake| mistake.at(place).within("addresses"));
    messages.iter().enumerate().map(read).collect()
}

fn protocol(number: i32) -> Result<Protocol, Mistake> {
    match known(number, "tunnel_protocol")? {
        proto::TunnelProtocol::None => Ok(Protocol::Tcp),
        proto::TunnelProtocol::Hbone => Ok(Protocol::Hbone),
        proto::TunnelProtocol::LegacyIstioMtls => {
            let problem = "LEGACY_ISTIO_MTLS is spoken by sidecars alone";
            Err(Mistake::new("tunnel_protocol", problem))
        }
    }
}

fn workload_type(message: proto::WorkloadType) -> &'static str {
    match message {
        proto::WorkloadType::Deployment => "deployment",
        proto::WorkloadType::Cronjob => "cronjob",
        proto::WorkloadType::Pod => "pod",
        proto::WorkloadType::Job => "job",
    }
}

fn health(message: proto::WorkloadStatus) -> Health {
    match message {
        proto::WorkloadStatus::Healthy => Health::Healthy,
        proto::WorkloadStatus::Unhealthy => Health::Unhealthy,
    }
}

fn network_mode(message: proto::NetworkMode) -> NetworkMode {
    match message {
        proto::NetworkMode::Standard => NetworkMode::Standard,
        proto::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    }
}

fn application_tunnel(message: proto::ApplicationTunnel) -> Result<ApplicationTunnel, Mistake> {
    use proto::application_tunnel::Protocol;
    let port = port(message.port, "application_tunnel.port")?;
    Ok(ApplicationTunnel {
        protocol: match known(message.protocol, "application_tunnel.protocol")? {
            Protocol::None => TunnelProtocol::None,
            Protocol::Proxy => TunnelProtocol::Proxy,
        },
        port: (port != 0).then_some(port),
    })
}

/// In the order of their keys: equal lists are kept once, and a map has no order of its own.
fn services(messages: BTreeMap<String, proto::PortList>) -> Result<Vec<Membership>, Mistake> {
    let mut services = Vec::with_capacity(messages.len());
    for (name, list) in messages {
        let field = || format!("services[{name:?}]");
        let key = service_key(&name).ok_or_else(|| Mistake::new(&field(), "not of the form NAMESPACE/HOSTNAME"))?;
        services.push(Membership {
            ports: ports(&list.ports).map_err(|mistake| mistake.within(&field()))?,
            service: key.into(),
        });
    }
    services.sort_unstable_by(|one: &Membership, other| one.service.cmp(&other.service));
    Ok(services)
}

fn locality(message: proto::Locality, node: String) -> Locality {
    Locality {
        region: text(message.region),
        zone: text(message.zone),
        subzone: text(message.subzone),
        node: text(node),
    }
}
