mod code;

use std::{borrow::Cow, fmt, io, sync::Arc};

use nix::errno::Errno;

pub use self::code::CloseCode;
use super::{
    dial::DialError,
    relay::{APPLICATION_BROKE, Ended, LegError, Side},
};
use crate::{
    hbone::{
        StreamError,
        client::{HandshakeError, OpenError},
    },
    mesh::{HBONE_PORT, Unanswered, route::Deny},
    tls::TlsFailure,
};

/// Why a connection ended: exactly one per connection, in its access log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// Which of the documented reasons.
    pub code: CloseCode,
    /// Who ended it.
    pub who: Who,
    /// What was going on.
    pub phase: Phase,
    /// What a machine said, where one did.
    pub cause: Option<Cause>,
    /// The policy that decided, `NAMESPACE/NAME`.
    pub policy: Option<Arc<str>>,
    /// For an operator: what happened, with the names and addresses concerned.
    pub detail: Cow<'static, str>,
}

/// What a machine said of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel, of a socket: a number of errno(3).
    Errno(i32),
    /// The peer, of a CONNECT: an HTTP status.
    Status(u16),
    /// The peer, of a stream: an error code of RFC 9113 §7.
    Stream(h2::Reason),
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
    /// TLS and HTTP/2 with the other end of a tunnel.
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
    /// An end as its code says, with what happened.
    pub fn new(code: CloseCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            who: code.who(),
            phase: code.phase(),
            cause: None,
            policy: None,
            detail: detail.into(),
        }
    }

    /// Both sides finished, `who` first.
    pub fn finished(who: Who) -> Self {
        Self::new(CloseCode::Finished, "finished").by(who)
    }

    /// Whether it ended otherwise than by both sides finishing.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.code != CloseCode::Finished
    }

    /// The same, ended by somebody else than usual.
    #[must_use]
    pub fn by(self, who: Who) -> Self {
        Self { who, ..self }
    }

    /// The same, at another time than usual.
    #[must_use]
    pub fn during(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }

    /// The same, decided by a policy.
    #[must_use]
    pub fn named(self, policy: Option<Arc<str>>) -> Self {
        Self { policy, ..self }
    }

    fn with(self, cause: impl Into<Option<Cause>>) -> Self {
        Self {
            cause: cause.into(),
            ..self
        }
    }
}

impl CloseReason {
    /// A socket that could not be taken up or prepared.
    pub(super) fn of_socket(code: CloseCode, error: &io::Error) -> Self {
        Self::new(code, error.to_string()).with(errno(error))
    }

    /// It is not known whom an address belongs to, and who knows did not say.
    pub(super) fn of_unanswered(unanswered: Unanswered) -> Self {
        Self::new(CloseCode::MeshSilent, unanswered.to_string())
    }

    /// No way was found for an outbound connection.
    pub(super) fn of_deny(deny: &Deny) -> Self {
        let code = match deny {
            Deny::SelfCall { .. } => CloseCode::SelfCall,
            Deny::NoHealthyUpstream { .. } => CloseCode::NoUpstream,
            Deny::UnknownWaypoint { .. } | Deny::NoWaypoint { .. } | Deny::WaypointElsewhere { .. } => {
                CloseCode::NoWaypoint
            }
            Deny::UnknownGateway { .. } | Deny::GatewayWithoutHbone { .. } | Deny::OtherNetwork { .. } => {
                CloseCode::NoGateway
            }
            Deny::Tried { .. } => CloseCode::NoUpstream,
            Deny::NoIdentity { .. } => CloseCode::NoIdentity,
            Deny::NeedsDns { .. } => CloseCode::DnsFailed,
        };
        Self::new(code, deny.to_string()).during(Phase::Decide)
    }

