//! Why a call failed, as the CNI specification wants it said.

use std::io;

use isthmus_wire::AskError;
use serde_json::json;

/// Codes of the CNI specification, section "Error"; from 100 on they are a plugin's own.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const INPUT_OUTPUT: u32 = 5;
const NOT_DECODED: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
const NOT_AVAILABLE: u32 = 50;
const REFUSED: u32 = 100;

/// Why a call of the runtime was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("standard input cannot be read: {0}")]
    Input(#[source] io::Error),
    #[error("the result cannot be written to standard output: {0}")]
    Output(#[source] io::Error),
    #[error("the network configuration on standard input is longer than {limit} bytes; shorten the CNI configuration")]
    InputTooLong { limit: u64 },
    #[error(
        "the network configuration on standard input is not what CNI promises: {0}; look at the files in the CNI \
         configuration directory, usually /etc/cni/net.d"
    )]
    NotDecoded(#[source] serde_json::Error),
    #[error("cniVersion {found:?} is not supported; set one of {supported} in the CNI configuration")]
    Version { found: String, supported: String },
    #[error("{command} needs cniVersion {since} or newer, and the configuration says {found}")]
    CommandTooNew {
        command: &'static str,
        since: &'static str,
        found: String,
    },
    #[error(
        "the configuration has no prevResult; list this plugin after the one that makes the pod's network, in one \
         .conflist"
    )]
    NoPreviousResult,
    #[error("prevResult in the configuration is not a JSON object; look at the plugin listed before this one")]
    PreviousResult,
    #[error("{key} in the configuration is {found:?}; it must be an absolute path, e.g. /run/isthmus/agent.sock")]
    Path { key: &'static str, found: String },
    #[error(
        "CNI_COMMAND is {found:?}; only a container runtime calls this program, with ADD, DEL, CHECK, GC, STATUS or VERSION"
    )]
    Command { found: String },
    #[error("{variable} is not set for {command}; the container runtime must set it")]
    Missing {
        variable: &'static str,
        command: &'static str,
    },
    #[error("{variable} is malformed ({reason}): {value:?}; look at the container runtime's CNI call")]
    Malformed {
        variable: &'static str,
        reason: &'static str,
        value: String,
    },
    #[error("CNI_ARGS says no {key}; only runtimes that serve Kubernetes pods can use this plugin")]
    NotKubernetes { key: &'static str },
    #[error("the pod is not enrolled, so it does not start: {cause}; {reason}")]
    NoAgent {
        #[source]
        cause: AskError,
        reason: String,
    },
    #[error("the pod is not enrolled, so it does not start: {0}")]
    NotUnderstood(#[source] AskError),
    #[error("the agent did not {doing} the pod: {reason}")]
    Refused {
        doing: &'static str,
        reason: String,
        retriable: bool,
    },
    #[error("pods cannot be enrolled now: {0}")]
    Unavailable(#[source] AskError),
    #[error("what the mesh holds of the pod cannot be read: {0}")]
    Unread(#[source] AskError),
    #[error("the agent answered something else than it was asked; are plugin and agent of one version?")]
    OffTopic,
    #[error("pods cannot be enrolled yet: {reason}")]
    NotReady { reason: String },
}

impl Failure {
    /// The code that tells the runtime what kind of failure this is.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::CommandTooNew { .. } => INCOMPATIBLE_VERSION,
            Self::Command { .. } | Self::Missing { .. } | Self::Malformed { .. } | Self::NotKubernetes { .. } => {
                INVALID_ENVIRONMENT
            }
            Self::Input(_) | Self::Output(_) => INPUT_OUTPUT,
            Self::NotDecoded(_) => NOT_DECODED,
            Self::InputTooLong { .. } | Self::NoPreviousResult | Self::PreviousResult | Self::Path { .. } => {
                INVALID_CONFIGURATION
            }
            Self::NoAgent { .. } | Self::NotUnderstood(_) | Self::Unread(_) | Self::Refused { retriable: true, .. } => {
                TRY_AGAIN_LATER
            }
            Self::Unavailable(_) | Self::NotReady { .. } => NOT_AVAILABLE,
            Self::Refused { retriable: false, .. } | Self::OffTopic => REFUSED,
        }
    }

    /// The error as the runtime reads it from standard output.
    pub(crate) fn to_json(&self, version: &str) -> String {
        json!({ "cniVersion": version, "code": self.code(), "msg": self.to_string(), "details": self.causes() })
            .to_string()
    }

    /// Causes below the first, which `msg` tells already.
    fn causes(&self) -> String {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self).and_then(std::error::Error::source);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes.join(": ")
    }
}
