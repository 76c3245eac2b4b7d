//! `cargo xtask build`: the agent and the CNI plugin as they are shipped.

use std::path::PathBuf;

use clap::Args;

use crate::{Failure, Step, Tree, ebpf};

/// Builds the eBPF programs, then the agent and the CNI plugin, into target/release.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Also build the lab's tests and the demo
    #[arg(long)]
    tests: bool,
}

impl Build {
    /// Builds.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        build(tree)?;
        if self.tests { build_lab(tree) } else { Ok(()) }
    }
}

/// Builds the programs, the agent and the plugin.
pub(crate) fn build(tree: &Tree) -> Result<(), Failure> {
    ebpf::build(tree)?;
    let mut cargo = tree.cargo();
    cargo.args(["build", "--release", "--package=isthmus"]);
    Step::new("building agent", cargo).quiet(tree)?;
    build_plugin(tree)
}

/// Static, because it runs on the node and not in the agent's image; without symbols, because every pod's start reads it.
fn build_plugin(tree: &Tree) -> Result<(), Failure> {
    let mut cargo = tree.cargo();
    cargo.args(["rustc", "--release", "--package=isthmus-cni", "--bin=isthmus-cni", "--"]);
    cargo.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    Step::new("building CNI plugin", cargo).quiet(tree)
}

/// Builds the agent and the plugin without anything that they would have to find on a node, and says where they are.
///
/// With glibc, whose resolver and string functions are the ones that are tested and measured; Rust links it whole.
pub(crate) fn build_static(tree: &Tree) -> Result<PathBuf, Failure> {
    ebpf::build(tree)?;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let variable = target.to_uppercase().replace('-', "_");
    let mut cargo = tree.cargo();
    cargo
        .args([
            "build",
            "--release",
            "--package=isthmus",
            "--package=isthmus-cni",
            "--bins",
            "--target",
        ])
        .arg(&target)
        // Named for the target, so that build scripts and macros, which are programs of this machine, are as always.
        .env(
            format!("CARGO_TARGET_{variable}_RUSTFLAGS"),
            "-C target-feature=+crt-static",
        )
        // What symbols are left is enough for profiles.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    Step::new("building agent and CNI plugin, statically linked", cargo).quiet(tree)?;
    Ok(tree.target(target).join("release"))
}

/// Builds what runs in the lab. The agent must have been built: the lab starts its binary.
pub(crate) fn build_lab(tree: &Tree) -> Result<(), Failure> {
    let mut cargo = tree.cargo();
    cargo.args(["build", "--release", "--package=isthmus-tests", "--bins", "--tests"]);
    Step::new("building lab tests and demo", cargo).quiet(tree)
}

/// Builds the bench and its load.
pub(crate) fn build_bench(tree: &Tree) -> Result<(), Failure> {
    let mut cargo = tree.cargo();
    cargo.args([
        "build",
        "--release",
        "--package=isthmus-tests",
        "--bin=bench",
        "--bin=load",
    ]);
    Step::new("building bench and load", cargo).quiet(tree)
}
