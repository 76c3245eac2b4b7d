//! HBONE: an HTTP/2 CONNECT per connection, over mutual TLS.
//!
//! A *tunnel* is one TLS connection that speaks HTTP/2; a *stream* is one CONNECT on it. This module knows the
//! protocol and nothing of meshes' choices: [`client`] and [`server`] are the two ends of a tunnel, [`Stream`] is
//! what either end relays, [`ConnectRequest`] is a CONNECT's head as a value. Values on the wire follow
//! wire-facts.md §3.3 to §3.6.

mod baggage;
pub mod client;
mod forwarded;
mod keepalive;
mod lifetime;
mod read_ahead;
mod request;
pub mod server;
mod settings;
mod stream;
mod traceparent;
mod turn;

pub use baggage::{Baggage, BaggageError};
pub use forwarded::{Forwarded, ForwardedError};
pub use read_ahead::ReadAhead;
pub use request::{ConnectRequest, HeadError};
pub use settings::{MOST_STREAMS, Settings};
pub use stream::{RecvHalf, SendHalf, Stream, StreamError, StreamIo};
pub use traceparent::{Traceparent, TraceparentError};

#[cfg(test)]
pub(crate) mod tests;
