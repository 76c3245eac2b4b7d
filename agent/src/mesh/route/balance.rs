//! Choosing an endpoint of a service (wire-facts §4.5 and §5).
//!
//! A large service costs no more than a small one: endpoints are drawn at random, each with a chance in proportion to its
//! capacity, until one is as good as any can be. Only where that does not come to an end soon are all of them looked at.
//! Either way the shares are the same, because a draw that is turned down tells nothing of the next one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::deny::{Deny, NoUpstream};
use super::experience::Standing;
use super::{Decision, HBONE_PORT};
use crate::mesh::draw::Draw;
use crate::mesh::service::{LoadBalancing, Mode, Scope, Service};
use crate::mesh::snapshot::{Crowd, Endpoint};
use crate::mesh::workload::{Protocol, Workload};

/// Endpoints drawn before all are looked at.
const DRAWS: usize = 16;
/// So few are looked at right away.
const FEW: usize = 4;

/// What is asked of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The service.
    pub(super) service: &'a Service,
    /// The service port.
    pub(super) port: u16,
    /// The address asked for: an endpoint's address of the same family is preferred.
    pub(super) ip: IpAddr,
    /// Whether the tunnel goes to the target port itself, as a waypoint's does.
    pub(super) is_waypoint: bool,
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
    /// In the source's network, at this address, of which DNS has told.
    Resolved(IpAddr),
    /// In the source's network, at an address only DNS knows.
    Named,
    /// In another network, behind its gateway.
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    port: u16,
    place: Place,
    rank: usize,
    standing: Standing,
    tunnelled: bool,
}

/// One of those that are better than all others, drawn by capacity as they come by.
struct Favourite<'a, K> {
    best: Option<(K, Candidate<'a>)>,
    weight: u64,
}

/// Chooses an endpoint: of those that can be used, the ones which match the routing preferences best, and of these one
/// at random by capacity. If that one failed others lately, it is the same again without all who did; yet a tunnel is
/// never passed over for clear text.
pub(super) fn choose(decision: &Decision<'_>, wanted: &Wanted<'_>, draw: &mut Draw) -> Result<Chosen, Deny> {
    let refused = |reason| Deny::NoHealthyUpstream {
        service: wanted.service.key.to_string().into(),
        port: wanted.port,
        reason,
    };
    let crowd = decision
        .mesh
        .crowd(&wanted.service.key)
        .ok_or_else(|| refused(NoUpstream::NoEndpoint))?;
    let first = match drawn(decision, wanted, &crowd, draw) {
        Some(first) => first,
        None => {
            let order = |candidate: &Candidate<'_>| Some((candidate.standing > Standing::Again, candidate.rank));
            best(decision, wanted, &crowd, draw, order).map_err(refused)?
        }
    };
    let chosen = if first.standing == Standing::Shunned {
        let order = |candidate: &Candidate<'_>| {
            let better = candidate.standing == Standing::Fresh && candidate.tunnelled >= first.tunnelled;
            better.then_some(candidate.rank)
        };
        best(decision, wanted, &crowd, draw, order).unwrap_or(first)
    } else {
        first
    };
    Ok(Chosen {
        workload: Arc::clone(chosen.workload),
        port: chosen.port,
        place: chosen.place,
    })
}

/// One endpoint by capacity of those that match all preferences, if a few draws find one.
fn drawn<'a>(
    decision: &Decision<'_>,
    wanted: &Wanted<'_>,
    crowd: &Crowd<'a>,
    draw: &mut Draw,
) -> Option<Candidate<'a>> {
    if crowd.len() <= FEW {
        return None;
    }
    let most = most_rank(&wanted.service.load_balancing);
    let count = u64::try_from(crowd.len()).unwrap_or(u64::MAX);
    (0..DRAWS).find_map(|_| {
        let at = usize::try_from(draw.below(count)).unwrap_or_default();
        let endpoint = crowd.get(at)?;
        if draw.below(crowd.heaviest().into()) >= u64::from(endpoint.workload.capacity) {
            return None;
        }
        let candidate = candidate(decision, wanted, endpoint).ok()?;
        (candidate.rank == most && candidate.standing > Standing::Again).then_some(candidate)
    })
}

/// One endpoint by capacity of those for which `order` is greatest; those without order are left out. In vain, the
/// reason that was nearest to success.
fn best<'a, K: Ord>(
    decision: &Decision<'_>,
    wanted: &Wanted<'_>,
    crowd: &Crowd<'a>,
    draw: &mut Draw,
    order: impl Fn(&Candidate<'a>) -> Option<K>,
) -> Result<Candidate<'a>, NoUpstream> {
    let mut reason = NoUpstream::NoEndpoint;
    let mut favourite = Favourite { best: None, weight: 0 };
    for endpoint in (0..crowd.len()).filter_map(|at| crowd.get(at)) {
        match candidate(decision, wanted, endpoint) {
            Ok(candidate) => {
                if let Some(order) = order(&candidate) {
                    favourite.offer(order, candidate, draw);
                }
            }
            Err(why) => reason = reason.max(why),
        }
    }
    favourite.best.map(|(_, candidate)| candidate).ok_or(reason)
}

