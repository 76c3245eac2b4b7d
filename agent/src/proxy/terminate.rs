use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    Tuning,
    accept::{Accepted, Acceptor},
    access_log::{Book, Direction, Record},
    close::{CloseCode, CloseReason, Phase, Who},
    connections::{Connections, Guard},
    descriptors::Descriptors,
    dial::HANDSHAKE_TIMEOUT,
    relay::Tally,
    tunnel_socket::{Abrupt, TunnelSocket},
    tunnels::Tunnels,
};
use crate::{
    drain::{Drain, DrainTrigger, drain},
    hbone::{
        ReadAhead,
        server::{self, Incoming, Tunnel},
    },
    identity::{Certificate, CertificateError, SpiffeId},
};

/// Handshakes under way at once at one listener. Each costs a signature and a key exchange; more at once would only
/// make all of them slower.
const HANDSHAKES: usize = 256;

/// How long resets may take to reach the peers when tunnels are ended by force.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// Who serves the streams of accepted tunnels: a pod or a gateway.
pub(super) trait Terminator: Send + Sync + 'static {
    /// The certificate to show, as of now.
    fn certificate(&self) -> impl Future<Output = Result<Arc<Certificate>, CloseReason>> + Send;

    /// Serves one CONNECT to its end.
    fn stream(
        self: Arc<Self>,
        incoming: Incoming,
        tunnel: Arc<Accepting>,
        guard: Guard,
    ) -> impl Future<Output = ()> + Send;

    fn parts(&self) -> &Parts;
}

/// What every terminator has.
pub(super) struct Parts {
    /// Who is told of connections.
    pub(super) book: Book,
    pub(super) descriptors: Descriptors,
    /// Streams that were accepted.
    pub(super) streams: Connections,
    /// Tunnels that were accepted.
    pub(super) tunnels: Connections,
    pub(super) abrupt: Abrupt,
    /// All tunnels, also the dialled ones, for whoever asks what there is.
    pub(super) listed: Tunnels,
    pub(super) handshakes: Semaphore,
    /// Told when whoever is served is gone: listeners end with it.
    pub(super) gone: DrainTrigger,
    pub(super) tuning: Tuning,
}

/// What is known of an accepted tunnel.
#[derive(Debug)]
pub(super) struct Accepting {
    /// The client's proven identity.
    pub(super) source: SpiffeId,
    /// The TCP peer.
    pub(super) from: SocketAddr,
    /// Our address on the tunnel.
    pub(super) at: SocketAddr,
}

impl Parts {
    pub(super) fn new(descriptors: Descriptors, tuning: Tuning, book: Book) -> Self {
        Self {
            book,
            descriptors,
            streams: Connections::new(),
            tunnels: Connections::new(),
            abrupt: Abrupt::default(),
            listed: Tunnels::default(),
            handshakes: Semaphore::new(HANDSHAKES),
            gone: drain().0,
            tuning,
        }
    }
}

/// Why a CONNECT is not served: what the client is told, and what the log says.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) reason: CloseReason,
}

/// The answer of one who would serve, but cannot.
pub(super) fn unavailable(reason: CloseReason) -> Refused {
    Refused {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason,
    }
}

/// Accepts tunnels and serves their streams until the drain starts; returns when the last stream has ended.
pub(super) async fn serve<T: Terminator>(terminator: Arc<T>, listener: TcpListener, drain: Drain) {
    let parts = terminator.parts();
    let acceptor = match Acceptor::new(listener, parts.descriptors.clone(), 1, parts.tuning.sockets) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(%error, "cannot serve HBONE: the listener does not take socket options");
            return;
        }
    };
    let take = |accepted| {
        let guard = parts.tunnels.enter(None);
        tokio::spawn(tunnel(Arc::clone(&terminator), accepted, guard, drain.clone()));
    };
    acceptor.until([drain.clone(), parts.gone.listen()], take).await;
    tokio::select! {
        () = parts.tunnels.empty() => {}
        () = drain.forced() => {
            parts.streams.close(&deadline());
            // Bounded: each tunnel has its last words and ends.
            parts.tunnels.empty().await;
        }
    }
}

/// The reason of connections that outlive a drain.
pub(super) fn deadline() -> CloseReason {
    CloseReason::new(
        CloseCode::DrainDeadline,
        "the agent is stopping and its drain deadline has passed",
    )
}

