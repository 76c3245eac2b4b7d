//! Everything a developer does with Isthmus, one verb per file: `cargo xtask VERB`.
//!
//! The first run on a machine installs what is missing (`setup`); later runs find it there and are quick.
//! Whatever is built or installed lies under `target/`, except Debian packages.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    step::{Failure, Step},
    tree::Tree,
};

mod bench;
mod build;
mod check;
mod cluster;
mod control_plane;
mod demo;
mod ebpf;
mod envoy;
mod fuzz;
mod helm;
mod image;
mod kind;
mod lint;
mod machine;
mod manifest;
mod setup;
mod step;
mod test;
mod toolchain;
mod tree;

/// Builds, shows and tests Isthmus.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Ebpf(ebpf::Ebpf),
    Build(build::Build),
    Check(check::Check),
    Lint(lint::Lint),
    Test(test::Test),
    Fuzz(fuzz::Fuzz),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Manifest(manifest::Manifest),
    Image(image::Image),
    Cluster(cluster::Cluster),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = Tree::find().and_then(|tree| match cli.verb {
        Verb::Setup(verb) => verb.run(&tree),
        Verb::Ebpf(verb) => verb.run(&tree),
        Verb::Build(verb) => verb.run(&tree),
        Verb::Check(verb) => verb.run(&tree),
        Verb::Lint(verb) => verb.run(&tree),
        Verb::Test(verb) => verb.run(&tree),
        Verb::Fuzz(verb) => verb.run(&tree),
        Verb::Demo(verb) => verb.run(&tree),
        Verb::Bench(verb) => verb.run(&tree),
        Verb::Manifest(verb) => verb.run(&tree),
        Verb::Image(verb) => verb.run(&tree),
        Verb::Cluster(verb) => verb.run(&tree),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cargo xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
