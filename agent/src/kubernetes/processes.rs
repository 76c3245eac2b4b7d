//! Which network namespace a running pod has, by its processes.
//!
//! A wrong pairing gives a pod another one's identity, so nothing is guessed. The oldest process of the pod decides: the
//! kubelet's runtime started it, and what the pod starts itself is younger. Its namespace must not be the node's, no other
//! pod may claim it, and it must hold one of the pod's addresses.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::cgroup::{self, Owner};
use crate::redirect::Netns;

/// Where runtimes give namespaces names. A name outlives processes.
const NAMES: &str = "/run/netns";

/// A process of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its pod.
    pub(super) uid: String,
    /// Ticks from boot to its start.
    pub(super) started: u64,
    /// Its network namespace: device and inode on nsfs.
    pub(super) netns: (u64, u64),
    /// Where its network namespace can be opened.
    pub(super) path: PathBuf,
}

/// A namespace that is certainly a pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it can be opened.
    pub(super) path: PathBuf,
    netns: (u64, u64),
}

/// Why no namespace was found that is certainly the pod's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotFound {
    #[error(
        "no process of it is under {0} (is that the node's own proc, and may the agent read it: hostPID, or a hostPath and \
         --proc?)"
    )]
    NoProcess(PathBuf),
    #[error("all its processes are in the node's own network namespace")]
    OnlyNode,
    #[error("two of its processes are equally old and in different network namespaces")]
    Ambiguous,
    #[error("the oldest process of pod {0} is in the same network namespace")]
    Shared(String),
    #[error("the network namespace of its oldest process, {path}, has none of its addresses {wanted:?}, but {found:?}")]
    NotIts {
        path: PathBuf,
        wanted: Vec<IpAddr>,
        found: Vec<IpAddr>,
    },
    #[error("its network namespace {0} cannot be looked into: {1}")]
    Closed(PathBuf, String),
}

/// All processes that belong to pods, as a walk through a proc tree saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    root: PathBuf,
    list: Vec<Process>,
    /// Names of namespaces, by device and inode.
    names: BTreeMap<(u64, u64), PathBuf>,
    /// The node's own.
    node: (u64, u64),
}

impl Processes {
    /// Walks through the tree at `root`. Processes that end meanwhile are passed over.
    pub(super) fn walk(root: &Path, node: &Path) -> io::Result<Self> {
        let mut list = Vec::new();
        for entry in fs::read_dir(root)?.flatten() {
            let is_process = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
            if is_process {
                list.extend(look(&entry.path()));
            }
        }
        let named = fs::read_dir(NAMES).into_iter().flatten().flatten();
        Ok(Self {
            root: root.to_owned(),
            list,
            names: named
                .filter_map(|entry| Some((identify(&entry.path())?, entry.path())))
                .collect(),
            node: fs::metadata(node).map(|found| (found.dev(), found.ino()))?,
        })
    }

    /// The namespace of a pod with these addresses: where it can be opened, which is a name of it if it has one.
    pub(super) fn netns_of(&self, uid: &str, ips: &[IpAddr]) -> Result<Found, NotFound> {
        let chosen = choose(&self.list, uid, self.node).map_err(|why| match why {
            NotFound::NoProcess(_) => NotFound::NoProcess(self.root.clone()),
            other => other,
        })?;
        let path = self.names.get(&chosen.netns).unwrap_or(&chosen.path).clone();
        let closed = |error: &dyn std::fmt::Display| NotFound::Closed(path.clone(), error.to_string());
        let netns = Netns::open(&path).map_err(|error| closed(&crate::pods::registry::chain(&error)))?;
        // A number of a process may have been given to another one meanwhile.
        if identify(&path) != Some(chosen.netns) {
            return Err(closed(&"it is another one by now"));
        }
        let found = netns
            .run(addresses)
            .and_then(|found| found)
            .map_err(|error| closed(&error))?;
        prove(&path, ips, found)?;
        Ok(Found {
            path,
            netns: chosen.netns,
        })
    }
}

// === impl Found ===

