//! Whole clusters: what [`crate::control_plane`] has, and a scheduler, controllers, and nodes on which a containerd and a
//! kubelet run whatever the API server says. The test plays nothing but the cloud's load balancer.
//!
//! A node is what a node of kind is, without Docker: namespaces of its own for network, mounts, processes and cgroups. Its
//! files lie in the lab's directory; `/etc`, `/opt`, `/var` and `/run` as its programs see them are its own, and when its first
//! process ends everything of it ends.

mod balancer;
mod charts;
mod controllers;
mod images;
mod kubectl;
mod machine;
mod site;

pub use charts::{Release, merge};
pub use images::WORKLOAD;
pub use kubectl::Kubectl;
pub use machine::Machine;
pub use site::{Site, is_ready};

use crate::{
    control_plane::{Cluster, Pods, at_once},
    failure::Result,
    lab::Lab,
};

/// `cluster1` on `network1` and `cluster2` on `network2`, each reading the other's apiserver, with nodes.
#[derive(Debug)]
pub struct Fleet {
    sites: Vec<Site>,
    // After all that is in it.
    _lab: Lab,
}

impl Fleet {
    /// Starts both with so many nodes each. Nothing of ours runs there yet.
    pub fn start(lab: Lab, nodes: [u8; 2]) -> Result<Self> {
        let networks = [lab.network("network1")?, lab.network("network2")?];
        let [one, two] = &networks;
        let clusters = Cluster::start_for(&lab, &[("cluster1", one), ("cluster2", two)], Pods::Run)?;
        let world = lab.world();
        let wanted: Vec<_> = clusters.iter().zip(nodes).collect();
        let sites = at_once(&wanted, |(cluster, nodes)| Site::start(world, cluster, *nodes))?;
        Ok(Self { sites, _lab: lab })
    }

    /// Installs agents on every node and a gateway in every cluster, as a user would.
    pub fn install(&self) -> Result {
        at_once(&self.sites, Site::install).map(drop)
    }

    /// Both clusters.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }
}
