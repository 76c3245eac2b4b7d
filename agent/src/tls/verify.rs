//! Whether a peer's certificate is good, and is who we want.
//!
//! Chains, dates, key usages and signatures are webpki's business through rustls; what is ours is the SPIFFE ID. A
//! refusal for the identity travels through rustls as an [`IdentityRefused`] inside `CertificateError::Other`.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::peer::{PeerIdentityError, spiffe_id_in};
use super::provider::{provider, signature_algorithms};
use crate::identity::SpiffeId;

/// Most expected identities named in an error.
const NAMED_IN_ERROR: usize = 4;

/// A peer whose certificate chains to our roots and is valid now, but which is not who it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefused {
    /// The server is somebody else.
    #[error("the peer is {got}; expected {}", OneOf(expected))]
    Unexpected {
        /// Who it is.
        got: SpiffeId,
        /// Who it may be.
        expected: Arc<[SpiffeId]>,
    },
    /// The list of identities the server may have is empty, so nobody can be right.
    #[error("no identity is known for this peer, so no certificate can be right; see its workload and service account")]
    NothingExpected,
    /// The client is of another trust domain than we are.
    #[error("the peer is {got}, and we only serve trust domain {own}")]
    TrustDomain {
        /// Who it is.
        got: SpiffeId,
        /// Our own trust domain.
        own: Arc<str>,
    },
    /// The certificate does not name one SPIFFE ID.
    #[error(transparent)]
    Unnamed(#[from] PeerIdentityError),
}

/// What a server asks of a client: a chain to our roots, usable for client authentication, and our trust domain.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: Arc<str>,
}

/// What a client asks of a server: a chain to our roots, usable for server authentication, and an expected identity.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: Arc<RootCertStore>,
    expected: Arc<[SpiffeId]>,
}

impl From<IdentityRefused> for Error {
    fn from(refused: IdentityRefused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

impl ClientVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, trust_domain: &str) -> Result<Self, VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            // A client here has one certificate to choose from: hints only make the flight longer and tell our CA's name.
            .clear_root_hint_subjects()
            .build()?;
        Ok(Self {
            chain,
            trust_domain: trust_domain.into(),
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let got = spiffe_id_in(end_entity).map_err(IdentityRefused::from)?;
        if got.trust_domain() == &*self.trust_domain {
            Ok(verified)
        } else {
            Err(IdentityRefused::TrustDomain {
                got,
                own: self.trust_domain.clone(),
            }
            .into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Arc<[SpiffeId]>) -> Self {
        Self { roots, expected }
    }
}

impl ServerCertVerifier for ServerVerifier {
    /// The server name is not looked at: an endpoint is reached by address, and its SPIFFE ID is who it is.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.expected.is_empty() {
            return Err(IdentityRefused::NothingExpected.into());
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            signature_algorithms().all,
        )?;
        let got = spiffe_id_in(end_entity).map_err(IdentityRefused::from)?;
        if self.expected.contains(&got) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(IdentityRefused::Unexpected {
                got,
                expected: self.expected.clone(),
            }
            .into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &signature_algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

/// Writes the first few of a list of identities.
struct OneOf<'a>(&'a [SpiffeId]);

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 1 {
            f.write_str("one of ")?;
        }
        for (index, id) in self.0.iter().take(NAMED_IN_ERROR).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{id}")?;
        }
        match self.0.len().saturating_sub(NAMED_IN_ERROR) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
