//! Answers of the admin ports.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// An answer, whole.
pub(super) type Reply = Response<Full<Bytes>>;

/// An answer of a content type.
pub(super) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What these ports tell is true now and not later, and is nobody's page to embed or to guess types of.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// Text for people.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, "text/plain; charset=utf-8", body)
}

/// Text that says what is wrong with the request.
pub(super) fn bad(body: impl Into<Bytes>) -> Reply {
    text(StatusCode::BAD_REQUEST, body)
}
