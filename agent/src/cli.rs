//! The command line. What serves has its flags and variables in [`crate::config`].

use std::{ffi::OsString, path::PathBuf};

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
    Run(ServeArgs),
    /// The same as `run`, for those who know ztunnel's command line.
    #[command(hide = true)]
    Proxy(ProxyArgs),
    /// Started by `run`; serves until it ends.
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Serve as the east-west gateway of a network.
    Gateway(ServeArgs),
    /// Say which version this is.
    Version,
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

/// The rest of the line, which [`crate::config`] understands.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct ServeArgs {
    /// Flags, as `isthmus run --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub arguments: Vec<OsString>,
}

/// `isthmus proxy`, which is `run` for those who know ztunnel's command line.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct ProxyArgs {
    /// A name, perhaps, and flags.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    arguments: Vec<OsString>,
}

impl ProxyArgs {
    /// The flags behind the name, which nobody needs.
    #[must_use]
    pub fn flags(mut self) -> Vec<OsString> {
        let named = self
            .arguments
            .first()
            .is_some_and(|first| !first.to_string_lossy().starts_with('-'));
        if named {
            self.arguments.remove(0);
        }
        self.arguments
    }
}

/// `isthmus worker`.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct WorkerArgs {
    /// How often a worker was started before this one.
    #[arg(long, default_value_t = 0)]
    pub restarts: u64,
    /// When the one before this ended, in seconds since 1970.
    #[arg(long)]
    pub ended_at: Option<i64>,
    /// How the one before this ended.
    #[arg(long)]
    pub ended_how: Option<String>,
    /// As given to `run`, after `--`.
    #[arg(last = true)]
    pub arguments: Vec<OsString>,
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
    /// Show it again every so many seconds, 2 when not given, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_commands_leave_their_flags_to_the_configuration() {
        let parsed = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command;
        for line in [
            "isthmus run --node a -o json --help",
            "isthmus gateway --node a -o json --help",
        ] {
            let (Command::Run(ServeArgs { arguments }) | Command::Gateway(ServeArgs { arguments })) = parsed(line)
            else {
                panic!("{line}");
            };
            assert_eq!(arguments, ["--node", "a", "-o", "json", "--help"]);
        }
        let Command::Worker(worker) = parsed("isthmus worker --restarts 3 -- --node a --restarts 4") else {
            panic!("a worker");
        };
        assert_eq!(worker.restarts, 3);
        assert_eq!(worker.arguments, ["--node", "a", "--restarts", "4"]);
    }

    #[test]
    fn proxy_is_run_and_its_name_is_left_out() {
        for (line, flags) in [
            ("isthmus proxy", &[][..]),
            ("isthmus proxy ztunnel", &[]),
            ("isthmus proxy ztunnel --node a", &["--node", "a"]),
            ("isthmus proxy --node a", &["--node", "a"]),
        ] {
            let Command::Proxy(proxy) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
                panic!("{line}");
            };
            assert_eq!(proxy.flags(), flags, "{line}");
        }
    }
}
