//! rustls configurations from one certificate.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::ALPN_H2;
use super::provider::provider;
use super::verify::{ClientVerifier, ServerVerifier};
use crate::identity::SpiffeId;

/// A leaf with its chain and key, and the roots its peers must chain to; everything made from it shares them.
pub(crate) struct Credentials {
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
}

/// A client configuration that lacks only the identities it expects; until given some it trusts nobody.
pub(crate) struct ClientTemplate {
    config: ClientConfig,
    roots: Arc<RootCertStore>,
}

/// Why a certificate, its key and its roots cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The key is of a kind we do not speak, or damaged.
    #[error("the private key cannot be used")]
    Key(#[source] rustls::Error),
    /// Key and leaf do not belong together, or the leaf cannot be parsed.
    #[error("the private key does not belong to the certificate")]
    Mismatch(#[source] rustls::Error),
    /// A root cannot be parsed.
    #[error("root certificate {} of {count} cannot be used", index + 1)]
    Root {
        /// Which one, from 0.
        index: usize,
        /// How many there are.
        count: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// No root at all.
    #[error("there is no root certificate to check peers against")]
    NoRoots(#[source] VerifierBuilderError),
    /// rustls does not take the provider's algorithms for TLS 1.3.
    #[error("the TLS library refuses our algorithms")]
    Algorithms(#[source] rustls::Error),
}

impl Credentials {
    /// Parses the key and the roots, and checks that the key is the leaf's. `chain` is the leaf and its intermediates.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, CredentialsError> {
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(CredentialsError::Key)?;
        let own = CertifiedKey::new(chain, key);
        own.keys_match().map_err(CredentialsError::Mismatch)?;
        let mut store = RootCertStore::empty();
        for (index, root) in roots.iter().enumerate() {
            store.add(root.clone()).map_err(|source| CredentialsError::Root {
                index,
                count: roots.len(),
                source,
            })?;
        }
        Ok(Self {
            own: Arc::new(own.into()),
            roots: Arc::new(store),
        })
    }

    /// The server's side: serves clients of `trust_domain`, and remembers no session, so that none is resumed past the
    /// check of its identity.
    pub(crate) fn server_config(&self, trust_domain: &str) -> Result<ServerConfig, CredentialsError> {
        let verifier = ClientVerifier::new(self.roots.clone(), trust_domain).map_err(CredentialsError::NoRoots)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Algorithms)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The client's side: sends no server name and keeps no session.
    pub(crate) fn client_template(&self) -> Result<ClientTemplate, CredentialsError> {
        let nobody = ServerVerifier::new(self.roots.clone(), Arc::new([]));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Algorithms)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(ClientTemplate {
            config,
            roots: self.roots.clone(),
        })
    }
}

impl ClientTemplate {
    /// The configuration for a server that must be one of `expected`.
    pub(crate) fn expecting(&self, expected: Arc<[SpiffeId]>) -> ClientConfig {
        let mut config = self.config.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(ServerVerifier::new(self.roots.clone(), expected)));
        config
    }
}
