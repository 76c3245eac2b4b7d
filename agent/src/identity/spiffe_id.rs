//! The name of an identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

const SCHEME: &str = "spiffe://";
const NAMESPACE_MARK: &str = "/ns/";
const SERVICE_ACCOUNT_MARK: &str = "/sa/";
/// Longest whole ID in bytes (SPIFFE-ID §2.3).
const LONGEST_ID: usize = 2048;
/// Longest trust domain in bytes (SPIFFE-ID §2.1, the host part of RFC 3986).
const LONGEST_TRUST_DOMAIN: usize = 255;

/// A workload's SPIFFE ID in the mesh's form, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT` (wire-facts §2.2).
///
/// Strict: the characters are those the SPIFFE ID standard allows, nothing is decoded or normalised, so two IDs are the
/// same identity exactly when their texts are the same. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

/// Why a text is not a workload's SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSpiffeIdError {
    /// More bytes than the standard allows.
    #[error("SPIFFE ID of {length} bytes; at most {LONGEST_ID} are allowed")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// The text does not have the mesh's form.
    #[error("{text:?} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Form {
        /// What was given.
        text: String,
    },
    /// The trust domain is empty, too long, or has a character it may not have.
    #[error("trust domain {text:?}: 1 to {LONGEST_TRUST_DOMAIN} of a-z 0-9 . - _ are allowed")]
    TrustDomain {
        /// What was given.
        text: String,
    },
    /// A path segment is empty, a dot segment, or has a character it may not have.
    #[error("{part} {text:?} in a SPIFFE ID: one or more of a-z A-Z 0-9 . - _ are allowed, but not \".\" or \"..\"")]
    Segment {
        /// Which segment: `namespace` or `service account`.
        part: &'static str,
        /// What was given.
        text: String,
    },
}

impl SpiffeId {
    /// The ID of a service account.
    ///
    /// # Errors
    /// When a part has a character the SPIFFE ID standard does not allow, or the whole is too long.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, ParseSpiffeIdError> {
        check_length(
            [
                SCHEME,
                trust_domain,
                NAMESPACE_MARK,
                namespace,
                SERVICE_ACCOUNT_MARK,
                service_account,
            ]
            .iter()
            .map(|part| part.len())
            .sum(),
        )?;
        check_trust_domain(trust_domain)?;
        check_segment("namespace", namespace)?;
        check_segment("service account", service_account)?;
        let text = format!("{SCHEME}{trust_domain}{NAMESPACE_MARK}{namespace}{SERVICE_ACCOUNT_MARK}{service_account}");
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + NAMESPACE_MARK.len() + namespace.len();
        let too_long = |_| ParseSpiffeIdError::TooLong { length: text.len() };
        Ok(Self {
            trust_domain_end: u16::try_from(trust_domain_end).map_err(too_long)?,
            namespace_end: u16::try_from(namespace_end).map_err(too_long)?,
            text: text.into(),
        })
    }

    /// The trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        self.part(SCHEME.len(), usize::from(self.trust_domain_end))
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        self.part(
            usize::from(self.trust_domain_end) + NAMESPACE_MARK.len(),
            usize::from(self.namespace_end),
        )
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.part(
            usize::from(self.namespace_end) + SERVICE_ACCOUNT_MARK.len(),
            self.text.len(),
        )
    }

    /// The whole ID as it stands in a certificate.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn part(&self, start: usize, end: usize) -> &str {
        self.text.get(start..end).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_length(text.len())?;
        let form = || ParseSpiffeIdError::Form { text: text.to_owned() };
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(form)?.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(form()),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = ParseSpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_length(length: usize) -> Result<(), ParseSpiffeIdError> {
    if length > LONGEST_ID {
        Err(ParseSpiffeIdError::TooLong { length })
    } else {
        Ok(())
    }
}

fn check_trust_domain(text: &str) -> Result<(), ParseSpiffeIdError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if (1..=LONGEST_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(ParseSpiffeIdError::TrustDomain { text: text.to_owned() })
    }
}

fn check_segment(part: &'static str, text: &str) -> Result<(), ParseSpiffeIdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !matches!(text, "" | "." | "..") && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(ParseSpiffeIdError::Segment {
            part,
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_survive_the_round_trip() {
        let id: SpiffeId = "spiffe://cluster.local/ns/demo/sa/web-1".parse().unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "demo", "web-1")
        );
        assert_eq!(id, SpiffeId::new("cluster.local", "demo", "web-1").unwrap());
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/demo/sa/web-1");
        assert_eq!(
            serde_json::to_string(&id).unwrap(),
            "\"spiffe://cluster.local/ns/demo/sa/web-1\""
        );
        assert_eq!(
            serde_json::from_str::<SpiffeId>("\"spiffe://cluster.local/ns/demo/sa/web-1\"").unwrap(),
            id
        );
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/sa/b/ns/a",
            "spiffe://cluster.local//ns/a/sa/b",
        ] {
            assert!(
                matches!(text.parse::<SpiffeId>(), Err(ParseSpiffeIdError::Form { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn characters_outside_the_standard_are_refused() {
        for trust_domain in [
            "",
            "Cluster.local",
            "user@cluster.local",
            "cluster.local:443",
            "clüster",
            "a%41",
            "a b",
        ] {
            let error = SpiffeId::new(trust_domain, "a", "b").unwrap_err();
            assert!(
                matches!(error, ParseSpiffeIdError::TrustDomain { .. }),
                "{trust_domain}"
            );
        }
        for segment in ["", ".", "..", "a/b", "a%2fb", "a b", "a?b", "a#b", "ä", "a\0"] {
            for error in [SpiffeId::new("td", segment, "b"), SpiffeId::new("td", "a", segment)] {
                assert!(matches!(error, Err(ParseSpiffeIdError::Segment { .. })), "{segment:?}");
            }
        }
        assert!(SpiffeId::new("a_b-c.d0", "A_b-c.0", "...").is_ok());
    }

    #[test]
    fn length_is_bounded() {
        let room = LONGEST_ID - "spiffe://td/ns/a/sa/".len();
        assert_eq!(
            SpiffeId::new("td", "a", &"b".repeat(room)).unwrap().as_str().len(),
            LONGEST_ID
        );
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(room + 1));
        assert_eq!(
            long.parse::<SpiffeId>(),
            Err(ParseSpiffeIdError::TooLong { length: LONGEST_ID + 1 })
        );
        assert!(SpiffeId::new(&"t".repeat(255), "a", "b").is_ok());
        assert!(SpiffeId::new(&"t".repeat(256), "a", "b").is_err());
    }
}
