use std::{net::SocketAddr, sync::Arc};

use super::access_log::{Direction, Record};

/// A connection that is being carried, for who asks what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    /// The client.
    pub source: SocketAddr,
    /// What it asked for.
    pub requested: Requested,
    /// Where that led: the other end of the tunnel, or without one the server; inbound the application.
    pub actual: SocketAddr,
    /// How it travels.
    pub carried: Carried,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// An address: what an application of the pod dialled.
    Address(SocketAddr),
    /// A service by its host name, or the pod itself: what came through a tunnel.
    Service(Option<Arc<str>>),
}

/// How a connection travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// In clear.
    Plain,
    /// In a tunnel.
    Hbone,
    /// In a tunnel within the tunnel to a gateway.
    DoubleHbone,
}

impl OpenConnection {
    /// What a record knows by the time that bytes flow; none while an end is not known.
    pub(super) fn of(record: &Record, carried: Carried) -> Option<Self> {
        let destination = record.destination.address?;
        let (requested, actual) = match record.direction {
            Direction::Outbound => (
                Requested::Address(record.requested?),
                record.hbone.unwrap_or(destination),
            ),
            Direction::Inbound => {
                let hostname = record.service.as_ref().map(|service| Arc::clone(&service.hostname));
                (Requested::Service(hostname), destination)
            }
        };
        Some(Self {
            source: record.source.address?,
            requested,
            actual,
            carried,
        })
    }
}
