//! Taking away what is pinned, also what a broken agent left half-made.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Pins, grace, kernel_calls};

/// One thing that was taken away, or could not be.
#[derive(Debug)]
pub struct Removed {
    /// What it was: `link`, `program`, `map`, `directory`, `pin`.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why it is still there.
    pub failure: Option<io::Error>,
}

/// Takes away a pin, or a directory and everything in it: links are detached first, so that nothing of them acts any more
/// when this returns. Nothing there is no error, and not told.
pub fn all(path: &Path, told: &mut impl FnMut(Removed)) {
    let _short = grace::Short::begin();
    remove(path, told);
}

fn remove(path: &Path, told: &mut impl FnMut(Removed)) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if !found.is_dir() {
        let what = kind(path);
        let detached = if what == "link" {
            kernel_calls::detach(path)
        } else {
            Ok(())
        };
        let gone = detached.and_then(|()| fs::remove_file(path));
        told(Removed {
            what,
            path: path.to_owned(),
            failure: gone.err().filter(|error| error.kind() != io::ErrorKind::NotFound),
        });
        return;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut inside: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    inside.sort();
    inside.iter().for_each(|entry| remove(entry, told));
    told(Removed {
        what: "directory",
        path: path.to_owned(),
        failure: fs::remove_dir(path)
            .err()
            .filter(|error| error.kind() != io::ErrorKind::NotFound),
    });
}

fn kind(path: &Path) -> &'static str {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let kinds = [("link_", "link"), ("map_", "map"), ("prog_", "program")];
    kinds
        .into_iter()
        .find_map(|(start, kind)| name.starts_with(start).then_some(kind))
        .unwrap_or("pin")
}

/// Inode of the network namespace that a slot's `claim` is attached to, while the namespace lives.
pub fn namespace_of(pins: &Pins, slot: u32) -> Option<u64> {
    kernel_calls::inspect(&pins.claim(slot)).ok()?.netns.map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_a_directory_goes_and_is_told() {
        let root = std::env::temp_dir().join(format!("isthmus-unpin-{}", std::process::id()));
        fs::create_dir_all(root.join("g/pod_1")).unwrap();
        fs::write(root.join("g/map_PODS"), "").unwrap();
        fs::write(root.join("g/pod_1/odd"), "").unwrap();
        let mut told = Vec::new();
        all(&root.join("g"), &mut |removed| {
            assert!(removed.failure.is_none(), "{removed:?}");
            told.push((removed.what, removed.path.strip_prefix(&root).unwrap().to_owned()));
        });
        assert_eq!(
            told,
            [
                ("map", "g/map_PODS".into()),
                ("pin", "g/pod_1/odd".into()),
                ("directory", "g/pod_1".into()),
                ("directory", "g".into()),
            ]
        );
        all(&root.join("g"), &mut |removed| panic!("nothing is left: {removed:?}"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_link_that_cannot_be_detached_stays_and_is_told() {
        let root = std::env::temp_dir().join(format!("isthmus-unpin-link-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        // No link of the kernel: the file system is not bpffs.
        fs::write(root.join("link_claim"), "").unwrap();
        let mut failures = 0;
        all(&root, &mut |removed| failures += usize::from(removed.failure.is_some()));
        assert_eq!(failures, 2, "the link, and so the directory");
        assert!(root.join("link_claim").exists());
        fs::remove_dir_all(root).unwrap();
    }
}
