//! A pod that istio-cni had before.

use super::Enrolled;
use crate::{istio_cni, pods::registry::chain};

impl Enrolled {
    /// Removes istio-cni's rules from the pod, as far as that can be done now. Our redirection must stand: in between the
    /// pod's connections are refused.
    pub(super) async fn take_over(&mut self) {
        let Some(served) = &self.served else { return };
        let outcome = {
            let routing = served.routing.lock().await;
            istio_cni::pod::take_over(&served.netns, &routing).await
        };
        let pod = format!("{}/{}", self.record.pod.namespace, self.record.pod.name);
        if !outcome.removed.is_empty() {
            let removed = outcome.removed.join(", ");
            tracing::info!(pod, removed, "what istio-cni left in the pod is removed");
        }
        let left = outcome.left.map(|left| chain(&left));
        if let Some(why) = left.as_ref().filter(|_| left != self.leftover) {
            tracing::warn!(pod, why, "istio-cni left something in the pod");
        }
        self.leftover = left;
    }

    /// Tries again what could not be removed before.
    pub async fn take_over_again(&mut self) {
        if self.leftover.is_some() {
            self.take_over().await;
        }
    }
}
