//! Why an outbound connection goes nowhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Why an outbound connection goes nowhere. The texts are for an operator who reads the access log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Deny {
    /// A connection to one of the agent's own listeners.
    #[error("{to} is a port of the node agent itself, which applications may not call")]
    SelfCall {
        /// What was asked for.
        to: SocketAddr,
    },
    /// No endpoint of a service can be used.
    #[error(
        "no usable endpoint for port {port} of service {service}: {reason} (see `isthmus status` for what is known of it)"
    )]
    NoHealthyUpstream {
        /// The service, `NAMESPACE/HOSTNAME`.
        service: Arc<str>,
        /// The service port.
        port: u16,
        /// What is wrong with those there are.
        reason: NoUpstream,
    },
    /// The waypoint a service or workload names is not known.
    #[error("{of} must be reached through waypoint {waypoint}, which is not known to this agent")]
    UnknownWaypoint {
        /// Where the waypoint should be.
        waypoint: Arc<str>,
        /// Who names it.
        of: Arc<str>,
    },
    /// The waypoint a service or workload names cannot be used.
    #[error("{of} must be reached through waypoint {waypoint}, which cannot be used")]
    NoWaypoint {
        /// Where the waypoint should be.
        waypoint: Arc<str>,
        /// Who names it.
        of: Arc<str>,
        /// Why not.
        source: Box<Deny>,
    },
    /// A workload's waypoint is in another network, where only services can be reached.
    #[error("{of} is called by its address and its waypoint is in network {network:?}: call it through a service")]
    WaypointElsewhere {
        /// Who names the waypoint.
        of: Arc<str>,
        /// Where the waypoint is.
        network: Arc<str>,
    },
    /// The gateway of another network is named, but nothing is known of it.
    #[error(
        "network {network:?} is reached through gateway {gateway}, of which no workload and no service is known, so that \
         its identity could not be checked"
    )]
    UnknownGateway {
        /// The other network.
        network: Arc<str>,
        /// Where its gateway should be.
        gateway: Arc<str>,
    },
    /// The address belongs to a workload of another network, where only services can be reached.
    #[error(
        "{ip} is {workload} of network {network:?}: workloads of other networks are reached through a service, not by \
         their address"
    )]
    OtherNetwork {
        /// What was asked for.
        ip: IpAddr,
        /// Whose address it is.
        workload: Arc<str>,
        /// Where that is.
        network: Arc<str>,
    },
    /// The gateway of another network takes no tunnels.
    #[error("gateway {gateway} has no HBONE port")]
    GatewayWithoutHbone {
        /// The gateway.
        gateway: Arc<str>,
    },
    /// A gateway of another network, or a waypoint, was tried in vain and there is no other.
    #[error("{peer} was tried in vain and there is no other")]
    Tried {
        /// The gateway or waypoint.
        peer: Arc<str>,
    },
    /// A tunnel would have nobody to expect at its other end.
    #[error(
        "{peer} has no valid SPIFFE ID (trust domain, namespace and service account) and its service names none: a \
         tunnel to it could not be authenticated"
    )]
    NoIdentity {
        /// The workload.
        peer: Arc<str>,
    },
    /// The endpoint, waypoint or gateway is known by a DNS name only, and its addresses were not asked for yet: who does
    /// so may decide again.
    #[error("{peer} is known by the DNS name {hostname:?} only")]
    NeedsDns {
        /// The workload.
        peer: Arc<str>,
        /// Its name.
        hostname: Arc<str>,
    },
}

/// What is wrong with the endpoints of a service. Of several reasons the one nearest to success is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoUpstream {
    /// There are none, or none is healthy.
    #[error("it has no healthy endpoint")]
    NoEndpoint,
    /// Nobody serves the port.
    #[error("nothing serves this port")]
    NoPort,
    /// None has an address of the right family.
    #[error("no endpoint has an address of an IP family the service uses")]
    NoAddress,
    /// All that could be used are in another network, which has no gateway.
    #[error("its endpoints are in network {network:?}, for which no gateway is known")]
    NoGateway {
        /// The other network.
        network: Arc<str>,
    },
    /// All that could be used are in another network, and the service names no identity for them.
    #[error(
        "its endpoints are in network {network:?} and the service has no subject alternative names to expect there"
    )]
    NoNames {
        /// The other network.
        network: Arc<str>,
    },
    /// None matches the routing preferences of mode Strict.
    #[error("no endpoint has the locality that load balancing mode Strict asks for")]
    NoLocality,
    /// All have capacity 0.
    #[error("all its endpoints have capacity 0")]
    NoCapacity,
    /// All that could be used have been tried.
    #[error("all its endpoints were tried in vain")]
    Tried,
}
