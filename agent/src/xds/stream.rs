//! One call of istiod: requests as gRPC frames them, bytes of responses as they come.
//!
//! A generated client would decode whole messages, and the answer to a first request is as large as the mesh.

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use isthmus_istio::discovery::DeltaDiscoveryRequest;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Code, Status, metadata::MetadataMap, transport::Channel};
use tower_service::Service as _;

use crate::istiod::strip;

/// The method that is called (wire-facts §1.2).
const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Requests that istiod has not read yet. There is one for each kind, then one for each response.
const MOST_REQUESTS: usize = 64;

/// Where requests go. When it is dropped, istiod sees the end of them.
#[derive(Debug)]
pub(super) struct Requests(mpsc::Sender<Bytes>);

/// What requests become: the body of the call.
#[derive(Debug)]
pub(super) struct RequestBody(mpsc::Receiver<Bytes>);

/// The bytes of responses.
#[derive(Debug)]
pub(super) struct Answers {
    body: tonic::body::Body,
    status: Option<Status>,
}

/// A request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("istiod does not read requests: {MOST_REQUESTS} wait")]
pub(super) struct Unread;

pub(super) fn requests() -> (Requests, RequestBody) {
    let (sender, receiver) = mpsc::channel(MOST_REQUESTS);
    (Requests(sender), RequestBody(receiver))
}

impl Requests {
    /// Whether there is room for more than answers.
    pub(super) fn has_room(&self) -> bool {
        self.0.capacity() > MOST_REQUESTS / 2
    }

    /// Sends a request, without waiting for it to be read.
    pub(super) fn send(&self, request: &DeltaDiscoveryRequest) -> Result<(), Unread> {
        let length = request.encoded_len();
        let mut frame = BytesMut::with_capacity(length + 5);
        frame.put_u8(0);
        // What is listed is bounded by a few MiB.
        frame.put_u32(u32::try_from(length).map_err(|_| Unread)?);
        request.encode(&mut frame).map_err(|_| Unread)?;
        match self.0.try_send(frame.freeze()) {
            // One that is closed has ended: that is seen where answers are read.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unread),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Answers {
    /// Calls istiod. It gives no sign of having understood before its first answer.
    pub(super) async fn call(mut channel: Channel, headers: MetadataMap, body: RequestBody) -> Result<Self, Status> {
        let mut request = http::Request::new(tonic::body::Body::new(body));
        *request.method_mut() = Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(METHOD);
        *request.headers_mut() = headers.into_headers();
        request
            .headers_mut()
            .insert(header::TE, HeaderValue::from_static("trailers"));
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let broken = |error: tonic::transport::Error| Status::from_error(error.into());
        poll_fn(|context| channel.poll_ready(context)).await.map_err(broken)?;
        let response = channel.call(request).await.map_err(broken)?;
        let (parts, body) = response.into_parts();
        // Whoever has nothing to say but how it ended says that in the place of headers.
        if let Some(status) = status(&parts.headers) {
            return Err(status);
        }
        let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if parts.status != http::StatusCode::OK || !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            let told = format!(
                "not gRPC: HTTP status {}, content type {:?}",
                parts.status.as_u16(),
                kind.map(String::from_utf8_lossy)
            );
            return Err(Status::unavailable(told));
        }
        Ok(Self { body, status: None })
    }

    /// The next bytes; none when istiod ended the stream without an error.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(frame) = self.body.frame().await {
            match frame?.into_data() {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(frame) => self.status = frame.trailers_ref().and_then(status),
            }
        }
        match self.status.take() {
            Some(status) if status.code() == Code::Ok => Ok(None),
            Some(status) => Err(status),
            None => Err(Status::unknown("the stream ended without a status")),
        }
    }
}

/// How a call ended, where that is said.
fn status(headers: &HeaderMap) -> Option<Status> {
    let mut headers = headers.clone();
    strip(&mut headers);
    Status::from_header_map(&headers)
}

/// Whether the connection was closed in an orderly manner, as it is when it has reached a certain age.
pub(super) fn is_go_away(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        }
        cause = error.source();
    }
    false
}
