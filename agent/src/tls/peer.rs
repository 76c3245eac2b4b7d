//! Who a peer has proved to be, and the SPIFFE ID in a certificate.

use std::time::SystemTime;

use rustls::CommonState;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::ALPN_H2;
use crate::identity::{ParseSpiffeIdError, SpiffeId, moment};

/// What a peer has proved in a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// When the certificate ends that it showed.
    pub not_after: SystemTime,
}

/// Why a peer has no SPIFFE ID that we could rely on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// No certificate, or the handshake is not over.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// ALPN did not settle on `h2`.
    #[error("the peer did not agree on ALPN \"h2\"; is it an HBONE endpoint?")]
    NotH2,
    /// The certificate or its subject alternative names cannot be parsed.
    #[error("the subject alternative names of the peer's certificate cannot be read")]
    Unreadable,
    /// No URI among the names.
    #[error("the peer's certificate has no URI among its subject alternative names, so no SPIFFE ID")]
    NoUri,
    /// More than one URI; an SVID has exactly one (SPIFFE X509-SVID §2).
    #[error("the peer's certificate has {count} URIs among its subject alternative names; an SVID has exactly one")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// The one URI is not a workload's SPIFFE ID.
    #[error("the URI in the peer's certificate is not a workload's SPIFFE ID")]
    NotSpiffe(#[source] ParseSpiffeIdError),
}

/// What a peer has proved, once the handshake is over.
///
/// The verifiers have checked the chain and that this identity may talk to us; this reads it again for policy, logs and
/// headers, and makes sure that both ends agreed on `h2`.
///
/// # Errors
/// When there is no certificate, no single SPIFFE ID in it, or the protocol is not `h2`.
pub fn proved(conn: &CommonState) -> Result<Peer, PeerIdentityError> {
    let leaf = conn
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(PeerIdentityError::NoCertificate)?;
    if conn.alpn_protocol() != Some(ALPN_H2) {
        return Err(PeerIdentityError::NotH2);
    }
    let certificate = parsed(leaf)?;
    Ok(Peer {
        id: only_uri(&certificate)?,
        not_after: moment(certificate.validity().not_after).ok_or(PeerIdentityError::Unreadable)?,
    })
}

/// The SPIFFE ID in a DER certificate: its only URI name.
pub(crate) fn spiffe_id_in(der: &[u8]) -> Result<SpiffeId, PeerIdentityError> {
    only_uri(&parsed(der)?)
}

fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, PeerIdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(PeerIdentityError::Unreadable),
    }
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerIdentityError::Unreadable)?
        .ok_or(PeerIdentityError::NoUri)?;
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It could be a URI; a name we cannot read may not hide beside one we can.
            GeneralName::Invalid(..) => return Err(PeerIdentityError::Unreadable),
            _ => {}
        }
    }
    match uris.as_slice() {
        [] => Err(PeerIdentityError::NoUri),
        [uri] => uri.parse().map_err(PeerIdentityError::NotSpiffe),
        several => Err(PeerIdentityError::SeveralUris { count: several.len() }),
    }
}
