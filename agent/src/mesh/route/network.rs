//! Reaching another network: the choice of its gateway, and of what is expected at both ends (wire-facts §4.1).

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Decision, Deny, Route, expected, needs_dns};
use crate::identity::SpiffeId;
use crate::mesh::address::{GatewayAddress, GatewayDestination};
use crate::mesh::authority::Authority;
use crate::mesh::draw::Draw;
use crate::mesh::service::Service;
use crate::mesh::snapshot::GatewayTarget;
use crate::mesh::workload::Workload;

/// The outer tunnel of a double one.
struct Hop {
    address: SocketAddr,
    expected: Arc<[SpiffeId]>,
    workload: Option<Arc<Workload>>,
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
        Ok(Route::DoubleHbone {
            gateway: hop.address,
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

    /// One of the gateways of the upstream's network that can be used: its own where it names one.
    fn gateway_for(&self, upstream: &Workload, draw: &mut Draw) -> Result<Hop, Deny> {
        let named = upstream.network_gateway.as_ref();
        let gateways = named.map_or_else(|| self.mesh.gateways(&upstream.network), std::slice::from_ref);
        let mut failed = None;
        let mut usable = Vec::with_capacity(gateways.len());
        for gateway in gateways {
            match self.hop(upstream, gateway, draw) {
                Ok(hop) => usable.push(hop),
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        let count = u64::try_from(usable.len()).unwrap_or(u64::MAX);
        let pick = usize::try_from(draw.below(count)).unwrap_or_default();
        usable.into_iter().nth(pick).ok_or_else(|| {
            failed.unwrap_or_else(|| Deny::UnknownGateway {
                network: Arc::clone(&upstream.network),
                gateway: "(none named)".into(),
            })
        })
    }

    fn hop(&self, upstream: &Workload, gateway: &GatewayAddress, draw: &mut Draw) -> Result<Hop, Deny> {
        let unknown = || Deny::UnknownGateway {
            network: Arc::clone(&upstream.network),
            gateway: gateway.to_string().into(),
        };
        let given = match &gateway.destination {
            GatewayDestination::Address(address) => Some(address.ip),
            GatewayDestination::Hostname(_) => None,
        };
        match self
            .mesh
            .find_gateway(gateway, &self.source.namespace)
            .ok_or_else(unknown)?
        {
            GatewayTarget::Workload(workload) => {
                let ip = given.or_else(|| workload.addresses.first());
                let ip = ip.ok_or_else(|| needs_dns(&workload))?;
                let services = workload.services.iter();
                let services: Vec<_> = services
                    .filter_map(|membership| {
                        let key = &membership.service;
                        self.mesh.service_named(&key.namespace, &key.hostname)
                    })
                    .collect();
                let names = services.iter().flat_map(|service| service.subject_alt_names.iter());
                Ok(Hop {
                    address: SocketAddr::new(ip, gateway.hbone_port),
                    expected: expected(&workload, names)?,
                    workload: Some(workload),
                })
            }
            GatewayTarget::Service(service) => self.hop_to_service(gateway, &service, given, draw).ok_or_else(unknown),
        }
    }

    /// A gateway known as a service: whichever endpoint answers, it must be one of them. Dialled at the address given,
    /// else at a VIP of the own network, else at an endpoint.
    fn hop_to_service(
        &self,
        gateway: &GatewayAddress,
        service: &Service,
        given: Option<std::net::IpAddr>,
        draw: &mut Draw,
    ) -> Option<Hop> {
        let endpoints = || self.mesh.endpoints(&service.key);
        let own = |vip: &&crate::mesh::service::Vip| vip.network == self.source.network;
        let vip = || {
            service
                .vips
                .iter()
                .filter(own)
                .find_map(crate::mesh::service::Vip::single)
        };
        let endpoint = |draw: &mut Draw| {
            let addresses = endpoints().flat_map(|endpoint| endpoint.workload.addresses.iter());
            draw.weighted(addresses, |_| 1)
        };
        let ip = given.or_else(vip).or_else(|| endpoint(draw))?;
        let mut ids: Vec<SpiffeId> = endpoints()
            .filter_map(|endpoint| endpoint.workload.identity())
            .collect();
        ids.extend(service.subject_alt_names.iter().cloned());
        ids.sort_unstable();
        ids.dedup();
        (!ids.is_empty()).then(|| Hop {
            address: SocketAddr::new(ip, gateway.hbone_port),
            expected: ids.into(),
            workload: None,
        })
    }
}
