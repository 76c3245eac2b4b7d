use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};

use super::{
    PodProxy,
    access_log::{Direction, Record},
    close::{CloseCode, CloseReason, Phase, Who},
    connections::{Connections, Guard, Subject},
    descriptors::Lease,
    dial::{DialError, client_of, deliver},
    leg::Leg,
    open_connection::{Carried, OpenConnection},
    outbound::UNKNOWN_POD_WAIT,
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
        Snapshot, Workload,
        inbound::admit,
        policy::{self, Connection, Verdict},
        wants,
    },
};

/// A CONNECT that may go on to the application.
struct Admitted {
    pod: Arc<Workload>,
    to: SocketAddr,
}

/// A CONNECT that may not.
struct Declined {
    refused: Refused,
    /// Whether the mesh may only not know yet what was asked for.
    may_pass: bool,
}

impl From<Refused> for Declined {
    fn from(refused: Refused) -> Self {
        Self {
            refused,
            may_pass: false,
        }
    }
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

    /// Cuts what the mesh no longer allows, for ever. A pod that the mesh has forgotten is judged by what it was last: it is
    /// being deleted and drains, or the mesh knows it again in a moment.
    async fn review(&self) {
        let mut mesh = self.mesh.clone();
        let mut judged = None;
        let mut known = self.workload_now();
        loop {
            mesh.changed().await;
            let snapshot = mesh.current();
            known = self.workload_in(&snapshot).or(known);
            let Some(pod) = known.clone() else { continue };
            // A mesh may change many times a second, but hardly ever in what a verdict rests on.
            let rests_on = Some((Arc::clone(&pod), snapshot.policy_set()));
            if judged == rests_on {
                continue;
            }
            judged = rests_on;
            let verdict = |subject: &Subject| {
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
                denial(&policy::authorize(&snapshot, &pod, &connection), Phase::Relay)
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
        let request = connect_request(incoming.head()).map_err(|error| Refused {
            status: error.status(),
            reason: CloseReason::new(CloseCode::BadRequest, error.to_string()),
        })?;
        record.continue_trace(request.traceparent);
        let admitted = tokio::select! {
            admitted = self.admit_within(UNKNOWN_POD_WAIT, &request, tunnel, record, guard) => admitted,
            () = poll_fn(|cx| incoming.poll_cancelled(cx)) => Err(gave_up()),
        };
        let Admitted { pod, to } = admitted?;
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
                .map_err(|error| undelivered(&error))?;
            Leg::delivered(tcp).map_err(|error| Refused {
                status: StatusCode::BAD_GATEWAY,
                reason: CloseReason::of_socket(CloseCode::SocketFailed, &error),
            })
        };
        tokio::select! {
            leg = leg => leg.map(|leg| (leg, pod, lease)),
            () = poll_fn(|cx| incoming.poll_cancelled(cx)) => Err(gave_up()),
            reason = guard.cut() => Err(Refused { status: StatusCode::UNAUTHORIZED, reason }),
        }
    }

    /// Everything that can be decided without dialling; waits for the mesh to know what was asked for.
    async fn admit_within(
        &self,
        wait: Duration,
        request: &ConnectRequest,
        tunnel: &Accepting,
        record: &mut Record,
        guard: &Guard,
    ) -> Result<Admitted, Refused> {
        self.learn_of(request, tunnel).await?;
        let mut mesh = self.mesh.clone();
        let give_up = Instant::now() + wait;
        loop {
            match self.admit(request, tunnel, record, guard) {
                Ok(admitted) => return Ok(admitted),
                Err(Declined { refused, may_pass }) => {
                    if !may_pass || timeout_at(give_up, mesh.changed()).await.is_err() {
                        return Err(refused);
                    }
                }
            }
        }
    }

    /// Asks, where the mesh is told on demand, for what admission looks up. The client is only mentioned: nothing is
    /// decided by who it is beyond its identity, which its certificate says.
    async fn learn_of(&self, request: &ConnectRequest, tunnel: &Accepting) -> Result<(), Refused> {
        let Some(demand) = self.mesh.demand() else {
            return Ok(());
        };
        demand.mention(vec![wants::of_workload(
            &self.mesh.current(),
            &self.network,
            tunnel.from.ip(),
        )]);
        let Some(pod) = self.workload_within(UNKNOWN_POD_WAIT).await else {
            // Admission says so.
            return Ok(());
        };
        let wants = |mesh: &Snapshot| wants::of_request(mesh, &pod, tunnel.at.ip(), &request.authority);
        let learnt = Box::pin(demand.learn(&self.mesh, wants)).await;
        learnt.map_err(|unanswered| unavailable(CloseReason::of_unanswered(unanswered)))
    }

    fn admit(
        &self,
        request: &ConnectRequest,
        tunnel: &Accepting,
        record: &mut Record,
        guard: &Guard,
    ) -> Result<Admitted, Declined> {
        let refused = |status: StatusCode, code: CloseCode, text: String| Refused {
            status,
            reason: CloseReason::new(code, text),
        };
        let mesh = self.mesh.current();
        self.note_source(&mesh, tunnel, request, record);
        let pod = self.workload_now().ok_or_else(|| Declined {
            refused: refused(
                StatusCode::SERVICE_UNAVAILABLE,
                CloseCode::PodUnknown,
                format!("the mesh knows no workload for pod {}", self.pod),
            ),
            may_pass: true,
        })?;
        record.destination.is(&pod);
        record.destination.identity = pod.identity();
        let ip = tunnel.at.ip();
        let admission = admit(&mesh, &pod, ip, &request.authority).map_err(|refusal| {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Declined {
                refused: refused(status, CloseCode::NotHere, refusal.to_string()),
                may_pass: refusal.may_pass(),
            }
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
            Some(reason) => Err(Declined::from(Refused {
                status: StatusCode::UNAUTHORIZED,
                reason,
            })),
            None => Ok(Admitted { pod, to }),
        }
    }

    /// Who the client is: by its address, or by its own word where it came through a gateway.
    fn note_source(&self, mesh: &Snapshot, tunnel: &Accepting, request: &ConnectRequest, record: &mut Record) {
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
        let pod = self.workload_within(UNKNOWN_POD_WAIT).await.ok_or_else(|| {
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

fn gave_up() -> Refused {
    let text = "the client gave up before the application was reached";
    unavailable(CloseReason::new(CloseCode::ClientGaveUp, text))
}

/// The answer where the application was not reached. One that took the connection and reset it at once was: the client
/// must not take that for a reason to go elsewhere.
fn undelivered(error: &DialError) -> Refused {
    let reason = CloseReason::of_dial(error, Who::Server);
    match error {
        DialError::Connect { cause, .. } if cause.kind() == io::ErrorKind::ConnectionReset => Refused {
            status: StatusCode::BAD_GATEWAY,
            reason,
        },
        _ => unavailable(reason),
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
