//! Is there a cgroup2 hierarchy, and is it seen from its root?

use std::path::{Path, PathBuf};

use super::report::{Check, Finding};
use crate::redirect::cgroup2;

/// What is known of the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// As it was said, or as the mount table has it; none when there is none.
    pub(super) path: Option<PathBuf>,
    /// Whether it is on cgroup2, or why it cannot be said.
    pub(super) is_cgroup2: Result<bool, String>,
    /// Whether it is the root.
    pub(super) is_root: bool,
}

impl Facts {
    /// Looks.
    pub(super) fn gather(given: Option<&Path>) -> Self {
        let path = match given {
            Some(path) => Ok(Some(path.to_owned())),
            None => cgroup2::mounted(),
        };
        let (path, trouble) = match path {
            Ok(path) => (path, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            is_cgroup2: match (&path, trouble) {
                (_, Some(trouble)) => Err(trouble),
                (Some(path), None) => cgroup2::is_cgroup2(path).map_err(|error| error.to_string()),
                (None, None) => Ok(false),
            },
            is_root: path.as_deref().is_some_and(cgroup2::is_root),
            path,
        }
    }

    /// The root, where programs can be attached for the whole node.
    pub(super) fn root(&self) -> Option<&Path> {
        self.path
            .as_deref()
            .filter(|_| self.is_cgroup2 == Ok(true) && self.is_root)
    }
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Finding {
    let bad = |found: String, means: &str, fix: &str| Finding::bad(Check::Cgroup, found, means, fix);
    let nowhere = "the node's programs have nothing to be attached to; no connect can be redirected";
    let Some(path) = &facts.path else {
        return bad(
            "no cgroup2 hierarchy is mounted".into(),
            nowhere,
            "mount -t cgroup2 none /sys/fs/cgroup/unified (a hybrid mount will do), or say where with --cgroup",
        );
    };
    let path = path.display();
    match &facts.is_cgroup2 {
        Err(error) => bad(
            format!("{path}: {error}"),
            nowhere,
            "say with --cgroup where the hierarchy is",
        ),
        Ok(false) => bad(
            format!("{path} is not a cgroup2 hierarchy"),
            nowhere,
            "say with --cgroup where cgroup2 is mounted; `findmnt -t cgroup2` tells",
        ),
        Ok(true) if !facts.is_root => bad(
            format!("{path} is not the root of the hierarchy"),
            "programs attached here see this cgroup's processes alone, such as those of the agent's own container; pods would \
             not be redirected",
            "mount the node's /sys/fs/cgroup into the container (hostPath) and say --cgroup, or give the pod hostPID and the \
             host's cgroup namespace",
        ),
        Ok(true) => Finding::good(Check::Cgroup, format!("{path} is the root of cgroup2")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn facts() -> Facts {
        Facts {
            path: Some("/sys/fs/cgroup".into()),
            is_cgroup2: Ok(true),
            is_root: true,
        }
    }

    #[test]
    fn the_root_of_a_cgroup2_hierarchy_is_good() {
        assert_eq!(judge(&facts()).level, Level::Good);
        assert_eq!(facts().root(), Some(Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn anything_else_is_bad_and_says_what_it_is() {
        let none = Facts {
            path: None,
            is_cgroup2: Ok(false),
            is_root: false,
        };
        let other = Facts {
            is_cgroup2: Ok(false),
            ..facts()
        };
        let below = Facts {
            is_root: false,
            ..facts()
        };
        let closed = Facts {
            is_cgroup2: Err("ENOENT".into()),
            ..facts()
        };
        for (facts, says) in [
            (none, "no cgroup2 hierarchy is mounted"),
            (other, "is not a cgroup2 hierarchy"),
            (below, "is not the root"),
            (closed, "ENOENT"),
        ] {
            let finding = judge(&facts);
            assert_eq!(finding.level, Level::Bad);
            assert!(finding.found.contains(says), "{finding:?}");
            assert_eq!(facts.root(), None);
        }
    }

    #[test]
    fn a_directory_elsewhere_is_not_cgroup2() {
        let facts = Facts::gather(Some(Path::new("/proc")));
        assert_eq!(facts.is_cgroup2, Ok(false));
        assert_eq!(facts.root(), None);
    }
}
