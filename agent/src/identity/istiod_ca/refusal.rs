//! What istiod's refusal means to an operator.

use std::fmt;

use tonic::{Code, Status};

use super::Asks;
use crate::identity::SpiffeId;

/// Longest text of istiod's that is repeated, in characters.
const LONGEST_TEXT: usize = 300;

/// istiod said no.
#[derive(Debug)]
pub struct Refusal {
    code: Code,
    said: String,
    advice: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: &Status, id: &SpiffeId, asks: Asks, cluster: &str) -> Self {
        let said: String = status.message().chars().take(LONGEST_TEXT).collect();
        Self {
            code: status.code(),
            advice: advice(status, id, asks, cluster),
            said: said.escape_debug().to_string(),
        }
    }

    /// The gRPC status.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "istiod says {:?}: \"{}\"", self.code, self.said)?;
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

/// What to look at. istiod does not say which of its checks failed; its log does (wire-facts §14).
fn advice(status: &Status, id: &SpiffeId, asks: Asks, cluster: &str) -> Option<String> {
    match status.code() {
        Code::Unauthenticated if asks == Asks::ForPods && status.message().contains("impersonation") => Some(format!(
            "istiod's log says which check failed: its CA_TRUSTED_NODE_ACCOUNTS must name our service account, our token must \
             be bound to our pod (a projected volume, not `kubectl create token`), a pod of {}/{} must run on our node, and \
             istiod must know our cluster as {cluster:?}",
            id.namespace(),
            id.service_account(),
        )),
        Code::Unauthenticated => Some(format!(
            "our token was not accepted: check --auth-token, its audience (istio-ca) and end, and that istiod knows our \
             cluster as {cluster:?}"
        )),
        Code::Unimplemented => {
            Some("no CA answers there: check --ca-address, and that istiod runs with ENABLE_CA_SERVER".to_owned())
        }
        _ => None,
    }
}
