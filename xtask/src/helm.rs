//! Helm, by which the charts of deploy/helm are rendered: built from the module that tests/control-plane/helm pins, into
//! target/tools/helm/DIGEST. A folder of its own, so that another Helm is not another control plane.

use std::{
    fs,
    hash::{DefaultHasher, Hasher as _},
    path::PathBuf,
    process::Command,
};

use crate::{Failure, Tree, control_plane};

const MODULE: &str = "helm";
const PACKAGE: &str = "helm.sh/helm/v3/cmd/helm";

/// A file beside the built folders, which names the one to be used.
const CURRENT: &str = "current";

/// Builds it, unless it is there.
pub(crate) fn build(tree: &Tree) -> Result<PathBuf, Failure> {
    let home = home(tree)?;
    let program = home.join(MODULE);
    if !program.is_file() {
        fs::create_dir_all(&home).map_err(|cause| Failure::io("making", &home, &cause))?;
        control_plane::compile(tree, &home, MODULE, PACKAGE, MODULE)?;
    }
    let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
    control_plane::place(&folder(tree), CURRENT, |path| fs::write(path, &name))?;
    Ok(program)
}

/// Whether it is still to be built and Go is missing for it.
pub(crate) fn lacks_go(tree: &Tree) -> bool {
    let is_built = home(tree).is_ok_and(|home| home.join(MODULE).is_file());
    !is_built && control_plane::found_go().next().is_none()
}

/// `helm ARGUMENTS` in the work tree, with none of the developer's own settings and plugins.
pub(crate) fn command(tree: &Tree, arguments: &[&str]) -> Result<Command, Failure> {
    let mut helm = Command::new(build(tree)?);
    helm.args(arguments).current_dir(tree.root());
    let nowhere = folder(tree).join("home");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HELM_PLUGINS"] {
        helm.env(variable, &nowhere);
    }
    Ok(helm)
}

fn folder(tree: &Tree) -> PathBuf {
    tree.target("tools/helm")
}

fn home(tree: &Tree) -> Result<PathBuf, Failure> {
    let mut hasher = DefaultHasher::new();
    control_plane::hash_pins(tree, &[MODULE], &mut hasher)?;
    Ok(folder(tree).join(format!("{:016x}", hasher.finish())))
}
