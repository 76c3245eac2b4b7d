//! Do pins and records tell the same story, and does somebody serve it?

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    agent::Agent,
    report::{Check, Finding},
};
use crate::{
    pods::record::{Record, Records},
    redirect::{Pins, node::LINKS, trial},
};

/// Everything that is pinned, and everything that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Node directories below the bpffs directory.
    pub nodes: Vec<NodePins>,
    /// Places of trials whose process is dead.
    pub abandoned: Vec<PathBuf>,
    /// Records that can be read.
    pub records: Vec<Record>,
    /// Records that cannot, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Directories that cannot be looked into, and why.
    pub closed: Vec<String>,
}

/// What one node name has pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePins {
    /// Its directory.
    pub path: PathBuf,
    /// Generations of programs.
    pub generations: Vec<Generation>,
}

/// What one set of programs has pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its name.
    pub name: String,
    /// All links of the node's programs are there.
    pub whole: bool,
    /// Slots with pins.
    pub slots: Vec<u32>,
}

impl Facts {
    /// Looks.
    pub fn gather(bpffs: &Path, run_directory: &Path) -> Self {
        let mut facts = Self {
            closed: [bpffs, &run_directory.join("pods")]
                .into_iter()
                .filter_map(closed)
                .collect(),
            ..Self::default()
        };
        for path in directories(bpffs) {
            let name = file_name(&path);
            if trial::is_place(&name) {
                if trial::is_abandoned(&name) {
                    facts.abandoned.push(path);
                }
            } else {
                facts.nodes.push(NodePins::gather(path));
            }
        }
        for (path, read) in Records::existing(run_directory).read_each() {
            match read {
                Ok(record) => facts.records.push(record),
                Err(error) => facts.unreadable.push((path, error)),
            }
        }
        facts.records.sort_by_key(|record| record.slot);
        facts
    }

    /// The pins of this node name; without a name, those of the only one there is.
    fn own(&self, node: Option<&str>) -> Option<&NodePins> {
        match (node, &self.nodes[..]) {
            (Some(node), all) => all.iter().find(|pins| pins.is_named(node)),
            (None, [only]) => Some(only),
            _ => None,
        }
    }
}

impl NodePins {
    /// Its generations as pins, each with its slots.
    pub fn pins(&self) -> Vec<(Pins, Vec<u32>)> {
        let parts = self
            .path
            .parent()
            .zip(self.path.file_name().and_then(|name| name.to_str()));
        let Some((bpffs, node)) = parts else { return Vec::new() };
        self.generations
            .iter()
            .map(|generation| {
                (
                    Pins::new(bpffs, node, generation.name.clone()),
                    generation.slots.clone(),
                )
            })
            .collect()
    }

    /// Is this the directory of that node name?
    pub fn is_named(&self, node: &str) -> bool {
        file_name(&self.path) == Pins::node_name(node)
    }

    fn gather(path: PathBuf) -> Self {
        let generations = directories(&path).into_iter().filter_map(|directory| {
            let name = file_name(&directory);
            let pins = Pins::new(path.parent()?, path.file_name()?.to_str()?, name.clone());
            let mut slots = pins.pods();
            slots.sort_unstable();
            Some(Generation {
                name,
                whole: LINKS.iter().all(|link| pins.node_link(link).exists()),
                slots,
            })
        });
        Self {
            generations: generations.collect(),
            path,
        }
    }
}

/// Why a directory cannot be looked into. One that is not there is empty.
fn closed(path: &Path) -> Option<String> {
    match fs::read_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some(format!("{}: {error}", path.display())),
        _ => None,
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

const CLEAN: &str = "`isthmus cleanup` removes it; so does the agent when it starts";

/// Judges. `node` is whose records these are, where it was said.
pub(super) fn judge(facts: &Facts, node: Option<&str>, agent: &Agent) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = facts.own(node);
    findings.extend(other_names(facts, own));
    if let Some(pins) = own {
        findings.extend(half_made(pins));
        findings.extend(orphans(facts, pins));
    }
    findings.extend(unguarded(facts));
    findings.extend(unserved(facts, agent));
    findings.extend(facts.unreadable.iter().map(|(path, error)| {
        Finding::warning(
            Check::Pins,
            format!("the record {} cannot be read: {error}", path.display()),
            "the agent does not know that pod any more: it takes its guard away when it starts",
            "enrol the pod again once the agent runs, and remove the file",
        )
    }));
    findings.extend(facts.abandoned.iter().map(|path| {
        Finding::warning(
            Check::Pins,
            format!("{} is what an `isthmus check` left that was killed", path.display()),
            "its programs are attached to nothing",
            "`isthmus cleanup` removes it",
        )
    }));
    findings.extend(facts.closed.iter().map(|error| Finding::closed(Check::Pins, error)));
    if findings.is_empty() {
        findings.push(Finding::good(Check::Pins, summary(facts)));
    }
    findings
}

