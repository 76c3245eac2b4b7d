//! Which pods are enrolled, and bringing them in and out.
//!
//! One task owns all of it ([`registry`]); everybody else asks over a channel. What waits for the kernel, it has done on other
//! threads. What the kernel holds for a pod outlives the agent, so that a pod's traffic never finds a way around an agent that
//! is away; the records on disk tell the next agent what to take up again.

pub mod ask;
pub mod capture;
pub mod certificate_status;
pub mod enrolled;
mod kernel_mesh;
pub mod pod_sockets;
pub mod record;
pub mod registry;

pub use ask::{Ask, Pods};
pub use registry::Registry;
