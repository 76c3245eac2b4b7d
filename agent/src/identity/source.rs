//! The seam behind which a CA stands.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Certificate, MaterialError, SpiffeId};

/// Where certificates come from: the embedded CA, or istiod's. [`Certificates`](super::Certificates) asks it.
///
/// An implementation asks once and reports; patience, sharing and renewal are the cache's business. Dropping the future
/// gives the request up.
pub trait CertificateSource: Send + Sync + 'static {
    /// A new certificate, with a new key, for `id`.
    fn issue(&self, id: SpiffeId) -> BoxFuture<'static, Result<Arc<Certificate>, IssueError>>;
}

/// Why a source gave no certificate that can be used.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CA could not be reached, or refused.
    #[error("the CA gave no certificate")]
    Authority(#[source] Box<dyn Error + Send + Sync>),
    /// What the CA gave cannot be used.
    #[error("the CA's answer cannot be used")]
    Material(#[from] MaterialError),
    /// No answer in time.
    #[error("the CA did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The certificate is over as it arrives.
    #[error("the CA gave a certificate that ended {} s ago; check its clock and this node's", .0.as_secs())]
    Expired(Duration),
    /// The certificate begins in the future.
    #[error("the CA gave a certificate that begins in {} s; check its clock and this node's", .0.as_secs())]
    NotYetValid(Duration),
}
