//! Programs of others where ours are attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::report::{Check, Finding};
use crate::redirect::hooks::{Attached, Hook, MOST_CGROUPS, Tree};

/// What is on the hooks of the node.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The root of the cgroup2 hierarchy.
    pub(super) root: PathBuf,
    /// Programs on our hooks, or why they cannot be told.
    pub(super) tree: Result<Tree, String>,
    /// Names of programs, by id.
    pub(super) names: BTreeMap<u32, String>,
    /// Ids of programs that this node's agent has pinned.
    pub(super) ours: BTreeSet<u32>,
}

/// Whose a program is, by its name; the kernel keeps 15 bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Cilium,
    Calico,
    Kmesh,
    Isthmus,
    Unknown,
}

impl Owner {
    fn of(name: &str) -> Self {
        const STARTS: [(&str, Owner); 8] = [
            ("cil_sock", Owner::Cilium),
            ("sock4_", Owner::Cilium),
            ("sock6_", Owner::Cilium),
            ("cali_", Owner::Calico),
            ("calico_", Owner::Calico),
            ("cgroup_connect", Owner::Kmesh),
            ("sockops_", Owner::Kmesh),
            ("kmesh", Owner::Kmesh),
        ];
        if ["connect4", "connect6", "probes", "setsockopt"].contains(&name) {
            return Self::Isthmus;
        }
        STARTS
            .into_iter()
            .find_map(|(start, owner)| name.starts_with(start).then_some(owner))
            .unwrap_or(Self::Unknown)
    }

    fn means_and_fix(self, hooks: &BTreeSet<Hook>) -> (&'static str, &'static str) {
        let connects = hooks.contains(&Hook::Connect4) || hooks.contains(&Hook::Connect6);
        const GONE: &str = "its connect-time load balancing replaces a service's address by a backend's in the same hook, before \
                            or after ours: the mesh sees the backend alone, so policies, waypoints and endpoints in other \
                            networks that belong to the service do not apply";
        match self {
            Self::Cilium if connects => (
                GONE,
                "set socketLB.hostNamespaceOnly=true in Cilium's Helm values (bpf-lb-sock-hostns-only) and restart its agents",
            ),
            Self::Calico if connects => (
                GONE,
                "set bpfConnectTimeLoadBalancing: Disabled (and bpfHostNetworkedNATWithoutCTLB: Enabled) in Calico's \
                 FelixConfiguration",
            ),
            Self::Kmesh => (
                "two meshes take the same connections; which of them gets one depends on the order of attaching",
                "remove kmesh from this node: kubectl delete daemonset kmesh -n kmesh-system",
            ),
            Self::Isthmus => (
                "programs of another agent, or of an earlier node name, act beside ours: a connect may be marked twice and \
                 probes be taken for another node's",
                "if no other agent runs on this kernel: `isthmus cleanup` with the --bpffs and --node they were pinned with",
            ),
            _ if connects => (
                "it may change where a connect goes, before or after ours does, and may refuse connects",
                "find its owner (`bpftool cgroup tree`, `bpftool prog show id N`) and see that it leaves pods of the mesh alone",
            ),
            _ => (
                "both run; it may change the same options of a socket as ours",
                "find its owner (`bpftool cgroup tree`, `bpftool prog show id N`) if connections of pods behave oddly",
            ),
        }
    }
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let tree = match &facts.tree {
        Ok(tree) => tree,
        Err(error) => {
            return vec![Finding::closed(
                Check::Hooks,
                format!("programs of cgroups are not told: {error}"),
            )];
        }
    };
    let foreign = || {
        tree.attached
            .iter()
            .filter(|found| !facts.ours.contains(&found.program))
    };
    let mut findings: Vec<_> = foreign()
        .filter(|found| bars(found, &facts.root))
        .map(|found| barred(facts, found))
        .collect();
    let mut owners: BTreeMap<Owner, Vec<&Attached>> = BTreeMap::new();
    for found in foreign() {
        owners
            .entry(Owner::of(name(facts, found.program)))
            .or_default()
            .push(found);
    }
    for (owner, found) in owners {
        let hooks = found.iter().map(|one| one.hook).collect();
        let (means, fix) = owner.means_and_fix(&hooks);
        findings.push(Finding::warning(Check::Hooks, described(facts, &found), means, fix));
    }
    if findings.is_empty() {
        let more = if tree.cgroups < MOST_CGROUPS {
            ""
        } else {
            "; there may be more"
        };
        findings.push(Finding::good(
            Check::Hooks,
            format!(
                "no program of others on connect, sockops and setsockopt of {} cgroups{more}",
                tree.cgroups
            ),
        ));
    }
    findings
}

