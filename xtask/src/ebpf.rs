//! `cargo xtask ebpf`: the eBPF programs.

use std::{fs, io, path::Path};

use clap::Args;

use crate::{Failure, Step, Tree, toolchain};

/// Objects that the agent embeds: programs of the node, and programs made once per pod.
const OBJECTS: [&str; 2] = ["node", "pod"];

/// Builds the eBPF programs into target/ebpf, where the agent's build takes them from.
#[derive(Debug, Args)]
pub(crate) struct Ebpf {}

impl Ebpf {
    /// Builds the programs.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        build(tree)
    }
}

/// Builds both objects; a file that would not change is not touched, so that the agent is not built again.
pub(crate) fn build(tree: &Tree) -> Result<(), Failure> {
    let (compiler, linker) = toolchain::find(tree)?;
    let scratch = tree.target("ebpf-build");
    let command = compiler.build(&tree.path("ebpf/prog"), &scratch, &linker);
    Step::new(format!("building eBPF programs ({compiler})"), command).quiet(tree)?;

    let folder = tree.target("ebpf");
    fs::create_dir_all(&folder).map_err(|cause| Failure::io("making", &folder, &cause))?;
    for object in OBJECTS {
        let built = scratch.join("bpfel-unknown-none/release").join(object);
        let bytes = fs::read(&built).map_err(|cause| Failure::io("reading", &built, &cause))?;
        let placed = folder.join(object);
        replace(&placed, &bytes).map_err(|cause| Failure::io("writing", &placed, &cause))?;
    }
    Ok(())
}

/// Writes `bytes` to `path` in one move, unless they are there already.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::{fs, process, time::Duration};

    use super::replace;

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let folder = std::env::temp_dir().join(format!("xtask-ebpf-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("pod");
        replace(&path, b"one").unwrap();
        let long_ago = fs::metadata(&path).unwrap().modified().unwrap() - Duration::from_secs(1000);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();

        replace(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);

        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago);
        fs::remove_dir_all(&folder).unwrap();
    }
}
