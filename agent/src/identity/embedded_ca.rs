//! A CA in a directory, for tests and demo. Its key lies on the disk: whoever reads it is everybody in the mesh.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::moment;
use super::{Certificate, CertificateSource, IssueError, SpiffeId};

pub use super::IssuedPem;

#[cfg(test)]
mod tests;

const ROOT_FILE: &str = "root.pem";
const KEY_FILE: &str = "root-key.pem";
const LARGEST_FILE: u64 = 64 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROOT_LIFE: Duration = Duration::from_secs(3652 * 24 * 60 * 60);
/// Certificates begin this long ago, for peers whose clock is a little behind.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// A root certificate and its key, read from `root.pem` and `root-key.pem`. Several agents may open one directory.
pub struct EmbeddedCa {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
    /// How long the certificates it issues by itself are valid.
    life: Duration,
}

/// When a certificate is valid; to the second, towards the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

/// Why the embedded CA could not be made, opened or asked.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedCaError {
    /// A directory or file could not be read or written.
    #[error("embedded CA: cannot {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is a CA already; replacing it would cut off everybody who has a certificate of it.
    #[error("embedded CA: {} is there already; use it, or remove the directory's CA yourself", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// A file is far larger than a certificate or key.
    #[error("embedded CA: {} has more than {LARGEST_FILE} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The root is not a PEM certificate.
    #[error("embedded CA: {} is not a PEM certificate", path.display())]
    Root {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The root cannot be parsed.
    #[error("embedded CA: {} is not a usable X.509 certificate", path.display())]
    RootContent {
        /// Which file.
        path: PathBuf,
    },
    /// The root is not valid at this time.
    #[error("embedded CA: {} has ended or not begun; check the clock, or create a CA in another directory", path.display())]
    RootDates {
        /// Which file.
        path: PathBuf,
    },
    /// The key is not a P-256 key in PEM. The cause is left out: it can quote the key.
    #[error("embedded CA: {} is not a P-256 private key in PEM", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// Root and key are not a pair.
    #[error("embedded CA: {KEY_FILE} is not the key of {ROOT_FILE} in {}", directory.display())]
    Mismatch {
        /// Where.
        directory: PathBuf,
    },
    /// The terms cannot be written in a certificate.
    #[error(
        "embedded CA: a certificate cannot begin or end then; use years 1970 to 9999, with the end after the begin"
    )]
    Terms,
    /// Keys or signatures failed.
    #[error("embedded CA: cannot make a key or certificate")]
    Crypto(#[from] rcgen::Error),
}

impl EmbeddedCa {
    /// Makes a root, valid for ten years, in `directory`, which is made too when missing, and opens it.
    ///
    /// # Errors
    /// When there is a root or a key already, or a file cannot be written.
    pub fn create(directory: &Path) -> Result<Self, EmbeddedCaError> {
        fs::create_dir_all(directory).map_err(failed("write", directory))?;
        let root_path = directory.join(ROOT_FILE);
        if root_path.exists() {
            return Err(EmbeddedCaError::Exists { path: root_path });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root = root_params(&key, SystemTime::now())?.self_signed(&key)?;
        // The key first: of two who create at once, the one that makes it wins, and the other has touched nothing.
        write_new(&directory.join(KEY_FILE), 0o600, &key.serialize_pem())?;
        write_new(&root_path, 0o644, &root.pem())?;
        Self::open(directory)
    }

    /// Opens the CA in `directory`, and says in the log what it is.
    ///
    /// # Errors
    /// When a file is missing or damaged, root and key are no pair, or the root is not valid now.
    pub fn open(directory: &Path) -> Result<Self, EmbeddedCaError> {
        let root_path = directory.join(ROOT_FILE);
        let key_path = directory.join(KEY_FILE);
        let root_pem = read(&root_path)?;
        let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).map_err(|source| EmbeddedCaError::Root {
            path: root_path.clone(),
            source,
        })?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&read(&key_path)?, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| EmbeddedCaError::Key { path: key_path })?;
        check_root(&root, &key, directory, SystemTime::now())?;
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        tracing::warn!(directory = %directory.display(), "embedded CA: keys on disk, not for production");
        Ok(Self {
            issuer,
            root,
            root_pem,
            life: DAY,
        })
    }

    /// With another life of the certificates it issues than a day.
    #[must_use]
    pub fn with_life(self, life: Duration) -> Self {
        Self { life, ..self }
    }

    /// A certificate with terms of the caller's choice, even expired or not begun ones, as PEM texts.
    ///
    /// # Errors
    /// When the terms cannot be written in a certificate.
    pub fn issue_pem(&self, id: &SpiffeId, terms: Terms) -> Result<IssuedPem, EmbeddedCaError> {
        let (leaf, key) = self.sign(&[id.as_str()], terms)?;
        Ok(IssuedPem {
            cert_chain: leaf.pem(),
            key: key.serialize_pem(),
            root: self.root_pem.clone(),
        })
    }

    /// The root certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A new key and a leaf for any URIs; tests need none and several.
    pub(crate) fn sign(&self, uris: &[&str], terms: Terms) -> Result<(rcgen::Certificate, KeyPair), EmbeddedCaError> {
        if terms.not_after < terms.not_before {
            return Err(EmbeddedCaError::Terms);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| Ok(SanType::URI((*uri).try_into()?)))
            .collect::<Result<_, rcgen::Error>>()?;
        params.not_before = date(terms.not_before)?;
        params.not_after = date(terms.not_after)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((leaf, key))
    }

    fn issue_now(&self, id: SpiffeId) -> Result<Arc<Certificate>, IssueError> {
        let authority = |error: EmbeddedCaError| IssueError::Authority(Box::new(error));
        let (leaf, key) = self
            .sign(&[id.as_str()], Terms::of(SystemTime::now(), self.life))
            .map_err(authority)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Arc::new(Certificate::new(
            id,
            vec![leaf.into()],
            key.into(),
            std::slice::from_ref(&self.root),
        )?))
    }
}

