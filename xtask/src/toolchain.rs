//! What can build the eBPF programs here.
//!
//! They need unstable `-Z build-std` for their target, so either a nightly with its sources, or a stable compiler with
//! its sources and leave to be unstable (Debian's `rustc-web`). `bpf-linker` turns LLVM bitcode into an object and
//! must have been built with an LLVM at least as new as the compiler's.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Failure,
    tree::{Tree, forget_outer_cargo},
};

/// Version of `bpf-linker` that `setup` installs; one in `PATH` is taken as it is.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// Debian's packages of the compiler and of the LLVM that `bpf-linker` is built with.
pub(crate) const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Kept apart from [`DEBIAN_COMPILER`]: who has a `bpf-linker` needs none of it.
pub(crate) const DEBIAN_LLVM: [&str; 2] = ["llvm-22-dev", "libpolly-22-dev"];
/// Where those LLVM packages install.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// The feature of `bpf-linker` that fits them.
pub(crate) const LLVM_FEATURE: &str = "llvm-22";

/// First version of Debian's compiler that knows edition 2024.
const OLDEST_COMPILER: (u32, u32) = (1, 85);

/// A compiler for `bpfel-unknown-none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Debian's `rustc-web` in `/usr/bin`, sources from `rust-web-src`.
    Debian,
    /// `nightly` of rustup, sources from its `rust-src` component.
    Nightly,
}

impl fmt::Display for Compiler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Debian => "Debian rustc-web",
            Self::Nightly => "rustup nightly",
        })
    }
}

impl Compiler {
    /// The compiler that is complete here. Debian's comes first: it is the one that CI proves.
    pub(crate) fn find() -> Option<Self> {
        if debian_is_complete() {
            Some(Self::Debian)
        } else if nightly_is_complete() {
            Some(Self::Nightly)
        } else {
            None
        }
    }

    /// `cargo build` for the eBPF target in `package`, with nothing of the cargo and rustup that started us.
    pub(crate) fn build(self, package: &Path, target: &Path, linker: &Path) -> Command {
        let mut cargo = match self {
            Self::Debian => {
                let mut cargo = Command::new("/usr/bin/cargo");
                cargo
                    .env("PATH", usr_bin_first())
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly => {
                let mut cargo = Command::new("rustup");
                cargo
                    .args(["run", "nightly", "cargo"])
                    .env_remove("RUSTC")
                    .env_remove("RUSTC_BOOTSTRAP");
                cargo
            }
        };
        forget_outer_cargo(&mut cargo);
        for name in [
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOC",
        ] {
            cargo.env_remove(name);
        }
        cargo
            .args(["build", "--release", "-Zbuild-std=core", "--target=bpfel-unknown-none"])
            .current_dir(package)
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
            .env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf");
        cargo
    }
}

/// `bpf-linker` of `setup`, or the one in `PATH`.
pub(crate) fn bpf_linker(tree: &Tree) -> Option<PathBuf> {
    tree.tool("bpf-linker")
        .filter(|linker| says(Command::new(linker).arg("--version")).is_some())
}

/// The compiler and the linker, or what to run to have them.
pub(crate) fn find(tree: &Tree) -> Result<(Compiler, PathBuf), Failure> {
    match (Compiler::find(), bpf_linker(tree)) {
        (Some(compiler), Some(linker)) => Ok((compiler, linker)),
        (None, _) => Err(Failure::new(
            "no compiler for eBPF here; `cargo xtask setup` installs one or says how",
        )),
        (_, None) => Err(Failure::new(
            "no bpf-linker here; `cargo xtask setup` installs it or says how",
        )),
    }
}

/// Whether `bpf-linker` can be built here: the files of [`DEBIAN_LLVM`].
pub(crate) fn has_llvm() -> bool {
    let prefix = Path::new(LLVM_PREFIX);
    prefix.join("bin/llvm-config").exists() && prefix.join("lib/libPolly.a").exists()
}

fn debian_is_complete() -> bool {
    let has_sources = Path::new("/usr/lib/rustlib/src/rust/library/core/Cargo.toml").exists();
    let version = || says(Command::new("/usr/bin/rustc").arg("--version")).and_then(|said| version(&said));
    has_sources && Path::new("/usr/bin/cargo").exists() && version().is_some_and(|found| found >= OLDEST_COMPILER)
}

fn nightly_is_complete() -> bool {
    says(Command::new("rustup").args(["run", "nightly", "rustc", "--print=sysroot"])).is_some_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

/// Major and minor version in what `rustc --version` says.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.split_whitespace().nth(1)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn says(command: &mut Command) -> Option<String> {
    let output = command
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn usr_bin_first() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from("/usr/bin")].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).unwrap_or_else(|_| "/usr/bin:/bin".into())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn reads_the_version_of_a_compiler() {
        assert_eq!(
            version("rustc 1.96.0 (abc 2026-01-01) (built from a source tarball)"),
            Some((1, 96))
        );
        assert_eq!(version("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some((1, 97)));
        assert_eq!(version("gcc"), None);
        assert_eq!(version("rustc one.two"), None);
    }
}
