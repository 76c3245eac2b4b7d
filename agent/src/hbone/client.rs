//! The dialling end of a tunnel.

use std::{future::Future, sync::Arc, task::Poll};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::StatusCode;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::stream::Role;
use super::{
    Baggage, ConnectRequest, ReadAhead, Stream,
    keepalive::Keepalive,
    lifetime, request,
    settings::{RESET_REMEMBERED, RESET_STREAMS, RESPONSE_HEADER_BYTES, SEND_BUFFER_BYTES, Settings, TLS_BUFFER_BYTES},
    turn,
};
use crate::{
    identity::{Certificate, SpiffeId},
    tls::{self, TlsFailure},
};

/// The dialling end of an open tunnel. Clones share it; when the last one and the last stream are gone it closes.
#[derive(Clone, Debug)]
pub struct Tunnel {
    send: SendRequest<Bytes>,
    peer: SpiffeId,
    until: Instant,
}

/// An accepted CONNECT.
#[derive(Debug)]
pub struct Opened {
    /// Bytes both ways.
    pub stream: Stream,
    /// What the destination says of itself.
    pub baggage: Option<Baggage>,
}

/// Why no tunnel came to be on a connected socket. Either end has these.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// TLS failed: untrusted, expired or unexpected certificate, or the socket broke.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[from] TlsFailure),
    /// HTTP/2 failed before the first stream.
    #[error("the HTTP/2 handshake failed: {0}")]
    Http2(#[source] h2::Error),
}

/// Why a CONNECT was not accepted.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The peer answered with another status than 200.
    #[error("the peer refused the connection with status {status}{}", advice(*.status))]
    Refused {
        /// Its answer.
        status: StatusCode,
    },
    /// The peer reset the stream before it answered.
    #[error("the peer reset the stream before it answered: {0}")]
    Reset(Reason),
    /// The tunnel is going away or was lost.
    #[error("the tunnel was lost before the peer answered: {}", tls::explain(.0))]
    Lost(#[source] h2::Error),
    /// The request could not be written down.
    #[error("the authority cannot be asked for: {0}")]
    Head(#[from] http::Error),
}

impl OpenError {
    /// Whether the same request may be tried on another tunnel: the peer has not looked at it.
    #[must_use]
    pub fn unprocessed(&self) -> bool {
        match self {
            Self::Reset(reason) => *reason == Reason::REFUSED_STREAM,
            // Before the answer not a byte of the application has been sent.
            Self::Lost(_) => true,
            Self::Refused { .. } | Self::Head(_) => false,
        }
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => ": it does not serve this address",
        401 => ": its policy denies this identity",
        503 => ": the application does not listen, or the peer does not know it",
        _ => "",
    }
}

/// Makes a tunnel on a connected socket, to a peer that must prove to be one of `expected`.
///
/// The returned future drives the tunnel and must be spawned; it ends when the tunnel does.
///
/// # Errors
/// When TLS, the identity check or HTTP/2 fails.
pub async fn handshake<Io>(
    io: ReadAhead<Io>,
    certificate: &Certificate,
    expected: Arc<[SpiffeId]>,
    settings: Settings,
) -> Result<(Tunnel, impl Future<Output = ()> + Send + use<Io>), HandshakeError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = io.activity();
    let (mut tls, peer) = tls::connect(io, certificate.client_config(expected)).await?;
    let until = lifetime::end(certificate, &peer);
    tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    let (send, mut connection) = h2::client::Builder::new()
        .initial_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.tunnel_window_bytes)
        .max_frame_size(settings.frame_bytes)
        .max_header_list_size(RESPONSE_HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .data_frame_budget(settings.small_frame_budget())
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_REMEMBERED)
        .enable_push(false)
        .handshake::<_, Bytes>(tls)
        .await
        .map_err(HandshakeError::Http2)?;
    let mut keepalive = Keepalive::new(connection.ping_pong(), activity);
    let driver = async move {
        // How it ended shows at every stream; a dropped connection fails them all.
        std::future::poll_fn(|cx| {
            if keepalive.poll_silent(cx).is_ready() {
                tracing::debug!("tunnel dropped: the peer was silent");
                return Poll::Ready(());
            }
            let ended = std::pin::Pin::new(&mut connection).poll(cx).map(drop);
            turn::written();
            ended
        })
        .await;
    };
    let tunnel = Tunnel {
        send,
        peer: peer.id,
        until,
    };
    Ok((tunnel, driver))
}

impl Tunnel {
    /// The identity which the peer proved.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Whether new streams can still be opened: no GOAWAY came, the socket stands, and neither end's certificate has
    /// ended.
    pub fn is_usable(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        !matches!(self.send.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// How many streams the peer lets be open at once.
    #[must_use]
    pub fn stream_limit(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Opens a stream; done when the peer answered. Dropped before that, the stream is reset.
    ///
    /// # Errors
    /// When the peer refuses, or the tunnel ends first.
    pub async fn open(&self, request: &ConnectRequest) -> Result<Opened, OpenError> {
        let head = request.head()?;
        let mut send = self.send.clone();
        std::future::poll_fn(|cx| send.poll_ready(cx))
            .await
            .map_err(OpenError::Lost)?;
        let (response, body) = send.send_request(head, false).map_err(OpenError::Lost)?;
        let response = response.await.map_err(|error| match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => OpenError::Reset(reason),
            _ => OpenError::Lost(error),
        })?;
        let (head, recv) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(OpenError::Refused { status: head.status });
        }
        Ok(Opened {
            stream: Stream::new(body, recv, Role::Client),
            baggage: request::baggage(&head.headers),
        })
    }
}
