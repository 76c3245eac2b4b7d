//! What a failed handshake means to an operator.

use std::error::Error as StdError;
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::peer::PeerIdentityError;
use super::verify::IdentityRefused;

/// Deepest chain of causes that is looked through.
const DEEPEST_CAUSE: usize = 16;

/// Why a TLS connection did not come about, or ended. The text is for people, [`TlsFailure::label`] for counters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// A certificate in the peer's chain is over.
    #[error("the peer's certificate has expired{}; check that the peer can renew it, and both clocks", span(*seconds, "ago"))]
    PeerExpired {
        /// Seconds since its end, where known.
        seconds: Option<u64>,
    },
    /// A certificate in the peer's chain begins in the future.
    #[error("the peer's certificate is not valid yet{}; check both clocks", span(*seconds, "to go"))]
    PeerNotYetValid {
        /// Seconds until its begin, where known.
        seconds: Option<u64>,
    },
    /// The peer's chain does not lead to our roots, is not properly signed, or is for another use.
    #[error("the peer's certificate is not trusted: {reason}")]
    PeerUntrusted {
        /// What is wrong with it.
        reason: String,
    },
    /// The peer's certificate is good, but it is not who it must be.
    #[error("{reason}")]
    PeerWrongIdentity {
        /// Who it is and who was expected.
        reason: String,
    },
    /// The peer showed no certificate.
    #[error("the peer showed no certificate; HBONE needs one on both sides")]
    PeerMissing,
    /// The peer ended the connection with an alert.
    #[error("the peer refused us: {reason}")]
    Refused {
        /// What the alert says about us.
        reason: String,
    },
    /// Anything else: the network, the protocol.
    #[error("{reason}")]
    Other {
        /// What happened.
        reason: String,
    },
}

/// Reads a failure out of an error, or of the errors that caused it: rustls's own, or an [`io::Error`] of a TLS stream.
pub fn explain(error: &(dyn StdError + 'static)) -> TlsFailure {
    let mut cause = Some(error);
    for _ in 0..DEEPEST_CAUSE {
        let Some(current) = cause else { break };
        if let Some(tls) = current.downcast_ref::<Error>() {
            return TlsFailure::from(tls);
        }
        cause = match current.downcast_ref::<io::Error>() {
            // `source()` of an io::Error skips the error it wraps.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => current.source(),
        };
    }
    TlsFailure::Other {
        reason: error.to_string(),
    }
}

impl TlsFailure {
    /// A fixed word for metrics and the access log.
    pub fn label(&self) -> &'static str {
        match self {
            Self::PeerExpired { .. } => "peer_expired",
            Self::PeerNotYetValid { .. } => "peer_not_yet_valid",
            Self::PeerUntrusted { .. } => "peer_untrusted",
            Self::PeerWrongIdentity { .. } => "peer_wrong_identity",
            Self::PeerMissing => "peer_missing",
            Self::Refused { .. } => "refused",
            Self::Other { .. } => "other",
        }
    }
}

impl From<&Error> for TlsFailure {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(certificate) => certificate.into(),
            Error::NoCertificatesPresented => Self::PeerMissing,
            Error::AlertReceived(alert) => Self::Refused {
                reason: meaning(*alert),
            },
            Error::NoApplicationProtocol => PeerIdentityError::NotH2.into(),
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Self::Other {
                reason: "the peer does not speak TLS 1.3".to_owned(),
            },
            other => Self::Other {
                reason: format!("TLS: {other}"),
            },
        }
    }
}

impl From<&CertificateError> for TlsFailure {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::PeerExpired { seconds: None },
            CertificateError::ExpiredContext { time, not_after } => Self::PeerExpired {
                seconds: Some(between(*not_after, *time)),
            },
            CertificateError::NotValidYet => Self::PeerNotYetValid { seconds: None },
            CertificateError::NotValidYetContext { time, not_before } => Self::PeerNotYetValid {
                seconds: Some(between(*time, *not_before)),
            },
            CertificateError::UnknownIssuer => Self::PeerUntrusted {
                reason: "it does not chain to our roots; are both sides of one mesh, with one root CA?".to_owned(),
            },
            CertificateError::BadSignature => Self::PeerUntrusted {
                reason: "a signature in it does not verify; are there two CAs of one name?".to_owned(),
            },
            CertificateError::Other(other) => match other.0.downcast_ref::<IdentityRefused>() {
                Some(refused) => refused.into(),
                None => Self::PeerUntrusted {
                    reason: error.to_string(),
                },
            },
            other => Self::PeerUntrusted {
                reason: other.to_string(),
            },
        }
    }
}

impl From<&IdentityRefused> for TlsFailure {
    fn from(refused: &IdentityRefused) -> Self {
        Self::PeerWrongIdentity {
            reason: with_causes(refused),
        }
    }
}

impl From<PeerIdentityError> for TlsFailure {
    fn from(error: PeerIdentityError) -> Self {
        match error {
            PeerIdentityError::NoCertificate => Self::PeerMissing,
            PeerIdentityError::NotH2 => Self::Other {
                reason: error.to_string(),
            },
            other => Self::PeerWrongIdentity {
                reason: with_causes(&other),
            },
        }
    }
}

/// What a peer says about us by ending with this alert (RFC 8446 §6.2).
fn meaning(alert: AlertDescription) -> String {
    let about = match alert {
        AlertDescription::CertificateExpired => "our certificate has expired or is not valid yet by its clock",
        AlertDescription::UnknownCA => "our certificate does not chain to its roots",
        AlertDescription::CertificateRequired => "it got no certificate from us",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "it does not accept our certificate or our identity",
        AlertDescription::DecryptError => "a signature of ours does not verify under the roots and certificates it has",
        AlertDescription::NoApplicationProtocol => "it does not speak HTTP/2 here; is it an HBONE endpoint?",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        AlertDescription::HandshakeFailure => "it shares no algorithm with us, or does not accept our certificate",
        _ => "it gave no reason we know",
    };
    format!("{about} (alert {alert:?})")
}

/// An error and its causes on one line.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}

fn between(earlier: UnixTime, later: UnixTime) -> u64 {
    later.as_secs().saturating_sub(earlier.as_secs())
}

fn span(seconds: Option<u64>, direction: &str) -> String {
    seconds
        .map(|seconds| format!(" ({seconds} s {direction})"))
        .unwrap_or_default()
}