    /// The end of a relay between `near` and `far`.
    pub(super) fn of_relay(ended: &Ended, near: Who, far: Who) -> Self {
        let who = |side: Side| if side == Side::Near { near } else { far };
        let (side, error) = match ended {
            Ended::Finished { first } => return Self::finished(who(*first)),
            Ended::Broken { side, error } => (*side, error),
        };
        let text = error.to_string();
        match error {
            LegError::Tcp(cause) => {
                let code = match cause.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseCode::Reset,
                    _ => CloseCode::ApplicationLost,
                };
                Self::new(code, text).by(who(side)).with(errno(cause))
            }
            LegError::Stream(StreamError::Reset(reason)) => {
                // The code by which agents pass on that the application behind them broke.
                let by = match *reason {
                    h2::Reason::CONNECT_ERROR | APPLICATION_BROKE => who(side),
                    _ => Who::Peer,
                };
                Self::new(CloseCode::StreamReset, text)
                    .by(by)
                    .with(Cause::Stream(*reason))
            }
            LegError::Stream(StreamError::Unwanted | StreamError::Closed) => Self::new(CloseCode::StreamReset, text),
            LegError::Stream(StreamError::Lost(_)) => Self::new(CloseCode::TunnelLost, text),
        }
    }

    /// The end of an attempt to reach `who`.
    pub(super) fn of_dial(error: &DialError, who: Who) -> Self {
        let text = error.to_string();
        match error {
            DialError::Socket { cause, .. } => Self::new(CloseCode::SocketFailed, text).with(errno(cause)),
            DialError::Connect { to, cause } => {
                let tunnel = who == Who::Peer && to.port() == HBONE_PORT;
                let code = match (cause.kind(), tunnel) {
                    (io::ErrorKind::ConnectionRefused, true) => CloseCode::HboneRefused,
                    (io::ErrorKind::ConnectionRefused, false) => CloseCode::ConnectRefused,
                    (io::ErrorKind::TimedOut, true) => CloseCode::HboneTimeout,
                    (io::ErrorKind::TimedOut, false) => CloseCode::ConnectTimeout,
                    _ => CloseCode::ConnectFailed,
                };
                Self::new(code, text).by(who).with(errno(cause))
            }
            DialError::ConnectTimeout { to, .. } => {
                let tunnel = who == Who::Peer && to.port() == HBONE_PORT;
                let code = if tunnel {
                    CloseCode::HboneTimeout
                } else {
                    CloseCode::ConnectTimeout
                };
                Self::new(code, text)
                    .by(who)
                    .with(Cause::Errno(Errno::ETIMEDOUT as i32))
            }
            DialError::Certificate(_) | DialError::CertificateTimeout { .. } => {
                Self::new(CloseCode::CertificateMissing, text)
            }
            DialError::Handshake { cause, .. } => Self::of_handshake(cause, text),
            DialError::HandshakeTimeout { .. } => Self::new(CloseCode::HandshakeTimeout, text),
            DialError::Open { cause, .. } => Self::of_answer(cause, text),
            DialError::AnswerTimeout { .. } => Self::new(CloseCode::PeerSilent, text),
            DialError::Abandoned { .. } => Self::new(CloseCode::ClientGaveUp, text),
        }
    }

    /// The end of a handshake, either end's.
    pub(super) fn of_handshake(error: &HandshakeError, text: String) -> Self {
        let code = match error {
            HandshakeError::Http2(_) => CloseCode::Http2Failed,
            HandshakeError::Tls(failure) => match failure {
                TlsFailure::PeerExpired { .. } | TlsFailure::PeerNotYetValid { .. } => CloseCode::TlsExpired,
                TlsFailure::PeerUntrusted { .. } | TlsFailure::PeerMissing => CloseCode::TlsUntrusted,
                TlsFailure::PeerWrongIdentity { .. } => CloseCode::TlsWrongIdentity,
                TlsFailure::Refused { .. } => CloseCode::TlsRefused,
                TlsFailure::Other { .. } => CloseCode::TlsFailed,
            },
        };
        Self::new(code, text)
    }

    fn of_answer(error: &OpenError, text: String) -> Self {
        match error {
            OpenError::Refused { status } => {
                let code = match status.as_u16() {
                    401 | 403 => CloseCode::PeerDenied,
                    _ => CloseCode::PeerRefused,
                };
                Self::new(code, text).with(Cause::Status(status.as_u16()))
            }
            OpenError::Reset(reason) => Self::new(CloseCode::PeerReset, text).with(Cause::Stream(*reason)),
            OpenError::Lost(_) => Self::new(CloseCode::PeerLost, text),
            // Our own request was no HTTP.
            OpenError::Head(_) => Self::new(CloseCode::BadRequest, text).by(Who::Agent),
        }
    }
}

fn errno(error: &io::Error) -> Option<Cause> {
    error.raw_os_error().map(Cause::Errno)
}

/// `CODE WHO PHASE: DETAIL`.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}: {}",
            self.code.name(),
            self.who.word(),
            self.phase.word(),
            self.detail
        )
    }
}

/// The name of an errno, the number of a status, the name of a stream's error code.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(code) => write!(f, "{:?}", Errno::from_raw(*code)),
            Self::Status(status) => write!(f, "{status}"),
            Self::Stream(reason) => write!(f, "{reason:?}"),
        }
    }
}

impl Who {
    /// Its word in logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Peer => "peer",
            Self::Agent => "agent",
        }
    }
}

impl Phase {
    /// Its word in logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
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
mod tests;
