//! How long a tunnel may take streams.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::{identity::Certificate, tls::Peer};

/// When the first of both ends' certificates ends. Streams from before go on, as connections do that were open already;
/// a stream that begins is a new connection, and nobody may make one with a certificate that is over.
pub(super) fn end(own: &Certificate, peer: &Peer) -> Instant {
    let first = own.not_after().min(peer.not_after);
    let left = first.duration_since(SystemTime::now()).unwrap_or_default();
    // What is farther than the clock goes is refused rather than believed for ever.
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}
