//! istiod's CA: a new key and a signing request for every certificate (wire-facts §2).

mod line;
mod refusal;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use isthmus_istio::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use isthmus_istio::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::time::timeout;
use tonic::{Request, Status};

use self::line::{Line, Lines};
use self::refusal::Refusal;
use super::certificate::certificates;
use super::{Certificate, CertificateSource, Certificates, IssueError, MaterialError, SpiffeId};
use crate::istiod::{ConnectError, Contact, RootsWatch, TokenError, WithoutDetails};

#[cfg(test)]
mod tests;

/// How long istiod may take over one answer. Less than the patience of who asks, so that a dead connection is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// Largest answer: a chain and a bundle of roots take a few KiB.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// Whose certificates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Those of other pods on the node, which istiod must have allowed.
    ForPods,
    /// One's own, which is the token's.
    ForItself,
}

/// istiod's CA. One connection serves all questions; clones share it.
#[derive(Clone)]
pub struct IstiodCa {
    inner: Arc<Inner>,
}

struct Inner {
    contact: Contact,
    lines: Lines,
    asks: Asks,
    life: Duration,
}

/// Why istiod gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// No key or no request.
    #[error("making a key and a signing request")]
    Request(#[from] rcgen::Error),
    /// Nothing to prove ourselves with.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No connection.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The connection ended during the call.
    #[error("the connection to istiod broke before it answered")]
    Broken(#[source] Box<Status>),
    /// Silence.
    #[error("istiod did not answer within {} s", ANSWER_LIMIT.as_secs())]
    TimedOut,
    /// It said no.
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing that peers could be checked against.
    #[error("istiod's answer has {0} parts, and must have a leaf first and roots last")]
    Parts(usize),
}

impl IstiodCa {
    /// Asks at `contact` for certificates that are valid for `life`, to the second. Nothing is connected yet.
    pub fn new(contact: Contact, asks: Asks, life: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                lines: Lines::new(contact.clone()),
                contact,
                asks,
                life,
            }),
        }
    }

    /// Watches the roots that istiod must be certified by. When they change, the next question goes over a new
    /// connection, and every certificate is asked for anew: the mesh's roots come with them. Never ends; does nothing
    /// where the roots are no file.
    pub async fn follow_roots(self, certificates: Certificates) {
        let Some(mut watch) = RootsWatch::new(self.inner.contact.roots()) else {
            return;
        };
        loop {
            watch.changed().await;
            tracing::info!(roots = %self.inner.contact.roots(), "the roots changed; every certificate is renewed");
            self.inner.lines.hang_up_any();
            certificates.renew_all();
        }
    }
}

impl Inner {
    async fn issued(&self, id: SpiffeId) -> Result<Arc<Certificate>, IssueError> {
        let authority = |error: CaError| IssueError::Authority(Box::new(error));
        let (key, request) = self.request(&id).map_err(authority)?;
        let answer = self.answer(&id, &request).await.map_err(authority)?;
        let (chain, roots) = parts(&answer).map_err(|error| match error {
            Unfit::Parts(count) => authority(CaError::Parts(count)),
            Unfit::Material(error) => error.into(),
        })?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Arc::new(Certificate::new(id, chain, key.into(), &roots)?))
    }

    /// A key, and the request to certify it.
    fn request(&self, id: &SpiffeId) -> Result<(KeyPair, IstioCertificateRequest), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        let csr = params.serialize_request(&key)?.pem()?;
        let impersonated = Value {
            kind: Some(Kind::StringValue(id.to_string())),
        };
        let request = IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX),
            metadata: (self.asks == Asks::ForPods).then(|| Struct {
                fields: [("ImpersonatedIdentity".to_owned(), impersonated)].into(),
            }),
        };
        Ok((key, request))
    }

    /// Asks; once more on a new connection when the one there was turns out to be gone.
    async fn answer(
        &self,
        id: &SpiffeId,
        request: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, CaError> {
        let line = self.lines.current();
        match self.ask(&line, id, request).await {
            Err(CaError::Broken(_)) if line.was_open => self.ask(&self.lines.current(), id, request).await,
            answered => answered,
        }
    }

    async fn ask(
        &self,
        line: &Line,
        id: &SpiffeId,
        request: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, CaError> {
        let mut request = Request::new(request.clone());
        *request.metadata_mut() = self.contact.headers()?;
        let channel = match line.channel.clone().await {
            Ok(channel) => channel,
            Err(error) => {
                self.lines.hang_up(line);
                return Err(CaError::Connect(error));
            }
        };
        let mut client =
            IstioCertificateServiceClient::new(WithoutDetails(channel)).max_decoding_message_size(LARGEST_ANSWER);
        match timeout(ANSWER_LIMIT, client.create_certificate(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            // What istiod itself says has no cause on our side.
            Ok(Err(status)) if status.source().is_none() => {
                let cluster = self.contact.cluster_id();
                Err(CaError::Refused(Refusal::new(&status, id, self.asks, cluster)))
            }
            Ok(Err(status)) => {
                self.lines.hang_up(line);
                Err(CaError::Broken(Box::new(status)))
            }
            Err(_) => {
                self.lines.hang_up(line);
                Err(CaError::TimedOut)
            }
        }
    }
}

impl CertificateSource for IstiodCa {
    fn issue(&self, id: SpiffeId) -> BoxFuture<'static, Result<Arc<Certificate>, IssueError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.issued(id).await }.boxed()
    }
}

/// Why an answer does not fall into a chain and roots.
enum Unfit {
    Parts(usize),
    Material(MaterialError),
}

type Chain = Vec<CertificateDer<'static>>;

/// The leaf and its intermediates, and the roots, which are the last part.
fn parts(answer: &IstioCertificateResponse) -> Result<(Chain, Chain), Unfit> {
    let (Some((roots, chain)), 2..) = (answer.cert_chain.split_last(), answer.cert_chain.len()) else {
        return Err(Unfit::Parts(answer.cert_chain.len()));
    };
    let chain = certificates("certificate chain", &chain.concat()).map_err(Unfit::Material)?;
    let roots = certificates("root", roots).map_err(Unfit::Material)?;
    Ok((chain, roots))
}
