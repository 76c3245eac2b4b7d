//! Real control planes in the lab: an etcd, a kube-apiserver and an istiod per cluster.
//!
//! The test plays everything else that a cluster has: the kubelet (pods and their status), the endpoint controller, the
//! load balancer. What a [`crate::Pod`] of the lab is and what its cluster is told of it go together in one call:
//!
//! ```text
//! let [east, west] = Cluster::pair(&lab)?;
//! let node = east.node("node1", "r1/z1")?;
//! let agent = east.agent(&node)?;
//! let pod = east.pod(&node, "curl").label("app", "curl").start()?;
//! let hello = east.service("helloworld").global().vip(ip).port(5000, 5000).add()?;
//! ```
//!
//! The processes run in the namespace of a machine of the cluster's network that has a leg on the internet too: istiod of
//! one cluster reads the other's apiserver there.

mod access;
mod api;
mod cluster;
mod crds;
mod east_west;
mod istiod;
mod kubernetes;
mod pod;
mod probe;
mod programs;
mod rights;
mod roots;
mod sandbox;
mod service;
pub mod t1;

pub use access::Access;
pub use api::Api;
pub(crate) use cluster::at_once;
pub use cluster::{Cluster, SYSTEM};
pub use east_west::EastWest;
pub use kubernetes::Pods;
pub(crate) use kubernetes::{last_words, node_name};
pub use pod::ClusterPodBuilder;
pub use probe::Told;
pub(crate) use programs::built;
pub use rights::{grant, rule};
pub use roots::{Intermediate, Roots};
pub use sandbox::Sandbox;
pub use service::ClusterServiceBuilder;
pub use t1::{Second, T1, split_horizon};

use std::path::PathBuf;

use crate::failure::Result;

/// Istio's command line, as `cargo xtask setup` built it.
pub fn istioctl() -> Result<PathBuf> {
    programs::built("istioctl")
}
