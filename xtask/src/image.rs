//! `cargo xtask image`: the container image, made without Docker.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    Failure, Tree, build,
    image::{
        archive::{About, Archive},
        executable::Executable,
    },
    setup::{self, Purpose},
};

mod archive;
mod executable;
mod name;

/// Programs of the image and where they lie in it. The chart and deploy/Dockerfile know these places.
const PROGRAMS: [(&str, &str); 2] = [
    ("isthmus", "usr/local/bin/isthmus"),
    // The agent places it on the node, and looks for it beside itself.
    ("isthmus-cni", "usr/local/bin/isthmus-cni"),
];

/// Writes the image as an archive that `docker load` and `ctr images import` take: target/image/isthmus-VERSION.tar.
///
/// It holds two statically linked programs and nothing else. Of the same programs the same archive is made, byte for byte.
#[derive(Debug, Args)]
pub(crate) struct Image {
    /// Name and tag of the image
    #[arg(long, default_value = concat!("isthmus:", env!("CARGO_PKG_VERSION")))]
    name: name::Name,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take `isthmus` and `isthmus-cni` from this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

impl Image {
    /// Builds the programs and packs them.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        let folder = match &self.programs {
            Some(folder) => folder.clone(),
            None => {
                setup::prepare(tree, &[Purpose::Build])?;
                build::build_static(tree)?
            }
        };
        let home = tree.target("image");
        fs::create_dir_all(&home).map_err(|cause| Failure::io("making", &home, &cause))?;
        let programs = PROGRAMS
            .iter()
            .map(|(program, place)| Ok((*place, Executable::read(&folder.join(program))?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        // Beside the archive, for a Dockerfile and for nodes without Kubernetes.
        for ((program, _), (_, executable)) in PROGRAMS.iter().zip(&programs) {
            executable.place(&home.join(program))?;
        }
        let about = About {
            name: &self.name,
            version: env!("CARGO_PKG_VERSION"),
            entrypoint: "/usr/local/bin/isthmus",
        };
        let archive = Archive::of(&about, &programs)?;
        let path = match &self.out {
            Some(path) => path.clone(),
            None => home.join(format!("isthmus-{}.tar", env!("CARGO_PKG_VERSION"))),
        };
        write(&path, archive.bytes())?;
        println!(
            "==> {} ({:.1} MiB)\n    {} {}\n    ctr -n k8s.io images import {0}\n    docker load -i {0}",
            path.display(),
            mebibytes(archive.bytes().len()),
            self.name,
            archive.digest(),
        );
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|cause| Failure::io("writing", path, &cause))
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
