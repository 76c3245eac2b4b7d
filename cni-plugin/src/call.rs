//! The network configuration that the runtime writes to standard input.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// Versions of the CNI specification that this plugin speaks, oldest first.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What an error says before the configuration's own version is known.
pub(crate) const NEWEST_VERSION: &str = "1.1.0";

const DEFAULT_SOCKET: &str = "/run/isthmus/agent.sock";

/// What a call brings on standard input, as far as this plugin looks at it.
#[derive(Debug)]
pub(crate) struct Call {
    /// Version of the specification in use, one of [`VERSIONS`].
    pub(crate) version: String,
    /// The previous plugin's result, byte for byte.
    pub(crate) previous: Option<String>,
    /// Where the agent listens.
    pub(crate) agent_socket: PathBuf,
}

/// Keys of the configuration (CNI specification, section "Network configuration format"); the rest is others'.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration<'a> {
    #[serde(default)]
    cni_version: String,
    #[serde(borrow, default)]
    prev_result: Option<&'a RawValue>,
    #[serde(default)]
    agent_socket: Option<String>,
}

impl Call {
    /// Reads the configuration and judges what is the same for every command.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let read: Configuration<'_> = serde_json::from_slice(bytes).map_err(Failure::NotDecoded)?;
        if !VERSIONS.contains(&read.cni_version.as_str()) {
            return Err(Failure::Version {
                found: read.cni_version,
                supported: VERSIONS.join(", "),
            });
        }
        let socket = read.agent_socket.unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        if !Path::new(&socket).is_absolute() {
            return Err(Failure::AgentSocket { found: socket });
        }
        Ok(Self {
            version: read.cni_version,
            previous: read.prev_result.map(|result| result.get().to_owned()),
            agent_socket: socket.into(),
        })
    }

    /// Whether the specification in use is `version`, one of [`VERSIONS`], or newer.
    pub(crate) fn is_since(&self, version: &str) -> bool {
        let place = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
        place(&self.version) >= place(version)
    }

    /// The previous plugin's result, which a chained plugin must have.
    pub(crate) fn previous(&self) -> Result<String, Failure> {
        let previous = self.previous.as_ref().ok_or(Failure::NoPreviousResult)?;
        if previous.starts_with('{') {
            Ok(previous.clone())
        } else {
            Err(Failure::PreviousResult)
        }
    }
}