async fn tunnel<T: Terminator>(terminator: Arc<T>, accepted: Accepted, mut guard: Guard, drain: Drain) {
    let book = &terminator.parts().book;
    let mut record = book.begin(Direction::Inbound, canonical(accepted.from));
    let shaken = tokio::select! {
        shaken = Box::pin(handshake(&*terminator, accepted, &mut record)) => shaken,
        reason = guard.cut() => Err(reason.during(Phase::Handshake)),
        () = drain.forced() => Err(deadline().during(Phase::Handshake)),
    };
    match shaken {
        Ok((tunnel, facts, _lease)) => streams(&terminator, tunnel, &Arc::new(facts), guard, &drain).await,
        Err(reason) => record.ended(&Tally::default(), &reason),
    }
}

type Shaken = (Tunnel<TunnelSocket>, Accepting, super::descriptors::Lease);

async fn handshake<T: Terminator>(
    terminator: &T,
    accepted: Accepted,
    record: &mut Record,
) -> Result<Shaken, CloseReason> {
    let socket = |error: io::Error| CloseReason::of_socket(CloseCode::AcceptFailed, &error).by(Who::Peer);
    let Accepted { tcp, from, lease } = accepted;
    let at = canonical(tcp.local_addr().map_err(socket)?);
    record.destination.address = Some(at);
    let parts = terminator.parts();
    let give_up = Instant::now() + HANDSHAKE_TIMEOUT;
    let late = |_| {
        let text = format!("no TLS handshake within {} s", HANDSHAKE_TIMEOUT.as_secs());
        CloseReason::new(CloseCode::HandshakeTimeout, text)
    };
    let shaken = async {
        let certificate = terminator.certificate().await?;
        let socket = TunnelSocket::new(tcp, parts.abrupt.clone(), &parts.tuning.sockets).map_err(socket)?;
        // The semaphore is never closed.
        let _permit = parts.handshakes.acquire().await.ok();
        server::handshake(ReadAhead::new(socket), &certificate, parts.tuning.tunnels)
            .await
            .map_err(|error| CloseReason::of_handshake(&error, error.to_string()))
    };
    let tunnel = timeout_at(give_up, shaken).await.map_err(late)??;
    let source = tunnel.peer().clone();
    Ok((
        tunnel,
        Accepting {
            source,
            from: canonical(from),
            at,
        },
        lease,
    ))
}

/// Serves the streams of one tunnel until the peer closes it, or it was drained and the last stream has ended.
async fn streams<T: Terminator>(
    terminator: &Arc<T>,
    mut tunnel: Tunnel<TunnelSocket>,
    facts: &Arc<Accepting>,
    mut guard: Guard,
    drain: &Drain,
) {
    // Every stream holds a clone of the facts, and nobody else does.
    let held = Arc::downgrade(facts);
    let streams = move || held.strong_count().saturating_sub(1);
    let tunnels = &terminator.parts().listed;
    let _listed = tunnels.accepted(facts.from, facts.source.clone(), streams);
    let mut started = std::pin::pin!(drain.started());
    let mut forced = std::pin::pin!(drain.forced());
    let mut over = std::pin::pin!(sleep_until(tunnel.until()));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            _ = guard.cut() => return,
            () = &mut forced => break,
            () = &mut started, if !draining => {
                draining = true;
                tunnel.drain();
            }
            () = &mut over, if !draining => {
                tracing::debug!(peer = %facts.from, identity = %facts.source, "a certificate of the tunnel has ended; the peer is to make another");
                draining = true;
                tunnel.drain();
            }
            next = tunnel.next() => match next {
                Ok(Some(incoming)) => {
                    let guard = terminator.parts().streams.enter(None);
                    tokio::spawn(Arc::clone(terminator).stream(incoming, Arc::clone(facts), guard));
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(peer = %facts.from, identity = %facts.source, %error, "tunnel lost");
                    return;
                }
            },
        }
    }
    // The streams are being reset by those who serve them; their last frames still have to leave.
    let last = async {
        while let Ok(Some(incoming)) = tunnel.next().await {
            incoming.reset(h2::Reason::REFUSED_STREAM);
        }
    };
    drop(timeout(LAST_WORDS, last).await);
}

/// There is no certificate to shake hands with.
pub(super) fn no_certificate(error: &CertificateError) -> CloseReason {
    let text = crate::tls::with_causes(error);
    CloseReason::new(CloseCode::CertificateMissing, text).during(Phase::Handshake)
}

/// IPv4 addresses as such, also where the listener is an IPv6 one.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
