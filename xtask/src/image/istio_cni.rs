//! The image of istio-cni, as far as tests need it: its own two programs where its Dockerfile puts them, and this machine's
//! iptables-nft and nft, which it runs.

use std::{fs, path::Path};

use super::{
    archive::{About, Archive},
    executable::Executable,
    linked, write,
};
use crate::{Failure, Tree, control_plane, tree};

/// Its name.
const NAME: &str = "isthmus-test/istio-cni:1";
/// Where it is packed, beside its programs: it is as old as these.
const ARCHIVE: &str = "istio-cni.tar";
/// Programs of its own, and their places (cni/deployments/kubernetes/Dockerfile.install-cni).
const OWN: [(&str, &str); 2] = [
    ("install-cni", "usr/local/bin/install-cni"),
    // All that is in this folder it copies onto the node.
    ("istio-cni", "opt/cni/bin/istio-cni"),
];
/// What it runs (tools/istio-iptables/pkg/dependencies, cni/pkg/nodeagent/detect_nft_json_linux.go).
const RUN: [&str; 7] = [
    "iptables-nft",
    "iptables-nft-save",
    "iptables-nft-restore",
    "ip6tables-nft",
    "ip6tables-nft-save",
    "ip6tables-nft-restore",
    "nft",
];
/// A library beside which the extensions of iptables lie, in a folder of their own.
const EXTENSIBLE: &str = "libxtables.so";

/// Packs it, unless that is done.
pub(crate) fn pack(tree: &Tree) -> Result<(), Failure> {
    let home = control_plane::home(tree)?;
    let path = home.join(ARCHIVE);
    if path.is_file() {
        return Ok(());
    }
    let mut parts = Vec::new();
    for (program, place) in OWN {
        parts.push((place.to_owned(), Executable::read(&home.join(program))?));
    }
    for program in RUN {
        let path = tree::in_path(program)
            .ok_or_else(|| Failure::new(format!("{program} is not installed (cargo xtask setup)")))?;
        parts.extend(linked::read(&path, &format!("usr/local/bin/{program}"))?);
    }
    for extension in extensions(&parts)? {
        let place = extension.trim_start_matches('/').to_owned();
        parts.push((place, Executable::read_part(Path::new(&extension))?));
    }
    let about = About {
        name: &NAME.parse().map_err(Failure::new)?,
        version: "1",
        description: "istio-cni, for tests",
        licenses: "Apache-2.0 AND GPL-2.0-or-later",
        entrypoint: &["/usr/local/bin/install-cni"],
        command: &[],
    };
    write(&path, Archive::of(&about, &parts)?.bytes())
}

/// Files that iptables loads by name.
fn extensions(parts: &[(String, Executable)]) -> Result<Vec<String>, Failure> {
    let library = parts.iter().map(|(place, _)| Path::new("/").join(place));
    let library = library
        .filter_map(|path| fs::canonicalize(path).ok())
        .find(|path| path.to_string_lossy().contains(EXTENSIBLE))
        .ok_or_else(|| Failure::new(format!("iptables-nft needs no {EXTENSIBLE}")))?;
    let folder = library.with_file_name("xtables");
    let files = tree::files(&folder, "so")?;
    Ok(files.iter().map(|path| path.to_string_lossy().into_owned()).collect())
}
