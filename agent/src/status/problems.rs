//! What is not as it should be. Pure: one status in, lines for an operator out, the gravest first.

mod control_plane;
mod kubernetes;

use isthmus_abi::Verdict;
use isthmus_wire::{MtlsBecause, PodStatus, Status};
use serde::Serialize;

use super::text::{age, times};
use crate::mesh::watch::GOOD;

/// A worker that was started again so long ago is no news any more, in seconds.
const RESTART_IS_NEWS_SECONDS: u64 = 3600;
/// Share of the descriptors above which connections are about to be refused, in percent.
const DESCRIPTORS_PERCENT: usize = 80;

/// Something an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong, and with whom.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// Verdicts which should not happen, what they mean, and what to do.
const UNWELCOME: [(Verdict, &str, &str); 8] = [
    (
        Verdict::DropNobody,
        "SYNs of enrolled pods found no listener and were dropped",
        "an agent was away; if the number still grows, pods are not served: see above and the log",
    ),
    (
        Verdict::OutRefused,
        "connects of enrolled pods were refused, because their socket could not be marked",
        "the kernel or another cgroup program forbids SO_MARK; `isthmus check` looks for it",
    ),
    (
        Verdict::ProbeLost,
        "probes of the kubelet were not noted and may have failed",
        "more connections of the node to its pods are open than the map PROBES holds",
    ),
    (
        Verdict::GuardSyn,
        "SYNs that left a pod without the agent were dropped",
        "a program in a pod goes around the mesh (raw packets, own marks, a bound device): find it, or release the pod",
    ),
    (
        Verdict::GuardFragment,
        "fragments of TCP that left a pod were dropped",
        "a program in a pod sends raw fragments; TCP itself does not",
    ),
    (
        Verdict::GuardUnreadable,
        "packets that left a pod with headers nobody can read were dropped",
        "a program in a pod sends malformed packets, or tunnels inside tunnels",
    ),
    (
        Verdict::DropOwnListener,
        "SYNs that asked for the agent's own listeners were dropped",
        "somebody scans the ports of a pod, or was told a wrong port",
    ),
    (
        Verdict::BypassRefused,
        "pods were refused a socket option that goes around the guard",
        "a program in a pod uses PACKET_QDISC_BYPASS or AF_XDP, which an enrolled pod may not",
    ),
];

/// Everything wrong with what an agent holds; nothing for a healthy one.
pub fn problems(status: &Status) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(not_ready(status));
    match &status.istiod {
        Some(istiod) => found.extend(control_plane::istiod(istiod, status)),
        None => found.extend(mesh(status)),
    }
    found.extend(status.kubernetes.iter().flat_map(kubernetes::kubernetes));
    found.extend(worker(status));
    found.extend(cni(status));
    found.extend(descriptors(status));
    for pod in status.pods.values() {
        found.extend(served(pod));
        found.extend(leftover(pod));
        found.extend(known(pod, &status.network));
        found.extend(pod.certificate.as_ref().and_then(|held| {
            let whose = format!("pod {}", name(pod));
            control_plane::certificate(&whose, held)
        }));
        found.extend(plaintext(pod));
    }
    found.extend(control_plane::certificates_of_no_pod(status));
    found.extend(control_plane::gateways(status));
    found.extend(verdicts(status));
    found
}

fn problem(what: impl Into<String>, advice: impl Into<String>) -> Problem {
    Problem {
        what: what.into(),
        advice: advice.into(),
    }
}

fn name(pod: &PodStatus) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn not_ready(status: &Status) -> Option<Problem> {
    let pending = status.pending.join(", ");
    let advice = "docs/operations.md tells what each of them means; `drain` means that it is ending, and that its successor is to take over";
    (!pending.is_empty()).then(|| problem(format!("the agent is not ready, waiting for: {pending}"), advice))
}

fn mesh(status: &Status) -> Option<Problem> {
    let advice = match status.mesh_age_seconds {
        Some(taken) => format!(
            "mend it (`isthmus mesh check FILE` tells where); what was taken {} ago serves on",
            age(taken)
        ),
        None => "mend it (`isthmus mesh check FILE` tells where); until then nothing is known of the mesh and pods' \
                 connections are refused"
            .to_owned(),
    };
    match status.mesh.as_str() {
        GOOD => None,
        "" => Some(problem("no mesh was loaded yet", advice)),
        error => {
            let since = age(status.mesh_since_seconds);
            Some(problem(format!("the mesh is not taken since {since}: {error}"), advice))
        }
    }
}

