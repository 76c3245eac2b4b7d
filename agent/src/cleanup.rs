//! `isthmus cleanup`: takes every trace of the agent off the node, also of one that died half-way.
//!
//! In this order: first what redirects, then what stands in pods, then the guard, then pins, the CNI plugin, records and
//! socket. If it is interrupted, pods that were not reached yet stay guarded; a second run goes on from there.

pub mod arguments;
mod istio_cni;
mod ledger;

use std::{
    collections::BTreeSet,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use isthmus_wire::{NAMESPACES_NAME, Request, Response, SOCKET_NAME, ask};
use tokio::runtime::Builder;

pub use arguments::CleanupArgs;
use ledger::Ledger;

use crate::{
    check::{
        agent::Agent,
        capabilities,
        pins::{Facts, NodePins},
    },
    cni::{self, Places},
    config::MESH_SNAPSHOT,
    parent::handover,
    pods::{
        record::{Record, Records},
        registry::chain,
    },
    redirect::{Netns, PodRouting, cgroup2, netns, node::LINKS, policy_routing::RoutingError, trial, unpin},
};

/// How long a running agent may take to let a pod go.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[error(
    "an agent runs on {socket}{name}: it would put back what is removed, and its pods would lose their connections. Stop it first \
     (kubectl delete daemonset, systemctl stop isthmus), or say --force to have it let every pod go and to remove the rest under \
     it"
)]
pub struct Occupied {
    socket: String,
    name: String,
}

/// Why nothing can be done.
#[derive(Debug, thiserror::Error)]
#[error("cleanup needs the agent's capabilities to see what is there and to remove it: run it as root")]
pub struct Powerless;

/// Removes everything and prints each thing. Answers whether nothing is left.
pub fn run(arguments: &CleanupArgs) -> Result<bool, Box<dyn Error>> {
    if !capabilities::suffice(capabilities::effective()) {
        return Err(Powerless.into());
    }
    if arguments.istio_cni {
        return istio_cni::run(arguments);
    }
    let agent = Agent::behind(&arguments.run_dir);
    let facts = Facts::gather(&arguments.bpffs, &arguments.run_dir);
    let mut ledger = Ledger::new(io::stdout().lock(), "Isthmus");
    let closed = facts.closed.clone();
    let scope = Scope::of(arguments, &agent, facts);
    if scope.has_run_directory && agent.runs() {
        if !arguments.force {
            return Err(occupied(&agent, &arguments.run_dir).into());
        }
        release_all(&agent, &arguments.run_dir, &mut ledger);
    }
    netns::remember_home()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(remove(arguments, &scope, &mut ledger));
    closed.iter().for_each(|why| ledger.failed("what is there", why));
    Ok(ledger.close()?)
}

fn occupied(agent: &Agent, run_directory: &Path) -> Occupied {
    Occupied {
        socket: run_directory.join(SOCKET_NAME).display().to_string(),
        name: match agent {
            Agent::Runs { node, pid, .. } => format!(" (node {node}, process {pid})"),
            _ => String::new(),
        },
    }
}

fn release_all(agent: &Agent, run_directory: &Path, ledger: &mut Ledger<impl Write>) {
    let Agent::Runs { pods, .. } = agent else { return };
    let socket = run_directory.join(SOCKET_NAME);
    for uid in pods {
        match ask(&socket, &Request::Release { uid: uid.clone() }, PATIENCE) {
            Ok(Response::Done) => ledger.noted(format_args!("the agent let pod {uid} go")),
            // What it does not do is done below.
            Ok(other) => ledger.noted(format_args!("the agent did not let pod {uid} go: {other:?}")),
            Err(error) => ledger.noted(format_args!("the agent did not let pod {uid} go: {}", chain(&error))),
        }
    }
}

/// What is to go.
#[derive(Debug)]
struct Scope {
    nodes: Vec<NodePins>,
    records: Vec<Record>,
    unreadable: Vec<PathBuf>,
    abandoned: Vec<PathBuf>,
    /// Records, socket and pods' namespaces belong to it: not when another node name's agent uses them.
    has_run_directory: bool,
}

