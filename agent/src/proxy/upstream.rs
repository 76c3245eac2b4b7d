//! One attempt to reach the other side of an outbound connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    PodProxy,
    access_log::Record,
    close::{CloseReason, Phase, Who},
    connections::Subject,
    dial::{self, ANSWER_TIMEOUT, DialError, HANDSHAKE_TIMEOUT, connect},
    pool::{Key, Seat},
    reach::Search,
};
use crate::{
    hbone::{
        Baggage, ConnectRequest, Forwarded, ReadAhead, Stream,
        client::{self, HandshakeError, OpenError},
    },
    identity::SpiffeId,
    mesh::{
        Authority, Service, Workload,
        policy::{self, Connection},
        route::{Failed, Route},
    },
    tls::TlsFailure,
};

/// The far leg of an outbound connection.
pub(super) enum Upstream {
    Tcp(TcpStream),
    /// A stream, and its place in a tunnel where the tunnel is a pooled one.
    Stream(Stream, Option<Seat>),
}

/// An attempt in vain.
pub(super) struct Setback {
    pub(super) reason: CloseReason,
    /// What the next attempt has to know; none if there must be no other: the other side, or this one, has refused for
    /// good.
    pub(super) failed: Option<Failed>,
}

/// The tunnel an attempt needs.
struct Tunnel {
    peer: SocketAddr,
    expected: Arc<[SpiffeId]>,
    /// What is asked for in it.
    request: ConnectRequest,
    is_gateway: bool,
}

/// What the inner tunnel of double HBONE is to be.
struct Inner {
    gateway: SocketAddr,
    expected: Arc<[SpiffeId]>,
    request: ConnectRequest,
    patience: Duration,
}

impl From<CloseReason> for Setback {
    fn from(reason: CloseReason) -> Self {
        Self { reason, failed: None }
    }
}

impl PodProxy {
    /// Goes one way. Where policy has allowed it, gives also what policy must look at again.
    pub(super) async fn go(
        &self,
        route: Route,
        search: &Search<'_>,
        record: &mut Record,
    ) -> Result<(Upstream, Option<Subject>), Setback> {
        let source = search.source;
        match route {
            Route::Deny(deny) => Err(CloseReason::of_deny(&deny).into()),
            Route::Local { to, service } => {
                record.asks_for(service.as_deref());
                record.destination.is(source);
                let subject = self.authorize_local(source, to, record)?;
                let upstream = self.plain(to, service.as_deref(), search, record).await?;
                Ok((upstream, Some(subject)))
            }
            Route::Plain { to, workload, service } => {
                record.asks_for(service.as_deref());
                record.destination.address = Some(to);
                if let Some(workload) = workload {
                    record.destination.is(&workload);
                }
                Ok((self.plain(to, service.as_deref(), search, record).await?, None))
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
                let tunnel = Tunnel {
                    peer,
                    expected,
                    request: self.request(source, authority, record),
                    is_gateway: false,
                };
                let (stream, seat) = self.tunnelled(&tunnel, search, record).await?;
                record.open(1);
                Ok((Upstream::Stream(stream, Some(seat)), None))
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
                let tunnel = Tunnel {
                    peer: gateway,
                    expected: gateway_expected,
                    request: self.request(source, authority, record),
                    is_gateway: true,
                };
                let (outer, seat) = self.tunnelled(&tunnel, search, record).await?;
                // Behind a gateway another endpoint may answer the next time.
                let failed = Failed {
                    at: gateway,
                    again: true,
                    tunnelled: true,
                };
                let inner = Inner {
                    gateway,
                    expected,
                    request: tunnel.request,
                    patience: self.patience(search, failed).min(HANDSHAKE_TIMEOUT),
                };
                let id = self.identity(source)?;
                let stream = self.inner(inner, &id, (outer, seat), record).await;
                let stream = stream.map_err(|error| setback(&error, Who::Peer, failed))?;
                // Only now is it known who the gateway has chosen.
                record.open(1);
                Ok((Upstream::Stream(stream, None), None))
            }
        }
    }

    async fn plain(
        &self,
        to: SocketAddr,
        service: Option<&Service>,
        search: &Search<'_>,
        record: &mut Record,
    ) -> Result<Upstream, Setback> {
        let failed = Failed {
            at: to,
            again: false,
            tunnelled: false,
        };
        let from = record.source.address.map(|address| address.ip());
        // Who dialled an address and no service has no other way.
        let patience = match service {
            Some(_) => self.patience(search, failed),
            None => dial::CONNECT_TIMEOUT,
        };
        if service.is_some() {
            self.ejections.trying(to);
        }
        match connect(&*self.sockets, from, to, patience).await {
            Ok(tcp) => {
                self.ejections.reached(to);
                record.open(2);
                Ok(Upstream::Tcp(tcp))
            }
            Err(error) => {
                if service.is_some() && is_unreachable(&error) {
                    self.ejections.failed(to, self.witness);
                }
                Err(setback(&error, Who::Server, failed))
            }
        }
    }

