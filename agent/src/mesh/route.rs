//! Where an outbound connection goes (wire-facts §4 and §5): a pure function of the snapshot, the source and the
//! destination.
//!
//! An address is looked up as a service's own VIP, then as a workload's, then within ranges of VIPs. What belongs to a
//! workload of another network is reached through a service and that network's gateway or not at all; whatever the mesh
//! says must be tunnelled or pass a waypoint is never sent in clear instead.

mod balance;
mod deny;
mod experience;
mod network;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use deny::{Deny, NoUpstream};
pub use experience::{Experience, Failed, Resolved, Shunned};

pub(super) use balance::{address, target_port};

use self::balance::{Chosen, Place, Wanted};
use super::address::GatewayAddress;
use super::authority::Authority;
use super::draw::Draw;
use super::service::{Mode, Service};
use super::snapshot::{GatewayTarget, Snapshot};
use super::workload::{Protocol, Workload};
use super::{HBONE_PORT, OWN_PORTS, waypoint};
use crate::identity::SpiffeId;

/// A connection that a pod opened.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// The pod.
    pub source: &'a Workload,
    /// The address and port it asked for.
    pub destination: SocketAddr,
    /// Picks among equals.
    pub entropy: u64,
    /// What trying has taught so far.
    pub experience: Experience<'a>,
}

/// Where it goes.
#[derive(Debug, Clone)]
pub enum Route {
    /// To the pod itself, which is the endpoint chosen: deliver within the pod. Policy still applies.
    Local {
        /// The application.
        to: SocketAddr,
        /// The service that was asked for.
        service: Option<Arc<Service>>,
    },
    /// In clear.
    Plain {
        /// Where to connect.
        to: SocketAddr,
        /// Who that is, if it is known.
        workload: Option<Arc<Workload>>,
        /// The service that was asked for.
        service: Option<Arc<Service>>,
    },
    /// Through a tunnel to a workload or waypoint in the same network.
    Hbone {
        /// Where the tunnel goes.
        peer: SocketAddr,
        /// What to ask for.
        authority: Authority,
        /// Who may answer; never empty.
        expected: Arc<[SpiffeId]>,
        /// Whose end of the tunnel it is.
        workload: Arc<Workload>,
        /// The service that was asked for.
        service: Option<Arc<Service>>,
    },
    /// Through a tunnel within a tunnel: the outer one to the gateway of another network, the inner one to whom that
    /// chooses.
    DoubleHbone {
        /// Where the outer tunnel goes.
        gateway: SocketAddr,
        /// Who may answer there; never empty.
        gateway_expected: Arc<[SpiffeId]>,
        /// What to ask for, in both tunnels: the service by name.
        authority: Authority,
        /// Who may answer in the inner tunnel; never empty.
        expected: Arc<[SpiffeId]>,
        /// The gateway, where one workload is meant by its address.
        gateway_workload: Option<Arc<Workload>>,
        /// The service that was asked for.
        service: Arc<Service>,
    },
    /// Nowhere.
    Deny(Deny),
}

/// Decides where a connection goes.
pub fn decide(mesh: &Snapshot, flow: &Flow<'_>) -> Route {
    let ip = flow.destination.ip().to_canonical();
    let to = SocketAddr::new(ip, flow.destination.port());
    if ip.is_loopback() && OWN_PORTS.contains(&to.port()) {
        return Route::Deny(Deny::SelfCall { to });
    }
    let decision = Decision {
        mesh,
        source: flow.source,
        to,
        entropy: flow.entropy,
        experience: &flow.experience,
        is_resolved: false,
    };
    decision.route(&mut Draw::new(flow.entropy)).unwrap_or_else(Route::Deny)
}

struct Decision<'a> {
    mesh: &'a Snapshot,
    source: &'a Workload,
    /// What was asked for, never IPv4-mapped.
    to: SocketAddr,
    /// Picks among the addresses of a name.
    entropy: u64,
    experience: &'a Experience<'a>,
    /// Whether `to` is what DNS said of a name: it may lead to no further name.
    is_resolved: bool,
}

impl Route {
    /// The address this agent has to connect to first.
    pub fn dials(&self) -> Option<SocketAddr> {
        match self {
            Self::Local { to, .. } | Self::Plain { to, .. } => Some(*to),
            Self::Hbone { peer, .. } => Some(*peer),
            Self::DoubleHbone { gateway, .. } => Some(*gateway),
            Self::Deny(_) => None,
        }
    }
}

