//! Arguments of `isthmus check`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::Output;

/// `isthmus check`.
///
/// Says of every thing the agent needs of this node whether it is there, what it means if not, and what to do.
/// Nothing of the node is changed: programs are tried out in places made for it. Exit code 0: fit; 1: unfit; 2: the
/// arguments are wrong.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Node name: whose pins are looked at. All that are there, when not given.
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,
    /// The agent's run directory.
    #[arg(long, env = "ISTHMUS_RUN_DIR", default_value = "/run/isthmus")]
    pub run_dir: PathBuf,
    /// Where the agent pins, on a BPF file system.
    #[arg(long, env = "ISTHMUS_BPFFS", default_value = "/sys/fs/bpf/isthmus")]
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy of the node; found in the mount table when not given.
    #[arg(long, env = "ISTHMUS_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Network namespace of the node.
    #[arg(long, env = "ISTHMUS_NODE_NETNS", default_value = "/proc/1/ns/net")]
    pub node_netns: PathBuf,
    /// Where the node's file system is seen, for what istio-cni left there.
    #[arg(long, env = "ISTHMUS_HOST_ROOT", default_value = "/")]
    pub host_root: PathBuf,
    /// Network namespace of a pod to look into, besides those of enrolled pods; may be given several times.
    #[arg(long = "netns")]
    pub pods: Vec<PathBuf>,
    /// Exit with 1 on warnings too.
    #[arg(long)]
    pub strict: bool,
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}