fn summary(facts: &Facts) -> String {
    match (facts.nodes.is_empty(), facts.records.len()) {
        (true, 0) => "nothing is pinned and no pod is remembered".into(),
        (_, pods) => format!("{pods} pods, each with a record and its pins"),
    }
}

fn other_names(facts: &Facts, own: Option<&NodePins>) -> Option<Finding> {
    let others = facts.nodes.iter().filter(|node| Some(*node) != own);
    let names: Vec<String> = others.map(|node| file_name(&node.path)).collect();
    (!names.is_empty()).then(|| {
        Finding::warning(
            Check::Pins,
            format!("programs of other node names are pinned: {}", names.join(", ")),
            "they act on every connect of this kernel as well; after a change of the node's name the old ones are left",
            "say with --node which name is this node's; `isthmus cleanup --node OLD` removes one that is not used any more",
        )
    })
}

/// Generations that do not redirect, but whose pods are guarded.
fn half_made(node: &NodePins) -> Vec<Finding> {
    let broken = node.generations.iter().filter(|generation| !generation.whole);
    broken
        .map(|generation| {
            let path = node.path.join(&generation.name);
            let means = "programs of the node are missing: connects of its pods are not redirected, and where the guard stands \
                         they are dropped";
            Finding::bad(Check::Pins, format!("{} is not whole", path.display()), means, "start the agent, which makes it anew; or `isthmus cleanup`")
        })
        .collect()
}

/// Pins of slots that no record tells of.
fn orphans(facts: &Facts, node: &NodePins) -> Option<Finding> {
    let known = |slot: &u32| facts.records.iter().any(|record| record.slot == *slot);
    let stray: Vec<String> = node
        .generations
        .iter()
        .flat_map(|generation| generation.slots.iter().filter(|slot| !known(slot)))
        .map(|slot| format!("pod_{slot}"))
        .collect();
    (!stray.is_empty()).then(|| {
        Finding::warning(
            Check::Pins,
            format!(
                "{}: {} pinned, and no record tells of the pod",
                node.path.display(),
                stray.join(", ")
            ),
            "those pods are guarded and nobody will serve them: they have no connections",
            CLEAN,
        )
    })
}

/// Records of pods that have no pins.
fn unguarded(facts: &Facts) -> Option<Finding> {
    let guarded = |record: &Record| {
        facts.nodes.iter().any(|node| {
            node.generations
                .iter()
                .any(|generation| generation.name == record.generation && generation.slots.contains(&record.slot))
        })
    };
    let bare: Vec<String> = facts
        .records
        .iter()
        .filter(|record| !record.released && !guarded(record))
        .map(|record| format!("{}/{}", record.pod.namespace, record.pod.name))
        .collect();
    (!bare.is_empty()).then(|| {
        Finding::bad(
            Check::Pins,
            format!("enrolled, but nothing is pinned for {}", bare.join(", ")),
            "somebody removed the pins: these pods are not guarded, and their connections leave in clear",
            "start the agent again, which enrols them anew; or `isthmus cleanup`, if the mesh is to go",
        )
    })
}

fn unserved(facts: &Facts, agent: &Agent) -> Option<Finding> {
    let pods = facts.records.iter().filter(|record| !record.released).count();
    (!agent.runs() && pods > 0).then(|| {
        Finding::warning(
            Check::Pins,
            format!("{pods} pods are enrolled and no agent runs"),
            "they are guarded and cut off until an agent is back",
            "start the agent; or `isthmus cleanup`, which lets them go in clear",
        )
    })
}

#[cfg(test)]
mod tests;
