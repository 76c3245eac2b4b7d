//! What istio-cni and ztunnel left on a node: finding it, and taking it away.
//!
//! | file | what it knows |
//! |---|---|
//! | `netlink` | messages of netfilter and of socket diagnosis, out and in |
//! | `netfilter` | tables, chains, jumps and ipsets of a namespace; removing some of them in one transaction |
//! | `plan` | which of them istio-cni made, and what is removed when; pure |
//! | `sockets` | TCP sockets of a pod: ztunnel's, and those that it has left half-closed |
//! | `pod` | taking the rules out of a pod that is redirected by us |
//! | `host` | taking rules, CNI configuration and files off the node |
//! | `follow` | when an agent does that |
//! | `files` | its files and sockets on the node |
//!
//! Only what bears istio-cni's own names, marks and numbers is touched; what else stands in the same tables and files stays.

pub mod files;
pub mod follow;
pub mod host;
pub mod netfilter;
mod netlink;
pub mod plan;
pub mod pod;
mod sockets;

/// Mark of replies to ztunnel, in the pod, and which bits of it count.
pub const REPLY_MARK: (u32, u32) = (0x111, 0xfff);
/// The routing table that brings them to `lo`.
pub const REPLY_TABLE: u32 = 100;
/// Mark of ztunnel's own sockets.
const PROXY_MARK: (u32, u32) = (0x539, 0xfff);
/// Sets of addresses of pods that the kubelet's probes are rewritten for.
pub const SETS: [&str; 2] = ["istio-inpod-probes-v4", "istio-inpod-probes-v6"];
