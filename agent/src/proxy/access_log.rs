use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::time::Instant;

use super::{
    close::{Cause, CloseReason, Phase},
    relay::Tally,
};
use crate::{
    hbone::{Baggage, Traceparent},
    identity::SpiffeId,
    mesh::{Service, Workload},
    telemetry::{
        Counted, Facts, Labels, Reporter, ServiceFacts, Telemetry,
        recent::Entry,
        spans::{Attribute, Side, Span},
    },
};

/// What is known of a connection while it lives. When it ends: one access log line, its counters, and a span where
/// spans are sent (wire-facts.md §8.2, §8.3; docs/access-log.md).
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) direction: Direction,
    pub(crate) source: Party,
    pub(crate) destination: Party,
    /// What an application of the pod dialled.
    pub(crate) requested: Option<SocketAddr>,
    /// The other end of the tunnel, if there is one.
    pub(crate) hbone: Option<SocketAddr>,
    /// The service that was asked for.
    pub(crate) service: Option<ServiceFacts>,
    book: Book,
    trace: Option<Traceparent>,
    /// The span of the client's agent which this connection continues.
    parent: Option<u64>,
    began: Instant,
    counted: Option<Counted>,
    /// Ways that were tried, the last one included.
    attempts: u32,
}

/// Whose connections are told, and to whom.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) telemetry: Arc<Telemetry>,
    /// `NAMESPACE/NAME` of the pod.
    pub(crate) pod: Arc<str>,
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(crate) struct Party {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) facts: Option<Facts>,
    /// Proven by a certificate, never assumed.
    pub(crate) identity: Option<SpiffeId>,
    /// What the mesh says, proven or not.
    expected: Option<SpiffeId>,
}

/// Seen from the pod or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Outbound,
    Inbound,
}

impl Book {
    /// Begins to tell of a connection.
    pub(crate) fn begin(&self, direction: Direction, from: SocketAddr) -> Record {
        Record {
            direction,
            source: Party {
                address: Some(from),
                ..Party::default()
            },
            destination: Party::default(),
            requested: None,
            hbone: None,
            service: None,
            book: self.clone(),
            trace: None,
            parent: None,
            began: Instant::now(),
            counted: None,
            attempts: 0,
        }
    }
}

impl Party {
    /// Fills in what the mesh knows.
    pub(crate) fn is(&mut self, workload: &Workload) {
        self.facts = Some(Facts::of(workload));
        self.expected = workload.identity();
    }

    /// Fills in what the party says of itself, where the mesh has told nothing.
    pub(crate) fn claims(&mut self, baggage: &Baggage) {
        self.facts.get_or_insert_with(|| Facts::claimed(baggage));
    }

    /// Forgets what was assumed: it is somebody else.
    pub(crate) fn is_other(&mut self) {
        self.facts = None;
        self.expected = None;
    }

    fn name(&self) -> Option<&str> {
        self.fact(|facts| &facts.name)
    }

    fn namespace(&self) -> Option<&str> {
        self.fact(|facts| &facts.labels.namespace)
    }

    fn cluster(&self) -> Option<&str> {
        self.fact(|facts| &facts.labels.cluster)
    }

    fn fact(&self, which: impl FnOnce(&Facts) -> &Arc<str>) -> Option<&str> {
        let text: &str = which(self.facts.as_ref()?);
        Some(text).filter(|text| !text.is_empty())
    }

    fn proven(&self) -> Option<&str> {
        self.identity.as_ref().map(SpiffeId::as_str)
    }
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    fn reporter(self) -> Reporter {
        match self {
            Self::Outbound => Reporter::Source,
            Self::Inbound => Reporter::Destination,
        }
    }
}

impl Record {
    pub(crate) fn asks_for(&mut self, service: Option<&Service>) {
        self.service = service.map(ServiceFacts::of);
    }

    /// The `attempt`th way is about to be tried, for an application that asked for `to`: what was noted of the way before
    /// is forgotten.
    pub(crate) fn tries(&mut self, attempt: u32, to: SocketAddr) {
        self.attempts = attempt;
        self.hbone = None;
        self.source.identity = None;
        self.destination = Party {
            address: Some(to),
            ..Party::default()
        };
    }

