use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use http::StatusCode;
use tokio::net::TcpListener;

use super::{
    PodProxy,
    access_log::{Direction, Record},
    close::{CloseReason, Phase, Who},
    connections::{Connections, Guard, Subject},
    descriptors::Lease,
    dial::{client_of, deliver},
    leg::Leg,
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
        loop {
            mesh.changed().await;
            let snapshot = mesh.current();
            let pod = self.workload_now();
            let verdict = |subject: &Subject| {
                let Some(pod) = &pod else {
                    let text = "the mesh no longer knows this pod";
                    return Some(CloseReason::failed(Who::Agent, Phase::Relay, text));
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
        let mut record = Record::new(Direction::Inbound, tunnel.from);
        record.source.identity = Some(tunnel.source.clone());
        record.hbone = Some(tunnel.at);
        // Boxed: what finding the way needs must not be held while bytes flow.
        let served = Box::pin(self.reach_application(&mut incoming, &tunnel, &mut record, &mut guard)).await;
        let (leg, pod, _lease) = match served {
            Ok(served) => served,
            Err(Refused { status, reason }) => {
                incoming.refuse(status);
                record.ended(Tally::default(), &reason);
                return;
            }
        };
        let mut tally = Tally::default();
        let baggage = self.parts.tuning.response_baggage.then(|| Baggage::of(&pod));
        let reason = match incoming.accept(baggage.as_ref()) {
            Ok(stream) => tokio::select! {
                ended = relay::tunnelled(leg, stream, &mut tally) => CloseReason::of_relay(&ended, Who::Server, Who::Client),
                reason = guard.cut() => reason,
            },
            Err(error) => CloseReason::failed(Who::Peer, Phase::Connect, error.to_string()),
        };
        record.ended(tally, &reason);
    }

    async fn reach_application(
        &self,
        incoming: &mut Incoming,
        tunnel: &Accepting,
        record: &mut Record,
        guard: &mut Guard,
    ) -> Result<(Leg, Arc<Workload>, Lease), Refused> {
        let Admitted { request, pod, to } = self.admit(incoming, tunnel, record, guard)?;
        let lease = self.parts.descriptors.take(1).ok_or_else(|| {
            let text = "out of descriptors: raise RLIMIT_NOFILE (LimitNOFILE=)";
            unavailable(CloseReason::failed(Who::Agent, Phase::Connect, text))
        })?;
        let client = client_of(
            tunnel.from.ip(),
            request.forwarded.and_then(|forwarded| forwarded.client),
        );
        if client.port() != 0 {
            record.source.address = Some(client);
        }
        let leg = async {
            let tcp = deliver(&*self.sockets, client, to)
                .await
                .map_err(|error| error.to_string())?;
            Leg::dialled(tcp, &self.parts.tuning.sockets).map_err(|error| error.to_string())
        };
        tokio::select! {
            leg = leg => match leg {
                Ok(leg) => Ok((leg, pod, lease)),
                Err(text) => Err(unavailable(CloseReason::failed(Who::Server, Phase::Connect, text))),
            },
            () = poll_fn(|cx| incoming.poll_cancelled(cx)) => {
                let text = "the client gave up before the application was reached";
                Err(unavailable(CloseReason::failed(Who::Client, Phase::Connect, text)))
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
        let refused = |status: StatusCode, text: String| Refused {
            status,
            reason: CloseReason::failed(Who::Agent, Phase::Decide, text),
        };
        let request = connect_request(incoming.head()).map_err(|error| refused(error.status(), error.to_string()))?;
        let mesh = self.mesh.current();
        self.note_source(&mesh, tunnel, &request, record);
        let pod = self.workload_now().ok_or_else(|| {
            refused(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the mesh knows no workload for pod {}", self.pod),
            )
        })?;
        record.destination.is(&pod);
        record.destination.identity = pod.identity();
        let ip = tunnel.at.ip();
        let admission = admit(&mesh, &pod, ip, &request.authority).map_err(|refusal| {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            refused(status, refusal.to_string())
        })?;
        record.service = admission.service.map(|service| Arc::clone(&service.key.hostname));
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
        match denial(
            &policy::authorize(&self.mesh.current(), &pod, &connection),
            Phase::Authorize,
        ) {
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
        let failed = |text: String| CloseReason::failed(Who::Agent, Phase::Handshake, text);
        let pod = self
            .workload_within(super::outbound::UNKNOWN_POD_WAIT)
            .await
            .ok_or_else(|| failed(format!("the mesh knows no workload for pod {}", self.pod)))?;
        let id = self.identity(&pod)?;
        self.certificates
            .get(&id)
            .await
            .map_err(|error| failed(crate::tls::with_causes(&error)))
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
    let text = match verdict {
        Verdict::Allow { .. } => return None,
        Verdict::Deny { policy: Some(policy) } => format!("denied by policy {}", policy.key()),
        Verdict::Deny { policy: None } => "denied: there are ALLOW policies and none of them matches".to_owned(),
    };
    Some(CloseReason::failed(Who::Agent, phase, text))
}
