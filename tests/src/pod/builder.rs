//! What a pod is to be, until it is made.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::{Inner, Pod, pod_v6};
use crate::{failure::Result, lab::World, node::Node};

/// A pod in the making.
#[derive(Debug)]
pub struct PodBuilder {
    world: Arc<World>,
    node: Node,
    index: u8,
    name: String,
    namespace: String,
    account: Option<String>,
    protocol: Option<&'static str>,
    second: bool,
}

impl PodBuilder {
    pub(crate) fn new(world: &Arc<World>, node: &Node, name: &str, index: u8) -> Self {
        Self {
            world: Arc::clone(world),
            node: node.clone(),
            index,
            name: name.to_owned(),
            namespace: "demo".to_owned(),
            account: None,
            protocol: Some("HBONE"),
            second: false,
        }
    }

    /// Its Kubernetes namespace; `demo` when not said.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Its service account; its own name when not said.
    #[must_use]
    pub fn service_account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// The mesh knows it as a workload that is reached in plain TCP.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.protocol = Some("TCP");
        self
    }

    /// The mesh does not know it.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.protocol = None;
        self
    }

    /// It has a second address of each family.
    #[must_use]
    pub fn two_addresses(mut self) -> Self {
        self.second = true;
        self
    }

    /// Makes it, and lists it in the mesh file to be published.
    pub fn start(self) -> Result<Pod> {
        let (net, node, index) = (self.node.network().index(), self.node.index(), self.index);
        let netns = self.world.netns(&format!(
            "{}-{}-{}",
            self.node.network().name(),
            self.node.name(),
            self.name
        ))?;
        self.world
            .cable((&netns, "eth0"), (self.node.netns(), &format!("pod{index}")))?;
        let lasts = if self.second {
            vec![index, index + 100]
        } else {
            vec![index]
        };
        let mut ips = Vec::new();
        let mut batch = String::new();
        for last in lasts {
            let v4 = Ipv4Addr::new(10, net, node, last);
            let v6 = pod_v6(net, node, last);
            batch += &format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n");
            ips.extend([IpAddr::V4(v4), IpAddr::V6(v6)]);
        }
        batch += &format!(
            "link set eth0 up\nroute add default via 10.{net}.{node}.1\nroute add ::/0 via fd00:10:{net}:{node}::1\n"
        );
        netns.ip(&batch)?;
        let account = self.account.unwrap_or_else(|| self.name.clone());
        let inner = Inner {
            name: self.name,
            namespace: self.namespace,
            account,
            netns,
            ips,
        };
        let pod = Pod {
            inner: Arc::new(inner),
            node: Some(self.node),
            world: self.world,
        };
        if let Some(protocol) = self.protocol {
            pod.list(protocol);
        }
        Ok(pod)
    }
}
