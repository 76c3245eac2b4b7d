use std::fmt::{self, Write as _};

use thiserror::Error;

use crate::mesh::Workload;

/// Longest `baggage` value read, in bytes. The seven members an ambient mesh sends stay far below it.
const LIMIT_BYTES: usize = 4096;

/// Most members read from one value.
const LIMIT_MEMBERS: usize = 64;

/// What one end of a stream says of itself, in the header `baggage`. It labels logs and metrics; nothing is decided
/// by it, because whoever holds a mesh certificate can write anything here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.<kind>.name`: the kind and the name of the controller.
    pub workload: Option<(WorkloadKind, String)>,
    /// `service.name`: the canonical name.
    pub service_name: Option<String>,
    /// `service.version`: the canonical revision.
    pub service_version: Option<String>,
    /// `cloud.region`.
    pub region: Option<String>,
    /// `cloud.availability_zone`.
    pub zone: Option<String>,
}

/// Kinds of controller which `baggage` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A CronJob.
    CronJob,
    /// A bare pod.
    Pod,
    /// A Job.
    Job,
}

/// Why a `baggage` value was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BaggageError {
    /// The value is longer than we read.
    #[error("baggage is longer than {LIMIT_BYTES} bytes")]
    TooLong,
    /// The value has more members than we read.
    #[error("baggage has more than {LIMIT_MEMBERS} members")]
    TooMany,
    /// A member has no `=`, or a byte which W3C Baggage does not allow in a value.
    #[error("baggage member {0} is not KEY=VALUE in visible ASCII")]
    Malformed(usize),
}

impl Baggage {
    /// What a workload says of itself.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let kind = match &*workload.workload_type {
            "cronjob" => WorkloadKind::CronJob,
            "job" => WorkloadKind::Job,
            "pod" => WorkloadKind::Pod,
            _ => WorkloadKind::Deployment,
        };
        Self {
            cluster: text(&workload.cluster_id),
            namespace: text(&workload.namespace),
            workload: text(&workload.workload_name).map(|name| (kind, name)),
            service_name: text(&workload.canonical_name),
            service_version: text(&workload.canonical_revision),
            region: text(&workload.locality.region),
            zone: text(&workload.locality.zone),
        }
    }

    /// Reads one header value; several header lines are joined with `,` first (RFC 9110 §5.3).
    ///
    /// Unknown members are skipped. The value of a member is what stands between its first and second `=`.
    ///
    /// # Errors
    /// When the value is too long, has too many members or a malformed one.
    pub fn parse(value: &[u8]) -> Result<Self, BaggageError> {
        if value.len() > LIMIT_BYTES {
            return Err(BaggageError::TooLong);
        }
        let mut baggage = Self::default();
        for (index, member) in value.split(|byte| *byte == b',').enumerate() {
            if index >= LIMIT_MEMBERS {
                return Err(BaggageError::TooMany);
            }
            let member = member.trim_ascii();
            if !member.is_empty() {
                baggage.take(member).ok_or(BaggageError::Malformed(index))?;
            }
        }
        Ok(baggage)
    }

    fn take(&mut self, member: &[u8]) -> Option<()> {
        // Properties follow `;` and mean nothing to us.
        let member = member.split(|byte| *byte == b';').next()?;
        let mut parts = member.split(|byte| *byte == b'=');
        let key = parts.next()?.trim_ascii();
        let value = parts.next()?.trim_ascii();
        if !value.iter().copied().all(is_value_byte) {
            return None;
        }
        let value = str::from_utf8(value).ok()?;
        let text = (!value.is_empty()).then(|| value.to_owned());
        match key {
            b"k8s.cluster.name" => self.cluster = text,
            b"k8s.namespace.name" => self.namespace = text,
            b"service.name" => self.service_name = text,
            b"service.version" => self.service_version = text,
            b"cloud.region" => self.region = text,
            b"cloud.availability_zone" => self.zone = text,
            _ => {
                if let Some(kind) = WorkloadKind::of_key(key) {
                    self.workload = text.map(|name| (kind, name));
                }
            }
        }
        Some(())
    }
}

