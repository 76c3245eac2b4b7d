//! Who else is attached where our programs are: the hooks of the cgroup tree, and `sk_lookup` of a namespace.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};

use super::{
    Netns, Pins, kernel_calls,
    node::{GUARDS, LINKS},
    policy_routing::Link,
};

/// linux/bpf.h, `enum bpf_attach_type`.
const BPF_SK_LOOKUP: u32 = 36;
/// linux/bpf.h: the programs of this cgroup may be joined by others.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Cgroups that are looked at, at most: a full node has some thousands.
pub const MOST_CGROUPS: usize = 20_000;

/// A hook of the cgroup tree that our programs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// connect() of an IPv4 socket.
    Connect4,
    /// connect() of an IPv6 socket.
    Connect6,
    /// Events of TCP sockets.
    SockOps,
    /// setsockopt().
    Setsockopt,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connect4, Self::Connect6, Self::SockOps, Self::Setsockopt];

    /// As bpftool calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "cgroup_inet4_connect",
            Self::Connect6 => "cgroup_inet6_connect",
            Self::SockOps => "cgroup_sock_ops",
            Self::Setsockopt => "cgroup_setsockopt",
        }
    }

    /// linux/bpf.h, `enum bpf_attach_type`.
    fn attach_type(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::SockOps => 3,
            Self::Setsockopt => 22,
        }
    }
}

/// A program that is attached to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The hook.
    pub hook: Hook,
    /// The cgroup.
    pub cgroup: PathBuf,
    /// Program id.
    pub program: u32,
    /// No other program may be attached here beside it (it was attached without `BPF_F_ALLOW_MULTI`).
    pub exclusive: bool,
}

/// What was found in a cgroup tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Programs on our hooks.
    pub attached: Vec<Attached>,
    /// Cgroups looked at. When they are [`MOST_CGROUPS`] there may be more.
    pub cgroups: usize,
}

/// Looks at a cgroup and all below it. Only the first must answer: others come and go.
pub fn in_tree(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree {
        attached: of_cgroup(root)?,
        cgroups: 1,
    };
    let mut waiting = below(root);
    while let Some(cgroup) = waiting.pop() {
        if tree.cgroups == MOST_CGROUPS {
            break;
        }
        tree.cgroups += 1;
        tree.attached.extend(of_cgroup(&cgroup).unwrap_or_default());
        waiting.extend(below(&cgroup));
    }
    Ok(tree)
}

fn of_cgroup(cgroup: &Path) -> io::Result<Vec<Attached>> {
    let directory = File::open(cgroup)?;
    let mut found = Vec::new();
    for hook in Hook::ALL {
        let occupied = kernel_calls::occupied(directory.as_fd(), hook.attach_type())?;
        let exclusive = occupied.flags & BPF_F_ALLOW_MULTI == 0;
        found.extend(occupied.programs.into_iter().map(|program| Attached {
            hook,
            cgroup: cgroup.to_owned(),
            program,
            exclusive,
        }));
    }
    Ok(found)
}

fn below(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Ids of the programs that take SYNs in a network namespace.
pub fn lookups(netns: &Netns) -> io::Result<Vec<u32>> {
    Ok(kernel_calls::occupied(netns.as_fd(), BPF_SK_LOOKUP)?.programs)
}

/// Programs on the egress of these links of a namespace, by tcx: the link's name, and the program's id and name.
pub fn egress(netns: &Netns, links: &[Link]) -> io::Result<Vec<(String, u32, String)>> {
    netns.run(|| {
        let mut found = Vec::new();
        for link in links {
            let (_, programs) =
                SchedClassifier::query_tcx(&link.name, TcAttachType::Egress).map_err(io::Error::other)?;
            found.extend(programs.iter().map(|program| {
                let name = String::from_utf8_lossy(program.name()).into_owned();
                (link.name.clone(), program.id(), name)
            }));
        }
        Ok(found)
    })?
}

/// Names of all programs of the kernel, at most 15 bytes each, by id.
pub fn names() -> BTreeMap<u32, String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .map(|program| (program.id(), String::from_utf8_lossy(program.name()).into_owned()))
        .collect()
}

/// Ids of the programs behind the node-wide links of one generation.
pub fn pinned(pins: &Pins) -> Vec<u32> {
    LINKS
        .iter()
        .filter_map(|link| Some(kernel_calls::inspect(&pins.node_link(link)).ok()?.program_id))
        .collect()
}

/// Ids of the guards of one generation.
pub fn guards(pins: &Pins) -> Vec<u32> {
    GUARDS
        .iter()
        .filter_map(|guard| Some(ProgramInfo::from_pin(pins.program(guard)).ok()?.id()))
        .collect()
}

/// Id of the program behind a pod's `claim`.
pub fn claimed_by(pins: &Pins, slot: u32) -> Option<u32> {
    Some(kernel_calls::inspect(&pins.claim(slot)).ok()?.program_id)
}
