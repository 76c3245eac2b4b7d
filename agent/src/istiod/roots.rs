//! Who istiod must be certified by.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, pem, pem::PemObject};

/// Most bytes of a file that are read; a ConfigMap has no more (1 MiB).
const LARGEST_FILE: u64 = 1 << 20;

/// Certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of a PEM file.
    File(PathBuf),
    /// Those of the platform.
    System,
    /// These, in PEM.
    Inline(String),
}

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("the roots {} cannot be read; is the ConfigMap istio-ca-root-cert mounted?", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// It is not PEM.
    #[error("the roots {origin} are not PEM of certificates")]
    Pem {
        /// Where they are from.
        origin: String,
        /// Cause.
        #[source]
        cause: pem::Error,
    },
    /// There is none.
    #[error("the roots {origin} hold no certificate")]
    None {
        /// Where they are from.
        origin: String,
    },
    /// None of them is a certificate that signs others.
    #[error("none of the certificates in {origin} can be used as a root")]
    Unusable {
        /// Where they are from.
        origin: String,
    },
    /// The platform's cannot be read.
    #[error("the platform's store of roots cannot be read: {0}")]
    System(String),
}

impl Roots {
    /// What an operator wrote: `SYSTEM`, PEM, or a path.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text {
            "SYSTEM" => Self::System,
            text if text.contains("-----BEGIN") => Self::Inline(text.to_owned()),
            path => Self::File(path.into()),
        }
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::System => f.write_str("SYSTEM"),
            Self::Inline(pem) => write!(f, "{} bytes of PEM", pem.len()),
        }
    }
}

/// The certificates, as they are now.
///
/// # Errors
/// When there is none.
pub fn certificates(roots: &Roots) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let found = match roots {
        Roots::File(path) => {
            let pem = read(path).map_err(|cause| RootsError::Unreadable {
                path: path.clone(),
                cause,
            })?;
            parse(roots, &pem)?
        }
        Roots::Inline(pem) => parse(roots, pem.as_bytes())?,
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
                return Err(RootsError::System(error.to_string()));
            }
            found.certs
        }
    };
    if found.is_empty() {
        return Err(RootsError::None {
            origin: roots.to_string(),
        });
    }
    Ok(found)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST_FILE) {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"))
    }
}

fn parse(roots: &Roots, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|cause| RootsError::Pem {
            origin: roots.to_string(),
            cause,
        })
}