impl<'a, K: Ord> Favourite<'a, K> {
    fn offer(&mut self, order: K, candidate: Candidate<'a>, draw: &mut Draw) {
        let share = u64::from(candidate.workload.capacity);
        match &self.best {
            Some((held, _)) if order < *held => return,
            Some((held, _)) if order == *held => self.weight += share,
            _ => self.weight = share,
        }
        // Each of n equals stays with a chance of 1 in n, however many are yet to come.
        if draw.below(self.weight) < share {
            self.best = Some((order, candidate));
        }
    }
}

fn candidate<'a>(
    decision: &Decision<'_>,
    wanted: &Wanted<'_>,
    endpoint: Endpoint<'a>,
) -> Result<Candidate<'a>, NoUpstream> {
    let workload = endpoint.workload;
    let port = target_port(wanted.service, &endpoint, wanted.port).ok_or(NoUpstream::NoPort)?;
    let (place, standing) = decision.place(wanted, workload, port)?;
    let rank = rank(&wanted.service.load_balancing, decision.source, workload).ok_or(NoUpstream::NoLocality)?;
    let tunnelled = workload.protocol == Protocol::Hbone || place == Place::Elsewhere;
    if workload.capacity == 0 {
        return Err(NoUpstream::NoCapacity);
    }
    if !tunnelled && decision.experience.only_tunnels() {
        return Err(NoUpstream::Tried);
    }
    Ok(Candidate {
        workload,
        port,
        place,
        rank,
        standing,
        tunnelled,
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

impl Decision<'_> {
    /// How to get to an endpoint, and what is to be said for it.
    fn place(&self, wanted: &Wanted<'_>, workload: &Workload, port: u16) -> Result<(Place, Standing), NoUpstream> {
        if workload.network != self.source.network {
            return self.place_elsewhere(wanted, workload);
        }
        if let Some(ip) = address(wanted.service, workload, wanted.ip) {
            let standing = self.standing(wanted, workload, SocketAddr::new(ip, port));
            return Ok((Place::Here(ip), standing.ok_or(NoUpstream::Tried)?));
        }
        if workload.hostname.is_empty() {
            return Err(NoUpstream::NoAddress);
        }
        match self.experience.addresses_of(&workload.hostname) {
            None => Ok((Place::Named, Standing::Fresh)),
            Some(known) => {
                let standing = |ip| self.standing(wanted, workload, SocketAddr::new(ip, port));
                let (ip, standing) = self.preferred(known, wanted.ip, standing).ok_or(NoUpstream::Tried)?;
                Ok((Place::Resolved(ip), standing))
            }
        }
    }

    fn place_elsewhere(&self, wanted: &Wanted<'_>, workload: &Workload) -> Result<(Place, Standing), NoUpstream> {
        let network = || Arc::clone(&workload.network);
        if !self.mesh.has_gateway(workload) {
            return Err(NoUpstream::NoGateway { network: network() });
        }
        if wanted.service.subject_alt_names.is_empty() {
            return Err(NoUpstream::NoNames { network: network() });
        }
        // Who knows nothing against anybody need not look at each gateway.
        if self.experience.is_none() {
            return Ok((Place::Elsewhere, Standing::Fresh));
        }
        let standing = self.standing_of_gateways(workload).ok_or(NoUpstream::Tried)?;
        Ok((Place::Elsewhere, standing))
    }

    /// The standing of an endpoint: of its end of the tunnel, and of its application.
    fn standing(&self, wanted: &Wanted<'_>, workload: &Workload, target: SocketAddr) -> Option<Standing> {
        let standing = self.experience.standing(target)?;
        let tunnelled = workload.protocol == Protocol::Hbone && workload.uid() != self.source.uid();
        if self.experience.is_none() || wanted.is_waypoint || !tunnelled {
            return Some(standing);
        }
        let peer = SocketAddr::new(target.ip(), HBONE_PORT);
        Some(standing.min(self.experience.standing(peer)?))
    }

    /// Of the addresses of a name, one of those with the best standing, if possible of the family asked for.
    pub(super) fn preferred(
        &self,
        addresses: &[IpAddr],
        wanted: IpAddr,
        standing: impl Fn(IpAddr) -> Option<Standing>,
    ) -> Option<(IpAddr, Standing)> {
        let known = addresses.iter().filter_map(|ip| Some((*ip, standing(*ip)?)));
        let order = |(ip, standing): &(IpAddr, Standing)| (*standing, ip.is_ipv4() == wanted.is_ipv4());
        let best = known.clone().map(|known| order(&known)).max()?;
        // The same one however often this connection asks, and another one for the next.
        Draw::new(self.entropy).weighted(known.filter(|known| order(known) == best), |_| 1)
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
    if !is_ranked(balancing) {
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

/// The rank of an endpoint that matches all preferences: no other has a higher one.
fn most_rank(balancing: &LoadBalancing) -> usize {
    let preferences = balancing.preferences.as_slice();
    match preferences.split_first() {
        _ if !is_ranked(balancing) => 0,
        Some((Scope::Network, rest)) => preferences.len() + rest.len(),
        _ => preferences.len(),
    }
}

fn is_ranked(balancing: &LoadBalancing) -> bool {
    matches!(balancing.mode, Mode::Strict | Mode::Failover)
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