impl Decision<'_> {
    fn route(&self, draw: &mut Draw) -> Result<Route, Deny> {
        let (network, client, ip) = (&self.source.network, &self.source.namespace, self.to.ip());
        if let Some(service) = self.mesh.service_at_address(network, ip, client) {
            return self.to_service(service, draw);
        }
        if let Some(workload) = self.mesh.workload_at(network, ip) {
            return self.to_workload(workload, None, draw);
        }
        match self.mesh.service_of_range(network, ip, client) {
            Some(service) => self.to_service(service, draw),
            None => self.to_stranger(None),
        }
    }

    fn to_service(&self, service: Arc<Service>, draw: &mut Draw) -> Result<Route, Deny> {
        if let Some(waypoint) = waypoint::of_service(&service, draw) {
            return self.through_service_waypoint(&service, waypoint, draw);
        }
        if service.load_balancing.mode == Mode::Passthrough {
            return self.past_service(service, draw);
        }
        let wanted = Wanted {
            service: &service,
            port: self.to.port(),
            ip: self.to.ip(),
            is_waypoint: false,
        };
        let chosen = balance::choose(self, &wanted, draw)?;
        match chosen.place {
            Place::Elsewhere => self.to_other_network(&chosen.workload, &service.subject_alt_names, &service, draw),
            Place::Named => Err(needs_dns(&chosen.workload)),
            Place::Here(ip) => {
                let to = SocketAddr::new(ip, chosen.port);
                self.to_endpoint(chosen.workload, to, Some(service))
            }
            Place::Resolved(ip) => {
                let to = SocketAddr::new(ip, chosen.port);
                self.to_resolved(chosen.workload, to, service, draw)
            }
        }
    }

    /// An endpoint at an address of which DNS has told. Whose that is matters: an endpoint in clear may turn out to be
    /// somebody of the mesh, who is treated as such.
    fn to_resolved(
        &self,
        workload: Arc<Workload>,
        to: SocketAddr,
        service: Arc<Service>,
        draw: &mut Draw,
    ) -> Result<Route, Deny> {
        let (network, client) = (&self.source.network, &self.source.namespace);
        let known = self.mesh.service_at(network, to.ip(), client).is_some()
            || self.mesh.workload_at(network, to.ip()).is_some()
            || self.mesh.workload_elsewhere(network, to.ip()).is_some();
        if workload.protocol == Protocol::Hbone || !known {
            return self.to_endpoint(workload, to, Some(service));
        }
        if self.is_resolved {
            return Err(needs_dns(&workload));
        }
        let onwards = Decision {
            to,
            is_resolved: true,
            ..*self
        };
        onwards.route(draw)
    }

    /// The service leaves the address alone; whose it is still matters.
    fn past_service(&self, service: Arc<Service>, draw: &mut Draw) -> Result<Route, Deny> {
        match self.mesh.workload_at(&self.source.network, self.to.ip()) {
            Some(workload) => self.to_workload(workload, Some(service), draw),
            None => self.to_stranger(Some(service)),
        }
    }

    /// A workload called by its address.
    fn to_workload(
        &self,
        workload: Arc<Workload>,
        service: Option<Arc<Service>>,
        draw: &mut Draw,
    ) -> Result<Route, Deny> {
        match &workload.waypoint {
            Some(waypoint)
                if !waypoint::is(self.mesh, waypoint, self.source) && workload.uid() != self.source.uid() =>
            {
                self.through_workload_waypoint(&workload, waypoint, service, draw)
            }
            _ => self.to_endpoint(workload, self.to, service),
        }
    }

    /// A workload of the own network, with nothing left to stand between.
    fn to_endpoint(
        &self,
        workload: Arc<Workload>,
        to: SocketAddr,
        service: Option<Arc<Service>>,
    ) -> Result<Route, Deny> {
        if workload.uid() == self.source.uid() {
            return Ok(Route::Local { to, service });
        }
        if workload.protocol == Protocol::Tcp {
            return Ok(Route::Plain {
                to,
                workload: Some(workload),
                service,
            });
        }
        let names = service.iter().flat_map(|service| service.subject_alt_names.iter());
        Ok(Route::Hbone {
            peer: SocketAddr::new(to.ip(), HBONE_PORT),
            authority: Authority::Ip(to),
            expected: expected(&workload, names)?,
            workload,
            service,
        })
    }

    /// Nobody in the own network that the mesh knows.
    fn to_stranger(&self, service: Option<Arc<Service>>) -> Result<Route, Deny> {
        match self.mesh.workload_elsewhere(&self.source.network, self.to.ip()) {
            Some(workload) => Err(Deny::OtherNetwork {
                ip: self.to.ip(),
                workload: describe(&workload),
                network: Arc::clone(&workload.network),
            }),
            None => Ok(Route::Plain {
                to: self.to,
                workload: None,
                service,
            }),
        }
    }

    fn through_service_waypoint(
        &self,
        service: &Arc<Service>,
        waypoint: &GatewayAddress,
        draw: &mut Draw,
    ) -> Result<Route, Deny> {
        let of = || -> Arc<str> { format!("service {}", service.key).into() };
        let (chosen, names) = self.waypoint(waypoint, &of, draw)?;
        match chosen.place {
            Place::Elsewhere => {
                // What the other network's gateway is asked for is the service; it finds the waypoint by itself.
                let names: Arc<[SpiffeId]> = match names {
                    Some(behind) => Arc::clone(&behind.subject_alt_names),
                    None => expected(&chosen.workload, [].iter())?,
                };
                self.to_other_network(&chosen.workload, &names, service, draw)
            }
            _ => self.to_waypoint(chosen, names.as_deref(), Some(Arc::clone(service))),
        }
    }

    fn through_workload_waypoint(
        &self,
        workload: &Workload,
        waypoint: &GatewayAddress,
        service: Option<Arc<Service>>,
        draw: &mut Draw,
    ) -> Result<Route, Deny> {
        let of = || -> Arc<str> { describe(workload) };
        let (chosen, names) = self.waypoint(waypoint, &of, draw)?;
        match chosen.place {
            Place::Elsewhere => Err(Deny::WaypointElsewhere {
                of: of(),
                network: Arc::clone(&chosen.workload.network),
            }),
            _ => self.to_waypoint(chosen, names.as_deref(), service),
        }
    }

    fn to_waypoint(
        &self,
        chosen: Chosen,
        behind: Option<&Service>,
        service: Option<Arc<Service>>,
    ) -> Result<Route, Deny> {
        let (Place::Here(ip) | Place::Resolved(ip)) = chosen.place else {
            return Err(needs_dns(&chosen.workload));
        };
        let names = behind.iter().flat_map(|service| service.subject_alt_names.iter());
        Ok(Route::Hbone {
            peer: SocketAddr::new(ip, chosen.port),
            authority: Authority::Ip(self.to),
            expected: expected(&chosen.workload, names)?,
            workload: chosen.workload,
            service,
        })
    }

    /// The waypoint's workload, and its service where it has one.
    fn waypoint(
        &self,
        waypoint: &GatewayAddress,
        of: &dyn Fn() -> Arc<str>,
        draw: &mut Draw,
    ) -> Result<(Chosen, Option<Arc<Service>>), Deny> {
        let name = || -> Arc<str> { waypoint.to_string().into() };
        let unknown = || Deny::UnknownWaypoint {
            waypoint: name(),
            of: of(),
        };
        match self
            .mesh
            .find_gateway(waypoint, &self.source.namespace)
            .ok_or_else(unknown)?
        {
            GatewayTarget::Service(service) => {
                let wanted = Wanted {
                    service: &service,
                    port: waypoint.hbone_port,
                    ip: self.to.ip(),
                    is_waypoint: true,
                };
                let unusable = |cause| match cause {
                    needs @ Deny::NeedsDns { .. } => needs,
                    cause => Deny::NoWaypoint {
                        waypoint: name(),
                        of: of(),
                        source: Box::new(cause),
                    },
                };
                let chosen = balance::choose(self, &wanted, draw).map_err(unusable)?;
                Ok((chosen, Some(service)))
            }
            GatewayTarget::Workload(workload) => {
                let place = if workload.network == self.source.network {
                    self.place_of_waypoint(&workload, waypoint.hbone_port)?
                } else {
                    Place::Elsewhere
                };
                let chosen = Chosen {
                    port: waypoint.hbone_port,
                    place,
                    workload,
                };
                Ok((chosen, None))
            }
        }
    }
}

