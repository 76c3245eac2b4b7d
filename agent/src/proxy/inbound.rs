use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use http::StatusCode;
use tokio::net::TcpListener;

use super::{
    PodProxy,
    access_log::{Direction, Record},
    close::{CloseCode, CloseReason, Phase, Who},
    connections::{Connections, Guard, Subject},
    descriptors::Lease,
    dial::{client_of, deliver},
    leg::Leg,
    open_connection::{Carried, OpenConnection},
    relay::{self, Tally},
    terminate::{self, Accepting, Parts, Refused, Terminator, unavailable},
};
use crate::{
    drain::Drain,
    hbone::{
        Baggage, ConnectRequest,
        server::{Incoming, connect_request},
    },
    identity::Certificate,
    mesh::{
        Workload,
        inbound::admit,
        policy::{self, Connection, Verdict},
    },
};

/// A CONNECT that may go on to the application.
struct Admitted {
    request: ConnectRequest,
    pod: Arc<Workload>,
    to: SocketAddr,
}

impl PodProxy {
    /// Serves tunnels to the pod. `listener` is reached at the pod's own address, port 15008.
    ///
    /// Open connections are looked at again whenever the mesh changes. Returns when the drain has started and the
    /// last stream has ended or was forced to.
    pub async fn inbound(self: Arc<Self>, listener: TcpListener, drain: Drain) {
        tokio::select! {
            () = terminate::serve(Arc::clone(&self), listener, drain) => {}
            () = self.review() => {}
        }
    }

    /// Cuts what the mesh no longer allows, for ever.
    async fn review(&self) {
        let mut mesh = self.mesh.clone();
        let mut judged = None;
        loop {
            mesh.changed().await;
            let snapshot = mesh.current();
            let pod = self.workload_in(&snapshot);
            // A mesh may change many times a second, but hardly ever in what a verdict rests on.
            let rests_on = Some((pod.clone(), snapshot.policy_set()));
            if judged == rests_on {
                continue;
            }
            judged = rests_on;
            let verdict = |subject: &Subject| {
                let Some(pod) = &pod else {
                    let text = "the mesh no longer knows this pod";
                    return Some(CloseReason::new(CloseCode::PodLeft, text));
                };
                let Subject {
                    source_ip,
                    source,
                    destination,
                } = subject;
                let connection = Connection {
                    source_ip: *source_ip,
                    source: Some(source),
                    destination: *destination,
                };
                denial(&policy::authorize(&snapshot, pod, &connection), Phase::Relay)
            };
            let tables: [&Connections; 2] = [&self.parts.streams, &self.outgoing];
            for table in tables {
                table.review(verdict);
            }
        }
    }

    async fn inbound_stream(self: Arc<Self>, mut incoming: Incoming, tunnel: Arc<Accepting>, mut guard: Guard) {
        let mut record = self.parts.book.begin(Direction::Inbound, tunnel.from);
        record.source.identity = Some(tunnel.source.clone());
        record.hbone = Some(tunnel.at);
        // Boxed: what finding the way needs must not be held while bytes flow.
        let served = Box::pin(self.reach_application(&mut incoming, &tunnel, &mut record, &mut guard)).await;
        let (leg, pod, _lease) = match served {
            Ok(served) => served,
            Err(Refused { status, reason }) => {
                incoming.refuse(status);
                record.ended(&Tally::default(), &reason);
                return;
            }
        };
        let mut tally = record.tally();
        guard.show(OpenConnection::of(&record, Carried::Hbone));
        let baggage = self.parts.tuning.response_baggage.then(|| Baggage::of(&pod));
        let reason = match incoming.accept(baggage.as_ref()) {
            Ok(stream) => tokio::select! {
                ended = relay::tunnelled(leg, stream, &mut tally) => CloseReason::of_relay(&ended, Who::Server, Who::Client),
                reason = guard.cut() => reason,
            },
            Err(error) => CloseReason::new(CloseCode::PeerLost, error.to_string()),
        };
        record.ended(&tally, &reason);
    }

    async fn reach_application(
        &self,
        incoming: &mut Incoming,
        tunnel: &Accepting,
        record: &mut Record,
        guard: &mut Guard,
    ) -> Result<(Leg, Arc<Workload>, Lease), Refused> {
        let Admitted { request, pod, to } = self.admit(incoming, tunnel, record, guard)?;
        let lease = self
            .parts
            .descriptors
            .take(1)
            .ok_or_else(|| unavailable(CloseReason::new(CloseCode::OutOfDescriptors, "out of descriptors")))?;
        let client = client_of(
            tunnel.from.ip(),
            request.forwarded.and_then(|forwarded| forwarded.client),
        );
        if client.port() != 0 {
            record.source.address = Some(client);
        }
        record.open(1);
        let leg = async {
            let tcp = deliver(&*self.sockets, client, to)
                .await
                .map_err(|error| CloseReason::of_dial(&error, Who::Server))?;
            Leg::delivered(tcp).map_err(|error| CloseReason::of_socket(CloseCode::SocketFailed, &error))
        };
        tokio::select! {
            leg = leg => match leg {
                Ok(leg) => Ok((leg, pod, lease)),
                Err(reason) => Err(unavailable(reason)),
            },
            () = poll_fn(|cx| incoming.poll_cancelled(cx)) => {
                let text = "the client gave up before the application was reached";
                Err(unavailable(CloseReason::new(CloseCode::ClientGaveUp, text)))
            }
            reason = guard.cut() => Err(Refused { status: StatusCode::UNAUTHORIZED, reason }),
        }
    }

