//! Where the cgroup2 hierarchy is, and whether a directory is its root.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The first cgroup2 mount of this process's mount namespace.
pub fn mounted() -> io::Result<Option<PathBuf>> {
    Ok(first(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// proc_pid_mountinfo(5): the mount point is the fifth field, the type follows a lone hyphen.
fn first(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    })
}

/// Is this directory on a cgroup2 file system?
pub fn is_cgroup2(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Is this the root of the hierarchy? Every cgroup but the root has `cgroup.type` (Documentation/admin-guide/cgroup-v2.rst);
/// so has what a container with a cgroup namespace of its own sees as its root.
pub fn is_root(path: &Path) -> bool {
    path.join("cgroup.controllers").exists() && !path.join("cgroup.type").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cgroup2_mount_is_found_also_on_a_hybrid_node() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
                      31 23 0:27 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(first(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let legacy = "30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        assert_eq!(first(legacy), None);
    }
}
