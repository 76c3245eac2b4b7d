//! Arguments of `isthmus cleanup`.

use std::path::PathBuf;

use clap::Args;

/// `isthmus cleanup`.
///
/// Lets every pod go, in clear from then on, and removes what the agent has made: links, programs and maps under the bpffs
/// directory, rules, routes and sysctls in pods, records, socket, and the CNI plugin with its configuration. It may be run again. Exit code 0: nothing is left; 1:
/// something could not be removed, and is named; 2: an agent runs.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// Node name: only what was made under it goes. Everything below the bpffs directory, when not given.
    #[arg(long)]
    pub node: Option<String>,
    /// The agent's run directory.
    #[arg(long, env = "ISTHMUS_RUN_DIR", default_value = "/run/isthmus")]
    pub run_dir: PathBuf,
    /// The agent's state directory; the run directory when not given.
    #[arg(long, env = "ISTHMUS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the agent pins, on a BPF file system.
    #[arg(long, env = "ISTHMUS_BPFFS", default_value = "/sys/fs/bpf/isthmus")]
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy of the node; found in the mount table when not given.
    #[arg(long, env = "ISTHMUS_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Network namespace to look for our rules and routes in, besides those that records and pins lead to; may be given
    /// several times.
    #[arg(long = "netns")]
    pub pods: Vec<PathBuf>,
    /// Directory of CNI plugins; that of the node's distribution when not given.
    #[arg(long, env = "ISTHMUS_CNI_BIN_DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Directory of CNI configurations; that of the node's distribution when not given.
    #[arg(long, env = "MOUNTED_CNI_NET_DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Also while an agent runs: it is asked to let every pod go first, and must be started anew afterwards.
    #[arg(long)]
    pub force: bool,
    /// Instead of the agent's traces, those that istio-cni and ztunnel left on the node: CNI configuration, plugin, rules for
    /// probes, sockets. Refused while istio-cni lives. An agent of ours may run, and is left alone.
    #[arg(long, conflicts_with_all = ["node", "pods", "force"])]
    pub istio_cni: bool,
    /// With `--istio-cni`: where the node's file system is seen; `/host` in a container that has `/host/etc`, otherwise `/`.
    #[arg(long, requires = "istio_cni")]
    pub host_root: Option<PathBuf>,
    /// With `--istio-cni`: network namespace of the node.
    #[arg(long, env = "ISTHMUS_NODE_NETNS", default_value = "/proc/1/ns/net")]
    pub node_netns: PathBuf,
}