/// Would the kernel refuse ours beside it?
fn bars(found: &Attached, root: &Path) -> bool {
    found.exclusive && found.cgroup == root
}

fn barred(facts: &Facts, found: &Attached) -> Finding {
    Finding::bad(
        Check::Hooks,
        format!(
            "{} is attached to the root cgroup so that no other may be",
            one(facts, found)
        ),
        "the kernel refuses our programs, and the agent does not start",
        "end the program's owner, or have it attach by a link or with BPF_F_ALLOW_MULTI",
    )
}

fn name(facts: &Facts, program: u32) -> &str {
    facts.names.get(&program).map_or("", String::as_str)
}

fn one(facts: &Facts, found: &Attached) -> String {
    let name = match name(facts, found.program) {
        "" => "a program without a name",
        name => name,
    };
    format!("{name} (id {}, {})", found.program, found.hook.name())
}

/// The first few, and where they are attached.
fn described(facts: &Facts, found: &[&Attached]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|one_of| format!("{} at {}", one(facts, one_of), one_of.cgroup.display()))
        .collect();
    let more = found.len().saturating_sub(SHOWN);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn facts(programs: &[(Hook, &str, u32, &str, bool)]) -> Facts {
        let attached = programs.iter().map(|(hook, cgroup, program, _, exclusive)| Attached {
            hook: *hook,
            cgroup: cgroup.into(),
            program: *program,
            exclusive: *exclusive,
        });
        Facts {
            root: "/cg".into(),
            tree: Ok(Tree {
                attached: attached.collect(),
                cgroups: 3,
            }),
            names: programs
                .iter()
                .map(|(_, _, id, name, _)| (*id, (*name).to_owned()))
                .collect(),
            ours: BTreeSet::from([1]),
        }
    }

    #[test]
    fn our_own_programs_are_not_told() {
        let found = judge(&facts(&[(Hook::Connect4, "/cg", 1, "connect4", false)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].level, Level::Good);
    }

    #[test]
    fn each_load_balancer_is_known_by_its_programs_and_has_its_own_fix() {
        for (name, says) in [
            ("cil_sock4_conne", "socketLB.hostNamespaceOnly=true"),
            ("sock4_connect", "socketLB.hostNamespaceOnly=true"),
            ("cali_ctlb_v4", "bpfConnectTimeLoadBalancing"),
            ("calico_connect_", "bpfConnectTimeLoadBalancing"),
            ("cgroup_connect4", "kmesh"),
            ("connect4", "isthmus cleanup"),
            ("mine", "bpftool"),
            ("", "bpftool"),
        ] {
            let found = judge(&facts(&[(Hook::Connect4, "/cg/kubepods", 7, name, false)]));
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, Level::Warning);
            assert!(found[0].fix.contains(says), "{name}: {:?}", found[0]);
            assert!(found[0].found.contains("/cg/kubepods") && found[0].found.contains("id 7"));
        }
    }

    #[test]
    fn a_sockops_program_of_cilium_rewrites_no_address() {
        let found = judge(&facts(&[(Hook::SockOps, "/cg", 7, "cil_sockops", false)]));
        assert!(!found[0].means.contains("load balancing"), "{found:?}");
    }

    #[test]
    fn many_programs_of_one_owner_are_one_finding() {
        let programs: Vec<_> = (10..20).map(|id| (Hook::Connect4, "/cg/a", id, "x", false)).collect();
        let found = judge(&facts(&programs));
        assert_eq!(found.len(), 1);
        assert!(found[0].found.ends_with("and 6 more"), "{}", found[0].found);
    }

    #[test]
    fn a_program_that_lets_none_beside_it_at_the_root_is_bad_and_below_it_is_not() {
        let found = judge(&facts(&[(Hook::Connect4, "/cg", 7, "jealous", true)]));
        assert_eq!(found[0].level, Level::Bad);
        assert!(found[0].found.contains("jealous"));
        let below = judge(&facts(&[(Hook::Connect4, "/cg/a", 7, "jealous", true)]));
        assert!(below.iter().all(|finding| finding.level == Level::Warning));
    }

    #[test]
    fn hooks_that_cannot_be_looked_at_are_bad() {
        let mut facts = facts(&[]);
        facts.tree = Err("EPERM".into());
        let found = judge(&facts);
        assert_eq!(found[0].level, Level::Bad);
        assert!(found[0].fix.contains("root"));
    }
}
