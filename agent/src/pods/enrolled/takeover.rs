//! A pod that istio-cni had before.

use super::Enrolled;
use crate::{
    istio_cni::pod::{self, Outcome},
    pods::registry::chain,
};

impl Enrolled {
    /// Tries again to remove what could not be removed before of istio-cni's rules.
    pub async fn take_over_again(&mut self) {
        let Some(served) = self.served.as_ref().filter(|_| self.leftover.is_some()) else {
            return;
        };
        let outcome = pod::take_over(&served.netns, &served.routing).await;
        self.note_leftover(outcome);
    }

    /// Tells what was removed, and remembers what was not.
    pub(super) fn note_leftover(&mut self, outcome: Outcome) {
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
}
