//! The lab: meshes of network namespaces on one kernel, in which the tests of this package make and check promises.
//!
//! A [`Lab`] holds networks, a [`Network`] holds nodes and gateways, a [`Node`] holds pods and runs an agent. All of
//! them are namespaces with names beginning with `isth`, and all of them go when the last handle is dropped.
//!
//! ```text
//! pod ── eth0 ── br0 of the node ── up0 ── br0 of the network ── inet0 ── br0 of the internet
//!                                                  └ gateway eth0, eth1 ────────┘
//! ```
//!
//! Inside a network everything is routed. Between networks only the outer addresses of gateways are.

pub mod agent;
pub mod authority;
pub mod capture;
mod cgroups;
pub mod chart;
pub mod cni;
pub mod control_plane;
pub mod echo;
pub mod envoy;
pub mod failure;
pub mod fleet;
pub mod forger;
pub mod gateway;
pub mod histogram;
pub mod istio_cni;
pub mod lab;
pub mod log;
pub mod mesh_file;
pub mod netns;
pub mod network;
pub mod node;
pub mod pod;
pub mod process;
pub mod scene;
pub mod scripted_istiod;
pub mod sweep;
pub mod under_istiod;
pub mod wait;

pub use agent::Agent;
pub use capture::Capture;
pub use chart::Chart;
pub use control_plane::Cluster;
pub use echo::{Echo, must_be_reset, roundtrip};
pub use failure::{Because, Failure, Result};
pub use gateway::Gateway;
pub use lab::Lab;
pub use netns::Netns;
pub use network::Network;
pub use node::Node;
pub use pod::Pod;
pub use process::Process;
pub use scripted_istiod::ScriptedIstiod;
pub use wait::within;
