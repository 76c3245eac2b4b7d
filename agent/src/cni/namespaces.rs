//! The file by which the CNI plugin decides while the agent is away (`isthmus_wire::Namespaces` has its format).

use std::{collections::BTreeMap, fs, io, path::Path};

use isthmus_wire::{Mode, NAMESPACES_NAME, Namespaces};

use super::place::{Rights, place};

/// Why the file is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error(
    "writing {NAMESPACES_NAME} in {directory} (is the state directory, --state-dir, writable?); the CNI plugin goes by what is there"
)]
pub struct WriteError {
    directory: String,
    #[source]
    cause: io::Error,
}

/// Replaces the file in the state directory, if it says something else.
///
/// # Errors
/// When it cannot be written; then the old one is still there, whole.
pub fn write(directory: &Path, modes: BTreeMap<String, Mode>) -> Result<(), WriteError> {
    let text = Namespaces::new(modes).to_text().map_err(io::Error::from);
    text.and_then(|text| {
        fs::create_dir_all(directory)?;
        place(directory, NAMESPACES_NAME, text.as_bytes(), Rights::own(0o644))
    })
    .map(drop)
    .map_err(|cause| WriteError {
        directory: directory.display().to_string(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::follow::tests::Folder, *};

    #[test]
    fn the_plugin_reads_what_was_last_written() {
        let folder = Folder::new("namespaces");
        let path = folder.0.join(NAMESPACES_NAME);
        for (name, mode) in [("a", Mode::Ambient), ("b", Mode::Other)] {
            let modes = BTreeMap::from([(name.to_owned(), mode)]);
            write(&folder.0, modes.clone()).unwrap();
            assert_eq!(Namespaces::read(&path).unwrap().namespaces, modes);
        }
        assert_eq!(folder.names(), [NAMESPACES_NAME]);
        write(&folder.0.join("absent"), BTreeMap::new()).unwrap();
        let error = write(&path, BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
