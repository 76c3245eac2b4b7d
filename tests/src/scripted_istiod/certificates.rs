//! What a scripted istiod proves itself with, and how it signs for others.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};

use super::script::Terms;
use crate::failure::{Because as _, Result};

/// Its name in Kubernetes, beside its address in its certificate.
pub(super) const NAME: &str = "istiod.istio-system.svc";

/// A new root in `roots`, and a server certified by it.
pub(super) fn server(ip: IpAddr, roots: &Path) -> Result<Arc<ServerConfig>> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    root.distinguished_name = named("scripted istiod");
    let root_certificate = root.self_signed(&root_key)?;
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new([NAME.to_owned()])?;
    leaf.subject_alt_names.push(SanType::IpAddress(ip));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.distinguished_name = named("istiod");
    let leaf = leaf.signed_by(&key, &issuer)?;
    replace(roots, &root_certificate.pem())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Replaces a file in one step, as the kubelet does.
pub(super) fn replace(path: &Path, text: &str) -> Result {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).because(format!("writing {}", fresh.display()))?;
    fs::rename(&fresh, path).because(format!("renaming to {}", path.display()))
}

fn named(name: &str) -> DistinguishedName {
    let mut whole = DistinguishedName::new();
    whole.push(DnType::CommonName, name);
    whole
}

/// Signs with the key of a directory of `isthmus ca init`.
pub(super) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// PEM of what peers are to believe: its own root, and perhaps others.
    pub(super) roots: String,
}

impl Signer {
    /// Signs with one directory's key, and tells the roots of that and of the others.
    pub(super) fn open(directory: &Path, others: &[PathBuf]) -> Result<Self> {
        let read = |directory: &Path, file: &str| {
            let path = directory.join(file);
            fs::read_to_string(&path).because(format!("reading {}", path.display()))
        };
        let mut roots = read(directory, "root.pem")?;
        let root = CertificateDer::from_pem_slice(roots.as_bytes())?;
        let key = KeyPair::from_pem(&read(directory, "root-key.pem")?)?;
        for other in others {
            roots += &read(other, "root.pem")?;
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&root, key)?,
            roots,
        })
    }

    /// A leaf for the key of a request; who it is for is said apart, as istiod has it (wire-facts §2.2).
    pub(super) fn sign(&self, csr: &str, identity: &str, terms: Terms) -> std::result::Result<String, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let now = OffsetDateTime::from(SystemTime::now());
        let params = &mut request.params;
        *params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.not_before = now + Duration::seconds(terms.begins);
        params.not_after = now + Duration::seconds(terms.ends);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}
