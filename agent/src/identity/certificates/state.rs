//! What a keeper published, and what callers are told by it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::CertificateError;
use super::demand::Demand;
use crate::identity::{Certificate, IssueError, SpiffeId};

/// Who asks between two attempts waits for the next one when it is due within this time; later ones are not waited for.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// What a keeper last published.
#[derive(Default)]
pub(super) struct State {
    pub(super) certificate: Option<Arc<Certificate>>,
    /// How the last attempt ended; none after a success.
    pub(super) failure: Option<Arc<IssueError>>,
    /// An attempt is under way, or waits for its turn.
    pub(super) asking: bool,
    /// How many attempts have ended.
    pub(super) attempts: u64,
    /// When the next attempt is due.
    pub(super) next: Option<Instant>,
    /// When the certificate came.
    pub(super) issued: Option<Instant>,
}

impl State {
    /// What a caller is told now who came when `ended` attempts had ended; nothing means to wait for the keeper.
    pub(super) fn answer(
        &self,
        id: &SpiffeId,
        now: SystemTime,
        demand: &Demand,
        ended: u64,
    ) -> Option<Result<Arc<Certificate>, CertificateError>> {
        if let Some(usable) = self.usable(now) {
            return Some(Ok(usable.clone()));
        }
        if self.asking {
            return None;
        }
        let Some(cause) = self.failure.clone() else {
            demand.wake.notify_one();
            return None;
        };
        let is_soon = self.next.is_some_and(|next| next <= Instant::now() + SOON);
        if self.attempts == ended && is_soon {
            return None;
        }
        let over = self
            .certificate
            .as_ref()
            .and_then(|last| now.duration_since(last.not_after()).ok());
        Some(Err(match over {
            Some(over) => CertificateError::Expired {
                id: id.clone(),
                seconds: over.as_secs(),
                cause,
            },
            None => CertificateError::Issue { id: id.clone(), cause },
        }))
    }

    pub(super) fn usable(&self, now: SystemTime) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref().filter(|held| judge(held, now).is_ok())
    }
}

/// Is a certificate valid at this time?
pub(super) fn judge(certificate: &Certificate, now: SystemTime) -> Result<(), IssueError> {
    let (begin, end) = (certificate.not_before(), certificate.not_after());
    if now < begin {
        return Err(IssueError::NotYetValid(begin.duration_since(now).unwrap_or_default()));
    }
    if end < now {
        return Err(IssueError::Expired(now.duration_since(end).unwrap_or_default()));
    }
    Ok(())
}
