//! Numbers of the HTTP/2 layer, the same on both ends. wire-facts.md §3.4 has those of stock peers.

use std::time::Duration;

/// What an operator may choose. Values within the bounds of RFC 9113 (§6.5.2, §6.9.1) are the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What one stream may have in flight towards us.
    pub stream_window_bytes: u32,
    /// What one tunnel may have in flight towards us.
    pub tunnel_window_bytes: u32,
    /// Largest DATA frame we accept. We send as much as the peer allows in one frame.
    pub frame_bytes: u32,
}

impl Default for Settings {
    /// The tunnel's window is several times a stream's: up to three streams may stand full and unread and the others
    /// still move.
    fn default() -> Self {
        Self {
            stream_window_bytes: 4 << 20,
            tunnel_window_bytes: TUNNEL_WINDOW_BYTES,
            frame_bytes: 1 << 20,
        }
    }
}

impl Settings {
    /// What unread small DATA frames may cost before h2 ends the tunnel: each is charged 256 bytes less its payload.
    /// The relay takes frames out of h2 as they come and packs them (see `proxy/relay.rs`), so only a burst between
    /// two turns of one task counts. 64 MiB stand 260 000 one-byte frames; h2's own default at 16 MiB stands 32 000.
    pub(crate) fn small_frame_budget(&self) -> usize {
        let window = usize::try_from(self.tunnel_window_bytes).unwrap_or(usize::MAX);
        window.max(TUNNEL_WINDOW_BYTES as usize).saturating_mul(4)
    }
}

const TUNNEL_WINDOW_BYTES: u32 = 16 << 20;

/// Bytes of one stream that wait inside h2 to be written. Above it the relay stops reading from its socket.
pub(crate) const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Largest header list a client accepts of a response, in bytes.
pub(crate) const RESPONSE_HEADER_BYTES: u32 = 16 << 10;

/// Largest header list a server accepts of a request, in bytes.
pub(crate) const REQUEST_HEADER_BYTES: u32 = 64 << 10;

/// Streams a peer may have open on one of our tunnels. Stock agents stop at 100 of their own accord and Envoy opens
/// up to what it is told, so a higher limit saves such peers tunnels (and handshakes) and costs us nothing until
/// used: memory is bounded by the tunnel's window and not by the number of streams.
pub(crate) const SERVER_STREAMS: u32 = 1000;

/// Streams we open on one tunnel unless an operator says otherwise, if the peer allows as many. More would share one
/// TCP connection's fate and speed.
pub const MOST_STREAMS: usize = 100;

/// Silence after which a PING asks whether the peer is there.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(10);

/// Silence after that PING which ends the tunnel.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Ciphertext that may wait inside TLS for the socket, in bytes: enough that a large DATA frame leaves in one
/// system call.
pub(crate) const TLS_BUFFER_BYTES: usize = 512 << 10;

/// Streams we have reset are remembered, this many and this long, so that what the peer had on its way to them is
/// dropped quietly. For one that was forgotten h2 counts an error, and after 1024 of those in a tunnel's life it ends
/// the tunnel.
pub(crate) const RESET_STREAMS: usize = 1000;

/// See [`RESET_STREAMS`].
pub(crate) const RESET_REMEMBERED: Duration = Duration::from_secs(10);
