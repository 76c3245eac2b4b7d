//! What both objects share: maps, counting, reading addresses.
//!
//! | object | program | hook | decides |
//! |---|---|---|---|
//! | `node` | `connect4`, `connect6` | cgroup connect, root cgroup | does this connect leave its pod through the agent |
//! | `node` | `probes` | sockops, root cgroup | which connections are the node's own; counts plaintext ones |
//! | `node` | `setsockopt` | cgroup setsockopt, root cgroup | is this option a way past the guard |
//! | `pod` | `claim` | sk_lookup, the pod's network namespace | which socket takes a SYN |
//! | `node` | `guard_ether`, `guard_ip` | tcx egress, the pod's links | does this packet leave the pod |
#![no_std]
// Stable for other targets; for BPF the compiler still asks for the feature, which RUSTC_BOOTSTRAP allows.
#![feature(asm_experimental_arch)]

pub mod address;
pub mod capture;
pub mod maps;
pub mod mesh;
pub mod pace;
pub mod seen;

/// `AF_INET` of Linux.
pub const AF_INET: u32 = 2;
/// `AF_INET6` of Linux.
pub const AF_INET6: u32 = 10;
/// `IPPROTO_TCP`.
pub const TCP: u32 = 6;
