//! The file that tells the CNI plugin, while the agent is away, which namespaces are ambient.
//!
//! The agent keeps it in its state directory, under [`NAMESPACES_NAME`], and replaces it whole. It is JSON:
//!
//! ```json
//! {"version":1,"namespaces":{"kube-system":"excluded","shop":"ambient","tools":"other"}}
//! ```
//!
//! A reader that does not know the version takes nothing from it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Name of the file inside the agent's run directory.
pub const NAMESPACES_NAME: &str = "namespaces.json";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Longest file that is read, in bytes: some fifty thousand namespaces.
const LIMIT_BYTES: u64 = 4 << 20;

/// What is known of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Its pods are enrolled, unless one says otherwise of itself.
    Ambient,
    /// Its pods are never enrolled.
    Excluded,
    /// Its pods are not enrolled, unless one says so of itself.
    Other,
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    version: u32,
    /// Every namespace the agent knows of.
    pub namespaces: BTreeMap<String, Mode>,
}

/// Why nothing can be taken from the file.
#[derive(Debug, thiserror::Error)]
pub enum NamespacesError {
    /// It is not there, or closed to us.
    #[error("{path} cannot be read; the agent writes it once it knows the cluster's namespaces")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// It is not what the agent writes.
    #[error("{path} is not understood; the agent replaces it when it is back")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: serde_json::Error,
    },
    /// It is longer than any agent writes it.
    #[error("{path} is longer than {LIMIT_BYTES} bytes; the agent replaces it when it is back")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// An agent of another version wrote it.
    #[error(
        "{path} has version {found} and this plugin reads version {VERSION}; the agent replaces it when it is back"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u32,
    },
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Namespaces {
    /// As they are now.
    #[must_use]
    pub fn new(namespaces: BTreeMap<String, Mode>) -> Self {
        Self {
            version: VERSION,
            namespaces,
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// Never for what [`new`](Self::new) made.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|text| text + "\n")
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is absent, malformed, or of another version.
    pub fn read(path: &Path) -> Result<Self, NamespacesError> {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LIMIT_BYTES + 1).read_to_end(&mut text))
            .map_err(|cause| NamespacesError::Read {
                path: path.to_owned(),
                cause,
            })?;
        if text.len() as u64 > LIMIT_BYTES {
            return Err(NamespacesError::TooLong { path: path.to_owned() });
        }
        let malformed = |cause| NamespacesError::Malformed {
            path: path.to_owned(),
            cause,
        };
        let head: Head = serde_json::from_slice(&text).map_err(malformed)?;
        if head.version != VERSION {
            return Err(NamespacesError::Version {
                path: path.to_owned(),
                found: head.version,
            });
        }
        serde_json::from_slice(&text).map_err(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &[u8]) -> Result<Namespaces, NamespacesError> {
        let path = std::env::temp_dir().join(format!("isthmus-namespaces-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let read = Namespaces::read(&path);
        std::fs::remove_file(path).unwrap();
        read
    }

    #[test]
    fn what_is_written_is_read() {
        let modes = [("a", Mode::Ambient), ("b", Mode::Excluded), ("c", Mode::Other)];
        let modes = modes.map(|(name, mode)| (name.to_owned(), mode));
        let namespaces = Namespaces::new(modes.into());
        let text = namespaces.to_text().unwrap();
        assert_eq!(
            text,
            "{\"version\":1,\"namespaces\":{\"a\":\"ambient\",\"b\":\"excluded\",\"c\":\"other\"}}\n"
        );
        assert_eq!(read("whole", text.as_bytes()).unwrap(), namespaces);
    }

    #[test]
    fn nothing_is_taken_from_what_is_not_understood() {
        for text in [
            "",
            "{",
            "[]",
            "{\"version\":1}",
            "{\"version\":1,\"namespaces\":{\"a\":\"x\"}}",
        ] {
            let error = read("malformed", text.as_bytes()).unwrap_err();
            assert!(matches!(error, NamespacesError::Malformed { .. }), "{text}: {error}");
        }
        // Whatever else a later version has.
        let error = read("later", b"{\"version\":2,\"namespaces\":[]}").unwrap_err();
        assert!(matches!(error, NamespacesError::Version { found: 2, .. }), "{error}");
        let long = vec![b' '; usize::try_from(LIMIT_BYTES).unwrap() + 1];
        assert!(matches!(
            read("long", &long).unwrap_err(),
            NamespacesError::TooLong { .. }
        ));
        let error = Namespaces::read(Path::new("/nonexistent/namespaces.json")).unwrap_err();
        assert!(matches!(error, NamespacesError::Read { .. }), "{error}");
    }
}
