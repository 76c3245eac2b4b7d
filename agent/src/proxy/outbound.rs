use std::{sync::Arc, time::Duration};

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
    connections::Guard,
    descriptors::Lease,
    leg::Leg,
    open_connection::{Carried, OpenConnection},
    relay::{self, Tally},
    terminate::{LAST_WORDS, canonical, deadline},
    upstream::Upstream,
};
use crate::drain::Drain;

/// How long a connection waits for the mesh to know its pod: a pod's first connections may come before the control
/// plane has told of it.
pub(super) const UNKNOWN_POD_WAIT: Duration = Duration::from_secs(5);

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
