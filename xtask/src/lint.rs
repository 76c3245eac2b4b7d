//! `cargo xtask lint`: everything that is said about the source without running it.

use std::process::Command;

use clap::Args;

use crate::{
    Failure, Step, Tree, check,
    setup::{self, Purpose},
};

/// Packages outside the workspace, which `cargo fmt` would not find.
const APART: [&str; 2] = ["ebpf/prog/Cargo.toml", "fuzz/Cargo.toml"];

/// Checks format, clippy, licences and banned crates, and structure. Needs neither root nor an eBPF toolchain.
#[derive(Debug, Args)]
pub(crate) struct Lint {}

impl Lint {
    /// Runs every check, also after one has failed.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        setup::prepare(tree, &[Purpose::Lint])?;
        run(tree)
    }
}

/// Runs every check and tells which failed.
pub(crate) fn run(tree: &Tree) -> Result<(), Failure> {
    let mut formats = vec![(
        "format",
        cargo(tree, &["fmt", "--all", "--check", "--", "--color=never"]),
    )];
    for manifest in APART {
        if tree.path(manifest).is_file() {
            formats.push((
                manifest,
                cargo(
                    tree,
                    &["fmt", "--check", "--manifest-path", manifest, "--", "--color=never"],
                ),
            ));
        }
    }
    let mut ended: Vec<_> = formats
        .into_iter()
        .map(|(what, command)| Step::new(format!("checking format: {what}"), command).quiet(tree))
        .collect();
    let clippy = cargo(
        tree,
        &["clippy", "--workspace", "--all-targets", "--", "--deny=warnings"],
    );
    ended.push(Step::new("checking with clippy", clippy).quiet(tree));
    ended.push(deny(tree).and_then(|command| Step::new("checking licences and banned crates", command).quiet(tree)));
    ended.push(check::run(tree));

    let failures: Vec<_> = ended
        .into_iter()
        .filter_map(Result::err)
        .map(|failure| failure.to_string())
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

fn cargo(tree: &Tree, arguments: &[&str]) -> Command {
    let mut cargo = tree.cargo();
    cargo.args(arguments);
    cargo
}

fn deny(tree: &Tree) -> Result<Command, Failure> {
    let tool = tree
        .tool("cargo-deny")
        .ok_or_else(|| Failure::new("no cargo-deny here; run `cargo xtask setup`"))?;
    let mut deny = Command::new(tool);
    // Advisories need a database from the network; CI and developers may have none.
    deny.args([
        "--all-features",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    deny.current_dir(tree.root());
    Ok(deny)
}
