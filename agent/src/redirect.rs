//! Redirection: eBPF programs, their maps and links, and the rules and routes inside pods.
//!
//! Everything here is the kernel's state and outlives the agent. It is pinned under one directory per node and
//! *generation*, the digest of the programs: an agent with the same programs adopts what it finds, one with other
//! programs arms its own beside the old and then removes the old, so that no pod is unguarded in between.
//!
//! ```text
//! BPFFS/NODE/GENERATION/map_NAME            maps, shared by every program
//! BPFFS/NODE/GENERATION/link_NAME           node-wide links
//! BPFFS/NODE/GENERATION/prog_NAME           the guards, attached to links of pods
//! BPFFS/NODE/GENERATION/pod_SLOT/           one per pod: link_claim, link_guard_IFINDEX
//! ```

pub mod cgroup2;
pub mod ebpf_log;
pub mod grace;
pub mod hooks;
mod kernel_calls;
pub mod maps;
pub mod netns;
pub mod node;
pub mod objects;
pub mod pins;
pub mod pod;
pub mod policy_routing;
mod scratch;
pub mod selftest;
pub mod sockets;
pub mod trial;
pub mod unpin;

use std::{io, path::PathBuf};

pub use maps::Maps;
pub use netns::Netns;
pub use node::NodePrograms;
pub use pins::Pins;
pub use pod::{Claimed, PodPrograms};
pub use policy_routing::{Interior, PodRouting};
pub use sockets::Listeners;

/// Why the kernel would not do what redirection needs.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// Built without the programs.
    #[error("this binary was built without its eBPF programs; build it with `cargo xtask build`")]
    NoObjects,
    /// A path could not be read or made.
    #[error("{what} {path}: is bpffs mounted there (mount -t bpf bpf /sys/fs/bpf) and writable?")]
    Path {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// aya could not load an object or create its maps.
    #[error("loading the {object} object (needs Linux 6.6 with BTF, CAP_SYS_ADMIN and CAP_NET_ADMIN)")]
    Load {
        /// `node` or `pod`.
        object: &'static str,
        /// Cause.
        #[source]
        cause: Box<aya::EbpfError>,
    },
    /// A program is missing, was refused by the verifier or could not be attached.
    #[error("program {program}: {step}")]
    Program {
        /// Program name.
        program: &'static str,
        /// `loading`, `attaching`, `pinning` …
        step: &'static str,
        /// Cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be opened, read or written.
    #[error("map {map}: {step}")]
    Map {
        /// Map name.
        map: &'static str,
        /// What was tried.
        step: &'static str,
        /// Cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A network namespace.
    #[error(transparent)]
    Netns(#[from] netns::NetnsError),
    /// Rules, routes, links or sysctls of a pod.
    #[error(transparent)]
    Routing(#[from] policy_routing::RoutingError),
    /// The self-test failed.
    #[error("the start-up self-test failed: {0}; pods are not enrolled because their traffic might leave in clear")]
    SelfTest(String),
}
