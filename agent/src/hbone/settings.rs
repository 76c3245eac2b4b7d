//! Numbers of the HTTP/2 layer, the same on both ends. wire-facts.md §3.4 has those of stock peers.

use std::time::Duration;

/// What one stream may have in flight towards us, in bytes.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// What one tunnel may have in flight towards us, in bytes. Several times a stream's window: up to three streams may
/// stand full and unread and the others still move.
pub(crate) const TUNNEL_WINDOW_BYTES: u32 = 16 << 20;

/// Largest DATA frame we accept, in bytes. We send as much as the peer allows in one frame.
pub(crate) const FRAME_BYTES: u32 = 1 << 20;

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

/// Streams we open on one tunnel, if the peer allows as many. More would share one TCP connection's fate and speed.
pub const MOST_STREAMS: usize = 100;

/// What unread small DATA frames may cost before h2 ends the tunnel: each is charged 256 bytes less its payload.
/// The relay takes frames out of h2 as they come and packs them (see `proxy/relay.rs`), so only a burst between two
/// turns of one task counts. 64 MiB stand 260 000 one-byte frames; h2's own default at this window stands 32 000.
pub(crate) const SMALL_FRAME_BUDGET: usize = 4 * TUNNEL_WINDOW_BYTES as usize;

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