impl Scope {
    fn of(arguments: &CleanupArgs, agent: &Agent, facts: Facts) -> Self {
        let Some(wanted) = &arguments.node else {
            return Self {
                nodes: facts.nodes,
                records: facts.records,
                unreadable: facts.unreadable.into_iter().map(|(path, _)| path).collect(),
                abandoned: facts.abandoned,
                has_run_directory: true,
            };
        };
        let (nodes, others): (Vec<_>, Vec<_>) = facts.nodes.into_iter().partition(|pins| pins.is_named(wanted));
        let is_others = matches!(agent, Agent::Runs { node, .. } if node != wanted);
        // Two names with the same programs may have pinned the same slot: then the record is taken for ours.
        let is_pinned = |by: &[NodePins], record: &Record| by.iter().any(|pins| has(pins, record));
        let belongs = |record: &Record| !is_others && (is_pinned(&nodes, record) || !is_pinned(&others, record));
        let records = facts.records.into_iter().filter(belongs).collect();
        Self {
            nodes,
            records,
            unreadable: facts
                .unreadable
                .into_iter()
                .map(|(path, _)| path)
                .filter(|_| !is_others)
                .collect(),
            abandoned: facts.abandoned,
            has_run_directory: !is_others,
        }
    }
}

fn has(pins: &NodePins, record: &Record) -> bool {
    pins.generations
        .iter()
        .any(|generation| generation.name == record.generation && generation.slots.contains(&record.slot))
}

async fn remove(arguments: &CleanupArgs, scope: &Scope, ledger: &mut Ledger<impl Write>) {
    let places = if scope.has_run_directory {
        insides(arguments, scope)
    } else {
        Vec::new()
    };
    for node in &scope.nodes {
        for (pins, _) in node.pins() {
            LINKS.iter().for_each(|link| unpin_all(&pins.node_link(link), ledger));
        }
    }
    let mut kept = BTreeSet::new();
    for place in &places {
        if !clear(place, ledger).await {
            kept.extend(place.slot);
        }
    }
    scope.nodes.iter().for_each(|node| unpin_all(&node.path, ledger));
    scope.abandoned.iter().for_each(|path| unpin_all(path, ledger));
    abandoned_cgroups(arguments, ledger);
    if scope.has_run_directory {
        // As long as runtimes call the plugin, no pod starts without the agent.
        remove_plugin(arguments, ledger);
        clear_state_directory(arguments, ledger);
        clear_run_directory(arguments, scope, &kept, ledger);
    }
    // Left when others are pinned in it.
    if fs::read_dir(&arguments.bpffs).is_ok_and(|mut entries| entries.next().is_none()) {
        ledger.remove("directory", &arguments.bpffs, |path| fs::remove_dir(path));
    }
}

fn unpin_all(path: &Path, ledger: &mut Ledger<impl Write>) {
    unpin::all(path, &mut |removed| {
        let named = format!("{} {}", removed.what, removed.path.display());
        match removed.failure {
            None => ledger.removed(named),
            Some(error) => ledger.failed(named, error),
        }
    });
}

/// A network namespace to be cleared.
#[derive(Debug, PartialEq, Eq)]
struct Inside {
    name: String,
    path: Option<PathBuf>,
    /// The cookie it must have, if it is known.
    cookie: Option<u64>,
    /// Its record's slot.
    slot: Option<u32>,
    /// A record or a pin says that it was enrolled.
    enrolled: bool,
}

/// Namespaces of remembered pods, of pins without a record, and those asked for.
fn insides(arguments: &CleanupArgs, scope: &Scope) -> Vec<Inside> {
    let mut found: Vec<Inside> = scope
        .records
        .iter()
        .map(|record| Inside {
            name: format!("pod {}/{}", record.pod.namespace, record.pod.name),
            path: Some(record.pod.netns.clone()),
            cookie: Some(record.cookie),
            slot: Some(record.slot),
            enrolled: true,
        })
        .collect();
    let known = |slot: &u32| scope.records.iter().any(|record| record.slot == *slot);
    for (pins, slots) in scope.nodes.iter().flat_map(NodePins::pins) {
        let strangers = slots.into_iter().filter(|slot| !known(slot));
        found.extend(strangers.map(|slot| Inside {
            name: format!("the pod of {}", pins.pod(slot).display()),
            path: unpin::namespace_of(&pins, slot).and_then(netns::path_of),
            cookie: None,
            slot: None,
            enrolled: true,
        }));
    }
    found.extend(arguments.pods.iter().map(|path| Inside {
        name: format!("namespace {}", path.display()),
        path: Some(path.clone()),
        cookie: None,
        slot: None,
        enrolled: false,
    }));
    found
}

