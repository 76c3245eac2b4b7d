//! A node: a bridge for its pods, an uplink into its network, and perhaps an agent.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{
    agent::{Agent, AgentOptions},
    failure::Result,
    lab::World,
    netns::Netns,
    network::Network,
    pod::PodBuilder,
};

/// A node of a network; its pods are 10.NETWORK.NODE.0/24 and fd00:10:NETWORK:NODE::/64.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
    network: Network,
    world: Arc<World>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    index: u8,
    netns: Arc<Netns>,
    pods: AtomicU8,
}

impl Node {
    pub(crate) fn create(world: &Arc<World>, network: &Network, name: &str, index: u8) -> Result<Self> {
        let netns = world.netns(&format!("{}-{name}", network.name()))?;
        let net = network.index();
        netns.route_packets()?;
        netns.ip(&format!(
            "link add br0 type bridge mcast_snooping 0\n\
             addr add 10.{net}.{index}.1/24 dev br0\n\
             addr add fd00:10:{net}:{index}::1/64 dev br0 nodad\n\
             link set br0 up\n"
        ))?;
        world.cable((&netns, "up0"), (network.wire(), &format!("node{index}")))?;
        netns.ip(&format!(
            "addr add 10.{net}.0.{index}/24 dev up0\n\
             addr add fd00:10:{net}::{index}/64 dev up0 nodad\n\
             link set up0 up\n\
             route add default via 10.{net}.0.254\n\
             route add ::/0 via fd00:10:{net}::254\n"
        ))?;
        network.wire().ip(&format!(
            "route add 10.{net}.{index}.0/24 via 10.{net}.0.{index}\n\
             route add fd00:10:{net}:{index}::/64 via fd00:10:{net}::{index}\n"
        ))?;
        let inner = Inner {
            name: name.to_owned(),
            index,
            netns,
            pods: AtomicU8::new(11),
        };
        Ok(Self {
            inner: Arc::new(inner),
            network: network.clone(),
            world: Arc::clone(world),
        })
    }

    /// Its name, unique in the lab.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The third number of its pods' addresses.
    pub fn index(&self) -> u8 {
        self.inner.index
    }

    /// The network it is on.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its namespace, where the kubelet's probes come from and where its pods' links end.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.inner.netns
    }

    /// Adds a pod; end with [`PodBuilder::start`].
    pub fn pod(&self, name: &str) -> PodBuilder {
        PodBuilder::new(&self.world, self, name, self.inner.pods.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts its agent and waits until it is ready.
    pub fn agent(&self) -> Result<Agent> {
        self.agent_with(AgentOptions::default())
    }

    /// As [`Node::agent`], with options.
    pub fn agent_with(&self, options: AgentOptions) -> Result<Agent> {
        Agent::start(&self.world, self, options)
    }

    /// Where its agent's socket is.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join(isthmus_wire::SOCKET_NAME)
    }

    /// What its agent is told as `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.world.dir().join(format!("run-{}", self.name()))
    }

    /// Where its agent pins what outlives it.
    pub fn pins(&self) -> PathBuf {
        self.world.bpffs().join(self.name())
    }
}
