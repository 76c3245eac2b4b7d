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
pub(crate) mod istio_cni;
mod linked;
mod name;

/// Programs of the image and where they lie in it. The chart and deploy/Dockerfile know these places.
const PROGRAMS: [(&str, &str); 2] = [
    ("isthmus", "usr/local/bin/isthmus"),
    // The agent places it on the node, and looks for it beside itself.
    ("isthmus-cni", "usr/local/bin/isthmus-cni"),
];

/// The image of [`pack_workload`].
pub(crate) const WORKLOAD: &str = "isthmus-test/busybox:1";

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
    /// The image as the charts ask for it, where `docker` and `ctr` find it in the work tree.
    pub(crate) fn of_this_version() -> Result<Self, Failure> {
        Ok(Self {
            name: concat!("isthmus:", env!("CARGO_PKG_VERSION"))
                .parse()
                .map_err(Failure::new)?,
            out: None,
            programs: None,
        })
    }

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
            description: "Node agent, gateway and CNI plugin of an ambient mesh",
            licenses: "Apache-2.0",
            entrypoint: &["/usr/local/bin/isthmus"],
            command: &["run"],
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

/// What tests run in pods: one program of this machine at its place in the image, which holds a pod's namespaces when it is
/// told nothing else. Where it was packed is answered.
pub(crate) fn pack_workload(tree: &Tree, program: &Path) -> Result<PathBuf, Failure> {
    let about = About {
        name: &WORKLOAD.parse().map_err(Failure::new)?,
        version: "1",
        description: "BusyBox, for tests",
        licenses: "GPL-2.0-only",
        entrypoint: &["/bin/busybox", "sleep", "2147483647"],
        command: &[],
    };
    let archive = Archive::of(&about, &[("bin/busybox", Executable::read(program)?)])?;
    let home = tree.target("image");
    fs::create_dir_all(&home).map_err(|cause| Failure::io("making", &home, &cause))?;
    let path = home.join("busybox.tar");
    write(&path, archive.bytes())?;
    Ok(path)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|cause| Failure::io("writing", path, &cause))
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
