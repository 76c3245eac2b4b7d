//! Certificates as anybody may see them.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::Each;
use crate::identity::{Held, SpiffeId};

/// Characters in a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// What is held for one identity.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Whose it is.
    pub identity: SpiffeId,
    /// Whether it can be used.
    pub availability: Availability,
    /// The leaf and its intermediates; empty while there is none.
    pub chain: Vec<CertificateDer<'static>>,
    /// What peers must chain to.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Whether an identity has a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It is valid now.
    Available,
    /// The first one is being asked for.
    Initializing,
    /// There is none, or it is over.
    Unavailable(String),
}

impl Credential {
    /// What the cache holds of an identity, as of `now`.
    pub fn of(identity: SpiffeId, held: Held, now: SystemTime) -> Self {
        let Held {
            certificate, failure, ..
        } = held;
        let is_valid = certificate
            .as_ref()
            .is_some_and(|certificate| (certificate.not_before()..=certificate.not_after()).contains(&now));
        let availability = match failure {
            _ if is_valid => Availability::Available,
            Some(failure) => Availability::Unavailable(failure),
            None if certificate.is_some() => Availability::Unavailable("it is not valid now".to_owned()),
            None => Availability::Initializing,
        };
        let (chain, roots) = certificate.map_or_else(Default::default, |certificate| {
            (certificate.chain().to_vec(), certificate.roots().to_vec())
        });
        Self {
            identity,
            availability,
            chain,
            roots,
        }
    }
}

pub(super) struct View<'a>(pub(super) &'a Credential);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a, C, R> {
    identity: &'a str,
    state: String,
    cert_chain: C,
    root_certs: R,
}

/// One certificate. What cannot be read has no serial number and no times, and istioctl calls it invalid.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct One {
    /// PEM, in base64 once more.
    pem: String,
    /// Decimal.
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Credential {
            identity,
            availability,
            chain,
            roots,
        } = self.0;
        let fields = Fields {
            identity: identity.as_str(),
            state: match availability {
                Availability::Available => "Available".to_owned(),
                Availability::Initializing => "Initializing".to_owned(),
                Availability::Unavailable(why) => format!("Unavailable: {why}"),
            },
            cert_chain: Each(|| chain.iter().map(One::of)),
            root_certs: Each(|| roots.iter().map(One::of)),
        };
        fields.serialize(serializer)
    }
}

impl One {
    fn of(der: &CertificateDer<'_>) -> Self {
        let pem = STANDARD.encode(pem(der));
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self {
                pem,
                serial_number: "0".to_owned(),
                ..Self::default()
            };
        };
        let validity = certificate.validity();
        Self {
            pem,
            serial_number: certificate.tbs_certificate.serial.to_string(),
            valid_from: moment(validity.not_before.timestamp()),
            expiration_time: moment(validity.not_after.timestamp()),
        }
    }
}

fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (at, character) in body.chars().enumerate() {
        if at > 0 && at % PEM_LINE == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

fn moment(unix_seconds: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(unix_seconds).ok();
    moment
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}
