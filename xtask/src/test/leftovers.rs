//! What a lab leaves in the kernel when it does not end clean.

use std::{fs, path::Path, process};

use crate::{Failure, Tree};

/// Everything a lab makes in the kernel has a name that starts with this, its process id, `x` and a number.
const PREFIX: &str = "isth";

/// Folders of the kernel whose entries are named by us, and the command that removes one.
const PLACES: [(&str, &str); 6] = [
    ("run/netns", "ip netns del"),
    ("sys/fs/cgroup", "rmdir /sys/fs/cgroup/"),
    ("sys/fs/cgroup/unified", "rmdir /sys/fs/cgroup/unified/"),
    ("sys/fs/cgroup/memory", "rmdir /sys/fs/cgroup/memory/"),
    ("sys/fs/bpf", "rm -r /sys/fs/bpf/"),
    ("sys/class/net", "ip link del"),
];

/// Commands that would remove what was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leftovers(Vec<String>);

impl Leftovers {
    /// Looks for network namespaces, cgroups, pins, links and processes of ours.
    pub(super) fn find(tree: &Tree) -> Self {
        let mut commands = Vec::new();
        for (folder, command) in PLACES {
            let space = if command.ends_with('/') { "" } else { " " };
            let ours = entries(&Path::new("/").join(folder))
                .into_iter()
                .filter(|name| is_of_a_lab(name));
            commands.extend(ours.map(|name| format!("{command}{space}{name}")));
        }
        commands.extend(processes(Path::new("/proc"), &tree.target("release")));
        Self(commands)
    }

    /// An error when there is something.
    pub(super) fn none_or(self, when: &str) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{when} there was something of a lab in the kernel (one that still runs, or one that died); `cargo xtask demo \
             --sweep` removes labs whose process is dead, and these remove each thing:\n    {}",
            self.0.join("\n    ")
        )))
    }
}

/// Whether a lab gave this name; an agent that someone runs on this machine is not the lab's.
fn is_of_a_lab(name: &str) -> bool {
    let lab = name
        .split('-')
        .next()
        .and_then(|lab| lab.strip_prefix(PREFIX)?.split_once('x'));
    lab.is_some_and(|(process, number)| process.parse::<u32>().is_ok() && number.parse::<u32>().is_ok())
}

/// Commands that end processes whose program lies in `folder`, our own excepted.
fn processes(proc: &Path, folder: &Path) -> Vec<String> {
    let mut commands = Vec::new();
    for entry in entries(proc) {
        let Ok(pid) = entry.parse::<u32>() else { continue };
        // Gone meanwhile, or a kernel thread.
        let Ok(program) = fs::read_link(proc.join(&entry).join("exe")) else {
            continue;
        };
        if pid != process::id() && program.starts_with(folder) {
            commands.push(format!("kill {pid}    # {}", program.display()));
        }
    }
    commands
}

fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path, process};

    use super::{Leftovers, is_of_a_lab, processes};

    #[test]
    fn names_of_labs_are_known() {
        assert!(["isth12x0", "isth12x0-net1-node1"].into_iter().all(is_of_a_lab));
        assert!(
            !["isthmus", "isth", "isth12", "isthax0", "isth1xb-net", "eth0", "cni-1"]
                .into_iter()
                .any(is_of_a_lab)
        );
    }

    #[test]
    fn a_process_of_ours_is_found_and_others_are_not() {
        let proc = std::env::temp_dir().join(format!("xtask-proc-{}", process::id()));
        for (pid, program) in [
            ("17", "/w/target/release/isthmus"),
            ("18", "/usr/bin/curl"),
            ("x", "/w/target/release/y"),
        ] {
            fs::create_dir_all(proc.join(pid)).unwrap();
            symlink(program, proc.join(pid).join("exe")).unwrap();
        }
        fs::create_dir_all(proc.join("19")).unwrap();
        assert_eq!(
            processes(&proc, Path::new("/w/target/release")),
            ["kill 17    # /w/target/release/isthmus"]
        );
        fs::remove_dir_all(&proc).unwrap();
    }

    #[test]
    fn something_left_is_an_error_that_says_how_to_remove_it() {
        assert!(Leftovers(Vec::new()).none_or("after").is_ok());
        let failure = Leftovers(vec!["ip netns del isth-a".to_owned()])
            .none_or("after")
            .unwrap_err();
        assert!(failure.to_string().contains("ip netns del isth-a"));
    }
}
