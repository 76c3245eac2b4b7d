//! The command line and the environment, read once.
//!
//! Where a variable of ztunnel means the same, it is the variable here too (wire-facts §9.5).

use std::{ffi::OsString, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{check::CheckArgs, cleanup::CleanupArgs};

/// Isthmus, the node agent of an ambient mesh.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the pods of this node. Ends on SIGTERM; pods stay guarded.
    Run(RunArgs),
    /// Started by `run`; serves until it ends.
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Serve as the east-west gateway of a network.
    Gateway(GatewayArgs),
    /// Enrol or release a pod of this node.
    #[command(subcommand)]
    Pod(PodCommand),
    /// Show what the agent of this node does.
    Status(StatusArgs),
    /// Say whether this node is fit for the agent, and what to do if not.
    Check(CheckArgs),
    /// Let every pod go and remove every trace of the agent from this node.
    Cleanup(CleanupArgs),
    /// The embedded CA, for tests and demonstrations.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Look at a mesh file.
    #[command(subcommand)]
    Mesh(MeshCommand),
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Plain,
    /// A JSON object a line.
    Json,
}

/// What every serving command takes.
#[derive(Clone, Debug, Args)]
pub struct MeshArgs {
    /// Network this node is on.
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
    /// Mesh file: workloads, services, policies, gateways. Reloaded when it changes.
    #[arg(long, env = "LOCAL_XDS_PATH")]
    pub mesh: PathBuf,
    /// Directory of the embedded CA. Its keys lie on disk: for tests and demonstrations only.
    #[arg(long, env = "ISTHMUS_EMBEDDED_CA")]
    pub embedded_ca: PathBuf,
    /// How long open connections may go on after SIGTERM.
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", default_value = "5s", value_parser = duration)]
    pub drain_deadline: Duration,
    /// How logs are written, to standard error. `RUST_LOG` says which.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "plain", ignore_case = true)]
    pub log_format: LogFormat,
}

/// `isthmus run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Node name; names the directory of pins.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// Mesh, certificates, logs.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Directory of the agent's socket and records. Must not survive a reboot.
    #[arg(long, env = "ISTHMUS_RUN_DIR", default_value = "/run/isthmus")]
    pub run_dir: PathBuf,
    /// Where to pin, on a BPF file system.
    #[arg(long, env = "ISTHMUS_BPFFS", default_value = "/sys/fs/bpf/isthmus")]
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy of the node; found in the mount table when not given.
    #[arg(long, env = "ISTHMUS_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Network namespace of the node: connections made there are probes.
    #[arg(long, env = "ISTHMUS_NODE_NETNS", default_value = "/proc/1/ns/net")]
    pub node_netns: PathBuf,
    /// Threads that serve pods; a quarter of the cores when not given.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// How long connections of a released pod may go on.
    #[arg(long, env = "ISTHMUS_RELEASE_DEADLINE", default_value = "10m", value_parser = duration)]
    pub release_deadline: Duration,
    /// Let the eBPF programs log what they decide (target `isthmus_ebpf`). Programs already attached keep quiet.
    #[arg(long, env = "ISTHMUS_EBPF_LOG")]
    pub ebpf_log: bool,
}

/// `isthmus worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// As given to `run`.
    #[command(flatten)]
    pub run: RunArgs,
    /// How often a worker was started before this one.
    #[arg(long, default_value_t = 0)]
    pub restarts: u64,
}

/// `isthmus gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Mesh, certificates, logs.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Identity as NAMESPACE/SERVICE-ACCOUNT.
    #[arg(long)]
    pub identity: String,
    /// Trust domain of the identity.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Where to listen for tunnels of other networks.
    #[arg(long, default_value = "[::]:15008")]
    pub listen: SocketAddr,
}

/// `isthmus pod`.
#[derive(Debug, Subcommand)]
pub enum PodCommand {
    /// Bring a network namespace into the mesh.
    Add(PodAddArgs),
    /// Let a pod go; its open connections live on.
    Remove {
        /// Where the agent's socket is.
        #[command(flatten)]
        socket: SocketArgs,
        /// UID it was enrolled with.
        #[arg(long)]
        uid: String,
    },
}

/// Whether plaintext from outside is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mtls {
    /// Refused.
    Required,
    /// Admitted.
    Optional,
}

/// `isthmus pod add`.
#[derive(Clone, Debug, Args)]
pub struct PodAddArgs {
    /// Where the agent's socket is.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Path of the pod's network namespace.
    #[arg(long)]
    pub netns: PathBuf,
    /// Kubernetes namespace.
    #[arg(long)]
    pub namespace: String,
    /// Pod name.
    #[arg(long)]
    pub name: String,
    /// Service account; as the mesh says when not given.
    #[arg(long)]
    pub service_account: Option<String>,
    /// UID; NAMESPACE/NAME when not given.
    #[arg(long)]
    pub uid: Option<String>,
    /// Plaintext from outside; as the mesh's policies say when not given.
    #[arg(long, value_enum)]
    pub mtls: Option<Mtls>,
    /// Interface inside the pod behind which guests sit; may be given several times.
    #[arg(long = "reroute-interface")]
    pub reroute_interfaces: Vec<String>,
}

/// Where the agent's socket is.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// The agent's run directory.
    #[arg(long, env = "ISTHMUS_RUN_DIR", default_value = "/run/isthmus")]
    pub run_dir: PathBuf,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `isthmus status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where the agent's socket is.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// `isthmus ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a root in a new directory.
    Init {
        /// The directory.
        directory: PathBuf,
    },
    /// Write a certificate: cert-chain.pem, key.pem, root-cert.pem.
    Issue {
        /// Directory of the CA.
        directory: PathBuf,
        /// SPIFFE ID.
        #[arg(long)]
        identity: String,
        /// Where to write.
        #[arg(long)]
        out: PathBuf,
        /// Not valid before (RFC 3339); a minute ago when not given.
        #[arg(long)]
        not_before: Option<String>,
        /// Not valid after (RFC 3339); in a day when not given.
        #[arg(long)]
        not_after: Option<String>,
    },
}

/// `isthmus mesh`.
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Say whether a file would load, and what is in it.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// The arguments after the verb, for handing them to the worker.
pub fn own_arguments() -> Vec<OsString> {
    std::env::args_os().skip(2).collect()
}

/// `250ms`, `5s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or("a number and a unit are wanted, such as 5s")?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().map_err(|error| format!("{text}: {error}"))?;
    let scale = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text}: the unit must be ms, s, m or h")),
    };
    number
        .checked_mul(scale)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["5", "s", "5 s", "-1s", "5d", "99999999999999999999s", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
