//! What an east-west gateway does with a CONNECT: it takes the name of a service and gives endpoints of its own network,
//! whose 15008 then gets the inner tunnel unseen (wire-facts §4.3).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

pub use super::inbound::Refusal;

use super::address::GatewayAddress;
use super::authority::Authority;
use super::draw::Draw;
use super::service::Service;
use super::snapshot::{Endpoint, GatewayTarget, Snapshot};
use super::workload::{Protocol, Workload};
use super::{HBONE_PORT, route, waypoint};

/// Something the gateway may connect to.
struct Peer {
    address: SocketAddr,
    capacity: u32,
}

/// The endpoints for a stream, in the order to try them: shuffled by capacity, anew for every `entropy`, so that the
/// streams of one tunnel spread. A service with a waypoint is reached through the waypoint's endpoints.
///
/// # Errors
/// When the authority is no service here, or nothing of it can be reached in this network.
pub fn endpoints(
    mesh: &Snapshot,
    own_network: &str,
    authority: &Authority,
    entropy: u64,
) -> Result<Vec<SocketAddr>, Refusal> {
    let Authority::Host { host, port } = authority else {
        return Err(Refusal::AddressAtGateway {
            asked: authority.clone(),
        });
    };
    let service = only_service(mesh, host, authority)?;
    let known = mesh.endpoints(&service.key);
    let served = service.ports.serves(*port) || known.clone().any(|endpoint| endpoint.ports.serves(*port));
    if !served {
        return Err(Refusal::UnknownService {
            asked: authority.clone(),
        });
    }
    let mut draw = Draw::new(entropy);
    let peers = match waypoint::of_service(&service, &mut draw) {
        Some(waypoint) => of_waypoint(mesh, own_network, &service, waypoint)?,
        None => {
            let serving: Vec<_> = known
                .filter(|endpoint| route::target_port(&service, endpoint, *port).is_some())
                .collect();
            of_service(own_network, &service, &serving, |_| Some(HBONE_PORT))?
        }
    };
    Ok(shuffled(peers, &mut draw))
}

/// The one service of a host name: the only one there is, or the only canonical one.
fn only_service(mesh: &Snapshot, host: &str, authority: &Authority) -> Result<Arc<Service>, Refusal> {
    let services: Vec<_> = mesh.services_of_hostname(host).collect();
    let mut canonical = services.iter().filter(|service| service.canonical);
    match (&*services, canonical.next(), canonical.next()) {
        ([], ..) => Err(Refusal::UnknownService {
            asked: authority.clone(),
        }),
        ([only], ..) => Ok(Arc::clone(only)),
        (_, Some(only), None) => Ok(Arc::clone(only)),
        _ => {
            let namespaces: Vec<_> = services.iter().map(|service| &*service.key.namespace).collect();
            Err(Refusal::AmbiguousService {
                asked: authority.clone(),
                namespaces: namespaces.join(", ").into(),
            })
        }
    }
}

fn of_waypoint(
    mesh: &Snapshot,
    own_network: &str,
    service: &Service,
    waypoint: &GatewayAddress,
) -> Result<Vec<Peer>, Refusal> {
    match mesh.find_gateway(waypoint, &service.key.namespace) {
        None => Err(Refusal::UnknownWaypoint {
            service: service.key.to_string().into(),
            waypoint: waypoint.to_string().into(),
        }),
        Some(GatewayTarget::Workload(workload)) => {
            let peer = peer(own_network, service, &workload, waypoint.hbone_port);
            peer.map(|peer| vec![peer])
                .ok_or_else(|| nothing(own_network, service, [&*workload]))
        }
        Some(GatewayTarget::Service(behind)) => {
            let endpoints: Vec<_> = mesh.endpoints(&behind.key).collect();
            of_service(own_network, &behind, &endpoints, |endpoint| {
                route::target_port(&behind, endpoint, waypoint.hbone_port)
            })
        }
    }
}

fn of_service(
    own_network: &str,
    service: &Service,
    endpoints: &[Endpoint<'_>],
    port: impl Fn(&Endpoint<'_>) -> Option<u16>,
) -> Result<Vec<Peer>, Refusal> {
    let reachable = |endpoint: &Endpoint<'_>| peer(own_network, service, endpoint.workload, port(endpoint)?);
    let peers: Vec<_> = endpoints.iter().filter_map(reachable).collect();
    if peers.is_empty() {
        let workloads = endpoints.iter().map(|endpoint| &**endpoint.workload);
        return Err(nothing(own_network, service, workloads));
    }
    Ok(peers)
}

/// A workload of the own network that takes tunnels and has an address and capacity.
fn peer(own_network: &str, service: &Service, workload: &Workload, port: u16) -> Option<Peer> {
    let usable = *workload.network == *own_network && workload.protocol == Protocol::Hbone && workload.capacity > 0;
    // There is no address asked for; IPv4 is as good as any where an endpoint has both.
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ip = route::address(service, workload, any).filter(|_| usable)?;
    Some(Peer {
        address: SocketAddr::new(ip, port),
        capacity: workload.capacity,
    })
}

fn nothing<'a>(own_network: &str, service: &Service, workloads: impl IntoIterator<Item = &'a Workload>) -> Refusal {
    let networks: BTreeSet<&str> = workloads.into_iter().map(|workload| &*workload.network).collect();
    let service = service.key.to_string().into();
    if networks.is_empty() || networks.contains(own_network) {
        return Refusal::NoEndpoint {
            service,
            own: own_network.into(),
        };
    }
    let networks: Vec<_> = networks.into_iter().map(|network| format!("{network:?}")).collect();
    Refusal::OnlyElsewhere {
        service,
        networks: networks.join(", ").into(),
        own: own_network.into(),
    }
}

/// A random order in which the heavier tend to come first (Efraimidis and Spirakis: sort by u^(1/weight)).
fn shuffled(peers: Vec<Peer>, draw: &mut Draw) -> Vec<SocketAddr> {
    let mut keyed: Vec<_> = peers
        .into_iter()
        .map(|peer| (draw.unit().powf(1.0 / f64::from(peer.capacity)), peer.address))
        .collect();
    keyed.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    keyed.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests;
