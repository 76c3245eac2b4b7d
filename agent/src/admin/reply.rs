//! Answers of the admin ports.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::sync::{Notify, mpsc};

/// An answer.
pub(super) type Reply = Response<Body>;

/// What an answer says.
#[derive(Debug)]
pub(super) struct Body {
    content: Content,
    taken: Option<Arc<Notify>>,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Written(mpsc::Receiver<Piece>),
}

/// Of an answer that is still being written.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// It is complete. Without this the reader's connection breaks, so that half an answer is never taken for a whole one.
    End,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { content, taken } = self.get_mut();
        if let Some(taken) = taken {
            taken.notify_one();
        }
        match content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Written(pieces) => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Piece::End) => None,
                None => Some(Err(io::Error::other("the answer was not written to its end"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Written(_) => SizeHint::default(),
        }
    }
}

impl Body {
    /// Rings whenever the reader has room for more.
    pub(super) fn ringing(self, taken: Arc<Notify>) -> Self {
        Self {
            taken: Some(taken),
            ..self
        }
    }
}

/// An answer of a content type.
pub(super) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let body = Some(body.into()).filter(|bytes: &Bytes| !bytes.is_empty());
    answer(status, content_type, Content::Whole(body))
}

/// An answer that is still being written.
pub(super) fn written(content_type: &'static str, pieces: mpsc::Receiver<Piece>) -> Reply {
    answer(StatusCode::OK, content_type, Content::Written(pieces))
}

fn answer(status: StatusCode, content_type: &'static str, content: Content) -> Reply {
    let mut reply = Response::new(Body { content, taken: None });
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