/// Takes our rules, routes and sysctls out of a namespace. Answers false when they may still be there.
async fn clear(inside: &Inside, ledger: &mut Ledger<impl Write>) -> bool {
    let gone = |ledger: &mut Ledger<_>| {
        ledger.noted(format_args!(
            "{}: its network namespace is gone, and what was in it",
            inside.name
        ));
        true
    };
    let Some(path) = inside.path.as_deref().filter(|path| path.exists()) else {
        return gone(ledger);
    };
    let what = format!("rules, routes and sysctls of {}", inside.name);
    let netns = match Netns::open(path) {
        Ok(netns) if inside.cookie.is_none_or(|cookie| cookie == netns.cookie()) => netns,
        Ok(_) => return gone(ledger),
        // `ip netns del` of a busy namespace leaves a plain file for a moment; a record's path may be used for another.
        Err(error) if is_no_namespace(&error) && inside.cookie.is_some() => return gone(ledger),
        Err(error) => {
            ledger.failed(what, chain(&error));
            return false;
        }
    };
    match clear_namespace(&netns, inside.enrolled).await {
        Ok(false) => true,
        Ok(true) => {
            ledger.removed(what);
            true
        }
        Err(error) => {
            ledger.failed(what, chain(&error));
            false
        }
    }
}

fn is_no_namespace(error: &netns::NetnsError) -> bool {
    matches!(error, netns::NetnsError::Enter { cause, .. } if cause.raw_os_error() == Some(libc::EINVAL))
}

/// Answers whether there was something of ours. In a pod that was enrolled the sysctls are set back in any case.
async fn clear_namespace(netns: &Netns, enrolled: bool) -> Result<bool, RoutingError> {
    let routing = PodRouting::open(netns)?;
    let is_ours = enrolled || routing.traces().await? > 0;
    if is_ours {
        routing.remove(netns).await?;
    }
    Ok(is_ours)
}

fn remove_plugin(arguments: &CleanupArgs, ledger: &mut Ledger<impl Write>) {
    let places = Places::find(arguments.cni_bin_dir.clone(), arguments.cni_conf_dir.clone());
    cni::remove(&places, &mut |what, failure| match failure {
        None => ledger.removed(what),
        Some(error) => ledger.failed(what, error),
    });
}

/// Cgroups of checks that were killed.
fn abandoned_cgroups(arguments: &CleanupArgs, ledger: &mut Ledger<impl Write>) {
    let root = arguments.cgroup.clone().or_else(|| cgroup2::mounted().ok().flatten());
    let entries = root.map(fs::read_dir).into_iter().flatten().flatten().flatten();
    for entry in entries {
        if trial::is_abandoned(&entry.file_name().to_string_lossy()) {
            ledger.remove("cgroup", &entry.path(), |path| fs::remove_dir(path));
        }
    }
}

fn clear_state_directory(arguments: &CleanupArgs, ledger: &mut Ledger<impl Write>) {
    let state = arguments.state_dir.as_ref().unwrap_or(&arguments.run_dir);
    ledger.remove("file", &state.join(NAMESPACES_NAME), |path| fs::remove_file(path));
    let is_empty = || fs::read_dir(state).is_ok_and(|mut entries| entries.next().is_none());
    if *state != arguments.run_dir && is_empty() {
        remove_own_directory(state, ledger);
    }
}

fn clear_run_directory(arguments: &CleanupArgs, scope: &Scope, kept: &BTreeSet<u32>, ledger: &mut Ledger<impl Write>) {
    let run = &arguments.run_dir;
    let records = Records::existing(run);
    for record in &scope.records {
        let path = records.path(record.slot);
        if kept.contains(&record.slot) {
            ledger.noted(format_args!(
                "kept {}, so that the next run tries again",
                path.display()
            ));
        } else {
            ledger.remove("record", &path, |path| fs::remove_file(path));
        }
    }
    let halves = fs::read_dir(run.join("pods")).into_iter().flatten().flatten();
    let halves = halves
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "new"));
    for path in scope.unreadable.iter().cloned().chain(halves) {
        ledger.remove("record", &path, |path| fs::remove_file(path));
    }
    if fs::read_dir(run.join("pods")).is_ok_and(|mut entries| entries.next().is_none()) {
        ledger.remove("directory", &run.join("pods"), |path| fs::remove_dir(path));
    }
    for (what, name) in [
        ("socket", SOCKET_NAME),
        ("socket", handover::SOCKET_NAME),
        ("mesh", MESH_SNAPSHOT),
    ] {
        ledger.remove(what, &run.join(name), |path| fs::remove_file(path));
    }
    match fs::read_dir(run).map(|mut entries| entries.next().is_none()) {
        Ok(true) => remove_own_directory(run, ledger),
        Ok(false) => ledger.noted(format_args!("{} holds other files, and stays", run.display())),
        Err(_) => {}
    }
}

/// Where it is a mount of its own (a hostPath, a RuntimeDirectory that is kept) it can only be left, empty.
fn remove_own_directory(directory: &Path, ledger: &mut Ledger<impl Write>) {
    match fs::remove_dir(directory) {
        Ok(()) => ledger.removed(format_args!("directory {}", directory.display())),
        Err(_) => ledger.noted(format_args!("{} is empty, and stays", directory.display())),
    }
}

#[cfg(test)]
mod tests;
