//! The accepting end of a tunnel.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response, StatusCode};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_rustls::server::TlsStream;

pub use super::request::connect_request;
use super::stream::Role;
use super::{
    Baggage, ReadAhead, Stream,
    client::HandshakeError,
    keepalive::Keepalive,
    lifetime, request,
    settings::{
        REQUEST_HEADER_BYTES, RESET_REMEMBERED, RESET_STREAMS, SEND_BUFFER_BYTES, SERVER_STREAMS, Settings,
        TLS_BUFFER_BYTES,
    },
    turn,
};
use crate::{
    identity::{Certificate, SpiffeId},
    tls,
};

/// The accepting end of an open tunnel. [`Tunnel::next`] must be awaited all the time: it drives the tunnel.
pub struct Tunnel<Io> {
    connection: h2::server::Connection<TlsStream<ReadAhead<Io>>, Bytes>,
    keepalive: Keepalive,
    peer: SpiffeId,
    until: Instant,
}

/// A request which waits for its answer. Dropped, it is reset.
pub struct Incoming {
    head: Request<()>,
    recv: RecvStream,
    respond: SendResponse<Bytes>,
}

/// Why a tunnel ended otherwise than by the peer closing it.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// The socket broke or the peer broke the protocol.
    #[error("the tunnel was lost: {0}")]
    Lost(#[from] h2::Error),
    /// The peer answered no PING.
    #[error("the peer was silent and answered no PING")]
    Silent,
}

/// Makes a tunnel on an accepted socket.
///
/// # Errors
/// When TLS, the identity check or HTTP/2 fails.
pub async fn handshake<Io>(
    io: ReadAhead<Io>,
    certificate: &Certificate,
    settings: Settings,
) -> Result<Tunnel<Io>, HandshakeError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = io.activity();
    let (mut tls, peer) = tls::accept(io, certificate.server_config()).await?;
    let until = lifetime::end(certificate, &peer);
    tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    let mut connection = h2::server::Builder::new()
        .initial_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.tunnel_window_bytes)
        .max_frame_size(settings.frame_bytes)
        .max_header_list_size(REQUEST_HEADER_BYTES)
        .max_concurrent_streams(SERVER_STREAMS)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .data_frame_budget(settings.small_frame_budget())
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_REMEMBERED)
        .handshake::<_, Bytes>(tls)
        .await
        .map_err(HandshakeError::Http2)?;
    let keepalive = Keepalive::new(connection.ping_pong(), activity);
    Ok(Tunnel {
        connection,
        keepalive,
        peer: peer.id,
        until,
    })
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Tunnel<Io> {
    /// The identity which the peer proved.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// When the certificate of either end ends; from then on no stream is to begin, so the tunnel is to be drained.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// The next request; `None` when the peer has closed the tunnel, or when it is drained and the last stream done.
    ///
    /// # Errors
    /// When the tunnel is lost; it is then to be dropped, which fails its streams.
    pub async fn next(&mut self) -> Result<Option<Incoming>, TunnelError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, TunnelError>> {
        if self.keepalive.poll_silent(cx).is_ready() {
            return Poll::Ready(Err(TunnelError::Silent));
        }
        let accepted = self.connection.poll_accept(cx);
        turn::written();
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let (parts, recv) = request.into_parts();
                Poll::Ready(Ok(Some(Incoming {
                    head: Request::from_parts(parts, ()),
                    recv,
                    respond,
                })))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error.into())),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends GOAWAY: no new streams after those on their way; open ones go on.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }
}

impl Incoming {
    /// The request's head.
    #[must_use]
    pub fn head(&self) -> &Request<()> {
        &self.head
    }

    /// Ready when the client has given up before it was answered.
    pub fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(drop)
    }

    /// Answers with an error status and ends the stream.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // It fails only if the client is gone already.
        drop(self.respond.send_response(response, true));
    }

    /// Resets the stream without an answer.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Answers 200 and says who we are.
    ///
    /// # Errors
    /// When the client is gone already.
    pub fn accept(mut self, baggage: Option<&Baggage>) -> Result<Stream, h2::Error> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            request::set_baggage(response.headers_mut(), baggage);
        }
        let send = self.respond.send_response(response, false)?;
        Ok(Stream::new(send, self.recv, Role::Server))
    }
}
