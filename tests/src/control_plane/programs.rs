//! Where the programs of a control plane are.

use std::{env, fs, path::PathBuf};

use crate::failure::{Because as _, Failure, Result};

/// What `cargo xtask setup` builds: kube-apiserver, pilot-discovery, istioctl, and manifests of custom resources.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/control-plane");

/// A program or file that `cargo xtask setup` placed.
///
/// `LAB_CONTROL_PLANE` names another directory that holds them.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os("LAB_CONTROL_PLANE") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(BUILT).join(current()?),
    };
    let path = folder.join(name);
    path.canonicalize()
        .because(format!("finding {} (cargo xtask setup)", path.display()))
}

/// The folder of the last build, which xtask writes into a file beside it.
fn current() -> Result<String> {
    let path = PathBuf::from(BUILT).join("current");
    let name = fs::read_to_string(&path).because(format!("reading {} (cargo xtask setup)", path.display()))?;
    let name = name.trim();
    if name.is_empty() {
        return Err(Failure::new(format!("{} is empty (cargo xtask setup)", path.display())));
    }
    Ok(name.to_owned())
}
