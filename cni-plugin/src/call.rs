//! The network configuration that the runtime writes to standard input.

use std::path::{Path, PathBuf};

use isthmus_wire::NAMESPACES_NAME;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{away::Away, failure::Failure};

/// Versions of the CNI specification that this plugin speaks, oldest first.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What an error says before the configuration's own version is known.
pub(crate) const NEWEST_VERSION: &str = "1.1.0";

const DEFAULT_SOCKET: &str = "/run/isthmus/agent.sock";

/// What a call brings on standard input, as far as this plugin looks at it.
#[derive(Debug)]
pub(crate) struct Call {
    /// Version of the specification in use, one of [`VERSIONS`]; for VERSION, which is asked by runtimes that are newer
    /// than this plugin as well, any.
    pub(crate) version: String,
    /// The previous plugin's result, byte for byte.
    pub(crate) previous: Option<String>,
    /// Where the agent listens.
    pub(crate) agent_socket: PathBuf,
    /// What the agent left to be read while it is away.
    pub(crate) namespaces_file: PathBuf,
    /// Who passes without the agent.
    pub(crate) away: Away,
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
    #[serde(default)]
    namespaces_file: Option<String>,
    #[serde(flatten)]
    away: Away,
}

impl Call {
    /// Reads the configuration and judges what is the same for every command.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let read: Configuration<'_> = serde_json::from_slice(bytes).map_err(Failure::NotDecoded)?;
        let agent_socket = absolute("agentSocket", read.agent_socket, || DEFAULT_SOCKET.into())?;
        let beside = || agent_socket.with_file_name(NAMESPACES_NAME);
        Ok(Self {
            version: read.cni_version,
            previous: read.prev_result.map(|result| result.get().to_owned()),
            namespaces_file: absolute("namespacesFile", read.namespaces_file, beside)?,
            agent_socket,
            away: read.away,
        })
    }

    /// Whether this plugin speaks the version in use.
    pub(crate) fn is_spoken(&self) -> bool {
        VERSIONS.contains(&self.version.as_str())
    }

    /// Refuses versions that this plugin does not speak.
    pub(crate) fn must_be_spoken(&self) -> Result<(), Failure> {
        if self.is_spoken() {
            return Ok(());
        }
        Err(Failure::Version {
            found: self.version.chars().take(80).collect(),
            supported: VERSIONS.join(", "),
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

fn absolute(key: &'static str, said: Option<String>, standard: impl FnOnce() -> PathBuf) -> Result<PathBuf, Failure> {
    match said {
        None => Ok(standard()),
        Some(path) if Path::new(&path).is_absolute() => Ok(path.into()),
        Some(found) => Err(Failure::Path { key, found }),
    }
}