impl Found {
    /// Whether it is still what is found at its path. The number of a process is given to another one some day.
    pub(super) fn is_at_its_path(&self) -> bool {
        identify(&self.path) == Some(self.netns)
    }
}

/// The process whose namespace is the pod's, by age. Pure.
fn choose<'a>(list: &'a [Process], uid: &str, node: (u64, u64)) -> Result<&'a Process, NotFound> {
    let mut own: Vec<&Process> = list.iter().filter(|process| process.uid == uid).collect();
    if own.is_empty() {
        return Err(NotFound::NoProcess(PathBuf::new()));
    }
    // Runtimes keep processes of their own in a pod's cgroup (conmon, shims), which stay outside.
    own.retain(|process| process.netns != node);
    let oldest = own
        .iter()
        .map(|process| process.started)
        .min()
        .ok_or(NotFound::OnlyNode)?;
    own.retain(|process| process.started == oldest);
    let chosen: &Process = own.first().ok_or(NotFound::OnlyNode)?;
    if own.iter().any(|process| process.netns != chosen.netns) {
        return Err(NotFound::Ambiguous);
    }
    // A process that entered from another pod later is a visitor; one that its pod began with is not.
    let elders = list
        .iter()
        .filter(|process| process.uid != uid && process.netns == chosen.netns);
    let claims = |stranger: &&Process| {
        let of_stranger = list
            .iter()
            .filter(|other| other.uid == stranger.uid && other.netns != node);
        of_stranger.map(|other| other.started).min() == Some(stranger.started)
    };
    match elders.into_iter().find(claims) {
        Some(stranger) => Err(NotFound::Shared(stranger.uid.clone())),
        None => Ok(chosen),
    }
}

/// Whether a namespace with these addresses is that of a pod with those. Pure.
fn prove(path: &Path, wanted: &[IpAddr], found: Vec<IpAddr>) -> Result<(), NotFound> {
    if wanted.iter().any(|ip| found.contains(ip)) {
        return Ok(());
    }
    Err(NotFound::NotIts {
        path: path.to_owned(),
        wanted: wanted.to_vec(),
        found,
    })
}

/// Addresses on the links of the namespace this thread is in, those of loopback apart.
fn addresses() -> io::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let mut found: Vec<IpAddr> = all
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// A process of a pod; nothing for others, and for those that are gone.
fn look(process: &Path) -> Option<Process> {
    let uid = match cgroup::owner(&fs::read_to_string(process.join("cgroup")).ok()?) {
        Owner::Pod(uid) => uid,
        Owner::Nobody => return None,
        Owner::Several => {
            tracing::debug!(process = %process.display(), "its cgroups name several pods; it is passed over");
            return None;
        }
    };
    let path = process.join("ns/net");
    Some(Process {
        uid,
        started: started(&fs::read_to_string(process.join("stat")).ok()?)?,
        netns: identify(&path)?,
        path,
    })
}

