//! Spans of connections, sent to a collector by OTLP over gRPC. Off unless a collector is named.
//!
//! The data path never waits: it puts a span into a bounded queue or drops it. One task sends batches.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan, Status, span::SpanKind, status::StatusCode},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tonic::transport::{Channel, Endpoint};

use crate::hbone::Traceparent;

/// Spans that may wait.
const QUEUE: usize = 4096;

/// Most spans in one request.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A collector that does not answer is told of no more often than this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Where spans go. Clones share the queue.
#[derive(Clone)]
pub struct Spans {
    queue: mpsc::Sender<Order>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
}

enum Order {
    Send(Box<Span>),
    /// Send what waits, and tell when that is done.
    Flush(oneshot::Sender<()>),
}

/// The span of one connection.
#[derive(Clone, Debug)]
pub struct Span {
    /// Trace and own id.
    pub trace: Traceparent,
    /// The span it continues, of the client's agent.
    pub parent: Option<u64>,
    /// Whether this agent is the client's or the server's.
    pub direction: Side,
    /// When the connection was taken up.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Whose agent tells of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
}

/// Why spans are not sent.
#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    /// The collector's address is not usable.
    #[error("{endpoint:?} is no OTLP endpoint: it must be http://HOST:PORT (TLS to collectors is not supported)")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
}

/// Starts to send spans to `endpoint`, `http://HOST:PORT`, on the current runtime. `resource` tells who sends, as
/// OpenTelemetry's resource attributes. The collector need not be there yet.
///
/// # Errors
/// When the endpoint is none.
pub fn start(endpoint: &str, resource: &[(&'static str, &str)]) -> Result<Spans, SpansError> {
    let refused = || SpansError::Endpoint {
        endpoint: endpoint.chars().take(200).collect(),
    };
    if !endpoint.starts_with("http://") {
        return Err(refused());
    }
    let channel = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|_| refused())?
        .connect_timeout(PATIENCE)
        .connect_lazy();
    let (queue, orders) = mpsc::channel(QUEUE);
    let counts = Arc::new(Counts::default());
    let exporter = Exporter {
        client: TraceServiceClient::new(channel),
        resource: Resource {
            attributes: resource
                .iter()
                .map(|(key, value)| pair(key, Value::StringValue((*value).to_owned())))
                .collect(),
            ..Resource::default()
        },
        counts: Arc::clone(&counts),
        complained: None,
    };
    tokio::spawn(exporter.run(orders));
    Ok(Spans { queue, counts })
}

impl Spans {
    /// Takes a span, or drops it when too many wait.
    pub fn offer(&self, span: Span) {
        if self.queue.try_send(Order::Send(Box::new(span))).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns when all that was offered before is sent or dropped.
    pub async fn flush(&self) {
        let (done, told) = oneshot::channel();
        if self.queue.send(Order::Flush(done)).await.is_ok() {
            drop(told.await);
        }
    }

    /// Spans the collector has taken.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.counts.exported.load(Ordering::Relaxed)
    }

    /// Spans that were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

struct Exporter {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    counts: Arc<Counts>,
    complained: Option<Instant>,
}

impl Exporter {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut batch = Vec::new();
        while let Some(first) = orders.recv().await {
            let until = Instant::now() + GATHER;
            let mut flushed = gather(first, &mut batch);
            while flushed.is_none() && batch.len() < BATCH {
                match timeout_at(until, orders.recv()).await {
                    Ok(Some(order)) => flushed = gather(order, &mut batch),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(std::mem::take(&mut batch)).await;
            if let Some(Err(())) = flushed.map(|done| done.send(())) {
                tracing::debug!("whoever waited for the spans has gone");
            }
        }
    }

    async fn send(&mut self, spans: Vec<WireSpan>) {
        let count = spans.len() as u64;
        if count == 0 {
            return;
        }
        let scope = ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "isthmus".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            }),
            spans,
            ..ScopeSpans::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![scope],
                ..ResourceSpans::default()
            }],
        };
        let answered = tokio::time::timeout(PATIENCE, self.client.export(request)).await;
        let rejected = match answered {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success;
                partial.map_or(0, |partial| {
                    u64::try_from(partial.rejected_spans).unwrap_or(0).min(count)
                })
            }
            Ok(Err(status)) => {
                self.complain(&status);
                count
            }
            Err(_) => {
                self.complain(&format_args!("no answer within {} s", PATIENCE.as_secs()));
                count
            }
        };
        self.counts.dropped.fetch_add(rejected, Ordering::Relaxed);
        self.counts.exported.fetch_add(count - rejected, Ordering::Relaxed);
    }

    fn complain(&mut self, error: &dyn fmt::Display) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(%error, "the OTLP collector does not take spans; they are dropped");
        }
    }
}

/// Puts a span into the batch, or gives back who waits for it to be sent.
fn gather(order: Order, batch: &mut Vec<WireSpan>) -> Option<oneshot::Sender<()>> {
    match order {
        Order::Send(span) => {
            batch.push(on_the_wire(*span));
            None
        }
        Order::Flush(done) => Some(done),
    }
}

fn on_the_wire(span: Span) -> WireSpan {
    let nanoseconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    let (name, kind) = match span.direction {
        Side::Client => ("outbound connection", SpanKind::Client),
        Side::Server => ("inbound connection", SpanKind::Server),
    };
    let status = match span.failure {
        Some(message) => Status {
            code: StatusCode::Error.into(),
            message,
        },
        None => Status {
            code: StatusCode::Ok.into(),
            message: String::new(),
        },
    };
    let attributes = span.attributes.into_iter().map(|(key, value)| {
        let value = match value {
            Attribute::Text(text) => Value::StringValue(text),
            Attribute::Number(number) => Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX)),
        };
        pair(key, value)
    });
    WireSpan {
        trace_id: span.trace.trace_id().to_be_bytes().to_vec(),
        span_id: span.trace.span_id().to_be_bytes().to_vec(),
        parent_span_id: span.parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(span.began),
        end_time_unix_nano: nanoseconds(span.ended),
        attributes: attributes.collect(),
        status: Some(status),
        ..WireSpan::default()
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans")
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