    /// Everything that can be decided without dialling.
    fn admit(
        &self,
        incoming: &Incoming,
        tunnel: &Accepting,
        record: &mut Record,
        guard: &Guard,
    ) -> Result<Admitted, Refused> {
        let refused = |status: StatusCode, code: CloseCode, text: String| Refused {
            status,
            reason: CloseReason::new(code, text),
        };
        let request = connect_request(incoming.head())
            .map_err(|error| refused(error.status(), CloseCode::BadRequest, error.to_string()))?;
        record.continue_trace(request.traceparent);
        let mesh = self.mesh.current();
        self.note_source(&mesh, tunnel, &request, record);
        let pod = self.workload_now().ok_or_else(|| {
            refused(
                StatusCode::SERVICE_UNAVAILABLE,
                CloseCode::PodUnknown,
                format!("the mesh knows no workload for pod {}", self.pod),
            )
        })?;
        record.destination.is(&pod);
        record.destination.identity = pod.identity();
        let ip = tunnel.at.ip();
        let admission = admit(&mesh, &pod, ip, &request.authority).map_err(|refusal| {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            refused(status, CloseCode::NotHere, refusal.to_string())
        })?;
        record.asks_for(admission.service.as_deref());
        let to = SocketAddr::new(ip, admission.to_port);
        record.destination.address = Some(to);
        let source_ip = tunnel.from.ip();
        // Entered before policy is asked, so that no change between the two is missed.
        guard.subject_to(Subject {
            source_ip,
            source: tunnel.source.clone(),
            destination: to,
        });
        let connection = Connection {
            source_ip,
            source: Some(&tunnel.source),
            destination: to,
        };
        let mesh = self.mesh.current();
        // As it is now: a policy may have been attached to it since.
        let protected = self.workload_in(&mesh).unwrap_or_else(|| Arc::clone(&pod));
        match denial(&policy::authorize(&mesh, &protected, &connection), Phase::Authorize) {
            Some(reason) => Err(Refused {
                status: StatusCode::UNAUTHORIZED,
                reason,
            }),
            None => Ok(Admitted { request, pod, to }),
        }
    }

    /// Who the client is: by its address, or by its own word where it came through a gateway.
    fn note_source(
        &self,
        mesh: &crate::mesh::Snapshot,
        tunnel: &Accepting,
        request: &ConnectRequest,
        record: &mut Record,
    ) {
        let elsewhere = request
            .from_network
            .as_ref()
            .is_some_and(|network| !network.eq_ignore_ascii_case(&self.network));
        if !elsewhere && let Some(workload) = mesh.workload_at(&self.network, tunnel.from.ip()) {
            record.source.is(&workload);
        }
        if self.parts.tuning.response_baggage
            && let Some(baggage) = &request.baggage
        {
            record.source.claims(baggage);
        }
    }
}

impl Terminator for PodProxy {
    async fn certificate(&self) -> Result<Arc<Certificate>, CloseReason> {
        let pod = self
            .workload_within(super::outbound::UNKNOWN_POD_WAIT)
            .await
            .ok_or_else(|| {
                let text = format!("the mesh knows no workload for pod {}", self.pod);
                CloseReason::new(CloseCode::PodUnknown, text).during(Phase::Handshake)
            })?;
        let id = self.identity(&pod)?;
        self.certificates
            .get(&id)
            .await
            .map_err(|error| super::terminate::no_certificate(&error))
    }

    async fn stream(self: Arc<Self>, incoming: Incoming, tunnel: Arc<Accepting>, guard: Guard) {
        self.inbound_stream(incoming, tunnel, guard).await;
    }

    fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// Why a verdict ends a connection; `None` when it does not.
pub(super) fn denial(verdict: &Verdict, phase: Phase) -> Option<CloseReason> {
    let policy = match verdict {
        Verdict::Allow { .. } => return None,
        Verdict::Deny { policy } => policy.as_ref().map(|policy| policy.key()),
    };
    let text = match &policy {
        Some(policy) => format!("denied by policy {policy}"),
        None => "denied: there are ALLOW policies and none of them matches".to_owned(),
    };
    let code = match phase {
        Phase::Relay => CloseCode::PolicyCut,
        _ => CloseCode::PolicyDenied,
    };
    Some(CloseReason::new(code, text).named(policy))
}
