use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use tokio::net::TcpListener;

use super::*;

/// A collector: gives each request to the channel and answers with `status`.
pub(crate) async fn collector(status: &'static str) -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
                assert_eq!(request.uri().path(), path);
                let mut body = request.into_body();
                let mut bytes = BytesMut::new();
                while let Some(chunk) = body.data().await {
                    let chunk: Bytes = chunk.unwrap();
                    body.flow_control().release_capacity(chunk.len()).unwrap();
                    bytes.put(chunk);
                }
                // Not compressed, then the length in four bytes.
                let message = bytes.split_off(5);
                assert_eq!(
                    usize::try_from(u32::from_be_bytes(bytes[1..].try_into().unwrap())),
                    Ok(message.len())
                );
                sender
                    .send(ExportTraceServiceRequest::decode(message).unwrap())
                    .unwrap();
                let head = http::Response::builder().header("content-type", "application/grpc");
                let mut stream = answer.send_response(head.body(()).unwrap(), false).unwrap();
                if status == "0" {
                    stream.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            });
        }
    });
    (endpoint, receiver)
}

fn span(failure: Option<&str>) -> Span {
    let (trace, parent) = Traceparent::random().continued();
    Span {
        trace,
        parent: Some(parent),
        direction: Side::Server,
        began: UNIX_EPOCH + Duration::from_secs(1),
        ended: UNIX_EPOCH + Duration::from_secs(3),
        attributes: vec![
            ("source.workload", Attribute::Text("curl".to_owned())),
            ("isthmus.bytes_sent", Attribute::Number(7)),
        ],
        failure: failure.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_connection_arrives_as_a_span_with_its_trace_attributes_and_status() {
    let (endpoint, mut requests) = collector("0").await;
    let spans = start(&endpoint, &[("service.name", "isthmus")]).unwrap();
    let sent = span(Some("policy-denied agent authorize: denied"));
    spans.offer(sent.clone());
    spans.offer(span(None));
    spans.flush().await;
    assert_eq!((spans.exported(), spans.dropped()), (2, 0));

    let request = requests.recv().await.unwrap();
    assert_eq!(request.resource_spans.len(), 1);
    let resource = &request.resource_spans[0];
    let service = &resource.resource.as_ref().unwrap().attributes[0];
    assert_eq!(service.key, "service.name");
    let got = &resource.scope_spans[0].spans;
    assert_eq!(got.len(), 2, "both in one request");
    let first = &got[0];
    assert_eq!(first.trace_id, sent.trace.trace_id().to_be_bytes());
    assert_eq!(first.span_id, sent.trace.span_id().to_be_bytes());
    assert_eq!(first.parent_span_id, sent.parent.unwrap().to_be_bytes());
    assert_eq!(first.kind(), SpanKind::Server);
    assert_eq!(
        (first.start_time_unix_nano, first.end_time_unix_nano),
        (1_000_000_000, 3_000_000_000)
    );
    let values: Vec<(&str, &Value)> = first
        .attributes
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_ref().unwrap().value.as_ref().unwrap()))
        .collect();
    let text = Value::StringValue("curl".to_owned());
    assert_eq!(
        values,
        [("source.workload", &text), ("isthmus.bytes_sent", &Value::IntValue(7))]
    );
    let status = first.status.as_ref().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(status.message.contains("policy-denied"));
    assert_eq!(got[1].status.as_ref().unwrap().code(), StatusCode::Ok);
}

#[tokio::test]
async fn what_the_collector_does_not_take_is_dropped_and_counted() {
    // RESOURCE_EXHAUSTED.
    let (endpoint, mut requests) = collector("8").await;
    let spans = start(&endpoint, &[]).unwrap();
    spans.offer(span(None));
    spans.flush().await;
    assert!(requests.recv().await.is_some(), "it was asked");
    assert_eq!((spans.exported(), spans.dropped()), (0, 1));
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_nothing_but_the_spans() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let spans = start(&endpoint, &[]).unwrap();
    // The exporter has not run yet: what does not fit into the queue is dropped at once.
    for _ in 0..QUEUE + 10 {
        spans.offer(span(None));
    }
    assert_eq!(spans.dropped(), 10);
    spans.flush().await;
    assert_eq!((spans.exported(), spans.dropped()), (0, QUEUE as u64 + 10));
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_refused_with_what_to_write() {
    for endpoint in ["", "collector:4317", "https://collector:4317", "http://"] {
        let error = start(endpoint, &[]).unwrap_err().to_string();
        assert!(error.contains("http://HOST:PORT"), "{endpoint}: {error}");
    }
}
