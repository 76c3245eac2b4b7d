//! Where traffic is measured: two networks, three nodes, a gateway, and in each place one pod of the mesh beside one
//! that is not.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use isthmus_tests::{Agent, Because as _, Gateway, Lab, Pod, Process, Result};

/// Port of the sink.
pub(crate) const SINK: u16 = 9000;
/// First port of the echo server that serves all connections in one thread.
pub(crate) const ECHO: u16 = 9100;
/// How many ports it listens on.
pub(crate) const ECHO_PORTS: u16 = 32;
/// Port of the echo server with a thread for each connection.
pub(crate) const ECHO_THREADS: u16 = 9200;

const UP: Duration = Duration::from_secs(10);
const SERVICE_VIP: u8 = 20;

/// A pod, named by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the first node of the first network, enrolled.
    Client,
    /// Beside [`Place::Client`], enrolled.
    Neighbour,
    /// Beside [`Place::Client`], enrolled; only ever the client of [`Place::Plain`].
    RelayClient,
    /// On the second node, enrolled.
    Server,
    /// On the second node, not enrolled; the mesh knows it as plain TCP.
    Plain,
    /// In the second network, enrolled, and there as the service `far`.
    Far,
    /// On the first node, outside the mesh.
    RawClient,
    /// On the first node, outside the mesh.
    RawNeighbour,
    /// On the second node, outside the mesh.
    RawServer,
    /// In the second network, outside the mesh.
    RawFar,
}

/// Where a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The address of a pod.
    Pod(Place),
    /// The address of the service `far` in the client's network.
    Service,
}

impl Destination {
    fn place(self) -> Place {
        match self {
            Self::Pod(place) => place,
            Self::Service => Place::Far,
        }
    }
}

/// All of it, in the order in which it is to be taken down.
pub(crate) struct Stage {
    _servers: Vec<Process>,
    agents: Vec<Agent>,
    gateway: Gateway,
    pods: Vec<(Place, Pod)>,
    vip: IpAddr,
    _lab: Lab,
}

impl Stage {
    /// Makes it and starts everything but load.
    pub(crate) fn build() -> Result<Self> {
        let lab = Lab::with("bench", false)?;
        let (net1, net2) = (lab.network("net1")?, lab.network("net2")?);
        let (node1, node2, node3) = (net1.node("node1")?, net1.node("node2")?, net2.node("node3")?);
        // Raw traffic between the networks takes the links that tunnels to the gateway take.
        net1.wire().ip("route add 10.2.0.0/16 via 198.51.100.254\n")?;
        net2.wire().ip("route add 10.1.0.0/16 via 198.51.100.254\n")?;
        let pods = vec![
            (Place::Client, node1.pod("client").start()?),
            (Place::Neighbour, node1.pod("neighbour").start()?),
            (Place::RelayClient, node1.pod("relay-client").start()?),
            (Place::RawClient, node1.pod("raw-client").unlisted().start()?),
            (Place::RawNeighbour, node1.pod("raw-neighbour").unlisted().start()?),
            (Place::Server, node2.pod("server").start()?),
            (Place::Plain, node2.pod("plain").plain().start()?),
            (Place::RawServer, node2.pod("raw-server").unlisted().start()?),
            (Place::Far, node3.pod("far").start()?),
            (Place::RawFar, node3.pod("raw-far").unlisted().start()?),
        ];
        let vip = net1.vip(SERVICE_VIP);
        let gateway = net2.gateway("gateway2").stopped()?;
        let mut stage = Self {
            _servers: Vec::new(),
            agents: Vec::new(),
            gateway,
            pods,
            vip,
            _lab: lab.clone(),
        };
        lab.service("far")
            .vip("net1", vip)
            .port(SINK, SINK)
            .port(ECHO, ECHO)
            .port(ECHO_THREADS, ECHO_THREADS)
            .endpoint(stage.pod(Place::Far)?)
            .add();
        stage.gateway.restart()?;
        for node in [&node1, &node2, &node3] {
            stage.agents.push(node.agent()?);
        }
        stage.serve()?;
        for place in [
            Place::Client,
            Place::Neighbour,
            Place::RelayClient,
            Place::Server,
            Place::Far,
        ] {
            stage.pod(place)?.enrol()?;
        }
        Ok(stage)
    }

    fn serve(&mut self) -> Result {
        for place in [
            Place::Neighbour,
            Place::RawNeighbour,
            Place::Server,
            Place::Plain,
            Place::RawServer,
            Place::Far,
            Place::RawFar,
        ] {
            let pod = self.pod(place)?.clone();
            let at = |port: u16| format!("0.0.0.0:{port}");
            let servers = [
                pod.load(&["sink", &at(SINK)])?,
                pod.load(&["echo", &at(ECHO), "--ports", &ECHO_PORTS.to_string()])?,
                pod.load(&["echo", &at(ECHO_THREADS), "--threads"])?,
            ];
            for server in &servers {
                server
                    .output()
                    .wait_from(0, UP, |line| line.get("listening").is_some())?;
            }
            self._servers.extend(servers);
        }
        Ok(())
    }

    /// The pod at a place.
    pub(crate) fn pod(&self, place: Place) -> Result<&Pod> {
        let found = self.pods.iter().find(|(its, _)| *its == place);
        found.map(|(_, pod)| pod).because(format!("finding the pod {place:?}"))
    }

    /// Where a client connects to, with a port.
    pub(crate) fn address(&self, destination: Destination, port: u16) -> Result<SocketAddr> {
        Ok(match destination {
            Destination::Pod(place) => self.pod(place)?.at(port),
            Destination::Service => SocketAddr::new(self.vip, port),
        })
    }

    /// The pod whose programs answer there.
    pub(crate) fn server(&self, destination: Destination) -> Result<&Pod> {
        self.pod(destination.place())
    }

    /// All agents.
    pub(crate) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Process id of the gateway.
    pub(crate) fn gateway_pid(&self) -> Result<u32> {
        self.gateway.pid()
    }

    /// Process ids of everything of ours: parents, workers and the gateway.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = vec![self.gateway.pid()?];
        for agent in &self.agents {
            pids.extend(agent.pids()?);
        }
        Ok(pids)
    }
}
