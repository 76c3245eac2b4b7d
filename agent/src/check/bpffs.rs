//! Is there a BPF file system to pin on?

use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::report::{Check, Finding};

/// What is at the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The path asked for.
    pub(super) path: PathBuf,
    /// It, or the nearest directory above it that exists.
    pub(super) existing: PathBuf,
    /// Whether that is on bpffs, or why it cannot be said.
    pub(super) is_bpffs: Result<bool, String>,
}

impl Facts {
    /// Looks.
    pub(super) fn gather(path: &Path) -> Self {
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        Self {
            path: path.to_owned(),
            existing: existing.to_owned(),
            is_bpffs: statfs(existing)
                .map(|found| found.filesystem_type() == BPF_FS_MAGIC)
                .map_err(|error| error.to_string()),
        }
    }
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Finding {
    let path = facts.path.display();
    let means = "nothing can be pinned: pods would lose their guard together with the agent, so it does not start";
    let fix = "mount -t bpf bpf /sys/fs/bpf; in a container mount the node's /sys/fs/bpf (hostPath, not read-only); or \
               say another directory with --bpffs";
    match &facts.is_bpffs {
        Ok(true) => Finding::good(Check::Bpffs, format!("{path} is on a BPF file system")),
        Ok(false) => Finding::bad(
            Check::Bpffs,
            format!("{path}: {} is not on a BPF file system", facts.existing.display()),
            means,
            fix,
        ),
        Err(error) => Finding::bad(Check::Bpffs, format!("{path}: {error}"), means, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_not_a_bpf_file_system() {
        let facts = Facts::gather(Path::new("/proc/isthmus-is-not-here/deep"));
        assert_eq!(facts.existing, Path::new("/proc"));
        let finding = judge(&facts);
        assert_eq!(finding.level, Level::Bad);
        assert!(
            finding.found.contains("/proc is not on a BPF file system"),
            "{finding:?}"
        );
    }

    #[test]
    fn a_bpf_file_system_is_good_and_one_that_cannot_be_looked_at_is_not() {
        let mut facts = Facts {
            path: "/sys/fs/bpf/isthmus".into(),
            existing: "/sys/fs/bpf".into(),
            is_bpffs: Ok(true),
        };
        assert_eq!(judge(&facts).level, Level::Good);
        facts.is_bpffs = Err("EACCES".into());
        assert_eq!(judge(&facts).level, Level::Bad);
    }
}
