//! What is found inside pods: programs and rules of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    report::{Check, Finding},
    sysctls,
};
use crate::{
    istio_cni::{REPLY_MARK, netfilter::Ruleset, plan},
    redirect::{Netns, PodRouting, hooks, policy_routing::MarkRule},
};

/// A pod to look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// NAMESPACE/NAME, or the path.
    pub(super) name: String,
    /// Its network namespace.
    pub(super) netns: PathBuf,
    /// The cookie it must have, if it is known: another namespace may have been put at the path.
    pub(super) cookie: Option<u64>,
}

/// What was found in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    /// NAMESPACE/NAME, or the path.
    pub(super) name: String,
    /// Why it could not be looked into.
    pub(super) closed: Option<String>,
    /// `sk_lookup` programs: id and name.
    pub(super) lookups: Vec<(u32, String)>,
    /// tcx programs on the egress of its links: the link, id and name.
    pub(super) egress: Vec<(String, u32, String)>,
    /// Rules by mark.
    pub(super) rules: Vec<MarkRule>,
    /// What nftables holds.
    pub(super) ruleset: Ruleset,
    /// `net.ipv4.ip_local_port_range`.
    pub(super) ports: Option<(u16, u16)>,
}

impl Pod {
    /// Looks into one; `None` when it is gone.
    pub(super) async fn gather(asked: &Asked, names: &BTreeMap<u32, String>) -> Option<Self> {
        let pod = Self {
            name: asked.name.clone(),
            ..Self::default()
        };
        let netns = match Netns::open(&asked.netns) {
            Ok(netns) if asked.cookie.is_none_or(|cookie| cookie == netns.cookie()) => netns,
            Ok(_) => return None,
            // A record may tell of a pod that has gone; a path that was asked for must be there.
            Err(_) if asked.cookie.is_some() && !asked.netns.exists() => return None,
            Err(error) => {
                return Some(Self {
                    closed: Some(crate::pods::registry::chain(&error)),
                    ..pod
                });
            }
        };
        match pod.clone().look(&netns, names).await {
            Ok(looked) => Some(looked),
            Err(closed) => Some(Self {
                closed: Some(closed),
                ..pod
            }),
        }
    }

    async fn look(mut self, netns: &Netns, names: &BTreeMap<u32, String>) -> Result<Self, String> {
        let lookups = hooks::lookups(netns).map_err(|error| format!("sk_lookup: {error}"))?;
        let named = |id: u32| (id, names.get(&id).cloned().unwrap_or_default());
        self.lookups = lookups.into_iter().map(named).collect();
        let routing = PodRouting::open(netns).map_err(|error| crate::pods::registry::chain(&error))?;
        let interior = routing
            .interior(netns)
            .await
            .map_err(|error| crate::pods::registry::chain(&error))?;
        self.egress = hooks::egress(netns, &interior.links).map_err(|error| format!("tcx: {error}"))?;
        self.rules = routing
            .mark_rules()
            .await
            .map_err(|error| crate::pods::registry::chain(&error))?;
        self.ruleset = Ruleset::read(netns, |_, _| false).map_err(|error| format!("nftables: {error}"))?;
        self.ports = netns
            .run(|| fs::read_to_string(Path::new("/proc/sys/net/ipv4/ip_local_port_range")))
            .ok()
            .and_then(Result::ok)
            .and_then(|text| sysctls::port_range(&text));
        Ok(self)
    }
}

/// Judges rules of istio-cni in pods.
pub(super) fn judge_rules(pods: &[Pod]) -> Vec<Finding> {
    let mut findings: Vec<_> = pods.iter().filter_map(rules_of).collect();
    if findings.is_empty() {
        findings.push(Finding::good(
            Check::PodRules,
            format!("no rule of istio-cni in {} pods looked into", pods.len()),
        ));
    }
    findings
}

fn rules_of(pod: &Pod) -> Option<Finding> {
    if let Some(error) = &pod.closed {
        return Some(Finding::closed(Check::PodRules, format!("pod {}: {error}", pod.name)));
    }
    let marked = pod.rules.iter().any(|rule| (rule.mark, rule.mask) == REPLY_MARK);
    let mut found: Vec<String> = marked
        .then(|| "rule fwmark 0x111/0xfff".to_owned())
        .into_iter()
        .collect();
    found.extend(plan::found(&pod.ruleset));
    (!found.is_empty()).then(|| {
        Finding::bad(
            Check::PodRules,
            format!("pod {}: {}", pod.name, found.join(", ")),
            "istio-cni's rules turn the pod's connections to ports 15001 and 15006, where nobody listens any more: they are \
             refused",
            "the agent removes them when it enrols the pod, and `isthmus status` says what it cannot remove; or start the pod anew \
             (kubectl delete pod)",
        )
    })
}

