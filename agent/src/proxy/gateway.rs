//! The east-west gateway.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};

use super::{
    Tuning, TunnelInfo,
    access_log::{Book, Direction, Record},
    close::{CloseCode, CloseReason, Who},
    connections::Guard,
    descriptors::{Descriptors, Lease},
    dial::{CONNECT_TIMEOUT, connect},
    ejections::Ejections,
    leg::Leg,
    relay::{self, Tally},
    sockets::{PlainSockets, Sockets},
    terminate::{self, Accepting, Parts, Refused, Terminator, unavailable},
};
use crate::{
    drain::Drain,
    hbone::server::{Incoming, connect_request},
    identity::{Certificate, Certificates, SpiffeId},
    mesh::{
        Authority, Mesh,
        gateway::{self, Refusal},
        route::Shunned as _,
    },
    telemetry::{ServiceFacts, Telemetry},
};

/// How long one endpoint may take to answer while there is another to try.
const NEXT_ENDPOINT: Duration = Duration::from_secs(2);

/// How long a stream waits for the mesh to know the service asked for: the client's istiod may have told it earlier.
const UNKNOWN_SERVICE_WAIT: Duration = Duration::from_secs(2);

/// What an east-west gateway is made of.
pub struct GatewayParts {
    /// The network it leads into.
    pub network: Arc<str>,
    /// Who it is.
    pub identity: SpiffeId,
    /// What it knows of the mesh.
    pub mesh: Mesh,
    /// Where its certificate comes from.
    pub certificates: Certificates,
    /// Numbers of tunnels and sockets.
    pub tuning: Tuning,
    /// Who is told of connections.
    pub telemetry: Arc<Telemetry>,
}

/// An east-west gateway: it ends outer tunnels, and pipes what is in their streams to pods of its own network without
/// looking into it (wire-facts.md §4.3). Policy is the pods' own business, whose agents see the client's identity in
/// the inner tunnel.
pub struct Gateway {
    network: Arc<str>,
    identity: SpiffeId,
    mesh: Mesh,
    certificates: Certificates,
    sockets: Arc<dyn Sockets>,
    ejections: Ejections,
    witness: u64,
    parts: Parts,
}

impl Gateway {
    /// A gateway that serves nobody yet.
    #[must_use]
    pub fn new(parts: GatewayParts) -> Arc<Self> {
        let GatewayParts {
            network,
            identity,
            mesh,
            certificates,
            tuning,
            telemetry,
        } = parts;
        let book = Book {
            telemetry,
            pod: Arc::from("gateway"),
        };
        let sockets = Arc::new(PlainSockets);
        Arc::new(Self {
            network,
            identity,
            mesh,
            certificates,
            sockets,
            ejections: Ejections::of_process(),
            witness: Ejections::witness(),
            parts: Parts::new(Descriptors::of_process(), tuning, book),
        })
    }

