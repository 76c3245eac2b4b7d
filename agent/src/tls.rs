//! TLS of the mesh (wire-facts §3.2): 1.3 only, mutual, ALPN `h2`, no server name, no resumption.
//!
//! | file | what it knows |
//! |---|---|
//! | `provider` | the algorithms we speak, in the order we like them |
//! | `config` | rustls configurations from one certificate |
//! | `verify` | whether a peer's certificate is good, and is who we want |
//! | `peer` | the SPIFFE ID in a certificate |
//! | `failure` | what a failed handshake means to an operator |
//!
//! A handshake goes through [`connect`] or [`accept`]. Who drives rustls itself must call [`proved`] before the
//! first byte of application data counts: rustls lets a peer that says nothing of ALPN pass.

mod config;
mod failure;
mod peer;
mod provider;
mod verify;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub use config::CredentialsError;
pub(crate) use config::{ClientTemplate, Credentials};
pub(crate) use failure::with_causes;
pub use failure::{TlsFailure, explain};
pub(crate) use peer::spiffe_id_in;
pub use peer::{Peer, PeerIdentityError, proved};
pub use provider::admit_only_post_quantum;
pub(crate) use provider::provider;
pub use verify::IdentityRefused;

/// The one protocol spoken inside the mesh's TLS.
const ALPN_H2: &[u8] = b"h2";

/// Shakes hands as the client and gives the stream with what the server proved.
///
/// `config` comes from [`Certificate::client_config`](crate::identity::Certificate::client_config), which holds the
/// identities the server may have. With TLS 1.3 this returns before the server has judged *our* certificate: its
/// refusal comes as an error of the first read, which [`explain`] reads too. The caller bounds the time.
///
/// # Errors
/// When the handshake fails on either side, or the server does not choose `h2`.
pub async fn connect<IO>(io: IO, config: Arc<ClientConfig>) -> Result<(client::TlsStream<IO>, Peer), TlsFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // rustls wants a name; the verifier looks at SPIFFE IDs only, and none is sent.
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let stream = TlsConnector::from(config)
        .connect(nobody, io)
        .await
        .map_err(|error| explain(&error))?;
    let peer = proved(stream.get_ref().1)?;
    Ok((stream, peer))
}

/// Shakes hands as the server and gives the stream with what the client proved.
///
/// `config` comes from [`Certificate::server_config`](crate::identity::Certificate::server_config); take it anew for
/// each connection, so that a renewed certificate is used at once. The caller bounds the time.
///
/// # Errors
/// When the handshake fails on either side, or the client does not offer `h2`.
pub async fn accept<IO>(io: IO, config: Arc<ServerConfig>) -> Result<(server::TlsStream<IO>, Peer), TlsFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config)
        .accept(io)
        .await
        .map_err(|error| explain(&error))?;
    let peer = proved(stream.get_ref().1)?;
    Ok((stream, peer))
}
