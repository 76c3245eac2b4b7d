//! Kubernetes' word for the CNI plugin: whether a pod that is made now is enrolled, and by what the plugin decides while the
//! agent is away.

use std::path::PathBuf;

use futures_util::future::BoxFuture;

use crate::{
    cni::namespaces,
    control::admission::{Admission, Admitted, NewPod, NotAdmitted},
    kubernetes::{Intent, Kubernetes},
    pods::registry::chain,
};

/// Admits pods as Kubernetes says.
pub(super) struct ByKubernetes(pub(super) Kubernetes);

impl Admission for ByKubernetes {
    fn admit(&self, pod: NewPod) -> BoxFuture<'static, Result<Admitted, NotAdmitted>> {
        let kubernetes = self.0.clone();
        Box::pin(async move {
            let refused = |reason| NotAdmitted {
                reason,
                retriable: true,
            };
            match kubernetes.admit(&pod.uid, &pod.namespace, &pod.name).await {
                Ok(Intent::Enrol(terms)) => Ok(Admitted::Enrol(terms.enrol(pod.netns))),
                Ok(Intent::Leave(_)) => Ok(Admitted::Leave),
                Ok(Intent::Unknown) => Err(refused(format!("nothing is known of namespace {} yet", pod.namespace))),
                Err(error) => Err(refused(chain(&error))),
            }
        })
    }

    fn added(&self) {
        // Its annotation is due.
        self.0.look_again();
    }
}

/// Keeps the file by which the plugin decides while no agent answers.
pub(super) async fn keep_namespaces(kubernetes: Kubernetes, state_dir: PathBuf) {
    kubernetes
        .follow_modes(|modes| {
            if let Err(error) = namespaces::write(&state_dir, modes) {
                tracing::warn!(error = chain(&error), "the CNI plugin decides by what it knew before");
            }
        })
        .await;
}
