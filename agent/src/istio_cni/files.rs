//! Files and sockets of istio-cni and ztunnel on the node.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The plugin's type in configurations, and the name of its binary.
pub(super) const PLUGIN: &str = "istio-cni";

/// Where CNI configuration lies, by platform, below the node's root.
pub const CONFIG_DIRECTORIES: [&str; 4] = [
    "etc/cni/net.d",
    "etc/cni/multus/net.d",
    "var/lib/rancher/k3s/agent/etc/cni/net.d",
    "var/snap/microk8s/current/args/cni-network",
];

/// Where its plugin lies.
pub const BINARIES: [&str; 6] = [
    "opt/cni/bin/istio-cni",
    "home/kubernetes/bin/istio-cni",
    "var/lib/cni/bin/istio-cni",
    "bin/istio-cni",
    "var/lib/rancher/k3s/data/cni/istio-cni",
    "var/snap/microk8s/current/opt/cni/bin/istio-cni",
];

/// Sockets of istio-cni's agent; ztunnel connects to the last.
pub const SOCKETS: [&str; 3] = [
    "var/run/istio-cni/pluginevent.sock",
    "var/run/istio-cni/log.sock",
    "var/run/ztunnel/ztunnel.sock",
];

/// Directories that are its own, and go when nothing is left in them.
pub(super) const DIRECTORIES: [&str; 2] = ["var/run/istio-cni", "var/run/ztunnel"];
/// With what its plugin asked the API server; older ones kept it beside the configuration.
pub(super) const KUBECONFIG: &str = "var/run/istio-cni/istio-cni-kubeconfig";
pub(super) const OLD_KUBECONFIG: &str = "ZZZ-istio-cni-kubeconfig";
/// What its plugin says, besides to its agent.
pub(super) const LOG: &str = "var/run/istio-cni/istio-cni.log";

/// Files of one directory that are looked at, and bytes of each.
const MOST_FILES: usize = 256;
const MOST_BYTES: u64 = 1 << 20;

/// What was found on the node's file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// CNI configurations that call the plugin `istio-cni`.
    pub configurations: Vec<PathBuf>,
    /// Its binaries.
    pub binaries: Vec<PathBuf>,
    /// Its sockets, and whether somebody listens.
    pub sockets: Vec<(PathBuf, bool)>,
}

impl Facts {
    /// Looks below the root of the node's file system.
    #[must_use]
    pub fn gather(root: &Path) -> Self {
        let below = |path: &&str| root.join(path);
        Self {
            configurations: CONFIG_DIRECTORIES
                .iter()
                .map(below)
                .flat_map(|directory| configurations(&directory))
                .collect(),
            binaries: BINARIES.iter().map(below).filter(|path| path.exists()).collect(),
            sockets: SOCKETS
                .iter()
                .map(below)
                .filter(|path| path.exists())
                .map(|path| {
                    let listens = listens(&path);
                    (path, listens)
                })
                .collect(),
        }
    }
}

/// Whether somebody has the socket. One of packets, as ztunnel's is, refuses a stream by its type, and is there all the same;
/// so is one that may not be asked.
fn listens(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
    }
}

fn configurations(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).take(MOST_FILES).collect();
    files.sort();
    files.retain(|file| calls_istio(file));
    files
}

/// Would a container runtime that reads this file run istio-cni?
fn calls_istio(file: &Path) -> bool {
    let is_configuration = file
        .extension()
        .is_some_and(|end| end == "conf" || end == "conflist" || end == "json");
    let mut text = Vec::new();
    let read = || File::open(file)?.take(MOST_BYTES).read_to_end(&mut text);
    if !is_configuration || { read }().is_err() {
        return false;
    }
    let Ok(configuration) = serde_json::from_slice::<Value>(&text) else {
        return false;
    };
    let is_istio = |plugin: &Value| plugin.get("type").is_some_and(|kind| kind == PLUGIN);
    is_istio(&configuration)
        || configuration
            .get("plugins")
            .and_then(Value::as_array)
            .is_some_and(|plugins| plugins.iter().any(is_istio))
}
