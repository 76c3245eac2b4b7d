//! A network: nodes and hosts that reach one another directly, and gateways that others reach.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{failure::Result, gateway::GatewayBuilder, lab::World, netns::Netns, node::Node, pod::Pod};

/// A network of its own, 10.INDEX.0.0/16 and fd00:10:INDEX::/48.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
    world: Arc<World>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    index: u8,
    wire: Arc<Netns>,
    nodes: AtomicU8,
    gateways: AtomicU8,
    hosts: AtomicU8,
}

impl Network {
    pub(crate) fn create(world: &Arc<World>, name: &str, index: u8) -> Result<Self> {
        let wire = world.netns(name)?;
        wire.route_packets()?;
        wire.ip(&format!(
            "link add br0 type bridge mcast_snooping 0\n\
             addr add 10.{index}.0.254/24 dev br0\n\
             addr add fd00:10:{index}::254/64 dev br0 nodad\n\
             link set br0 up\n"
        ))?;
        world.cable((&wire, "inet0"), (world.internet(), &format!("n{index}")))?;
        let outer = 100 + index;
        wire.ip(&format!(
            "addr add 198.51.100.{outer}/24 dev inet0\naddr add 2001:db8:51::{outer}/64 dev inet0 nodad\nlink set inet0 up\n"
        ))?;
        world.internet().ip(&format!(
            "route add 10.{index}.0.0/16 via 198.51.100.{outer}\n\
             route add fd00:10:{index}::/48 via 2001:db8:51::{outer}\n"
        ))?;
        let [nodes, gateways, hosts] = [const { AtomicU8::new(1) }; 3];
        let inner = Inner {
            name: name.to_owned(),
            index,
            wire,
            nodes,
            gateways,
            hosts,
        };
        Ok(Self {
            inner: Arc::new(inner),
            world: Arc::clone(world),
        })
    }

    /// Its name in the mesh file.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The second number of its addresses.
    pub fn index(&self) -> u8 {
        self.inner.index
    }

    /// The namespace all its nodes and gateways are cabled to: where its wires can be heard.
    pub fn wire(&self) -> &Arc<Netns> {
        &self.inner.wire
    }

    /// Adds a node.
    pub fn node(&self, name: &str) -> Result<Node> {
        Node::create(
            &self.world,
            self,
            name,
            self.inner.nodes.fetch_add(1, Ordering::Relaxed),
        )
    }

    /// Adds an east-west gateway; end with [`GatewayBuilder::start`].
    pub fn gateway(&self, name: &str) -> GatewayBuilder {
        GatewayBuilder::new(
            &self.world,
            self,
            name,
            self.inner.gateways.fetch_add(1, Ordering::Relaxed),
        )
    }

    /// Adds a machine on the network that is no part of the mesh and of no node.
    pub fn host(&self, name: &str) -> Result<Pod> {
        Pod::host(
            &self.world,
            self,
            name,
            99 + self.inner.hosts.fetch_add(1, Ordering::Relaxed),
        )
    }

    /// An IPv4 address of this network for a service.
    pub fn vip(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(10, 96, self.index(), last).into()
    }

    /// An IPv6 address of this network for a service.
    pub fn vip6(&self, last: u8) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0x96, self.index().into(), 0, 0, 0, 0, last.into()).into()
    }
}
