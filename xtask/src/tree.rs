//! Where things lie in the work tree, and `cargo` started in it.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Failure;

/// The work tree that this xtask was built from.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Finds the workspace's root: the parent of this package.
    pub(crate) fn find() -> Result<Self, Failure> {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).parent().unwrap_or(Path::new("/")).to_owned();
        if root.join("ebpf").is_dir() && root.join("Cargo.toml").is_file() {
            Ok(Self { root })
        } else {
            Err(Failure::new(format!(
                "{} is not the Isthmus work tree; run `cargo xtask` inside it",
                root.display()
            )))
        }
    }

    /// The workspace's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the work tree.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A path under `target/`, where everything that is made goes.
    pub(crate) fn target(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join("target").join(relative)
    }

    /// `cargo` in the work tree, with the toolchain in use and this tree's own target directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.root);
        forget_outer_cargo(&mut cargo);
        cargo
    }

    /// A tool of ours under `target/tools/bin`, or else one in `PATH`.
    pub(crate) fn tool(&self, name: &str) -> Option<PathBuf> {
        let ours = self.target("tools/bin").join(name);
        if ours.is_file() { Some(ours) } else { in_path(name) }
    }
}

/// Removes what the cargo that started us left in the environment; settings of the developer stay.
pub(crate) fn forget_outer_cargo(command: &mut Command) {
    const SETTINGS: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_BUILD_JOBS",
        "CARGO_INCREMENTAL",
        "CARGO_TERM_",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = SETTINGS.iter().any(|setting| text.starts_with(setting));
        if text == "CARGO" || (text.starts_with("CARGO_") && !is_setting) {
            command.env_remove(&name);
        }
    }
}

/// Finds a program in `PATH` and in the folders that only root has there.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The files below `folder` whose extension is `extension`, sorted; `target` and hidden folders are left out.
pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).map_err(|cause| Failure::io("reading", &folder, &cause))?;
        for entry in entries {
            let path = entry.map_err(|cause| Failure::io("reading", &folder, &cause))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if path.extension() == Some(OsStr::new(extension)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
