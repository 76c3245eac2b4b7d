//! One identity's certificate, ready for both ends of a handshake.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{ClientConfig, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::SpiffeId;
use crate::tls::{ClientTemplate, Credentials, CredentialsError, PeerIdentityError, spiffe_id_in};

#[cfg(test)]
mod tests;

/// Most certificates read from one PEM text; chains and root bundles are far shorter.
pub(super) const MOST_CERTIFICATES: usize = 64;

/// A leaf with its intermediates, its key, and the roots which its peers must chain to.
///
/// The expensive part (parsing, the key, the server's configuration) is done once, when it is made.
pub struct Certificate {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<[CertificateDer<'static>]>,
    server: Arc<ServerConfig>,
    client: ClientTemplate,
}

/// A certificate as PEM texts, as CAs give it and `isthmus ca issue` writes it. Prints without the key.
pub struct IssuedPem {
    /// The leaf, then its intermediates.
    pub cert_chain: String,
    /// The leaf's private key, PKCS#8.
    pub key: String,
    /// One root or several.
    pub root: String,
}

/// Why a certificate, its key and its roots cannot be used together.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A PEM text holds no certificate, or something else is wrong with it.
    #[error("the {part} is not PEM of certificates")]
    Pem {
        /// Which text: `certificate chain` or `root`.
        part: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// More certificates than anyone needs.
    #[error("the {part} has more than {MOST_CERTIFICATES} certificates")]
    TooMany {
        /// Which text: `certificate chain` or `root`.
        part: &'static str,
    },
    /// The key is not PEM. The cause is left out: it can quote the key.
    #[error("the private key is not PEM of a private key")]
    KeyPem,
    /// The leaf is missing or cannot be parsed.
    #[error("the first certificate of the chain, the leaf, is missing or unreadable")]
    Leaf,
    /// The leaf names no SPIFFE ID.
    #[error("the certificate names no identity")]
    Unnamed(#[source] PeerIdentityError),
    /// The leaf is somebody else's.
    #[error("the certificate is for {got}, asked for was {wanted}")]
    WrongIdentity {
        /// Whose it is.
        got: SpiffeId,
        /// Whose it should be.
        wanted: SpiffeId,
    },
    /// Key, chain and roots do not make a TLS configuration.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl Certificate {
    /// From DER: `chain` is the leaf and its intermediates, `roots` one or several. The leaf must be `id`'s.
    ///
    /// The dates are not compared with a clock; [`Certificates`](super::Certificates) does that, and every peer.
    ///
    /// # Errors
    /// When the leaf is not `id`'s, the key not the leaf's, or a part cannot be parsed.
    pub fn new(
        id: SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, MaterialError> {
        let leaf = chain.first().ok_or(MaterialError::Leaf)?;
        let got = spiffe_id_in(leaf).map_err(MaterialError::Unnamed)?;
        if got != id {
            return Err(MaterialError::WrongIdentity { got, wanted: id });
        }
        let Told {
            not_before,
            not_after,
            serial,
        } = Told::by(leaf).ok_or(MaterialError::Leaf)?;
        let credentials = Credentials::new(chain.clone(), key.clone_key(), roots)?;
        Ok(Self {
            server: Arc::new(credentials.server_config(id.trust_domain())?),
            client: credentials.client_template()?,
            id,
            not_before,
            not_after,
            serial,
            chain,
            key,
            roots: roots.into(),
        })
    }

    /// From PEM texts, as [`Certificate::new`].
    ///
    /// # Errors
    /// As [`Certificate::new`], and when a text is not PEM.
    pub fn from_pem(id: SpiffeId, pem: &IssuedPem) -> Result<Self, MaterialError> {
        let chain = certificates("certificate chain", &pem.cert_chain)?;
        let roots = certificates("root", &pem.root)?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(|_| MaterialError::KeyPem)?;
        Self::new(id, chain, key, &roots)
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// First moment of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Last moment of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Serial number, decimal as istioctl prints it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The leaf, then its intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What peers must chain to, in the CA's order.
    pub fn roots(&self) -> &Arc<[CertificateDer<'static>]> {
        &self.roots
    }

    /// The leaf's private key, for keeping it past this process.
    pub(super) fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// For a tunnel to a server that must prove to be one of `expected`; with an empty list every handshake fails.
    pub fn client_config(&self, expected: Arc<[SpiffeId]>) -> Arc<ClientConfig> {
        Arc::new(self.client.expecting(expected))
    }

    /// For accepting tunnels from any identity of our own trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("id", &self.id)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedPem")
            .field("cert_chain", &self.cert_chain)
            .field("key", &"(not shown)")
            .field("root", &self.root)
            .finish()
    }
}

/// Certificates of a PEM text, at least one.
pub(super) fn certificates(part: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .take(MOST_CERTIFICATES + 1)
        .collect::<Result<_, _>>()
        .map_err(|source| MaterialError::Pem { part, source })?;
    match found.len() {
        0 => Err(MaterialError::Pem {
            part,
            source: pem::Error::NoItemsFound,
        }),
        1..=MOST_CERTIFICATES => Ok(found),
        _ => Err(MaterialError::TooMany { part }),
    }
}

/// What a leaf tells besides whose it is.
struct Told {
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
}

impl Told {
    fn by(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        Some(Self {
            not_before: moment(leaf.validity().not_before)?,
            not_after: moment(leaf.validity().not_after)?,
            serial: leaf.serial.to_string(),
        })
    }
}

/// Dates before 1970 do not occur in certificates anyone issues, and are refused.
pub(crate) fn moment(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