    /// Serves tunnels. Returns when the drain has started and the last stream has ended or was forced to.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, drain: Drain) {
        terminate::serve(self, listener, drain).await;
    }

    /// Streams open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.parts.streams.len()
    }

    /// The oldest tunnels, at most `most`. Those still in their handshake are not among them.
    #[must_use]
    pub fn list_tunnels(&self, most: usize) -> Vec<TunnelInfo> {
        self.parts.listed.list(most)
    }

    /// Tunnels open now.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.parts.tunnels.len()
    }

    async fn reach_endpoint(&self, incoming: &mut Incoming, record: &mut Record) -> Result<(Leg, Lease), Refused> {
        let refused = |status: u16, code: CloseCode, text: String| Refused {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            reason: CloseReason::new(code, text),
        };
        let request = connect_request(incoming.head())
            .map_err(|error| refused(error.status().as_u16(), CloseCode::BadRequest, error.to_string()))?;
        record.continue_trace(request.traceparent);
        if let Some(baggage) = &request.baggage {
            record.source.claims(baggage);
        }
        if let Authority::Host { host, .. } = &request.authority {
            record.service = Some(ServiceFacts::named(Arc::clone(host)));
        }
        let gave_up = || {
            let text = "the client gave up before an endpoint was reached";
            unavailable(CloseReason::new(CloseCode::ClientGaveUp, text))
        };
        let endpoints = tokio::select! {
            endpoints = self.endpoints(&request.authority) => endpoints,
            () = poll_fn(|cx| incoming.poll_cancelled(cx)) => return Err(gave_up()),
        };
        let endpoints =
            endpoints.map_err(|refusal| refused(refusal.status(), CloseCode::NotHere, refusal.to_string()))?;
        let lease = self
            .parts
            .descriptors
            .take(1)
            .ok_or_else(|| refused(503, CloseCode::OutOfDescriptors, "out of descriptors".to_owned()))?;
        record.open(1);
        tokio::select! {
            leg = self.first_that_answers(&endpoints, record) => leg.map(|leg| (leg, lease)),
            () = poll_fn(|cx| incoming.poll_cancelled(cx)) => Err(gave_up()),
        }
    }

    /// Endpoints in the order to try them; those that lately failed come last.
    async fn endpoints(&self, authority: &Authority) -> Result<Vec<SocketAddr>, Refusal> {
        let mut mesh = self.mesh.clone();
        let give_up = Instant::now() + UNKNOWN_SERVICE_WAIT;
        loop {
            match gateway::endpoints(&self.mesh.current(), &self.network, authority, rand::random()) {
                Ok(mut endpoints) => {
                    if let Some(shunned) = self.ejections.seen_by(self.witness) {
                        endpoints.sort_by_key(|at| shunned.contains(*at));
                    }
                    return Ok(endpoints);
                }
                Err(refusal) => {
                    if !refusal.may_pass() || timeout_at(give_up, mesh.changed()).await.is_err() {
                        return Err(refusal);
                    }
                }
            }
        }
    }

    async fn first_that_answers(&self, endpoints: &[SocketAddr], record: &mut Record) -> Result<Leg, Refused> {
        let give_up = Instant::now() + CONNECT_TIMEOUT;
        let mut last = CloseReason::new(CloseCode::NoUpstream, "the service has no endpoint");
        for (index, endpoint) in endpoints.iter().enumerate() {
            record.destination.address = Some(*endpoint);
            let is_last = index + 1 == endpoints.len();
            let within = if is_last { CONNECT_TIMEOUT } else { NEXT_ENDPOINT };
            self.ejections.trying(*endpoint);
            match timeout_at(give_up, connect(&*self.sockets, None, *endpoint, within)).await {
                Ok(Ok(tcp)) => match Leg::dialled(tcp, &self.parts.tuning.sockets) {
                    Ok(leg) => {
                        self.ejections.reached(*endpoint);
                        return Ok(leg);
                    }
                    Err(error) => last = CloseReason::of_socket(CloseCode::SocketFailed, &error),
                },
                Ok(Err(error)) => {
                    self.ejections.failed(*endpoint, self.witness);
                    last = CloseReason::of_dial(&error, Who::Server);
                    tracing::debug!(%endpoint, %error, "endpoint not reached");
                }
                Err(_) => {
                    let text = format!("no endpoint answered within {} s", CONNECT_TIMEOUT.as_secs());
                    last = CloseReason::new(CloseCode::HboneTimeout, text).by(Who::Server);
                    break;
                }
            }
        }
        Err(unavailable(last))
    }
}

impl Terminator for Gateway {
    async fn certificate(&self) -> Result<Arc<Certificate>, CloseReason> {
        self.certificates
            .get(&self.identity)
            .await
            .map_err(|error| terminate::no_certificate(&error))
    }

    async fn stream(self: Arc<Self>, mut incoming: Incoming, tunnel: Arc<Accepting>, mut guard: Guard) {
        let mut record = self.parts.book.begin(Direction::Inbound, tunnel.from);
        record.source.identity = Some(tunnel.source.clone());
        record.hbone = Some(tunnel.at);
        let reached = tokio::select! {
            reached = Box::pin(self.reach_endpoint(&mut incoming, &mut record)) => reached,
            reason = guard.cut() => Err(unavailable(reason)),
        };
        let (leg, _lease) = match reached {
            Ok(reached) => reached,
            Err(Refused { status, reason }) => {
                incoming.refuse(status);
                record.ended(&Tally::default(), &reason);
                return;
            }
        };
        let mut tally = record.tally();
        let reason = match incoming.accept(None) {
            Ok(stream) => tokio::select! {
                ended = relay::tunnelled(leg, stream, &mut tally) => CloseReason::of_relay(&ended, Who::Server, Who::Client),
                reason = guard.cut() => reason,
            },
            Err(error) => CloseReason::new(CloseCode::PeerLost, error.to_string()),
        };
        record.ended(&tally, &reason);
    }

    fn parts(&self) -> &Parts {
        &self.parts
    }
}
