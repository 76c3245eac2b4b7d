//! Reaching another network: the choice of its gateway, and of what is expected at both ends (wire-facts §4.1).
//!
//! All gateways are used of which the mesh tells, not only the one that a workload names: istiod names one for all
//! workloads of a network, but announces every gateway (wire-facts §4.2). They share by capacity.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::experience::Standing;
use super::{Decision, Deny, Route, describe, expected, needs_dns};
use crate::identity::SpiffeId;
use crate::mesh::address::{GatewayAddress, GatewayDestination};
use crate::mesh::authority::Authority;
use crate::mesh::draw::Draw;
use crate::mesh::service::{Service, Vip};
use crate::mesh::snapshot::GatewayTarget;
use crate::mesh::workload::Workload;

/// The outer tunnel of a double one.
struct Hop {
    place: HopPlace,
    standing: Standing,
    /// Its share of tunnels.
    weight: u32,
    expected: Arc<[SpiffeId]>,
    workload: Option<Arc<Workload>>,
}

/// Where a gateway is.
enum HopPlace {
    At(SocketAddr),
    /// Where DNS says that this workload is.
    Named(Arc<Workload>),
}

impl Decision<'_> {
    /// To `upstream` of another network for the sake of `service`, whose name is what is asked for at every hop.
    pub(super) fn to_other_network(
        &self,
        upstream: &Workload,
        names: &Arc<[SpiffeId]>,
        service: &Arc<Service>,
        draw: &mut Draw,
    ) -> Result<Route, Deny> {
        let hop = self.gateway_for(upstream, draw)?;
        let gateway = match hop.place {
            HopPlace::At(address) => address,
            HopPlace::Named(workload) => return Err(needs_dns(&workload)),
        };
        Ok(Route::DoubleHbone {
            gateway,
            gateway_expected: hop.expected,
            authority: Authority::Host {
                host: Arc::clone(&service.key.hostname),
                port: self.to.port(),
            },
            expected: Arc::clone(names),
            gateway_workload: hop.workload,
            service: Arc::clone(service),
        })
    }

    /// The best standing of the gateways to a workload; none when there is none left to try.
    pub(super) fn standing_of_gateways(&self, upstream: &Workload) -> Option<Standing> {
        let (hops, failed) = self.hops(upstream);
        let best = hops.iter().map(|hop| hop.standing).max();
        // What is wrong with a gateway that cannot even be tried is for who chooses the workload to hear.
        best.or_else(|| {
            failed
                .filter(|why| !matches!(why, Deny::Tried { .. }))
                .map(|_| Standing::Again)
        })
    }

    /// One of the gateways of the upstream's network that can be used.
    fn gateway_for(&self, upstream: &Workload, draw: &mut Draw) -> Result<Hop, Deny> {
        let (hops, failed) = self.hops(upstream);
        let best = hops.iter().map(|hop| hop.standing).max();
        let equals = (0..hops.len()).filter(|at| hops.get(*at).map(|hop| hop.standing) == best);
        let weight = |at: &usize| hops.get(*at).map_or(0, |hop| hop.weight);
        let pick = draw.weighted(equals, weight);
        pick.and_then(|pick| hops.into_iter().nth(pick)).ok_or_else(|| {
            failed.unwrap_or_else(|| Deny::UnknownGateway {
                network: Arc::clone(&upstream.network),
                gateway: "(none named)".into(),
            })
        })
    }

    /// The gateways to a workload that may be tried, and why another one may not.
    fn hops(&self, upstream: &Workload) -> (Vec<Hop>, Option<Deny>) {
        let network = &upstream.network;
        let mut gateways: Vec<&GatewayAddress> = upstream.network_gateway.iter().collect();
        if gateways.is_empty() {
            gateways.extend(self.mesh.gateways(network));
        }
        // The one named stands for all: they lead to the same network.
        for announced in self.mesh.announced_gateways(network) {
            if !gateways.contains(&announced) && !self.is_named(announced, &gateways) {
                gateways.push(announced);
            }
        }
        let mut hops = Vec::with_capacity(gateways.len());
        let mut failed = None;
        for gateway in gateways {
            match self.hop(upstream, gateway) {
                Ok(hop) => hops.push(hop),
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        (hops, failed)
    }

    /// Is an announced gateway one of those there are already, under another address?
    fn is_named(&self, announced: &GatewayAddress, gateways: &[&GatewayAddress]) -> bool {
        let client = &self.source.namespace;
        let Some(GatewayTarget::Workload(workload)) = self.mesh.find_gateway(announced, client) else {
            return false;
        };
        gateways
            .iter()
            .any(|other| match self.mesh.find_gateway(other, client) {
                Some(GatewayTarget::Workload(other)) => other.uid() == workload.uid(),
                _ => false,
            })
    }

    fn hop(&self, upstream: &Workload, gateway: &GatewayAddress) -> Result<Hop, Deny> {
        let unknown = || Deny::UnknownGateway {
            network: Arc::clone(&upstream.network),
            gateway: gateway.to_string().into(),
        };
        if gateway.hbone_port == 0 {
            return Err(Deny::GatewayWithoutHbone {
                gateway: gateway.to_string().into(),
            });
        }
        let given = match &gateway.destination {
            GatewayDestination::Address(address) => Some(address.ip),
            GatewayDestination::Hostname(_) => None,
        };
        match self
            .mesh
            .find_gateway(gateway, &self.source.namespace)
            .ok_or_else(unknown)?
        {
            GatewayTarget::Workload(workload) => self.hop_to_workload(gateway, workload, given),
            GatewayTarget::Service(service) => self.hop_to_service(gateway, &service, given).ok_or_else(unknown)?,
        }
    }

    fn hop_to_workload(
        &self,
        gateway: &GatewayAddress,
        workload: Arc<Workload>,
        given: Option<IpAddr>,
    ) -> Result<Hop, Deny> {
        let services = workload.services.iter();
        let services: Vec<_> = services
            .filter_map(|membership| {
                let key = &membership.service;
                self.mesh.service_named(&key.namespace, &key.hostname)
            })
            .collect();
        let names = services.iter().flat_map(|service| service.subject_alt_names.iter());
        let expected = expected(&workload, names)?;
        let own = given.or_else(|| workload.addresses.first());
        let known = match &own {
            Some(ip) => std::slice::from_ref(ip),
            None => match self.experience.addresses_of(&workload.hostname) {
                Some(resolved) => resolved,
                None => {
                    return Ok(Hop {
                        place: HopPlace::Named(Arc::clone(&workload)),
                        standing: Standing::Fresh,
                        weight: workload.capacity.max(1),
                        expected,
                        workload: Some(workload),
                    });
                }
            },
        };
        let (address, standing) = self.at_gateway(known, gateway).ok_or_else(|| Deny::Tried {
            peer: describe(&workload),
        })?;
        Ok(Hop {
            place: HopPlace::At(address),
            standing,
            // Nothing says that a gateway of capacity 0 is to be left alone; its network would be out of reach.
            weight: workload.capacity.max(1),
            expected,
            workload: Some(workload),
        })
    }

    /// A gateway known as a service: whichever endpoint answers, it must be one of them. Dialled at the address given,
    /// else at a VIP of the own network, else at an endpoint.
    fn hop_to_service(
        &self,
        gateway: &GatewayAddress,
        service: &Service,
        given: Option<IpAddr>,
    ) -> Option<Result<Hop, Deny>> {
        let endpoints = || self.mesh.endpoints(&service.key);
        let own = |vip: &&Vip| vip.network == self.source.network;
        let vip = || service.vips.iter().filter(own).find_map(Vip::single);
        let known: Vec<IpAddr> = match given.or_else(vip) {
            Some(ip) => vec![ip],
            None => endpoints()
                .flat_map(|endpoint| endpoint.workload.addresses.iter())
                .collect(),
        };
        let mut ids: Vec<SpiffeId> = endpoints()
            .filter_map(|endpoint| endpoint.workload.identity())
            .collect();
        ids.extend(service.subject_alt_names.iter().cloned());
        ids.sort_unstable();
        ids.dedup();
        if known.is_empty() || ids.is_empty() {
            return None;
        }
        let Some((address, standing)) = self.at_gateway(&known, gateway) else {
            let peer = format!("service {}", service.key).into();
            return Some(Err(Deny::Tried { peer }));
        };
        let capacity = endpoints()
            .map(|endpoint| endpoint.workload.capacity)
            .fold(0, u32::saturating_add);
        Some(Ok(Hop {
            place: HopPlace::At(address),
            standing,
            weight: capacity.max(1),
            expected: ids.into(),
            workload: None,
        }))
    }

    fn at_gateway(&self, known: &[IpAddr], gateway: &GatewayAddress) -> Option<(SocketAddr, Standing)> {
        let at = |ip| SocketAddr::new(ip, gateway.hbone_port);
        let standing = |ip| self.experience.standing(at(ip));
        let (ip, standing) = self.preferred(known, self.to.ip(), standing)?;
        Some((at(ip), standing))
    }
}