/// Values as peers expect them: `k=v` joined by commas, in a fixed order, absent members left out. A value which
/// could break the header apart is left out as well.
impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = [
            ("k8s.cluster.name", self.cluster.as_deref()),
            ("k8s.namespace.name", self.namespace.as_deref()),
            (
                self.workload.as_ref().map_or("", |(kind, _)| kind.key()),
                self.workload.as_ref().map(|(_, name)| name.as_str()),
            ),
            ("service.name", self.service_name.as_deref()),
            ("service.version", self.service_version.as_deref()),
            ("cloud.region", self.region.as_deref()),
            ("cloud.availability_zone", self.zone.as_deref()),
        ];
        let mut first = true;
        for (key, value) in members {
            let Some(value) = value.filter(|value| !value.is_empty() && value.bytes().all(is_value_byte)) else {
                continue;
            };
            if value.contains('=') {
                continue;
            }
            if !first {
                f.write_char(',')?;
            }
            write!(f, "{key}={value}")?;
            first = false;
        }
        Ok(())
    }
}

impl WorkloadKind {
    const ALL: [Self; 4] = [Self::Deployment, Self::CronJob, Self::Pod, Self::Job];

    fn key(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Pod => "k8s.pod.name",
            Self::Job => "k8s.job.name",
        }
    }

    fn of_key(key: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key().as_bytes() == key)
    }
}

/// `baggage-octet` of W3C Baggage: visible ASCII without quote, comma, semicolon and backslash.
fn is_value_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_in_the_order_peers_write() {
        let baggage = Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("demo".into()),
            workload: Some((WorkloadKind::Deployment, "echo".into())),
            service_name: Some("echo".into()),
            service_version: Some("v1".into()),
            region: Some("r".into()),
            zone: Some("z".into()),
        };
        let text = baggage.to_string();
        assert_eq!(
            text,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.deployment.name=echo,service.name=echo,\
             service.version=v1,cloud.region=r,cloud.availability_zone=z"
        );
        assert_eq!(Baggage::parse(text.as_bytes()), Ok(baggage));
    }

    #[test]
    fn absent_members_are_left_out_and_unknown_ones_skipped() {
        let text = "a=b, k8s.pod.name = p ;prop=1 ,,service.name=,k8s.namespace.name=n=m";
        let read = Baggage::parse(text.as_bytes()).unwrap();
        assert_eq!(read.workload, Some((WorkloadKind::Pod, "p".into())));
        assert_eq!(read.namespace.as_deref(), Some("n"));
        assert_eq!(read.service_name, None);
        assert_eq!(read.to_string(), "k8s.namespace.name=n,k8s.pod.name=p");
    }

    #[test]
    fn bounds_and_bad_bytes_are_errors() {
        assert_eq!(Baggage::parse(&[b'a'; LIMIT_BYTES + 1]), Err(BaggageError::TooLong));
        assert_eq!(Baggage::parse("a=b,".repeat(65).as_bytes()), Err(BaggageError::TooMany));
        assert_eq!(Baggage::parse(b"ok=1,novalue"), Err(BaggageError::Malformed(1)));
        assert_eq!(Baggage::parse(b"service.name=a b"), Err(BaggageError::Malformed(0)));
        assert_eq!(Baggage::parse(b"service.name=\xff"), Err(BaggageError::Malformed(0)));
    }

    #[test]
    fn a_value_that_would_break_the_header_is_not_written() {
        let baggage = Baggage {
            cluster: Some("a,b=c".into()),
            namespace: Some("n".into()),
            ..Baggage::default()
        };
        assert_eq!(baggage.to_string(), "k8s.namespace.name=n");
    }
}
