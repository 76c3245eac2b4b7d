//! Topology T1 whole: two clusters, two networks, an istiod each, east-west gateways (design.md §1).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{cluster::Cluster, probe::Told};
use crate::{
    agent::{Agent, AgentOptions},
    echo::{Echo, roundtrip},
    failure::{Because as _, Result},
    gateway::Gateway,
    lab::Lab,
    node::Node,
    pod::Pod,
    wait::within,
};

/// The namespace of everything that is served.
pub const NAMESPACE: &str = "sample";
/// The service's port and its pods'.
pub const PORT: u16 = 5000;
const SOON: Duration = Duration::from_secs(30);

/// What is the second cluster's gateway?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// `isthmus gateway`.
    Ours,
    /// Told to the cluster, and nothing runs there yet.
    Stopped,
}

/// Two clusters that serve `helloworld` together. Each has one node, on it `curl` and `hello`; all pods are enrolled.
///
/// `helloworld` is global, `nearby` is of each cluster alone; both lead to `hello`.
#[derive(Debug)]
pub struct T1 {
    /// Their agents.
    pub agents: [Agent; 2],
    /// Their gateways.
    pub gateways: [Gateway; 2],
    /// Echo servers on the pods that serve.
    pub echoes: [Echo; 2],
    /// Pods that ask.
    pub clients: [Pod; 2],
    /// Pods that serve.
    pub servers: [Pod; 2],
    /// The nodes.
    pub nodes: [Node; 2],
    /// The clusters.
    pub clusters: [Cluster; 2],
    /// The lab.
    pub lab: Lab,
}

/// One side of it before agents run.
struct Side {
    node: Node,
    client: Pod,
    server: Pod,
    gateway: Gateway,
}

impl T1 {
    /// Starts it.
    pub fn start(title: &str) -> Result<Self> {
        Self::start_in(Lab::new(title)?, Second::Ours, &AgentOptions::default())
    }

    /// Starts it in a lab, with options for both agents, and waits until everybody has been told everything.
    pub fn start_in(lab: Lab, second: Second, options: &AgentOptions) -> Result<Self> {
        let clusters = Cluster::pair(&lab)?;
        let [one, two] = &clusters;
        let sides = [Self::side(one, "node1")?, Self::side(two, "node2")?];
        // Istiod tells of the other network only when it knows all of it.
        for (cluster, other) in [(one, two), (two, one)] {
            Self::joined(cluster, other)?;
        }
        let [first, other] = sides;
        first.gateway.restart()?;
        if second == Second::Ours {
            other.gateway.restart()?;
        }
        let agents = [
            one.agent_with(&first.node, options.clone())?,
            two.agent_with(&other.node, options.clone())?,
        ];
        // Who asks on demand never holds everything.
        if !options.arguments.iter().any(|argument| argument == "--xds-on-demand") {
            for (cluster, agent) in clusters.iter().zip(&agents) {
                cluster.settled(agent)?;
            }
        }
        for pod in [&first.client, &first.server, &other.client, &other.server] {
            pod.enrol()?;
        }
        Ok(Self {
            agents,
            gateways: [first.gateway, other.gateway],
            echoes: [first.server.echo(PORT)?, other.server.echo(PORT)?],
            clients: [first.client, other.client],
            servers: [first.server, other.server],
            nodes: [first.node, other.node],
            clusters,
            lab,
        })
    }

    fn side(cluster: &Cluster, node: &str) -> Result<Side> {
        let node = cluster.node(node, &format!("region-{node}/zone-{node}"))?;
        let client = cluster.pod(&node, &format!("curl-{}", node.name()));
        let client = client.namespace(NAMESPACE).service_account("curl").start()?;
        let server = cluster.pod(&node, &format!("hello-{}", node.name()));
        let server = server.namespace(NAMESPACE).service_account("helloworld");
        let server = server.label("app", "helloworld").start()?;
        let network = cluster.network();
        let hello = cluster.service("helloworld").namespace(NAMESPACE).global();
        let hello = hello.vip(network.vip(20)).vip(network.vip6(20)).endpoint(&server);
        hello.selects("app", "helloworld").port(PORT, PORT).add()?;
        let nearby = cluster.service("nearby").namespace(NAMESPACE);
        let nearby = nearby.vip(network.vip(30)).selects("app", "helloworld");
        nearby.port(PORT, PORT).endpoint(&server).add()?;
        Ok(Side {
            client,
            server,
            gateway: cluster.stopped_gateway()?,
            node,
        })
    }

    /// Waits until a cluster's istiod tells of the other's part of `helloworld`.
    fn joined(cluster: &Cluster, other: &Cluster) -> Result {
        within(
            SOON,
            &format!("{} hears of helloworld in {}", cluster.name(), other.name()),
            || Some(()).filter(|()| cluster.told().is_ok_and(|told| !split_horizon(&told, other).is_empty())),
        )
    }

    /// The address of `helloworld` in a client's own network.
    pub fn hello(&self, client: &Pod) -> Result<SocketAddr> {
        Ok(SocketAddr::new(Self::vip(client, 20)?, PORT))
    }

    /// The IPv6 address of `helloworld` in a client's own network.
    pub fn hello6(&self, client: &Pod) -> Result<SocketAddr> {
        Ok(SocketAddr::new(client.node()?.network().vip6(20), PORT))
    }

    /// The address of `nearby` in a client's own network.
    pub fn nearby(&self, client: &Pod) -> Result<SocketAddr> {
        Ok(SocketAddr::new(Self::vip(client, 30)?, PORT))
    }

    fn vip(client: &Pod, last: u8) -> Result<IpAddr> {
        Ok(client.node()?.network().vip(last))
    }

    /// Connects so many times, each time a question and its answer; tells how many each cluster has answered.
    /// A question without an answer is an error.
    pub fn ask(&self, client: &Pod, at: SocketAddr, times: usize) -> Result<[usize; 2]> {
        let before = self.echoes.each_ref().map(Echo::taken);
        for number in 0..times {
            roundtrip(&mut client.connect(at)?, b"who is there?")
                .because(format!("question {number} of {times}, after {before:?}"))?;
        }
        Ok(self.echoes.each_ref().map(Echo::taken))
    }

    /// Waits until only these clusters answer, the first and the second, and all their answers come.
    #[track_caller]
    pub fn until_answered_by(&self, client: &Pod, at: SocketAddr, wanted: [bool; 2]) -> Result {
        let what = format!("{} is answered by {wanted:?}", client.name());
        let mut last = String::new();
        let answered = within(SOON, &what, || match self.ask(client, at, 16) {
            Ok(counts) if counts.map(|count| count > 0) == wanted => Some(()),
            other => {
                last = format!("{other:?}");
                None
            }
        });
        answered.because(format!("last it was {last}"))
    }
}

/// Uids of what istiod tells of another cluster's endpoints (wire-facts.md §4.2).
pub fn split_horizon(told: &Told, other: &Cluster) -> Vec<String> {
    let prefix = format!("{}/SplitHorizonWorkload/", other.network().name());
    told.workloads
        .keys()
        .filter(|uid| uid.starts_with(&prefix))
        .cloned()
        .collect()
}
