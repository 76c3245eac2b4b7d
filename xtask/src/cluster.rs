//! `cargo xtask cluster`: two whole clusters on this machine, without Docker.

use std::{path::Path, process::Command};

use clap::{Args, Subcommand};

use crate::{
    Failure, Step, Tree, build, demo,
    image::{self, Image, istio_cni},
    setup::{self, BUSYBOX, Purpose},
};

/// Two clusters on two networks with real kubelets, in network namespaces of this machine; no Docker takes part.
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Starts both, installs Isthmus from its charts, and leaves them up
    Up {
        /// Nodes of the first and of the second cluster
        #[arg(long, num_args = 2, default_values_t = [2, 1], value_name = "COUNT")]
        nodes: Vec<u8>,
        /// Do not install Isthmus
        #[arg(long)]
        bare: bool,
    },
    /// Takes down what is up
    Down,
    /// Makes the images that its nodes are given, the agent's and the one that tests run in pods, and that of istio-cni
    Images,
}

impl Cluster {
    /// Does it.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        demo::need_root("cluster")?;
        match &self.verb {
            Verb::Up { nodes, bare } => {
                prepare(tree)?;
                let mut up = Command::new(tree.target("release/cluster"));
                up.arg("up").args(nodes.iter().map(u8::to_string));
                up.args(bare.then_some("--bare"));
                Step::new("two clusters", up).shown()
            }
            Verb::Down => {
                let mut down = Command::new(tree.target("release/cluster"));
                down.arg("down");
                Step::new("taking clusters down", down).shown()
            }
            Verb::Images => images_for_tests(tree),
        }
    }
}

fn prepare(tree: &Tree) -> Result<(), Failure> {
    let purposes = [
        Purpose::Build,
        Purpose::Lab,
        Purpose::ControlPlane,
        Purpose::Nodes,
        Purpose::Charts,
    ];
    setup::prepare(tree, &purposes)?;
    build::build(tree)?;
    build::build_lab(tree)?;
    images(tree)
}

/// Makes the images that nodes are given.
pub(crate) fn images(tree: &Tree) -> Result<(), Failure> {
    setup::prepare(tree, &[Purpose::Nodes])?;
    Image::of_this_version()?.run(tree)?;
    let workload = image::pack_workload(tree, Path::new(BUSYBOX))?;
    println!("    {}", workload.display());
    Ok(())
}

/// Makes the images that tests of clusters need.
pub(crate) fn images_for_tests(tree: &Tree) -> Result<(), Failure> {
    setup::prepare(tree, &[Purpose::Lab, Purpose::ControlPlane])?;
    images(tree)?;
    istio_cni::pack(tree)
}