/// Device and inode of a namespace.
fn identify(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The name before may contain anything, also parentheses.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: (u64, u64) = (4, 1);
    const UID: &str = "1f3c2a44-90d1-4b5e-8c2f-0a1b2c3d4e5f";

    fn process(uid: &str, started: u64, netns: u64) -> Process {
        Process {
            uid: uid.to_owned(),
            started,
            netns: (4, netns),
            path: format!("/proc/{started}/ns/net").into(),
        }
    }

    #[track_caller]
    fn chosen(list: &[Process]) -> u64 {
        choose(list, "a", NODE).unwrap().netns.1
    }

    #[test]
    fn the_oldest_process_decides_whatever_the_order() {
        let (pause, app) = (process("a", 10, 7), process("a", 20, 8));
        assert_eq!(chosen(&[pause.clone(), app.clone(), process("b", 1, 9)]), 7);
        assert_eq!(chosen(&[app.clone(), pause]), 7);
        assert_eq!(chosen(&[app]), 8);
    }

    #[test]
    fn processes_of_the_runtime_stay_outside_and_do_not_count() {
        assert_eq!(chosen(&[process("a", 5, 1), process("a", 10, 7)]), 7);
        let outside = [process("a", 5, 1)];
        assert_eq!(choose(&outside, "a", NODE), Err(NotFound::OnlyNode));
    }

    #[test]
    fn what_is_not_certain_is_refused() {
        let other = [process("b", 5, 7)];
        let none = choose(&other, "a", NODE);
        assert!(matches!(none, Err(NotFound::NoProcess(_))), "{none:?}");
        let twins = [process("a", 5, 7), process("a", 5, 8)];
        assert_eq!(choose(&twins, "a", NODE), Err(NotFound::Ambiguous));
        let same = [process("a", 5, 7), process("a", 5, 7)];
        assert_eq!(chosen(&same), 7);
        let shared = [process("a", 5, 7), process("b", 9, 7)];
        assert_eq!(choose(&shared, "a", NODE), Err(NotFound::Shared("b".to_owned())));
        // Somebody who entered from elsewhere takes nothing away.
        assert_eq!(chosen(&[process("a", 5, 7), process("b", 2, 8), process("b", 9, 7)]), 7);
    }

    #[test]
    fn a_namespace_is_proven_by_one_of_the_pods_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (path, wanted) = (Path::new("/x"), [ip("10.0.0.5"), ip("fd00::5")]);
        assert_eq!(prove(path, &wanted, vec![ip("10.9.9.9"), ip("fd00::5")]), Ok(()));
        for found in [vec![], vec![ip("10.0.0.6")]] {
            let error = prove(path, &wanted, found).unwrap_err().to_string();
            assert!(error.contains("/x") && error.contains("10.0.0.5"), "{error}");
        }
        assert!(
            prove(path, &[], vec![ip("10.0.0.5")]).is_err(),
            "a pod without addresses proves nothing"
        );
    }

    #[test]
    fn the_start_is_read_behind_any_name() {
        let rest = "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 1";
        for name in ["pause", "a b", ") S 1 (", ""] {
            assert_eq!(started(&format!("77 ({name}) {rest}")), Some(4711), "{name}");
        }
        for wrong in [
            "",
            "77",
            "77 (x) S 1",
            "77 (x) S 1 2 3 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 x",
        ] {
            assert_eq!(started(wrong), None, "{wrong}");
        }
    }

    /// A proc tree with one process of a pod, one of the node, one that is half gone, and what else lies there.
    fn tree(title: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("isthmus-proc-{title}-{}", std::process::id()));
        let stat = |pid: u32| format!("{pid} (app) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {pid}00 99 1");
        for (pid, cgroup) in [
            (10, format!("0::/kubepods/burstable/pod{UID}/0a1b\n")),
            (11, "0::/system.slice/sshd.service\n".to_owned()),
        ] {
            let process = root.join(pid.to_string());
            fs::create_dir_all(process.join("ns")).unwrap();
            fs::write(process.join("cgroup"), cgroup).unwrap();
            fs::write(process.join("stat"), stat(pid)).unwrap();
            fs::write(process.join("ns/net"), "").unwrap();
        }
        fs::create_dir_all(root.join("12")).unwrap();
        fs::create_dir_all(root.join("self-x")).unwrap();
        fs::write(root.join("13"), "").unwrap();
        root
    }

    #[test]
    fn a_tree_is_walked_and_what_is_not_a_pods_is_passed_over() {
        let root = tree("walk");
        let walked = Processes::walk(&root, &root.join("11/ns/net")).unwrap();
        let uids: Vec<&str> = walked.list.iter().map(|process| process.uid.as_str()).collect();
        assert_eq!(uids, [UID]);
        assert_eq!(walked.list[0].started, 1000);
        assert_eq!(walked.list[0].path, root.join("10/ns/net"));
        // What lies there is no namespace, so nothing can be proven.
        let closed = walked.netns_of(UID, &["10.0.0.5".parse().unwrap()]);
        assert!(matches!(closed, Err(NotFound::Closed(..))), "{closed:?}");
        let absent = walked.netns_of("another", &[]).unwrap_err().to_string();
        assert!(absent.contains(&root.display().to_string()), "{absent}");
        fs::remove_dir_all(&root).unwrap();
        assert!(Processes::walk(&root, Path::new("/proc/self/ns/net")).is_err());
    }
}