fn cni(status: &Status) -> Option<Problem> {
    let trouble = status.cni.as_ref()?.trouble.as_deref()?;
    let advice = "until then new pods start as the configuration that is there has it; docs/cni.md tells more";
    Some(problem(format!("the CNI plugin: {trouble}"), advice))
}

fn worker(status: &Status) -> Option<Problem> {
    if status.worker_restarts == 0 || status.uptime_seconds > RESTART_IS_NEWS_SECONDS {
        return None;
    }
    let how = status.worker_ended.as_ref().map_or_else(String::new, |end| {
        format!(", the last one ended at {} with {}", end.time, end.how)
    });
    let what = format!(
        "the worker was started again {}, {} ago{how}",
        times(status.worker_restarts),
        age(status.uptime_seconds)
    );
    Some(problem(
        what,
        "its open connections were reset; its last message in the log tells why",
    ))
}

fn descriptors(status: &Status) -> Option<Problem> {
    let budget = status.descriptors;
    let full = budget.limit > 0 && budget.used > budget.limit / 100 * DESCRIPTORS_PERCENT;
    full.then(|| {
        problem(
            format!("{} of {} descriptors are taken", budget.used, budget.limit),
            "raise RLIMIT_NOFILE of the agent (LimitNOFILE= of its unit): when they are used up, connections are refused",
        )
    })
}

fn served(pod: &PodStatus) -> Option<Problem> {
    let name = name(pod);
    match pod.state.as_str() {
        "unserved" => {
            let trouble = pod.trouble.as_deref().unwrap_or("the log tells why");
            let advice = "it is cut off until that is mended; the agent tries again every 2 s";
            Some(problem(format!("pod {name} is not served: {trouble}"), advice))
        }
        "lingering" => Some(problem(
            format!("the network namespace of pod {name} lost its path, but something still runs in it or holds it"),
            format!(
                "it is cut off; end what is in {} or remove the pod",
                pod.netns.display()
            ),
        )),
        "enrolled" if pod.addresses.is_empty() => Some(problem(
            format!("pod {name} has no addresses"),
            "its links lost them, or a sandbox (gVisor) has a network stack of its own, which cannot be redirected",
        )),
        _ => None,
    }
}

fn leftover(pod: &PodStatus) -> Option<Problem> {
    let why = pod.leftover.as_deref()?;
    let advice = "nothing of it leaves in clear meanwhile; the agent looks again every 2 s";
    Some(problem(format!("pod {}: {why}", name(pod)), advice))
}

fn known(pod: &PodStatus, network: &str) -> Option<Problem> {
    let unknown = pod.state == "enrolled" && pod.identity.is_none();
    unknown.then(|| {
        let advice = format!(
            "its connections are refused; the mesh needs a workload of namespace {}, name {} and the pod's service account \
             on network {network:?}",
            pod.namespace, pod.name
        );
        problem(format!("the mesh does not know pod {}", name(pod)), advice)
    })
}

fn plaintext(pod: &PodStatus) -> Option<Problem> {
    let dropped = pod
        .verdicts
        .get(Verdict::DropPlaintext.name())
        .copied()
        .unwrap_or_default();
    let by_policy = pod.mtls_required && pod.mtls_because == MtlsBecause::Policies;
    (by_policy && dropped > 0).then(|| {
        problem(
            format!(
                "{dropped} plaintext SYNs to pod {} were dropped, because policies hold for it",
                name(pod)
            ),
            "clients outside the mesh cannot reach it; enrol them, or take away the policies that select it",
        )
    })
}

fn verdicts(status: &Status) -> impl Iterator<Item = Problem> {
    UNWELCOME.iter().filter_map(|(verdict, what, advice)| {
        let count = status.verdicts.get(verdict.name()).copied().unwrap_or_default();
        (count > 0).then(|| problem(format!("{count} {what} ({})", verdict.name()), *advice))
    })
}

#[cfg(test)]
mod tests;
