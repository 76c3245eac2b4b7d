//! The certificate service (wire-facts §2).

use std::sync::Arc;

use isthmus_istio::ca::{
    IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
};
use prost_types::value::Kind as Json;
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::{script::Answer, seen::Event, shared::Shared};
use crate::lab::lock;

/// Who signs for itself when it names nobody: an agent has no certificate of its own.
const NOBODY: &str = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";

/// The service.
#[derive(Clone)]
pub(super) struct Ca(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Ca {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let asked = request.get_ref();
        let identity = impersonated(asked).unwrap_or_default();
        let seconds = asked.validity_duration;
        let answer = self
            .0
            .script(|script| script.ca_for.get(&identity).unwrap_or(&script.ca).clone());
        let note = |signed| {
            self.0.note(Event::Certificate {
                identity: identity.clone(),
                seconds,
                signed,
            });
        };
        self.0.admit(request.metadata(), &answer).inspect_err(|_| note(false))?;
        match answer {
            Answer::After(pause) => sleep(pause).await,
            Answer::Never => {
                note(false);
                std::future::pending::<()>().await;
            }
            Answer::Served | Answer::Refused(..) | Answer::Bytes(_) => {}
        }
        let signer = Arc::clone(&lock(&self.0.signer));
        let terms = self.0.script(|script| script.terms);
        let whom = if identity.is_empty() { NOBODY } else { &identity };
        let leaf = signer
            .sign(&asked.csr, whom, terms)
            .map_err(|error| Status::invalid_argument(format!("CSR: {error}")))
            .inspect_err(|_| note(false))?;
        note(true);
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![leaf, signer.roots.clone()],
        }))
    }
}

fn impersonated(request: &IstioCertificateRequest) -> Option<String> {
    let value = request.metadata.as_ref()?.fields.get("ImpersonatedIdentity")?;
    match &value.kind {
        Some(Json::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}