    /// A trace that begins here, to be sent with the CONNECT.
    pub(crate) fn begin_trace(&mut self) -> Traceparent {
        let sampled = self.book.telemetry.spans().is_some();
        *self.trace.get_or_insert_with(|| Traceparent::random().sampled(sampled))
    }

    /// The trace that came with the CONNECT goes on here.
    pub(crate) fn continue_trace(&mut self, trace: Option<Traceparent>) {
        let Some(trace) = trace else { return };
        let (own, parent) = trace.continued();
        self.trace = Some(own);
        self.parent = Some(parent);
    }

    /// It is one, or about to be: from now on it is counted. `sockets` are those of applications.
    pub(crate) fn open(&mut self, sockets: u64) {
        if self.counted.is_some() {
            return;
        }
        self.counted = Some(self.book.telemetry.traffic.open(&self.labels(), sockets));
        let (source, destination) = (&self.source, &self.destination);
        tracing::event!(
            target: "access",
            tracing::Level::DEBUG,
            src.addr = source.address.map(tracing::field::display),
            src.workload = source.name(),
            dst.addr = destination.address.map(tracing::field::display),
            dst.hbone_addr = self.hbone.map(tracing::field::display),
            dst.service = self.service.as_ref().map(|service| &*service.hostname),
            dst.workload = destination.name(),
            direction = self.direction.word(),
            "connection opened"
        );
    }

    /// Counts of bytes that show while the connection runs.
    pub(crate) fn tally(&self) -> Tally {
        Tally::metered(self.counted.as_ref().map(Counted::meter))
    }

    fn labels(&self) -> Labels {
        let side = |party: &Party| party.facts.as_ref().map(|facts| facts.labels.clone());
        let destination = &self.destination;
        Labels {
            reporter: self.direction.reporter(),
            source: side(&self.source),
            source_principal: self.source.identity.clone(),
            destination: side(destination),
            destination_principal: destination.identity.clone().or_else(|| destination.expected.clone()),
            service: self.service.clone(),
            mutual_tls: self.hbone.is_some(),
        }
    }

    /// It is over: counts it and writes its line. `forth` of the tally goes from the application next to us to the
    /// other side.
    pub(crate) fn ended(mut self, tally: &Tally, close: &CloseReason) {
        let telemetry = Arc::clone(&self.book.telemetry);
        telemetry.traffic.ended(self.direction.reporter(), close.code.name());
        let early = self.is_early(close);
        if close.failed() {
            let flag = close.code.flag();
            match self.counted.take() {
                Some(counted) => counted.fail(flag),
                None if early => telemetry.traffic.refused(&self.labels(), flag),
                None => telemetry.traffic.open(&self.labels(), 0).fail(flag),
            }
            self.remember(close);
        }
        drop(self.counted.take());
        if early {
            self.refused(close);
        } else {
            self.complete(tally, close);
        }
        if let Some(spans) = telemetry.spans() {
            spans.offer(self.span(tally, close));
        }
    }

    /// Whether it ended before it was a connection.
    fn is_early(&self, close: &CloseReason) -> bool {
        match close.phase {
            Phase::Accept | Phase::Decide => close.failed(),
            // Outbound it is a tunnel's, and the connection which wanted it is known.
            Phase::Handshake => self.direction == Direction::Inbound,
            Phase::Authorize | Phase::Connect | Phase::Relay => false,
        }
    }

    fn remember(&self, close: &CloseReason) {
        self.book.telemetry.recent.push(Entry {
            time: SystemTime::now(),
            pod: Arc::clone(&self.book.pod),
            source: self.source.address,
            destination: self.destination.address,
            direction: self.direction.word(),
            code: close.code.name(),
            reason: format!("{} {}: {}", close.who.word(), close.phase.word(), close.detail),
        });
    }

