//! Whether a CONNECT is for this pod, and for which port of it (wire-facts §3.7).

use std::net::IpAddr;
use std::sync::Arc;

use super::address::ServiceKey;
use super::authority::Authority;
use super::service::Service;
use super::snapshot::{Snapshot, prefer};
use super::workload::{TunnelProtocol, Workload};
use super::{OWN_PORTS, waypoint};

/// A CONNECT that may go on to authorisation. Its target is the pod's own address.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The application's port.
    pub to_port: u16,
    /// The service that was asked for by name.
    pub service: Option<Arc<Service>>,
}

/// Why a CONNECT goes nowhere, at a pod or at a gateway. What the client is told is the status alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address asked for is not this pod's.
    #[error("{asked} is not an address of this pod and nothing there has it as a waypoint")]
    NotOurs {
        /// What was asked for.
        asked: Authority,
    },
    /// Nothing is known of the pod itself.
    #[error("this pod is not in the mesh configuration yet")]
    UnknownWorkload,
    /// A pod was asked for a service nobody knows.
    #[error("no service has the host name {host:?}")]
    UnknownHostname {
        /// The name.
        host: Arc<str>,
    },
    /// The service does not say which port of the pod is meant.
    #[error("port {port} of service {service} is no port of this pod")]
    NoPort {
        /// The service.
        service: Arc<str>,
        /// The service port.
        port: u16,
    },
    /// One of the agent's own ports.
    #[error("port {port} is the node agent's own")]
    OwnPort {
        /// The port.
        port: u16,
    },
    /// The application wants a PROXY header first.
    #[error("the application tunnel asks for the PROXY protocol: not supported yet")]
    ProxyProtocol,
    /// A gateway was asked for an address.
    #[error("{asked} is an address; a gateway carries traffic for services, asked for by host name")]
    AddressAtGateway {
        /// What was asked for.
        asked: Authority,
    },
    /// A gateway was asked for a service nobody knows.
    #[error("no service {asked} is known to this gateway")]
    UnknownService {
        /// What was asked for.
        asked: Authority,
    },
    /// Several namespaces have a service of this name.
    #[error("{asked} is a service of namespaces {namespaces}, of which not exactly one is canonical")]
    AmbiguousService {
        /// What was asked for.
        asked: Authority,
        /// Where there is one.
        namespaces: Arc<str>,
    },
    /// Every endpoint is in another network.
    #[error("service {service} has endpoints in other networks only ({networks}); this gateway serves {own:?}")]
    OnlyElsewhere {
        /// The service.
        service: Arc<str>,
        /// Where its endpoints are.
        networks: Arc<str>,
        /// The gateway's network.
        own: Arc<str>,
    },
    /// No endpoint of the gateway's network is healthy, takes tunnels and has an address.
    #[error("service {service} has no healthy endpoint with HBONE in network {own:?}")]
    NoEndpoint {
        /// The service.
        service: Arc<str>,
        /// The gateway's network.
        own: Arc<str>,
    },
    /// The service's waypoint is not known.
    #[error("service {service} must be reached through waypoint {waypoint}, which is not known to this gateway")]
    UnknownWaypoint {
        /// The service.
        service: Arc<str>,
        /// Where its waypoint should be.
        waypoint: Arc<str>,
    },
}

impl Refusal {
    /// Whether the mesh may only not know yet what was asked for: istiod tells the one agent before the other.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::UnknownWorkload | Self::UnknownHostname { .. } | Self::NoPort { .. } | Self::UnknownService { .. }
        )
    }

    /// The HTTP status of the answer (wire-facts §3.6; 404 is a gateway's way to say that it has no such route).
    pub fn status(&self) -> u16 {
        match self {
            Self::NotOurs { .. } => 400,
            Self::AddressAtGateway { .. } | Self::UnknownService { .. } | Self::AmbiguousService { .. } => 404,
            Self::UnknownWorkload
            | Self::UnknownHostname { .. }
            | Self::NoPort { .. }
            | Self::OwnPort { .. }
            | Self::ProxyProtocol
            | Self::OnlyElsewhere { .. }
            | Self::NoEndpoint { .. }
            | Self::UnknownWaypoint { .. } => 503,
        }
    }
}

/// Is this CONNECT for the pod `local`, reached at its address `local_ip`, and for which port?
///
/// # Errors
/// When it is not, when the port is not to be found or one of the agent's own, or when the application asks for a way of
/// delivery that is not supported.
pub fn admit(mesh: &Snapshot, local: &Workload, local_ip: IpAddr, authority: &Authority) -> Result<Admission, Refusal> {
    let (port, service) = match authority {
        Authority::Ip(asked) => {
            let ip = asked.ip().to_canonical();
            let ours =
                ip == local_ip.to_canonical() || local.application_tunnel.is_some() || has_as_waypoint(mesh, local, ip);
            if !ours {
                return Err(Refusal::NotOurs {
                    asked: authority.clone(),
                });
            }
            (Some(asked.port()), None)
        }
        Authority::Host { host, port } => {
            let service = prefer(mesh.services_of_hostname(host), &local.namespace);
            let service = service.ok_or_else(|| Refusal::UnknownHostname { host: Arc::clone(host) })?;
            (target_port(local, &service, *port), Some(service))
        }
    };
    let to_port = deliver_to(local, port)?.ok_or_else(|| Refusal::NoPort {
        service: service
            .as_ref()
            .map_or_else(String::new, |service| service.key.to_string())
            .into(),
        port: authority.port(),
    })?;
    if OWN_PORTS.contains(&to_port) {
        return Err(Refusal::OwnPort { port: to_port });
    }
    Ok(Admission { to_port, service })
}

/// What an application tunnel makes of a port.
fn deliver_to(local: &Workload, port: Option<u16>) -> Result<Option<u16>, Refusal> {
    match local.application_tunnel {
        Some(tunnel) if tunnel.protocol == TunnelProtocol::Proxy => Err(Refusal::ProxyProtocol),
        Some(tunnel) => Ok(tunnel.port.or(port)),
        None => Ok(port),
    }
}

fn target_port(local: &Workload, service: &Service, port: u16) -> Option<u16> {
    let key: &ServiceKey = &service.key;
    let own = local.ports_for(key).and_then(|ports| ports.target_of(port));
    own.or_else(|| service.ports.target_of(port))
}

/// Does whatever has this address, a service or a workload, name `local` as its waypoint?
fn has_as_waypoint(mesh: &Snapshot, local: &Workload, ip: IpAddr) -> bool {
    let services = mesh.services_claiming(&local.network, ip);
    let mut of_services = services.flat_map(|service| waypoint::all_of_service(service));
    if of_services.any(|named| waypoint::is(mesh, named, local)) {
        return true;
    }
    let workload = mesh.workload_at(&local.network, ip);
    let of_workload = workload.as_ref().and_then(|workload| workload.waypoint.as_ref());
    of_workload.is_some_and(|named| waypoint::is(mesh, named, local))
}

#[cfg(test)]
mod tests;