impl CertificateSource for EmbeddedCa {
    /// Ready at once: a key and a signature take a fraction of a millisecond.
    fn issue(&self, id: SpiffeId) -> BoxFuture<'static, Result<Arc<Certificate>, IssueError>> {
        future::ready(self.issue_now(id)).boxed()
    }
}

impl Terms {
    /// The usual terms: a day from `now`, and a minute before it.
    pub fn day_from(now: SystemTime) -> Self {
        Self::of(now, DAY)
    }

    fn of(now: SystemTime, life: Duration) -> Self {
        Self {
            not_before: now.checked_sub(CLOCK_SLACK).unwrap_or(now),
            not_after: now.checked_add(life).unwrap_or(now),
        }
    }
}

fn root_params(key: &KeyPair, now: SystemTime) -> Result<CertificateParams, EmbeddedCaError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Isthmus embedded CA, not for production");
    // Two CAs of one name would turn "unknown issuer" into "bad signature".
    let mark: String = params
        .key_identifier(key)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    name.push(DnType::CommonName, format!("isthmus-{mark}"));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now.checked_sub(CLOCK_SLACK).unwrap_or(now))?;
    params.not_after = date(now.checked_add(ROOT_LIFE).ok_or(EmbeddedCaError::Terms)?)?;
    Ok(params)
}

fn check_root(
    root: &CertificateDer<'_>,
    key: &KeyPair,
    directory: &Path,
    now: SystemTime,
) -> Result<(), EmbeddedCaError> {
    let path = || directory.join(ROOT_FILE);
    let (_, parsed) = X509Certificate::from_der(root).map_err(|_| EmbeddedCaError::RootContent { path: path() })?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(EmbeddedCaError::Mismatch {
            directory: directory.to_owned(),
        });
    }
    let dates = parsed.validity();
    match (moment(dates.not_before), moment(dates.not_after)) {
        (Some(begin), Some(end)) if begin <= now && now <= end => Ok(()),
        _ => Err(EmbeddedCaError::RootDates { path: path() }),
    }
}

fn date(moment: SystemTime) -> Result<OffsetDateTime, EmbeddedCaError> {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .map_err(|_| EmbeddedCaError::Terms)?
        .as_secs();
    let seconds = i64::try_from(seconds).map_err(|_| EmbeddedCaError::Terms)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| EmbeddedCaError::Terms)
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> EmbeddedCaError {
    move |source| EmbeddedCaError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<String, EmbeddedCaError> {
    let mut text = String::new();
    let file = File::open(path).map_err(failed("read", path))?;
    let length = file
        .take(LARGEST_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed("read", path))?;
    if u64::try_from(length).is_ok_and(|length| length <= LARGEST_FILE) {
        Ok(text)
    } else {
        Err(EmbeddedCaError::TooLarge { path: path.to_owned() })
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), EmbeddedCaError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(EmbeddedCaError::Exists { path: path.to_owned() });
        }
        Err(error) => return Err(failed("write", path)(error)),
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}
