use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use super::{
    close::{CloseReason, Phase},
    relay::Tally,
};
use crate::{hbone::Baggage, identity::SpiffeId, mesh::Workload};

/// What is known of a connection while it lives; one access log line when it ends (wire-facts.md §8.3).
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) direction: Direction,
    pub(crate) source: Party,
    pub(crate) destination: Party,
    /// The other end of the tunnel, if there is one.
    pub(crate) hbone: Option<SocketAddr>,
    /// Hostname of the service that was asked for.
    pub(crate) service: Option<Arc<str>>,
    began: Instant,
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(crate) struct Party {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) workload: Option<Arc<str>>,
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) cluster: Option<Arc<str>>,
    /// Proven by a certificate, never assumed.
    pub(crate) identity: Option<SpiffeId>,
}

/// Seen from the pod or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Outbound,
    Inbound,
}

impl Party {
    /// Fills in what the mesh knows.
    pub(crate) fn is(&mut self, workload: &Workload) {
        self.workload = Some(workload.name().into());
        self.namespace = Some(Arc::clone(&workload.namespace));
        self.cluster = Some(Arc::clone(&workload.cluster_id));
    }

    /// Fills in what the party says of itself, where the mesh has told nothing.
    pub(crate) fn claims(&mut self, baggage: &Baggage) {
        let fill = |slot: &mut Option<Arc<str>>, value: Option<&str>| {
            if slot.is_none() {
                *slot = value.map(Arc::from);
            }
        };
        fill(
            &mut self.workload,
            baggage.workload.as_ref().map(|(_, name)| name.as_str()),
        );
        fill(&mut self.namespace, baggage.namespace.as_deref());
        fill(&mut self.cluster, baggage.cluster.as_deref());
    }
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Record {
    pub(crate) fn new(direction: Direction, from: SocketAddr) -> Self {
        Self {
            direction,
            source: Party {
                address: Some(from),
                ..Party::default()
            },
            destination: Party::default(),
            hbone: None,
            service: None,
            began: Instant::now(),
        }
    }

    /// Writes the line. `forth` of the tally goes from the application next to us to the other side.
    pub(crate) fn ended(&self, tally: Tally, close: &CloseReason) {
        match close.phase {
            Phase::Accept | Phase::Decide if close.failed => self.refused(close),
            // Outbound it is a tunnel's, and the connection which wanted it is known.
            Phase::Handshake if self.direction == Direction::Inbound => self.refused(close),
            _ => self.complete(tally, close),
        }
    }

    fn complete(&self, tally: Tally, close: &CloseReason) {
        let duration = format!("{}ms", self.began.elapsed().as_millis());
        let (source, destination) = (&self.source, &self.destination);
        macro_rules! line {
            ($level:ident, $error:expr) => {
                tracing::event!(
                    target: "access",
                    tracing::Level::$level,
                    src.addr = source.address.map(tracing::field::display),
                    src.workload = source.workload.as_deref(),
                    src.namespace = source.namespace.as_deref(),
                    src.identity = source.identity.as_ref().map(tracing::field::display),
                    src.cluster = source.cluster.as_deref(),
                    dst.addr = destination.address.map(tracing::field::display),
                    dst.hbone_addr = self.hbone.map(tracing::field::display),
                    dst.service = self.service.as_deref(),
                    dst.workload = destination.workload.as_deref(),
                    dst.namespace = destination.namespace.as_deref(),
                    dst.identity = destination.identity.as_ref().map(tracing::field::display),
                    dst.cluster = destination.cluster.as_deref(),
                    direction = self.direction.word(),
                    bytes_sent = tally.forth,
                    bytes_recv = tally.back,
                    duration,
                    close = %close,
                    error = $error,
                    "connection complete"
                )
            };
        }
        if close.failed {
            line!(ERROR, Some(close.detail.as_ref()));
        } else {
            line!(INFO, None::<&str>);
        }
    }

    /// It ended before it was one.
    fn refused(&self, close: &CloseReason) {
        tracing::event!(
            target: "access",
            tracing::Level::WARN,
            src.addr = self.source.address.map(tracing::field::display),
            dst.addr = self.destination.address.map(tracing::field::display),
            direction = self.direction.word(),
            close = %close,
            error = close.detail.as_ref(),
            "connection failed"
        );
    }
}
