//! `isthmus check`: is this node fit for the agent, and if not, what is to be done?
//!
//! Facts are gathered first, without changing anything of the node; each file below then judges its own facts, purely.

pub mod agent;
pub mod arguments;
mod bpffs;
pub mod capabilities;
mod cgroup;
mod hooks;
mod kernel;
mod leftovers;
mod limits;
mod node_netns;
pub mod pins;
mod pods;
pub mod report;
mod sysctls;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    path::PathBuf,
};

use tokio::runtime::Builder;

pub use arguments::CheckArgs;
use report::{Check, Finding, Report};

use crate::{
    check::{agent::Agent, pods::Pod},
    cli::Output,
    istio_cni::{
        files,
        netfilter::{self, Ruleset},
    },
    redirect::{Netns, hooks as kernel_hooks, netns, objects, trial::Trial},
};

/// Looks at everything and prints it. Answers whether the node is fit.
pub fn run(arguments: &CheckArgs) -> Result<bool, Box<dyn Error>> {
    netns::remember_home()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(look(arguments));
    let mut out = io::stdout().lock();
    match arguments.output {
        Output::Json => report.write_json(&mut out)?,
        Output::Text => report.write_text(&mut out)?,
    }
    Ok(report.passes(arguments.strict))
}

async fn look(arguments: &CheckArgs) -> Report {
    let agent = Agent::behind(&arguments.run_dir);
    let capabilities = capabilities::effective();
    let bpffs = bpffs::Facts::gather(&arguments.bpffs);
    let cgroup = cgroup::Facts::gather(arguments.cgroup.as_deref());
    // Before the trial, which pins things for a moment.
    let pinned = pins::Facts::gather(&arguments.bpffs, &arguments.run_dir);
    let programs = Programs::gather(&pinned);
    let hooks = look_at_hooks(&cgroup, &programs);
    let node = Netns::open(&arguments.node_netns);
    let inside = look_into_pods(arguments, &pinned, &programs.names).await;
    let trial = try_out(arguments, &bpffs, &cgroup, capabilities).await;
    let leftovers = files::Facts::gather(&arguments.host_root);
    let host = look_at_host(node.as_ref().ok());

    let mut findings = vec![
        agent::judge(&agent, &arguments.run_dir),
        capabilities::judge(capabilities),
        bpffs::judge(&bpffs),
        cgroup::judge(&cgroup),
        node_netns::judge(&arguments.node_netns, &node.map(drop)),
        host,
    ];
    findings.extend(kernel::judge(&trial));
    findings.extend(hooks);
    findings.extend(pods::judge_hooks(&inside, &programs.pods));
    findings.extend(sysctls::judge(&sysctls::Facts::gather(&inside)));
    findings.extend(limits::judge(limits::Facts::gather(&agent)));
    findings.extend(pins::judge(&pinned, arguments.node.as_deref(), &agent));
    findings.extend(leftovers::judge_config(&leftovers));
    findings.extend(leftovers::judge_sockets(&leftovers));
    findings.extend(pods::judge_rules(&inside));
    Report::new(findings)
}

/// Programs the kernel holds, and which of them this agent's bpffs directory has pinned.
struct Programs {
    names: BTreeMap<u32, String>,
    node: BTreeSet<u32>,
    pods: BTreeSet<u32>,
}

impl Programs {
    fn gather(pinned: &pins::Facts) -> Self {
        let (mut node, mut pods) = (BTreeSet::new(), BTreeSet::new());
        for (pins, slots) in pinned.nodes.iter().flat_map(pins::NodePins::pins) {
            node.extend(kernel_hooks::pinned(&pins));
            pods.extend(kernel_hooks::guards(&pins));
            pods.extend(slots.iter().filter_map(|slot| kernel_hooks::claimed_by(&pins, *slot)));
        }
        Self {
            names: kernel_hooks::names(),
            node,
            pods,
        }
    }
}

fn look_at_hooks(cgroup: &cgroup::Facts, programs: &Programs) -> Vec<Finding> {
    let Some(root) = cgroup.path.as_deref().filter(|_| cgroup.is_cgroup2 == Ok(true)) else {
        return vec![Finding::skipped(Check::Hooks, "there is no cgroup2 hierarchy")];
    };
    hooks::judge(&hooks::Facts {
        root: root.to_owned(),
        tree: kernel_hooks::in_tree(root).map_err(|error| format!("{}: {error}", root.display())),
        names: programs.names.clone(),
        ours: programs.node.clone(),
    })
}

async fn look_into_pods(arguments: &CheckArgs, pinned: &pins::Facts, names: &BTreeMap<u32, String>) -> Vec<Pod> {
    let enrolled = pinned.records.iter().map(|record| pods::Asked {
        name: format!("{}/{}", record.pod.namespace, record.pod.name),
        netns: record.pod.netns.clone(),
        cookie: Some(record.cookie),
    });
    let asked = arguments.pods.iter().map(|netns: &PathBuf| pods::Asked {
        name: netns.display().to_string(),
        netns: netns.clone(),
        cookie: None,
    });
    let mut found = Vec::new();
    for pod in enrolled.chain(asked) {
        found.extend(Pod::gather(&pod, names).await);
    }
    found
}

async fn try_out(
    arguments: &CheckArgs,
    bpffs: &bpffs::Facts,
    cgroup: &cgroup::Facts,
    capabilities: u64,
) -> kernel::Outcome {
    let not_held = |why: &str| kernel::Outcome::NotHeld(why.into());
    if objects::node().is_err() || objects::pod().is_err() {
        return not_held("this binary was built without its eBPF programs; build it with `cargo xtask build`");
    }
    if !capabilities::suffice(capabilities) {
        return not_held("capabilities are missing");
    }
    if bpffs.is_bpffs != Ok(true) {
        return not_held("there is no BPF file system");
    }
    let Some(root) = cgroup.root() else {
        return not_held("the root of cgroup2 is not to be had");
    };
    let trial = Trial {
        bpffs: &arguments.bpffs,
        cgroup: root,
    };
    match trial.run().await {
        Ok(()) => kernel::Outcome::Passed,
        Err((piece, error)) => kernel::Outcome::Failed(kernel::Failure::read(piece, &error)),
    }
}

fn look_at_host(node: Option<&Netns>) -> Finding {
    let Some(node) = node else {
        return Finding::skipped(Check::HostRules, "the node's network namespace cannot be entered");
    };
    let found = Ruleset::read(node, |_, _| false).and_then(|ruleset| Ok((ruleset, netfilter::sets(node)?)));
    leftovers::judge_host(&found.map_err(|error| error.to_string()))
}
