//! Workloads.

use serde::{Serialize, Serializer};

use super::{Each, Text, is_empty};
use crate::mesh::{
    GatewayAddress, Workload,
    address::GatewayDestination,
    workload::{Health, Locality, NetworkMode, Protocol, TunnelProtocol, Uid},
};

/// A workload as istioctl reads it. What is empty or the rule is left out, as ztunnel does.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View<'a> {
    workload_ips: Addresses<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<Gateway<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_gateway: Option<Gateway<'a>>,
    protocol: &'static str,
    network_mode: &'static str,
    uid: Text<Uid<'a>>,
    name: &'a str,
    namespace: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    trust_domain: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    service_account: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    network: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    workload_name: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    workload_type: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    canonical_name: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    canonical_revision: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    hostname: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    node: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    native_tunnel: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_tunnel: Option<Tunnel>,
    #[serde(skip_serializing_if = "Policies::is_empty")]
    authorization_policies: Policies<'a>,
    status: &'static str,
    cluster_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<Place<'a>>,
    #[serde(skip_serializing_if = "Services::is_empty")]
    services: Services<'a>,
    capacity: u32,
}

/// A waypoint or a network gateway.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gateway<'a> {
    destination: Text<&'a GatewayDestination>,
    hbone_mtls_port: u16,
}

#[derive(Serialize)]
struct Tunnel {
    protocol: &'static str,
    port: Option<u16>,
}

#[derive(Serialize)]
struct Place<'a> {
    region: &'a str,
    zone: &'a str,
    subzone: &'a str,
}

struct Addresses<'a>(&'a Workload);
struct Policies<'a>(&'a Workload);
struct Services<'a>(&'a Workload);

impl<'a> View<'a> {
    pub(super) fn of(workload: &'a Workload) -> Self {
        Self {
            workload_ips: Addresses(workload),
            waypoint: workload.waypoint.as_ref().map(Gateway::of),
            network_gateway: workload.network_gateway.as_ref().map(Gateway::of),
            protocol: match workload.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Hbone => "HBONE",
            },
            network_mode: match workload.network_mode {
                NetworkMode::Standard => "Standard",
                NetworkMode::HostNetwork => "HostNetwork",
            },
            uid: Text(workload.uid()),
            name: workload.name(),
            namespace: &workload.namespace,
            trust_domain: &workload.trust_domain,
            service_account: &workload.service_account,
            network: &workload.network,
            workload_name: &workload.workload_name,
            workload_type: &workload.workload_type,
            canonical_name: &workload.canonical_name,
            canonical_revision: &workload.canonical_revision,
            hostname: &workload.hostname,
            node: &workload.locality.node,
            native_tunnel: workload.native_tunnel,
            application_tunnel: workload.application_tunnel.map(|tunnel| Tunnel {
                protocol: match tunnel.protocol {
                    TunnelProtocol::None => "NONE",
                    TunnelProtocol::Proxy => "PROXY",
                },
                port: tunnel.port,
            }),
            authorization_policies: Policies(workload),
            status: health(workload.status),
            cluster_id: &workload.cluster_id,
            locality: Place::of(&workload.locality),
            services: Services(workload),
            capacity: workload.capacity,
        }
    }
}

impl<'a> Gateway<'a> {
    pub(super) fn of(gateway: &'a GatewayAddress) -> Self {
        Self {
            destination: Text(&gateway.destination),
            hbone_mtls_port: gateway.hbone_port,
        }
    }
}

impl<'a> Place<'a> {
    fn of(locality: &'a Locality) -> Option<Self> {
        let Locality {
            region, zone, subzone, ..
        } = locality;
        let known = [region, zone, subzone].iter().any(|part| !part.is_empty());
        known.then_some(Self { region, zone, subzone })
    }
}

impl Policies<'_> {
    fn is_empty(&self) -> bool {
        self.0.authorization_policies.is_empty()
    }
}

impl Services<'_> {
    fn is_empty(&self) -> bool {
        self.0.services.is_empty()
    }
}

impl Serialize for Addresses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Each(|| self.0.addresses.iter()).serialize(serializer)
    }
}

impl Serialize for Policies<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Each(|| self.0.authorization_policies.iter().map(|key| &**key)).serialize(serializer)
    }
}

impl Serialize for Services<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Each(|| self.0.services.iter().map(|membership| Text(&*membership.service))).serialize(serializer)
    }
}

pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Unhealthy => "Unhealthy",
    }
}
