//! Short ways to write meshes in tests.

use std::net::{IpAddr, SocketAddr};

use super::address::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceKey};
use super::draft::Draft;
use super::service::{Service, Vip};
use super::workload::Membership;
use crate::identity::SpiffeId;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn key(text: &str) -> ServiceKey {
    let (namespace, hostname) = text.split_once('/').unwrap();
    ServiceKey {
        namespace: namespace.into(),
        hostname: hostname.into(),
    }
}

/// The identity of a service account `NAMESPACE/ACCOUNT` in cluster.local.
pub(super) fn id(text: &str) -> SpiffeId {
    let (namespace, account) = text.split_once('/').unwrap();
    SpiffeId::new("cluster.local", namespace, account).unwrap()
}

/// A plain workload of net1 and namespace demo, without address; its service account is its name.
pub(super) fn workload(name: &str) -> Draft {
    Draft {
        network: "net1".into(),
        service_account: name.into(),
        ..Draft::new(&format!("uid-{name}"), "demo", name)
    }
}

/// Membership in a service with these ports.
pub(super) fn on(service: &str, ports: &[(u16, u16)]) -> Membership {
    Membership {
        service: key(service).into(),
        ports: ports.iter().copied().collect(),
    }
}

/// A service with VIPs `NETWORK/ADDRESS[/LENGTH]`.
pub(super) fn service(namespace: &str, hostname: &str, vips: &[&str], ports: &[(u16, u16)]) -> Service {
    let vip = |text: &&str| {
        let (network, address) = text.split_once('/').unwrap();
        let range = address
            .parse()
            .or_else(|_| address.parse::<IpAddr>().map(Into::into))
            .unwrap();
        Vip {
            network: network.into(),
            range,
        }
    };
    let mut service = Service::new(namespace, hostname, hostname);
    service.vips = vips.iter().map(vip).collect();
    service.ports = ports.iter().copied().collect();
    service
}

/// A gateway by address `NETWORK/IP`, port 15008.
pub(super) fn gateway_at(text: &str) -> GatewayAddress {
    let (network, address) = text.split_once('/').unwrap();
    GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: network.into(),
            ip: ip(address),
        }),
        hbone_port: 15008,
    }
}

/// A gateway by the service `NAMESPACE/HOSTNAME`, port 15008.
pub(super) fn gateway_of(text: &str) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Hostname(key(text)),
        hbone_port: 15008,
    }
}
