use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    PodProxy,
    accept::{Accepted, Acceptor},
    access_log::{Direction, Record},
    close::{CloseCode, CloseReason, Phase, Who},
    connections::{Guard, Subject},
    descriptors::Lease,
    dial::{self, ANSWER_TIMEOUT, CONNECT_TIMEOUT, DialError, HANDSHAKE_TIMEOUT, connect},
    leg::Leg,
    open_connection::{Carried, OpenConnection},
    pool::{Key, Seat},
    relay::{self, Tally},
    terminate::{LAST_WORDS, canonical, deadline},
};
use crate::{
    drain::Drain,
    hbone::{Baggage, ConnectRequest, Forwarded, ReadAhead, Stream, client},
    identity::SpiffeId,
    mesh::{
        Workload,
        policy::{self, Connection},
        route::{self, Flow, Route},
    },
};

/// How long a connection waits for the mesh to know its pod: a pod's first connections may come before the control
/// plane has told of it.
pub(super) const UNKNOWN_POD_WAIT: Duration = Duration::from_secs(5);

/// The far leg of an outbound connection.
enum Upstream {
    Tcp(TcpStream),
    /// A stream, and its place in a tunnel where the tunnel is a pooled one.
    Stream(Stream, Option<Seat>),
}

/// What the inner tunnel of double HBONE is to be.
struct Inner<'a> {
    source: &'a Workload,
    gateway: SocketAddr,
    expected: Arc<[SpiffeId]>,
    request: ConnectRequest,
}

