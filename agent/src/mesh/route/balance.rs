//! Choosing an endpoint of a service (wire-facts §4.5 and §5).

use std::net::IpAddr;
use std::sync::Arc;

use super::deny::{Deny, NoUpstream};
use crate::mesh::draw::Draw;
use crate::mesh::service::{LoadBalancing, Mode, Scope, Service};
use crate::mesh::snapshot::{Endpoint, Snapshot};
use crate::mesh::workload::Workload;

/// What is asked of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Who asks.
    pub(super) source: &'a Workload,
    /// The service.
    pub(super) service: &'a Arc<Service>,
    /// The service port.
    pub(super) port: u16,
    /// The address asked for: an endpoint's address of the same family is preferred.
    pub(super) ip: IpAddr,
}

/// An endpoint that can be used.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// The endpoint.
    pub(super) workload: Arc<Workload>,
    /// The target port there.
    pub(super) port: u16,
    /// How to get there.
    pub(super) place: Place,
}

/// How to get to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the source's network, at this address.
    Here(IpAddr),
    /// In the source's network, at an address only DNS knows.
    Named,
    /// In another network, behind its gateway.
    Elsewhere,
}

struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    port: u16,
    place: Place,
    rank: usize,
}

/// Chooses an endpoint: of those that can be used, the ones which match the routing preferences best, and of these one
/// at random by capacity.
pub(super) fn choose(mesh: &Snapshot, wanted: &Wanted<'_>, draw: &mut Draw) -> Result<Chosen, Deny> {
    let mut reason = NoUpstream::NoEndpoint;
    let mut candidates = Vec::new();
    for endpoint in mesh.endpoints(&wanted.service.key) {
        match candidate(mesh, wanted, endpoint) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => reason = reason.max(why),
        }
    }
    let best = candidates.iter().map(|candidate| candidate.rank).max();
    let best = candidates.iter().filter(|candidate| Some(candidate.rank) == best);
    match draw.weighted(best, |candidate| candidate.workload.capacity) {
        Some(candidate) => Ok(Chosen {
            workload: Arc::clone(candidate.workload),
            port: candidate.port,
            place: candidate.place,
        }),
        None => Err(Deny::NoHealthyUpstream {
            service: wanted.service.key.to_string().into(),
            port: wanted.port,
            reason: if candidates.is_empty() {
                reason
            } else {
                NoUpstream::NoCapacity
            },
        }),
    }
}

fn candidate<'a>(mesh: &Snapshot, wanted: &Wanted<'_>, endpoint: Endpoint<'a>) -> Result<Candidate<'a>, NoUpstream> {
    let workload = endpoint.workload;
    let port = target_port(wanted.service, &endpoint, wanted.port).ok_or(NoUpstream::NoPort)?;
    let place = place(mesh, wanted, workload)?;
    let rank = rank(&wanted.service.load_balancing, wanted.source, workload).ok_or(NoUpstream::NoLocality)?;
    Ok(Candidate {
        workload,
        port,
        place,
        rank,
    })
}

/// The port on an endpoint: what the endpoint says, else the service; an application tunnel with a port of its own takes
/// any (wire-facts §5).
pub(in crate::mesh) fn target_port(service: &Service, endpoint: &Endpoint<'_>, port: u16) -> Option<u16> {
    let tunnelled = || {
        endpoint
            .workload
            .application_tunnel
            .and_then(|tunnel| tunnel.port)
            .map(|_| port)
    };
    endpoint
        .ports
        .target_of(port)
        .or_else(|| service.ports.target_of(port))
        .or_else(tunnelled)
}

fn place(mesh: &Snapshot, wanted: &Wanted<'_>, workload: &Workload) -> Result<Place, NoUpstream> {
    if workload.network != wanted.source.network {
        let network = || Arc::clone(&workload.network);
        if workload.network_gateway.is_none() && mesh.gateways(&workload.network).is_empty() {
            return Err(NoUpstream::NoGateway { network: network() });
        }
        if wanted.service.subject_alt_names.is_empty() {
            return Err(NoUpstream::NoNames { network: network() });
        }
        return Ok(Place::Elsewhere);
    }
    match address(wanted.service, workload, wanted.ip) {
        Some(ip) => Ok(Place::Here(ip)),
        None if !workload.hostname.is_empty() => Ok(Place::Named),
        None => Err(NoUpstream::NoAddress),
    }
}

/// The address asked for where the workload has it, else one of a family the service uses, if possible of the same.
pub(in crate::mesh) fn address(service: &Service, workload: &Workload, wanted: IpAddr) -> Option<IpAddr> {
    if workload.addresses.contains(&wanted) {
        return Some(wanted);
    }
    let usable = || workload.addresses.iter().filter(|ip| service.ip_families.accepts(*ip));
    usable()
        .find(|ip| ip.is_ipv4() == wanted.is_ipv4())
        .or_else(|| usable().next())
}

/// How well an endpoint matches the routing preferences; none where mode Strict rules it out (wire-facts §4.5).
fn rank(balancing: &LoadBalancing, source: &Workload, endpoint: &Workload) -> Option<usize> {
    if !matches!(balancing.mode, Mode::Strict | Mode::Failover) {
        return Some(0);
    }
    let preferences = balancing.preferences.as_slice();
    let in_common = |scope: &&Scope| shares(**scope, source, endpoint);
    let (matched, bonus) = match preferences.split_first() {
        // Being in another network does not end the count, but nothing there outranks the own network.
        Some((Scope::Network, rest)) => {
            let leading = rest.iter().take_while(in_common).count();
            if shares(Scope::Network, source, endpoint) {
                (leading + 1, rest.len())
            } else {
                (leading, 0)
            }
        }
        _ => (preferences.iter().take_while(in_common).count(), 0),
    };
    let strict = balancing.mode == Mode::Strict;
    (!strict || matched == preferences.len()).then_some(matched + bonus)
}

fn shares(scope: Scope, source: &Workload, endpoint: &Workload) -> bool {
    match scope {
        Scope::Region => source.locality.region == endpoint.locality.region,
        Scope::Zone => source.locality.zone == endpoint.locality.zone,
        Scope::Subzone => source.locality.subzone == endpoint.locality.subzone,
        Scope::Node => source.locality.node == endpoint.locality.node,
        Scope::Cluster => source.cluster_id == endpoint.cluster_id,
        Scope::Network => source.network == endpoint.network,
    }
}
