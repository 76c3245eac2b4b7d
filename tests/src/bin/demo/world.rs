//! The demo's mesh: who is where, and which unmodified programs serve.

use std::time::{Duration, Instant};

use isthmus_tests::{Agent, Gateway, Lab, Netns, Node, Pod, Process, Result};

use crate::{page::Page, proof::SECRET};

/// Port of `python3 -m http.server`.
pub(crate) const HTTP: u16 = 8080;
/// Port of the sink that uploads go to.
pub(crate) const SINK: u16 = 9000;
/// Port of the echo server that ping-pongs go to.
pub(crate) const ECHO: u16 = 9001;

const UP: Duration = Duration::from_secs(10);

/// Everything that stands, in the order it is to be taken down.
pub(crate) struct World {
    servers: Vec<Process>,
    agents: Vec<Agent>,
    pub(crate) gateways: Vec<Gateway>,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    /// A machine of the first network outside the mesh.
    pub(crate) laptop: Pod,
    lab: Lab,
}

impl World {
    /// Two networks of two nodes of two pods, a gateway each, and a service across.
    pub(crate) fn build(keep: bool) -> Result<Self> {
        let lab = Lab::with("demo", keep)?;
        let (net1, net2) = (lab.network("net1")?, lab.network("net2")?);
        let mut nodes = Vec::new();
        let mut pods = Vec::new();
        for (network, node, names) in [
            (&net1, "node1", ["shop", "cart"]),
            (&net1, "node2", ["stock", "mail"]),
            (&net2, "node3", ["bank", "audit"]),
            (&net2, "node4", ["vault", "mint"]),
        ] {
            let node = network.node(node)?;
            for name in names {
                pods.push(node.pod(name).start()?);
            }
            nodes.push(node);
        }
        let laptop = net1.host("laptop")?;
        let gateways = vec![net1.gateway("gateway1").stopped()?, net2.gateway("gateway2").stopped()?];
        let world = Self {
            servers: Vec::new(),
            agents: Vec::new(),
            gateways,
            nodes,
            pods,
            laptop,
            lab,
        };
        let mut vault = world.lab.service("vault").endpoint(world.pod("vault")?);
        for network in [&net1, &net2] {
            vault = vault
                .vip(network.name(), network.vip(10))
                .vip(network.name(), network.vip6(10));
        }
        vault.port(HTTP, HTTP).port(SINK, SINK).port(ECHO, ECHO).add();
        world.lab.publish()?;
        Ok(world)
    }

    /// Starts the servers, long before anything is enrolled.
    pub(crate) fn serve(&mut self) -> Result {
        for name in ["cart", "stock", "mail", "audit", "vault", "mint"] {
            let pod = self.pod(name)?;
            let page = pod.file("index.html", format!("{SECRET} from {name}\n").as_bytes())?;
            let script =
                format!("cd $(dirname {page}) && cp {page} index.html && exec python3 -m http.server --bind :: {HTTP}");
            let http = pod.spawn("sh", &["-c", &script])?;
            let sink = pod.peer(&["sink", &format!("[::]:{SINK}")])?;
            let echo = pod.peer(&["echo", &format!("[::]:{ECHO}")])?;
            for server in [&sink, &echo] {
                server
                    .output()
                    .wait_from(0, UP, |line| line.get("listening").is_some())?;
            }
            let at = pod.at(HTTP);
            isthmus_tests::within(UP, "the web server listens", || pod.connect(at).ok())?;
            self.servers.extend([http, sink, echo]);
        }
        Ok(())
    }

    /// Starts gateways and agents.
    pub(crate) fn start_agents(&mut self) -> Result {
        self.gateways.iter().try_for_each(Gateway::restart)?;
        for node in &self.nodes {
            self.agents.push(node.agent()?);
        }
        Ok(())
    }

    /// Enrols all pods; `mail` takes no plaintext.
    pub(crate) fn enrol(&self, page: &mut Page) -> Result {
        let mut slowest = Duration::ZERO;
        for pod in &self.pods {
            let begin = Instant::now();
            pod.enrol_with(Some(pod.name() == "mail"))?;
            slowest = slowest.max(begin.elapsed());
        }
        page.done(&format!(
            "{} running pods enrolled, the slowest in {:.1} ms",
            self.pods.len(),
            slowest.as_secs_f64() * 1e3
        ));
        Ok(())
    }

    /// The pod of that name.
    pub(crate) fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.name() == name);
        isthmus_tests::Because::because(found, format!("finding the pod {name}"))
    }

    /// All pods.
    pub(crate) fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The agent of a pod's node.
    pub(crate) fn agent_of(&self, pod: &Pod) -> Result<&Agent> {
        let node = pod.node()?.name();
        let found = self.agents.iter().find(|agent| agent.node().name() == node);
        isthmus_tests::Because::because(found, format!("finding the agent of {node}"))
    }

    /// Where wires can be heard: every node's links to its pods, every network, the internet.
    pub(crate) fn listening_posts(&self) -> Vec<&Netns> {
        let mut posts: Vec<&Netns> = self.nodes.iter().map(|node| node.netns().as_ref()).collect();
        posts.extend(self.nodes.iter().step_by(2).map(|node| node.network().wire().as_ref()));
        posts.push(self.lab.internet());
        posts
    }

    /// What a user may try in a world that stays up.
    pub(crate) fn hints(&self, page: &mut Page) {
        let run = self
            .nodes
            .first()
            .map(|node| node.run_dir().display().to_string())
            .unwrap_or_default();
        page.note("kept up. For example:");
        for pod in self.pods.iter().take(1) {
            let path = pod.netns().path().display().to_string();
            page.note(&format!("  nsenter --net={path} curl -s http://10.96.1.10:{HTTP}/"));
        }
        page.note(&format!("  {} status --run-dir {run}", self.lab.binary().display()));
        page.note(&format!("  tail -f {}/agent-node1.log", self.lab.dir().display()));
    }
}
