use std::{borrow::Cow, fmt};

use super::{
    dial::DialError,
    relay::{APPLICATION_BROKE, Ended, LegError, Side},
};
use crate::hbone::{StreamError, client::OpenError};

/// Why a connection ended: exactly one per connection, in its access log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// Who ended it.
    pub who: Who,
    /// What was going on.
    pub phase: Phase,
    /// For an operator: what happened and, where we know, what to look at.
    pub detail: Cow<'static, str>,
    /// Whether it ended otherwise than by both sides finishing.
    pub failed: bool,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The application that dialled.
    Client,
    /// The application that was dialled.
    Server,
    /// The agent, gateway or waypoint at the other end of the tunnel.
    Peer,
    /// This agent.
    Agent,
}

/// What was going on when a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking it from the listener.
    Accept,
    /// TLS and HTTP/2 with whoever dialled us.
    Handshake,
    /// Deciding where it goes.
    Decide,
    /// Asking policy whether it may.
    Authorize,
    /// Reaching the other side.
    Connect,
    /// Carrying bytes.
    Relay,
}

impl CloseReason {
    /// A failure.
    pub fn failed(who: Who, phase: Phase, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            who,
            phase,
            detail: detail.into(),
            failed: true,
        }
    }

    /// Both sides finished, `who` first.
    pub fn finished(who: Who) -> Self {
        Self {
            who,
            phase: Phase::Relay,
            detail: "finished".into(),
            failed: false,
        }
    }
}

impl CloseReason {
    /// The end of a relay between `near` and `far`.
    pub(super) fn of_relay(ended: &Ended, near: Who, far: Who) -> Self {
        let who = |side: Side| if side == Side::Near { near } else { far };
        match ended {
            Ended::Finished { first } => Self::finished(who(*first)),
            Ended::Broken { side, error } => {
                let by = match error {
                    LegError::Tcp(_)
                    | LegError::Stream(StreamError::Reset(h2::Reason::CONNECT_ERROR | APPLICATION_BROKE)) => who(*side),
                    LegError::Stream(_) => Who::Peer,
                };
                Self::failed(by, Phase::Relay, error.to_string())
            }
        }
    }

    /// The end of an attempt to reach a tunnel's other end.
    pub(super) fn of_dial(error: &DialError) -> Self {
        let (who, phase) = match error {
            DialError::Socket { .. }
            | DialError::Certificate(_)
            | DialError::CertificateTimeout { .. }
            | DialError::Abandoned { .. } => (Who::Agent, Phase::Connect),
            DialError::Handshake { .. } | DialError::HandshakeTimeout { .. } => (Who::Peer, Phase::Handshake),
            DialError::Open {
                cause: OpenError::Refused { status },
                ..
            } if *status == 401 => (Who::Peer, Phase::Authorize),
            _ => (Who::Peer, Phase::Connect),
        };
        Self::failed(who, phase, error.to_string())
    }
}

/// `WHO PHASE: DETAIL`.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.who.word(), self.phase.word(), self.detail)
    }
}

impl Who {
    fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Peer => "peer",
            Self::Agent => "agent",
        }
    }
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Handshake => "handshake",
            Self::Decide => "decide",
            Self::Authorize => "authorize",
            Self::Connect => "connect",
            Self::Relay => "relay",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_one_short_line() {
        assert_eq!(CloseReason::finished(Who::Client).to_string(), "client relay: finished");
        let denied = CloseReason::failed(Who::Agent, Phase::Authorize, "denied by policy demo/deny");
        assert_eq!(denied.to_string(), "agent authorize: denied by policy demo/deny");
    }
}