impl PodProxy {
    /// Serves connections of the pod's applications. `listener` must be one that only redirected connections reach:
    /// their local address is their original destination.
    ///
    /// Returns when the drain has started and the last connection has ended or was forced to.
    pub async fn outbound(self: Arc<Self>, listener: TcpListener, drain: Drain) {
        // One descriptor for the accepted connection, one for its way onwards.
        let acceptor = match Acceptor::new(listener, self.parts.descriptors.clone(), 2, self.parts.tuning.sockets) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                tracing::error!(%error, pod = %self.pod, "cannot serve outbound connections: the listener does not take socket options");
                return;
            }
        };
        let take = |accepted| {
            let guard = self.outgoing.enter(None);
            tokio::spawn(Arc::clone(&self).outbound_connection(accepted, guard));
        };
        acceptor.until([drain.clone(), self.parts.gone.listen()], take).await;
        // Tunnels without streams say GOAWAY and close now, the others when their last stream has ended.
        self.pool.clear();
        let ended = async {
            self.outgoing.empty().await;
            self.pool.clear();
            self.dialled.empty().await;
        };
        tokio::select! {
            () = ended => {}
            () = drain.forced() => {
                self.outgoing.close(&deadline());
                self.outgoing.empty().await;
                self.pool.clear();
                // The resets of the streams have to leave.
                drop(timeout(LAST_WORDS, self.dialled.empty()).await);
            }
        }
    }

    pub(super) async fn outbound_connection(self: Arc<Self>, accepted: Accepted, mut guard: Guard) {
        let Accepted { tcp, from, lease } = accepted;
        let mut record = self.parts.book.begin(Direction::Outbound, canonical(from));
        let leg = match Leg::accepted(tcp, &self.parts.tuning.sockets) {
            Ok(leg) => leg,
            Err(error) => {
                let reason = CloseReason::of_socket(CloseCode::AcceptFailed, &error);
                return record.ended(&Tally::default(), &reason);
            }
        };
        // Boxed: what finding the way needs must not be held while bytes flow.
        let upstream = match Box::pin(self.establish(&leg, &mut record, &mut guard)).await {
            Ok(upstream) => upstream,
            Err(reason) => {
                drop(leg);
                record.ended(&Tally::default(), &reason);
                return;
            }
        };
        self.carry(leg, upstream, record, guard, lease).await;
    }

    async fn carry(&self, leg: Leg, upstream: Upstream, record: Record, mut guard: Guard, _lease: Lease) {
        let mut tally = record.tally();
        let carried = match &upstream {
            Upstream::Tcp(_) => Carried::Plain,
            Upstream::Stream(_, Some(_)) => Carried::Hbone,
            // An inner tunnel, which is nobody's seat.
            Upstream::Stream(_, None) => Carried::DoubleHbone,
        };
        guard.show(OpenConnection::of(&record, carried));
        let reason = match upstream {
            Upstream::Stream(stream, _seat) => tokio::select! {
                ended = relay::tunnelled(leg, stream, &mut tally) => CloseReason::of_relay(&ended, Who::Client, Who::Server),
                reason = guard.cut() => reason,
            },
            Upstream::Tcp(tcp) => match Leg::dialled(tcp, &self.parts.tuning.sockets) {
                Ok(far) => tokio::select! {
                    ended = relay::plain(leg, far, &self.parts.descriptors, &mut tally) => CloseReason::of_relay(&ended, Who::Client, Who::Server),
                    reason = guard.cut() => reason,
                },
                Err(error) => CloseReason::of_socket(CloseCode::SocketFailed, &error),
            },
        };
        record.ended(&tally, &reason);
    }

    async fn establish(&self, leg: &Leg, record: &mut Record, guard: &mut Guard) -> Result<Upstream, CloseReason> {
        let accept = |error: std::io::Error| CloseReason::of_socket(CloseCode::AcceptFailed, &error);
        let to = canonical(self.sockets.original_destination(leg.get_ref()).map_err(accept)?);
        record.destination.address = Some(to);
        record.requested = Some(to);
        if self.sockets.is_self_call(to) {
            self.count_self_call();
            let text = "the application dialled the agent's own listener; nothing is served there";
            return Err(CloseReason::new(CloseCode::SelfCall, text));
        }
        // What the route does may need the guard to let policy look again later.
        let (reached, subject) = tokio::select! {
            reached = self.reach(to, record) => reached?,
            reason = gone(leg.get_ref()) => return Err(reason),
            reason = guard.cut() => return Err(reason.during(Phase::Connect)),
        };
        if let Some(subject) = subject {
            guard.subject_to(subject);
        }
        Ok(reached)
    }

    /// Finds the way and goes it. Where policy has allowed it, gives also what policy must look at again.
    async fn reach(&self, to: SocketAddr, record: &mut Record) -> Result<(Upstream, Option<Subject>), CloseReason> {
        let source = self.workload_within(UNKNOWN_POD_WAIT).await.ok_or_else(|| {
            let wait = UNKNOWN_POD_WAIT.as_secs();
            let text = format!("the mesh knows no workload for pod {} yet; waited {wait} s", self.pod);
            CloseReason::new(CloseCode::PodUnknown, text)
        })?;
        record.source.is(&source);
        let flow = Flow {
            source: &source,
            destination: to,
            entropy: rand::random(),
        };
        let route = route::decide(&self.mesh.current(), &flow);
        match route {
            Route::Deny(deny) => Err(CloseReason::of_deny(&deny)),
            Route::Local { to, service } => {
                record.asks_for(service.as_deref());
                record.destination.is(&source);
                let subject = self.authorize_local(&source, to, record)?;
                Ok((self.plain(to, record).await?, Some(subject)))
            }
            Route::Plain { to, workload, service } => {
                record.asks_for(service.as_deref());
                record.destination.address = Some(to);
                if let Some(workload) = workload {
                    record.destination.is(&workload);
                }
                Ok((self.plain(to, record).await?, None))
            }
            Route::Hbone {
                peer,
                authority,
                expected,
                workload,
                service,
            } => {
                record.asks_for(service.as_deref());
                record.destination.is(&workload);
                record.hbone = Some(peer);
                record.source.identity = Some(self.identity(&source)?);
                let request = self.request(&source, authority, record);
                record.open(1);
                Ok((self.tunnelled(&source, peer, expected, &request, record).await?, None))
            }
            Route::DoubleHbone {
                gateway,
                gateway_expected,
                authority,
                expected,
                gateway_workload,
                service,
            } => {
                record.asks_for(Some(&service));
                if let Some(gateway) = gateway_workload {
                    record.destination.is(&gateway);
                }
                record.hbone = Some(gateway);
                record.source.identity = Some(self.identity(&source)?);
                let request = self.request(&source, authority, record);
                let outer = self
                    .tunnelled(&source, gateway, gateway_expected, &request, record)
                    .await?;
                let Upstream::Stream(outer, seat) = outer else {
                    return Ok((outer, None));
                };
                let inner = Inner {
                    source: &source,
                    gateway,
                    expected,
                    request,
                };
                Ok((self.inner(inner, outer, seat, record).await?, None))
            }
        }
    }

    async fn plain(&self, to: SocketAddr, record: &mut Record) -> Result<Upstream, CloseReason> {
        record.open(2);
        let connected = connect(
            &*self.sockets,
            record.source.address.map(|address| address.ip()),
            to,
            CONNECT_TIMEOUT,
        )
        .await;
        connected
            .map(Upstream::Tcp)
            .map_err(|error| CloseReason::of_dial(&error, Who::Server))
    }

    /// A stream in a pooled tunnel.
    async fn tunnelled(
        &self,
        source: &Workload,
        peer: SocketAddr,
        expected: Arc<[SpiffeId]>,
        request: &ConnectRequest,
        record: &mut Record,
    ) -> Result<Upstream, CloseReason> {
        let id = self.identity(source)?;
        let source_ip = record.source.address.map_or(peer.ip(), |address| address.ip());
        let key = Key {
            source: id,
            source_ip,
            expected,
            peer,
        };
        let (opened, identity, seat) = self
            .pool
            .open(&key, request)
            .await
            .map_err(|error| CloseReason::of_dial(&error, Who::Peer))?;
        record.destination.identity = Some(identity);
        Ok(Upstream::Stream(opened.stream, Some(seat)))
    }

    /// The inner tunnel of double HBONE, for one stream only: kept, it would pin whom the gateway has chosen.
    async fn inner(
        &self,
        inner: Inner<'_>,
        outer: Stream,
        seat: Option<Seat>,
        record: &mut Record,
    ) -> Result<Upstream, CloseReason> {
        let Inner {
            source,
            gateway,
            expected,
            mut request,
        } = inner;
        let failed = |error: DialError| CloseReason::of_dial(&error, Who::Peer);
        let id = self.identity(source)?;
        let certificate = dial::certificate(&self.certificates, &id).await.map_err(failed)?;
        let shaken = client::handshake(
            ReadAhead::passing(outer.into_io().lingering()),
            certificate.client_config(expected),
            self.parts.tuning.tunnels,
        );
        let (tunnel, driver) = timeout(HANDSHAKE_TIMEOUT, shaken)
            .await
            .map_err(|_| {
                failed(DialError::HandshakeTimeout {
                    to: gateway,
                    within: HANDSHAKE_TIMEOUT,
                })
            })?
            .map_err(|cause| failed(DialError::Handshake { to: gateway, cause }))?;
        tokio::spawn(async move {
            driver.await;
            drop(seat);
        });
        request.from_network = Some(self.network.to_string());
        let opened = timeout(ANSWER_TIMEOUT, tunnel.open(&request))
            .await
            .map_err(|_| {
                failed(DialError::AnswerTimeout {
                    peer: gateway,
                    within: ANSWER_TIMEOUT,
                })
            })?
            .map_err(|cause| failed(DialError::Open { peer: gateway, cause }))?;
        record.destination.identity = Some(tunnel.peer().clone());
        if let Some(baggage) = &opened.baggage {
            record.destination.is_other();
            record.destination.claims(baggage);
        }
        // Only now is it known who the gateway has chosen.
        record.open(1);
        Ok(Upstream::Stream(opened.stream, None))
    }

    fn request(&self, source: &Workload, authority: crate::mesh::Authority, record: &mut Record) -> ConnectRequest {
        ConnectRequest {
            authority,
            baggage: Some(Baggage::of(source)),
            forwarded: Some(Forwarded {
                client: record.source.address,
                host: record.service.as_ref().map(|service| service.hostname.to_string()),
            }),
            traceparent: Some(record.begin_trace()),
            from_network: None,
        }
    }

    /// A connection of the pod to itself through one of its services: nobody else looks at its policies.
    fn authorize_local(&self, pod: &Workload, to: SocketAddr, record: &Record) -> Result<Subject, CloseReason> {
        let id = self.identity(pod)?;
        let source_ip = record.source.address.map_or(to.ip(), |address| address.ip());
        let subject = Subject {
            source_ip,
            source: id,
            destination: to,
        };
        let connection = Connection {
            source_ip,
            source: Some(&subject.source),
            destination: to,
        };
        match super::inbound::denial(
            &policy::authorize(&self.mesh.current(), pod, &connection),
            Phase::Authorize,
        ) {
            Some(reason) => Err(reason),
            None => Ok(subject),
        }
    }
}

/// Resolves when the application has reset its connection. A mere end of its input is no reason to stop: it may have
/// sent its request and wait for the answer.
async fn gone(tcp: &TcpStream) -> CloseReason {
    // An error of the wait itself means that the runtime is ending.
    drop(tcp.ready(Interest::ERROR).await);
    CloseReason::new(
        CloseCode::ClientGaveUp,
        "the application gave up before its destination was reached",
    )
}