    fn complete(&self, tally: &Tally, close: &CloseReason) {
        let (source, destination) = (&self.source, &self.destination);
        let duration = format!("{}ms", self.began.elapsed().as_millis());
        macro_rules! line {
            ($level:ident, $error:expr) => {
                tracing::event!(
                    target: "access",
                    tracing::Level::$level,
                    src.addr = source.address.map(tracing::field::display),
                    src.workload = source.name(),
                    src.namespace = source.namespace(),
                    src.identity = source.proven(),
                    src.cluster = source.cluster(),
                    dst.addr = destination.address.map(tracing::field::display),
                    dst.hbone_addr = self.hbone.map(tracing::field::display),
                    dst.service = self.service.as_ref().map(|service| &*service.hostname),
                    dst.workload = destination.name(),
                    dst.namespace = destination.namespace(),
                    dst.identity = destination.proven(),
                    dst.cluster = destination.cluster(),
                    direction = self.direction.word(),
                    attempts = (self.attempts > 1).then_some(u64::from(self.attempts)),
                    bytes_sent = tally.forth,
                    bytes_recv = tally.back,
                    duration,
                    trace_id = self.trace.map(|trace| tracing::field::display(TraceId(trace.trace_id()))),
                    close = close.code.name(),
                    close.by = close.who.word(),
                    close.phase = close.phase.word(),
                    close.errno = close.errno().map(tracing::field::display),
                    close.status = close.status(),
                    close.stream = close.stream().map(tracing::field::display),
                    close.policy = close.policy.as_deref(),
                    close.hint = close.hint(),
                    error = $error,
                    "connection complete"
                )
            };
        }
        if close.failed() {
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
            trace_id = self.trace.map(|trace| tracing::field::display(TraceId(trace.trace_id()))),
            close = close.code.name(),
            close.by = close.who.word(),
            close.phase = close.phase.word(),
            close.errno = close.errno().map(tracing::field::display),
            close.hint = close.hint(),
            error = close.detail.as_ref(),
            "connection failed"
        );
    }

    fn span(&self, tally: &Tally, close: &CloseReason) -> Span {
        let ended = SystemTime::now();
        let mut attributes = vec![
            ("isthmus.pod", Attribute::Text(self.book.pod.to_string())),
            ("isthmus.bytes_sent", Attribute::Number(tally.forth)),
            ("isthmus.bytes_received", Attribute::Number(tally.back)),
            ("isthmus.close.reason", Attribute::Text(close.code.name().to_owned())),
            ("isthmus.close.by", Attribute::Text(close.who.word().to_owned())),
            ("isthmus.close.phase", Attribute::Text(close.phase.word().to_owned())),
        ];
        let (source, destination) = (&self.source, &self.destination);
        let shown = |address: Option<SocketAddr>| address.map(|address| address.to_string());
        let texts = [
            ("client.address", shown(source.address)),
            ("server.address", shown(destination.address)),
            ("network.peer.address", shown(self.hbone)),
            ("source.workload", source.name().map(str::to_owned)),
            ("source.namespace", source.namespace().map(str::to_owned)),
            ("source.principal", source.proven().map(str::to_owned)),
            ("destination.workload", destination.name().map(str::to_owned)),
            ("destination.namespace", destination.namespace().map(str::to_owned)),
            ("destination.principal", destination.proven().map(str::to_owned)),
            (
                "destination.service",
                self.service.as_ref().map(|service| service.hostname.to_string()),
            ),
            ("isthmus.close.policy", close.policy.as_ref().map(ToString::to_string)),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(key, text)| Some((key, Attribute::Text(text?))));
        attributes.extend(texts);
        Span {
            trace: self.trace.unwrap_or_else(Traceparent::random),
            parent: self.parent,
            direction: match self.direction {
                Direction::Outbound => Side::Client,
                Direction::Inbound => Side::Server,
            },
            began: ended.checked_sub(self.began.elapsed()).unwrap_or(ended),
            ended,
            attributes,
            failure: close.failed().then(|| close.to_string()),
        }
    }
}

impl CloseReason {
    fn errno(&self) -> Option<Cause> {
        self.cause.filter(|cause| matches!(cause, Cause::Errno(_)))
    }

    fn stream(&self) -> Option<Cause> {
        self.cause.filter(|cause| matches!(cause, Cause::Stream(_)))
    }

    fn status(&self) -> Option<u64> {
        match self.cause {
            Some(Cause::Status(status)) => Some(status.into()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(self.code.hint()).filter(|hint| !hint.is_empty())
    }
}

/// 32 hexadecimal digits.
struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