impl Decision<'_> {
    /// Where a waypoint is that is one workload: at the address with the best standing.
    fn place_of_waypoint(&self, workload: &Workload, port: u16) -> Result<Place, Deny> {
        let own: Vec<IpAddr> = workload.addresses.iter().collect();
        let known = match self.experience.addresses_of(&workload.hostname) {
            _ if !own.is_empty() => &*own,
            Some(resolved) => resolved,
            None => return Ok(Place::Named),
        };
        let standing = |ip| self.experience.standing(SocketAddr::new(ip, port));
        let (ip, _) = self
            .preferred(known, self.to.ip(), standing)
            .ok_or_else(|| Deny::Tried {
                peer: describe(workload),
            })?;
        Ok(Place::Here(ip))
    }
}

/// The identities a tunnel's other end may have: the workload's own and those its service names.
fn expected<'a>(workload: &Workload, names: impl Iterator<Item = &'a SpiffeId>) -> Result<Arc<[SpiffeId]>, Deny> {
    let mut ids: Vec<SpiffeId> = workload.identity().into_iter().collect();
    for name in names {
        if !ids.contains(name) {
            ids.push(name.clone());
        }
    }
    if ids.is_empty() {
        return Err(Deny::NoIdentity {
            peer: describe(workload),
        });
    }
    Ok(ids.into())
}

fn needs_dns(workload: &Workload) -> Deny {
    Deny::NeedsDns {
        peer: describe(workload),
        hostname: Arc::clone(&workload.hostname),
    }
}

fn describe(workload: &Workload) -> Arc<str> {
    format!("workload {}/{}", workload.namespace, workload.name()).into()
}

#[cfg(test)]
mod tests;
