//! What may be wrong with enrolment by Kubernetes.

use isthmus_wire::{KubernetesStatus, PodTrouble};

use super::{Problem, age, problem};

/// The API server is upgraded now and then; what takes longer than this is no mere restart.
const OUT_OF_SYNC_IS_NEWS_SECONDS: u64 = 30;

pub(super) fn kubernetes(kubernetes: &KubernetesStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(out_of_sync(kubernetes));
    found.extend(kubernetes.troubles.iter().map(trouble));
    found
}

fn out_of_sync(kubernetes: &KubernetesStatus) -> Option<Problem> {
    let since = kubernetes.out_of_sync_seconds?;
    if kubernetes.listed && since < OUT_OF_SYNC_IS_NEWS_SECONDS {
        return None;
    }
    let holds = if kubernetes.listed {
        "pods stay as they are, and changes of labels are not followed"
    } else {
        "no pod is enrolled or released because of its labels; those that are enrolled stay"
    };
    let error = kubernetes.last_error.as_deref().unwrap_or("no error was seen");
    Some(problem(
        format!(
            "Kubernetes' API server at {} has not been followed for {}: {error}",
            kubernetes.address,
            age(since)
        ),
        format!("{holds}; docs/kubernetes.md tells what to look at for each error"),
    ))
}

fn trouble(trouble: &PodTrouble) -> Problem {
    let advice = match trouble.retry_seconds {
        Some(seconds) => format!(
            "it is tried again in {}; docs/kubernetes.md tells what each reason means",
            age(seconds)
        ),
        None => "change the pod, or live with it: docs/kubernetes.md tells what is honoured".to_owned(),
    };
    problem(format!("pod {}: {}", trouble.pod, trouble.what), advice)
}
