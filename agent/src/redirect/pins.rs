//! Where things are pinned. Paths only; nothing here touches the file system but `make` and `remove`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::RedirectError;

/// One generation of one node's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    node: PathBuf,
    generation: String,
}

impl Pins {
    /// `bpffs` is a directory on a BPF file system, `node` a node name.
    pub fn new(bpffs: &Path, node: &str, generation: String) -> Self {
        Self {
            node: bpffs.join(Self::node_name(node)),
            generation,
        }
    }

    /// Name of a node's directory: bpffs refuses dots in names.
    pub fn node_name(node: &str) -> String {
        node.replace('.', "_")
    }

    /// Directory of this generation.
    pub fn directory(&self) -> PathBuf {
        self.node.join(&self.generation)
    }

    /// The generation's name.
    pub fn generation(&self) -> &str {
        &self.generation
    }

    /// Path of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory().join(format!("map_{name}"))
    }

    /// Path of a node-wide link.
    pub fn node_link(&self, program: &str) -> PathBuf {
        self.directory().join(format!("link_{program}"))
    }

    /// Directory of a pod.
    pub fn pod(&self, slot: u32) -> PathBuf {
        self.directory().join(format!("pod_{slot}"))
    }

    /// Path of a program that is attached later, to links of pods.
    pub fn program(&self, program: &str) -> PathBuf {
        self.directory().join(format!("prog_{program}"))
    }

    /// Path of a pod's link into its namespace.
    pub fn claim(&self, slot: u32) -> PathBuf {
        self.pod(slot).join("link_claim")
    }

    /// Path of the guard on one of a pod's interfaces.
    pub fn guard(&self, slot: u32, interface: u32) -> PathBuf {
        self.pod(slot).join(format!("link_guard_{interface}"))
    }

    /// Makes a directory and its parents.
    pub fn make(path: &Path) -> Result<(), RedirectError> {
        fs::create_dir_all(path).map_err(|cause| RedirectError::Path {
            what: "making",
            path: path.to_owned(),
            cause,
        })
    }

    /// Removes a directory and all that is pinned in it. Nothing there is no error.
    pub fn remove(path: &Path) -> Result<(), RedirectError> {
        match fs::remove_dir_all(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(RedirectError::Path {
                what: "removing",
                path: path.to_owned(),
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// Removes one pin. Nothing there is no error.
    pub fn remove_file(path: &Path) -> Result<(), RedirectError> {
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(RedirectError::Path {
                what: "removing",
                path: path.to_owned(),
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// Slots that have a directory in this generation.
    pub fn pods(&self) -> Vec<u32> {
        names(&self.directory())
            .iter()
            .filter_map(|name| name.strip_prefix("pod_")?.parse().ok())
            .collect()
    }

    /// Interfaces of a pod that are guarded.
    pub fn guards(&self, slot: u32) -> Vec<u32> {
        names(&self.pod(slot))
            .iter()
            .filter_map(|name| name.strip_prefix("link_guard_")?.parse().ok())
            .collect()
    }

    /// Directories of other generations of this node.
    pub fn other_generations(&self) -> Vec<PathBuf> {
        names(&self.node)
            .into_iter()
            .filter(|name| *name != self.generation)
            .map(|name| self.node.join(name))
            .collect()
    }
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}