/// Judges programs of others in pods. `ours` are ids of programs the agent has pinned.
pub(super) fn judge_hooks(pods: &[Pod], ours: &BTreeSet<u32>) -> Vec<Finding> {
    let mut findings: Vec<_> = pods.iter().flat_map(|pod| hooks_of(pod, ours)).collect();
    if findings.is_empty() {
        findings.push(Finding::good(
            Check::PodHooks,
            format!(
                "no sk_lookup and no tcx program of others in {} pods looked into",
                pods.len()
            ),
        ));
    }
    findings
}

fn hooks_of(pod: &Pod, ours: &BTreeSet<u32>) -> Vec<Finding> {
    let fix = "find its owner (`bpftool net`, `bpftool prog show id N`); if it is an agent's that is gone, `isthmus cleanup` with \
               the --bpffs and --node it was pinned with";
    let lookups = pod.lookups.iter().filter(|(id, _)| !ours.contains(id));
    let lookups: Vec<String> = lookups.map(|(id, name)| format!("{name} (id {id})")).collect();
    let egress = pod.egress.iter().filter(|(_, id, _)| !ours.contains(id));
    let egress: Vec<String> = egress
        .map(|(link, id, name)| format!("{name} (id {id}) on {link}"))
        .collect();
    let mut findings = Vec::new();
    if !lookups.is_empty() {
        findings.push(Finding::warning(
            Check::PodHooks,
            format!("pod {}: sk_lookup {}", pod.name, lookups.join(", ")),
            "all sk_lookup programs of a namespace run, and one that chooses a socket wins over one that lets pass: SYNs meant \
             for the agent may go to another socket, or be dropped",
            fix,
        ));
    }
    if !egress.is_empty() {
        findings.push(Finding::warning(
            Check::PodHooks,
            format!("pod {}: tcx {}", pod.name, egress.join(", ")),
            "what runs before the guard may send packets on without it; the guard takes the first place when the pod is \
             enrolled, and one attached later may come before it",
            fix,
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use crate::istio_cni::netfilter::{Chain, Table};

    fn ruleset(table: &str, chain: &str) -> Ruleset {
        let table = Table {
            family: 2,
            name: table.to_owned(),
        };
        let chain = Chain {
            table: table.clone(),
            name: chain.to_owned(),
            is_base: false,
        };
        Ruleset {
            tables: vec![table],
            chains: vec![chain],
            jumps: Vec::new(),
        }
    }

    fn pod() -> Pod {
        Pod {
            name: "demo/a".into(),
            lookups: vec![(5, "claim".into())],
            egress: vec![("eth0".into(), 6, "guard_ether".into())],
            rules: vec![MarkRule {
                mark: 0x4953_0001,
                mask: u32::MAX,
                table: 0x4953,
                ours: true,
            }],
            ruleset: ruleset("filter", "KUBE-FIREWALL"),
            ..Pod::default()
        }
    }

    #[test]
    fn a_pod_with_our_own_things_is_good() {
        assert_eq!(judge_rules(&[pod()])[0].level, Level::Good);
        assert_eq!(judge_hooks(&[pod()], &BTreeSet::from([5, 6]))[0].level, Level::Good);
        assert_eq!(judge_rules(&[])[0].level, Level::Good);
    }

    #[test]
    fn rules_of_istio_in_a_pod_are_bad() {
        let mut marked = pod();
        marked.rules.push(MarkRule {
            mark: 0x111,
            mask: 0xfff,
            table: 100,
            ours: false,
        });
        let mut chained = pod();
        chained.ruleset = ruleset("nat", "ISTIO_OUTPUT");
        for (pod, says) in [(marked, "fwmark 0x111/0xfff"), (chained, "nat ISTIO_OUTPUT")] {
            let found = judge_rules(&[pod]);
            assert_eq!(found[0].level, Level::Bad);
            assert!(
                found[0].found.contains(says) && found[0].found.contains("demo/a"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_same_mark_with_another_mask_is_somebody_elses() {
        let mut pod = pod();
        pod.rules.push(MarkRule {
            mark: 0x111,
            mask: u32::MAX,
            table: 100,
            ours: false,
        });
        assert_eq!(judge_rules(&[pod])[0].level, Level::Good);
    }

    #[test]
    fn a_lookup_of_somebody_else_is_a_warning() {
        let found = judge_hooks(&[pod()], &BTreeSet::from([6]));
        assert_eq!((found.len(), found[0].level), (1, Level::Warning));
        assert!(found[0].found.contains("claim (id 5)"));
    }

    #[test]
    fn a_program_of_somebody_else_on_the_way_out_is_a_warning() {
        let found = judge_hooks(&[pod()], &BTreeSet::from([5]));
        assert_eq!((found.len(), found[0].level), (1, Level::Warning));
        assert!(found[0].found.contains("guard_ether (id 6) on eth0"));
    }

    #[test]
    fn a_pod_that_cannot_be_entered_is_bad() {
        let closed = Pod {
            closed: Some("EPERM".into()),
            ..pod()
        };
        assert_eq!(judge_rules(&[closed])[0].level, Level::Bad);
    }
}
