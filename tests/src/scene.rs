//! Worlds that several promises start from.

use std::net::{IpAddr, SocketAddr};

use crate::{
    agent::{Agent, AgentOptions},
    failure::Result,
    gateway::Gateway,
    lab::Lab,
    network::Network,
    node::Node,
    pod::Pod,
};

/// One network of two nodes with agents.
///
/// `client` and `neighbour` are on the first node, `server` on the second; all three are enrolled. `plain` is on the
/// second node and known to the mesh as plain TCP; `outside` is a machine that the mesh does not know.
#[derive(Debug)]
pub struct OneNetwork {
    /// Agents of the two nodes.
    pub agents: [Agent; 2],
    /// The two nodes.
    pub nodes: [Node; 2],
    /// Enrolled, on the first node.
    pub client: Pod,
    /// Enrolled, on the first node.
    pub neighbour: Pod,
    /// Enrolled, on the second node.
    pub server: Pod,
    /// Not enrolled, on the second node.
    pub plain: Pod,
    /// On no node.
    pub outside: Pod,
    /// The network.
    pub network: Network,
    /// The lab.
    pub lab: Lab,
}

impl OneNetwork {
    /// Starts it.
    pub fn start(title: &str) -> Result<Self> {
        Self::start_with(title, &AgentOptions::default())
    }

    /// Starts it, with options for both agents.
    pub fn start_with(title: &str, options: &AgentOptions) -> Result<Self> {
        let scene = Self::not_enrolled(title, options)?;
        for pod in [&scene.client, &scene.neighbour, &scene.server] {
            pod.enrol()?;
        }
        Ok(scene)
    }

    /// Starts it and enrols nobody.
    pub fn not_enrolled(title: &str, options: &AgentOptions) -> Result<Self> {
        Self::made_by(title, |_| Ok(options.clone()))
    }

    /// Makes the lab and its pods, starts its agents with options made for them, and enrols nobody.
    pub fn made_by(title: &str, options: impl FnOnce(&Lab) -> Result<AgentOptions>) -> Result<Self> {
        let lab = Lab::new(title)?;
        let network = lab.network("net1")?;
        let nodes = [network.node("node1")?, network.node("node2")?];
        let [node1, node2] = &nodes;
        let client = node1.pod("client").two_addresses().start()?;
        let neighbour = node1.pod("neighbour").start()?;
        let server = node2.pod("server").two_addresses().start()?;
        let plain = node2.pod("plain").plain().start()?;
        let outside = network.host("outside")?;
        let options = options(&lab)?;
        let agents = [node1.agent_with(options.clone())?, node2.agent_with(options)?];
        Ok(Self {
            agents,
            nodes,
            client,
            neighbour,
            server,
            plain,
            outside,
            network,
            lab,
        })
    }
}

/// Two networks of one node each, joined by the second's gateway.
///
/// `client` is in the first network; `server` and `twin` are in the second and serve `web.demo`, ports 8080 and 9000.
#[derive(Debug)]
pub struct TwoNetworks {
    /// Agents of the two nodes.
    pub agents: [Agent; 2],
    /// The second network's gateway.
    pub gateway: Gateway,
    /// Enrolled, in the first network.
    pub client: Pod,
    /// Enrolled, in the second network.
    pub server: Pod,
    /// Enrolled, in the second network.
    pub twin: Pod,
    /// The two networks.
    pub networks: [Network; 2],
    /// The service's hostname.
    pub hostname: String,
    /// The lab.
    pub lab: Lab,
}

impl TwoNetworks {
    /// Starts it.
    pub fn start(title: &str) -> Result<Self> {
        Self::start_with(title, |gateway| gateway)
    }

    /// Starts it with a gateway that differs.
    pub fn start_with(
        title: &str,
        change: impl FnOnce(crate::gateway::GatewayBuilder) -> crate::gateway::GatewayBuilder,
    ) -> Result<Self> {
        let lab = Lab::new(title)?;
        let networks = [lab.network("net1")?, lab.network("net2")?];
        let [net1, net2] = &networks;
        let (node1, node2) = (net1.node("node1")?, net2.node("node2")?);
        let client = node1.pod("client").start()?;
        let server = node2.pod("server").service_account("web").start()?;
        let twin = node2.pod("twin").service_account("web").start()?;
        let gateway = change(net2.gateway("gateway2")).stopped()?;
        let mut web = lab
            .service("web")
            .port(8080, 8080)
            .port(9000, 9000)
            .endpoint(&server)
            .endpoint(&twin);
        for network in &networks {
            web = web
                .vip(network.name(), network.vip(20))
                .vip(network.name(), network.vip6(20));
        }
        let hostname = web.add();
        gateway.restart()?;
        let agents = [node1.agent()?, node2.agent()?];
        for pod in [&client, &server, &twin] {
            pod.enrol()?;
        }
        Ok(Self {
            agents,
            gateway,
            client,
            server,
            twin,
            networks,
            hostname,
            lab,
        })
    }

    /// The service's addresses in the client's network, IPv4 and IPv6.
    pub fn vips(&self) -> [IpAddr; 2] {
        let [net1, _] = &self.networks;
        [net1.vip(20), net1.vip6(20)]
    }

    /// The service's IPv4 address in the client's network with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        let [v4, _] = self.vips();
        SocketAddr::new(v4, port)
    }
}
