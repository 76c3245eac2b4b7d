//! Where cgroups are mounted, and those of nodes: one of a node's name in every hierarchy, which the node takes for the root.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    failure::{Because as _, Result},
    wait::within,
};

/// How long the kernel may take to let go of a cgroup whose last process has ended.
const GONE: Duration = Duration::from_secs(10);

/// Where hierarchies are mounted, of both versions (proc_pid_mounts(5)).
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").because("reading /proc/self/mounts")?;
    Ok(mounts.lines().filter_map(Hierarchy::read).collect())
}

/// Where the hierarchy of version 2 is mounted.
pub(crate) fn second() -> Result<PathBuf> {
    let found = hierarchies()?
        .into_iter()
        .find(|hierarchy| hierarchy.controllers.is_none());
    Ok(found.because("cgroup2 is mounted")?.at)
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) at: PathBuf,
    /// Of version 1: what it is mounted with, controllers or a name.
    pub(crate) controllers: Option<String>,
}

impl Hierarchy {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        let controllers = match kind {
            "cgroup2" => None,
            "cgroup" => {
                let told = options
                    .split(',')
                    .filter(|option| !matches!(*option, "rw" | "relatime" | "nosuid" | "nodev" | "noexec"));
                let told: Vec<&str> = told.collect();
                let named = told.iter().any(|option| option.starts_with("name="));
                Some(format!("{}{}", if named { "none," } else { "" }, told.join(",")))
            }
            _ => return None,
        };
        Some(Self {
            at: at.into(),
            controllers,
        })
    }
}

/// Removes cgroups of a node, or of all nodes of a lab, once their last process has ended: those with this name, and those whose
/// name goes on with a hyphen.
pub(crate) fn remove(name: &str) -> Result {
    let is_meant = |found: &str| {
        found
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for hierarchy in hierarchies()? {
        let groups = fs::read_dir(&hierarchy.at).because(format!("listing {}", hierarchy.at.display()))?;
        for group in groups
            .flatten()
            .filter(|group| is_meant(&group.file_name().to_string_lossy()))
        {
            let group = group.path();
            within(GONE, &format!("{} can be removed", group.display()), || {
                emptied(&group).then_some(())
            })?;
        }
    }
    Ok(())
}

/// Removes what is below a cgroup, then itself.
fn emptied(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|entry| {
            emptied(&entry.path());
        });
    fs::remove_dir(group).is_ok()
}

#[cfg(test)]
mod tests {
    use super::Hierarchy;

    #[test]
    fn hierarchies_of_both_versions_are_read() {
        let read = |line| Hierarchy::read(line).map(|found| (found.at.display().to_string(), found.controllers));
        let cpu = read("cgroup /sys/fs/cgroup/cpu cgroup rw,nosuid,relatime,cpu,cpuacct 0 0");
        assert_eq!(
            cpu,
            Some(("/sys/fs/cgroup/cpu".to_owned(), Some("cpu,cpuacct".to_owned())))
        );
        let named = read("cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0");
        assert_eq!(
            named,
            Some((
                "/sys/fs/cgroup/systemd".to_owned(),
                Some("none,name=systemd".to_owned())
            ))
        );
        let second = read("cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0");
        assert_eq!(second, Some(("/sys/fs/cgroup/unified".to_owned(), None)));
        assert_eq!(read("tmpfs /sys/fs/cgroup tmpfs rw 0 0"), None);
    }
}
