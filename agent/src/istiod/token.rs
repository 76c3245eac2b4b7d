//! Who we are: a service account's token, which the kubelet replaces every few hours.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use tonic::metadata::{Ascii, MetadataValue};

/// A bearer token, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A file, to be read anew for every call.
    File(PathBuf),
    /// The token itself.
    Literal(String),
}

/// Where a token is looked for when nothing was said; without one there, none is shown.
const STANDARD: &str = "./var/run/secrets/tokens/istio-token";

/// Most bytes of a token; a service account's takes about one KiB, and a header may have 16.
const LARGEST: u64 = 16 * 1024;

/// Why there is no token to show.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the token {} cannot be read; is the volume with audience istio-ca mounted?", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// Nothing in it.
    #[error("the token {} is empty", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Not what a header may have.
    #[error("the token has characters that no token has (RFC 7515 §3.1)")]
    Malformed,
}

impl Token {
    /// A token is base64 and dots (RFC 7515 §3.1) and has no slash.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.contains('/') {
            Self::File(text.into())
        } else {
            Self::Literal(text.to_owned())
        }
    }
}

/// Never the token.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Literal(_) => f.write_str("(a token, not shown)"),
        }
    }
}

/// Never the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value of `authorization`. Without a file at the standard place there is none: a control plane that wants no token
/// needs none (wire-facts §1.1).
pub(super) fn bearer(token: &Token) -> Result<Option<MetadataValue<Ascii>>, TokenError> {
    let text = match token {
        Token::Literal(text) => text.clone(),
        Token::File(path) => {
            let text = match read(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && *path == Path::new(STANDARD) => {
                    return Ok(None);
                }
                Err(cause) => {
                    let path = path.clone();
                    return Err(TokenError::Unreadable { path, cause });
                }
            };
            if text.trim().is_empty() {
                return Err(TokenError::Empty { path: path.clone() });
            }
            text
        }
    };
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim())
        .parse()
        .map_err(|_| TokenError::Malformed)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= LARGEST) {
        Ok(text)
    } else {
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is longer than any token",
        ))
    }
}
