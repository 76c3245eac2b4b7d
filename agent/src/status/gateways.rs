//! What status tells of the gateways of networks.

use std::net::SocketAddr;

use isthmus_wire::{MOST_GATEWAYS, NetworkGateway};

use crate::mesh::{
    Entrances, GatewayAddress, Snapshot, Workload, address::GatewayDestination, snapshot::GatewayTarget,
    workload::Health,
};

/// The gateways a snapshot knows, at most [`MOST_GATEWAYS`]. `passed_over` says of an address whether connections avoid it.
pub(super) fn known(mesh: &Snapshot, passed_over: impl Fn(SocketAddr) -> bool) -> Vec<NetworkGateway> {
    let mut listed = Vec::new();
    for (network, Entrances { named, gateways }) in mesh.entrances() {
        let by_name = named
            .iter()
            .map(|gateway| of_name(mesh, &network, gateway, &passed_over));
        listed.extend(by_name);
        let unnamed = gateways
            .iter()
            .filter(|workload| !named.iter().any(|gateway| leads_to(gateway, workload)));
        listed.extend(unnamed.map(|workload| {
            let address = workload.addresses.first();
            NetworkGateway {
                gateway: address.map_or_else(|| workload.uid().to_string(), |ip| format!("{network}/{ip}")),
                port: port_in_uid(workload),
                ..of_workload(workload)
            }
        }));
    }
    listed.truncate(MOST_GATEWAYS);
    listed
}

fn of_name(
    mesh: &Snapshot,
    network: &str,
    gateway: &GatewayAddress,
    passed_over: &impl Fn(SocketAddr) -> bool,
) -> NetworkGateway {
    let (known, addresses) = match mesh.find_gateway(gateway, "") {
        Some(GatewayTarget::Workload(workload)) => {
            let addresses: Vec<_> = workload.addresses.iter().collect();
            (of_workload(&workload), addresses)
        }
        Some(GatewayTarget::Service(service)) => {
            let endpoints: Vec<_> = mesh.endpoints(&service.key).collect();
            let first = endpoints.first().map(|endpoint| of_workload(endpoint.workload));
            let addresses = endpoints.iter().flat_map(|endpoint| endpoint.workload.addresses.iter());
            (first.unwrap_or_default(), addresses.collect())
        }
        None => match &gateway.destination {
            GatewayDestination::Address(address) => (NetworkGateway::default(), vec![address.ip]),
            GatewayDestination::Hostname(_) => Default::default(),
        },
    };
    let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, gateway.hbone_port));
    NetworkGateway {
        network: network.to_owned(),
        gateway: gateway.destination.to_string(),
        port: Some(gateway.hbone_port),
        named: true,
        unreachable: addresses.filter(|address| passed_over(*address)).collect(),
        ..known
    }
}

fn of_workload(workload: &Workload) -> NetworkGateway {
    NetworkGateway {
        network: workload.network.to_string(),
        identity: workload.identity().map(|id| id.to_string()),
        healthy: workload.status == Health::Healthy,
        ..NetworkGateway::default()
    }
}

/// The last part of `NetworkGateway/NETWORK/ADDRESS/PORT` (wire-facts §1.10).
fn port_in_uid(workload: &Workload) -> Option<u16> {
    workload.uid().to_string().rsplit('/').next()?.parse().ok()
}

fn leads_to(gateway: &GatewayAddress, workload: &Workload) -> bool {
    match &gateway.destination {
        GatewayDestination::Address(address) => workload.addresses.contains(&address.ip),
        GatewayDestination::Hostname(key) => workload.hostname == key.hostname,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Builder, Draft, NetworkAddress};

    fn gateway(last: u8) -> GatewayAddress {
        GatewayAddress {
            destination: GatewayDestination::Address(NetworkAddress {
                network: "net2".into(),
                ip: [10, 99, 0, last].into(),
            }),
            hbone_port: 15008,
        }
    }

    fn announced(last: u8) -> Draft {
        Draft {
            network: "net2".into(),
            addresses: vec![[10, 99, 0, last].into()],
            service_account: "gateway".into(),
            ..Draft::new(
                &format!("NetworkGateway/net2/10.99.0.{last}/15008"),
                "istio-system",
                "gateway",
            )
        }
    }

    #[test]
    fn gateways_that_are_used_and_gateways_that_are_only_announced_are_told_apart_and_who_does_not_answer() {
        let mut builder = Builder::new();
        builder.add_workload(announced(2));
        builder.add_workload(announced(3));
        for (name, last) in [("far", 2), ("farther", 9)] {
            builder.add_workload(Draft {
                network: "net2".into(),
                network_gateway: Some(gateway(last)),
                ..Draft::new(name, "demo", name)
            });
        }
        let silent = SocketAddr::from(([10, 99, 0, 2], 15008));
        let told = known(&builder.build(), |address| address == silent);
        let identity = Some("spiffe://cluster.local/ns/istio-system/sa/gateway".to_owned());
        let used = NetworkGateway {
            network: "net2".to_owned(),
            gateway: "net2/10.99.0.2".to_owned(),
            port: Some(15008),
            named: true,
            identity,
            healthy: true,
            unreachable: vec![silent],
        };
        let unknown = NetworkGateway {
            network: "net2".to_owned(),
            gateway: "net2/10.99.0.9".to_owned(),
            port: Some(15008),
            named: true,
            ..NetworkGateway::default()
        };
        let only_announced = NetworkGateway {
            gateway: "net2/10.99.0.3".to_owned(),
            named: false,
            unreachable: Vec::new(),
            ..used.clone()
        };
        assert_eq!(told, [used, unknown, only_announced]);
    }
}
