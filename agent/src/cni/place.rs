//! Putting a file in place, whole or not at all.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// How the names of files end that are being written.
const UNFINISHED: &str = ".isthmus-new";

/// Who a file belongs to, and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Rights {
    /// Of this process, with that mode.
    pub(super) fn own(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// As a file has them.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            owner: Some((metadata.uid(), metadata.gid())),
        })
    }

    /// Whether a file has them already.
    fn are_of(self, path: &Path) -> bool {
        Self::of(path).is_ok_and(|found| found.mode == self.mode && (self.owner.is_none() || found.owner == self.owner))
    }
}

/// Puts `bytes` under `name`: readers see what was there before, or all of it; so does who comes after a crash. Answers
/// whether anything had to be done.
pub(super) fn place(directory: &Path, name: &str, bytes: &[u8], rights: Rights) -> io::Result<bool> {
    let path = directory.join(name);
    if fs::read(&path).is_ok_and(|there| there == bytes) && rights.are_of(&path) {
        return Ok(false);
    }
    // One fixed name: what a killed agent left half-written is overwritten and not collected. It ends in nothing that a
    // container runtime reads.
    let fresh = directory.join(format!(".{name}{UNFINISHED}"));
    let written = write(&fresh, bytes, rights).and_then(|()| fs::rename(&fresh, &path));
    if let Err(error) = written {
        // Nothing there, or no right to it: the first error tells more.
        drop(fs::remove_file(&fresh));
        return Err(error);
    }
    sync(directory)?;
    Ok(true)
}

/// What agents that were killed have left unfinished in a directory.
pub(super) fn unfinished(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(UNFINISHED))
        .collect()
}

fn write(path: &Path, bytes: &[u8], rights: Rights) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if let Some((user, group)) = rights.owner {
        match fchown(&file, Some(user), Some(group)) {
            // The agent may be without CAP_CHOWN. It is root's then, as who reads it is.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            changed => changed?,
        }
    }
    // After the owner, whose change takes set-user-id bits away.
    file.set_permissions(Permissions::from_mode(rights.mode))?;
    file.sync_all()
}

/// Makes renames and removals in a directory last.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{super::follow::tests::Folder, *};

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_rights() {
        let folder = Folder::new("place");
        let path = folder.write("a.conflist", "old");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let rights = Rights::of(&path).unwrap();
        assert!(place(&folder.0, "a.conflist", b"new", rights).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_ne!(fs::metadata(&path).unwrap().ino(), before, "renamed into place");
        assert_eq!(Rights::of(&path).unwrap(), rights);
        assert_eq!(folder.names(), ["a.conflist"]);
    }

    #[test]
    fn what_is_there_already_is_not_touched() {
        let folder = Folder::new("same");
        let path = folder.write("a", "same");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        assert!(!place(&folder.0, "a", b"same", Rights::own(0o755)).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        assert!(
            place(&folder.0, "a", b"same", Rights::own(0o700)).unwrap(),
            "other rights"
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_failure_leaves_what_was_there_and_nothing_half_written() {
        let folder = Folder::new("failing");
        folder.write("a/in-the-way", "x");
        folder.write(".a.isthmus-new", "left by an agent that was killed");
        // A folder cannot be replaced by a file.
        assert!(place(&folder.0, "a", b"new", Rights::own(0o644)).is_err());
        assert_eq!(folder.names(), ["a"]);
        assert!(place(&folder.0.join("absent"), "a", b"new", Rights::own(0o644)).is_err());
    }
}