    /// A stream in a pooled tunnel.
    async fn tunnelled(
        &self,
        tunnel: &Tunnel,
        search: &Search<'_>,
        record: &mut Record,
    ) -> Result<(Stream, Seat), Setback> {
        let peer = tunnel.peer;
        let id = self.identity(search.source)?;
        record.hbone = Some(peer);
        record.source.identity = Some(id.clone());
        let key = Key {
            source: id,
            source_ip: record.source.address.map_or(peer.ip(), |address| address.ip()),
            expected: Arc::clone(&tunnel.expected),
            peer,
        };
        let failed = Failed {
            at: peer,
            again: false,
            tunnelled: true,
        };
        // What is behind the tunnel's end, where that is at the same address: its application.
        let application = match tunnel.request.authority {
            Authority::Ip(to) if to.ip() == peer.ip() => Some(to),
            _ => None,
        };
        for at in [Some(peer), application].into_iter().flatten() {
            self.ejections.trying(at);
        }
        let opened = self
            .pool
            .open(&key, &tunnel.request, || self.patience(search, failed))
            .await;
        match opened {
            Ok((opened, identity, seat)) => {
                for at in [Some(peer), application].into_iter().flatten() {
                    self.ejections.reached(at);
                }
                record.destination.identity = Some(identity);
                Ok((opened.stream, seat))
            }
            Err(error) => {
                if is_unreachable(&error) {
                    self.ejections.failed(peer, self.witness);
                }
                if let Some(application) = application.filter(|_| is_unavailable(&error)) {
                    self.ejections.failed(application, self.witness);
                }
                let no_route = tunnel.is_gateway && status(&error) == Some(404);
                let mut setback = setback(&error, Who::Peer, failed);
                setback.failed = setback.failed.or(no_route.then_some(failed));
                Err(setback)
            }
        }
    }

    /// The inner tunnel of double HBONE, for one stream only: kept, it would pin whom the gateway has chosen.
    async fn inner(
        &self,
        inner: Inner,
        id: &SpiffeId,
        (outer, seat): (Stream, Seat),
        record: &mut Record,
    ) -> Result<Stream, DialError> {
        let Inner {
            gateway,
            expected,
            mut request,
            patience,
        } = inner;
        let certificate = dial::certificate(&self.certificates, id).await?;
        let shaken = client::handshake(
            ReadAhead::passing(outer.into_io().lingering()),
            &certificate,
            expected,
            self.parts.tuning.tunnels,
        );
        let (tunnel, driver) = timeout(patience, shaken)
            .await
            .map_err(|_| DialError::HandshakeTimeout {
                to: gateway,
                within: patience,
            })?
            .map_err(|cause| DialError::Handshake { to: gateway, cause })?;
        tokio::spawn(async move {
            driver.await;
            drop(seat);
        });
        request.from_network = Some(self.network.to_string());
        let opened = timeout(ANSWER_TIMEOUT, tunnel.open(&request))
            .await
            .map_err(|_| DialError::AnswerTimeout {
                peer: gateway,
                within: ANSWER_TIMEOUT,
            })?
            .map_err(|cause| DialError::Open { peer: gateway, cause })?;
        record.destination.identity = Some(tunnel.peer().clone());
        if let Some(baggage) = &opened.baggage {
            record.destination.is_other();
            record.destination.claims(baggage);
        }
        Ok(opened.stream)
    }

    fn request(&self, source: &Workload, authority: Authority, record: &mut Record) -> ConnectRequest {
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

/// The end of an attempt: `failed` is for the next one, if this failure allows one.
fn setback(error: &DialError, who: Who, failed: Failed) -> Setback {
    Setback {
        reason: CloseReason::of_dial(error, who),
        failed: (is_about_the_way(error) || is_unavailable(error)).then_some(failed),
    }
}

/// Was nobody reached who could have answered? What the other side has refused for good (400, 401) is not, nor what is
/// wrong on this side, nor silence after our CONNECT: the other side may be at it.
fn is_about_the_way(error: &DialError) -> bool {
    match error {
        // An application that took the connection and reset it at once was reached.
        DialError::Connect { cause, .. } => cause.kind() != io::ErrorKind::ConnectionReset,
        DialError::ConnectTimeout { .. }
        | DialError::Handshake { .. }
        | DialError::HandshakeTimeout { .. }
        | DialError::Abandoned { .. } => true,
        // Another reset than that of a stream not looked at may follow a 200 which it overtook.
        DialError::Open { cause, .. } => cause.unprocessed(),
        DialError::Socket { .. }
        | DialError::Certificate(_)
        | DialError::CertificateTimeout { .. }
        | DialError::AnswerTimeout { .. } => false,
    }
}

/// Does the failure say something of the peer for other connections too? One that refuses our certificate may well
/// accept another's, and one that resets a stream is there.
fn is_unreachable(error: &DialError) -> bool {
    let of_us = |cause: &HandshakeError| matches!(cause, HandshakeError::Tls(TlsFailure::Refused { .. }));
    match error {
        DialError::Handshake { cause, .. } => !of_us(cause),
        DialError::Connect { .. } | DialError::ConnectTimeout { .. } | DialError::HandshakeTimeout { .. } => true,
        _ => false,
    }
}

/// The peer knows of no application there, or could not reach it.
fn is_unavailable(error: &DialError) -> bool {
    status(error) == Some(503)
}

fn status(error: &DialError) -> Option<u16> {
    match error {
        DialError::Open {
            cause: OpenError::Refused { status },
            ..
        } => Some(status.as_u16()),
        _ => None,
    }
}
