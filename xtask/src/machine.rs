//! Facts about the machine we run on.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::tree::in_path;

/// Where bpffs is expected; the agent's default lies below it.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Whether we may install packages, mount file systems and make network namespaces.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether packages are installed with apt here.
pub(crate) fn has_apt() -> bool {
    in_path("apt-get").is_some()
}

/// Whether bpffs is mounted where it is expected.
pub(crate) fn has_bpffs() -> bool {
    mounts("bpf").iter().any(|point| point == Path::new(BPFFS))
}

/// Whether a cgroup2 hierarchy is mounted anywhere; a hybrid mount will do.
pub(crate) fn has_cgroup2() -> bool {
    !mounts("cgroup2").is_empty()
}

fn mounts(kind: &str) -> Vec<PathBuf> {
    mount_points(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), kind)
}

/// Mount points of one kind of file system in the text of `mountinfo` (proc_pid_mountinfo(5)).
fn mount_points(mountinfo: &str, kind: &str) -> Vec<PathBuf> {
    let of_kind = |line: &str| {
        let (place, what) = line.split_once(" - ")?;
        (what.split(' ').next()? == kind).then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().filter_map(of_kind).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::mount_points;

    #[test]
    fn mount_points_are_found_by_kind() {
        let text = "31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
                    32 24 0:28 / /sys/fs/bpf rw - bpf bpf rw,mode=700\n\
                    33 24 0:29 / /bpf rw - tmpfs bpf rw\nhalf a line";
        assert_eq!(mount_points(text, "cgroup2"), [PathBuf::from("/sys/fs/cgroup/unified")]);
        assert_eq!(mount_points(text, "bpf"), [PathBuf::from("/sys/fs/bpf")]);
        assert!(mount_points(text, "proc").is_empty());
    }
}
