//! What status tells of a pod's certificate.

use std::time::{Duration, SystemTime};

use isthmus_wire::CertificateStatus;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::identity::Held;

/// What the cache holds of the pod's identity, as of `now`.
pub fn certificate_status(held: Held, now: SystemTime) -> CertificateStatus {
    let written = |moment: SystemTime| OffsetDateTime::from(moment).format(&Rfc3339).ok();
    let certificate = held.certificate.as_ref();
    let not_after = certificate.map(|certificate| certificate.not_after());
    CertificateStatus {
        not_after: not_after.and_then(written),
        remaining_seconds: not_after.map(|moment| seconds_between(now, moment)),
        not_before: certificate.and_then(|certificate| written(certificate.not_before())),
        serial: certificate.map(|certificate| certificate.serial().to_owned()),
        next_attempt: held.next_attempt.and_then(to_the_second).and_then(written),
        failure: held.failure,
    }
}

/// Without the fraction, as the times in certificates are.
fn to_the_second(moment: SystemTime) -> Option<SystemTime> {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
}

/// Whole seconds from `now` to `moment`; negative when that is past.
fn seconds_between(now: SystemTime, moment: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match moment.duration_since(now) {
        Ok(left) => whole(left),
        Err(past) => -whole(past.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_counts_below_zero() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(seconds_between(now, now + Duration::from_secs(60)), 60);
        assert_eq!(seconds_between(now, now - Duration::from_secs(60)), -60);
    }

    #[test]
    fn an_identity_without_a_certificate_tells_only_of_its_failure() {
        let held = Held {
            certificate: None,
            next_attempt: None,
            failure: Some("the CA did not answer within 30 s".to_owned()),
        };
        let told = certificate_status(held, SystemTime::now());
        assert_eq!((told.not_after, told.remaining_seconds), (None, None));
        assert_eq!(told.failure.as_deref(), Some("the CA did not answer within 30 s"));
    }
}
