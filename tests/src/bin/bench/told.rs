//! An agent that is told of a large mesh by a scripted istiod, and one connection of a pod of it.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use isthmus_tests::{
    Agent, Because as _, Failure, Lab, Pod, Process, Result, ScriptedIstiod,
    agent::AgentOptions,
    scripted_istiod::{Kind, many::Many},
    within,
};

use crate::stage::ECHO_THREADS;

const UP: Duration = Duration::from_secs(10);
/// How long an agent may take to serve a mesh.
const LOADING: Duration = Duration::from_secs(120);
const MOST_SERVICES: usize = 1000;
const WORKLOADS_PER_SERVICE: usize = 5;

/// Two nodes. Only the client's agent is told by istiod: a node has one agent, and two that load at once would show
/// each other's work. In the order in which it is taken down.
pub(crate) struct Told {
    _server: Process,
    /// Under istiod.
    pub(crate) near: Agent,
    _far: Agent,
    pub(crate) istiod: ScriptedIstiod,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    /// What is told besides the pods.
    pub(crate) many: Many,
    _lab: Lab,
}

impl Told {
    /// Everything but the large mesh. `signs`: istiod's CA signs too.
    pub(crate) fn build(workloads: usize, signs: bool) -> Result<Self> {
        let lab = Lab::with("bench", false)?;
        let network = lab.network("net1")?;
        let (node1, node2) = (network.node("node1")?, network.node("node2")?);
        let (client, server) = (node1.pod("client").start()?, node2.pod("server").start()?);
        let istiod = ScriptedIstiod::start(&lab)?;
        let mut options = istiod.options();
        options.signs = signs;
        let near = node1.agent_with(AgentOptions {
            istiod: Some(options),
            ..AgentOptions::default()
        })?;
        let far = node2.agent()?;
        client.enrol()?;
        server.enrol()?;
        let echo = server.load(&["echo", &format!("0.0.0.0:{ECHO_THREADS}"), "--threads"])?;
        echo.output().wait_from(0, UP, |line| line.get("listening").is_some())?;
        let services = (workloads / WORKLOADS_PER_SERVICE).clamp(1, MOST_SERVICES);
        Ok(Self {
            _server: echo,
            near,
            _far: far,
            istiod,
            client,
            server,
            many: Many { workloads, services },
            _lab: lab,
        })
    }

    /// Tells all of it in one response; answers how long it took until it was served.
    pub(crate) fn load(&self) -> Result<Duration> {
        let all = self.many.resources();
        let begin = Instant::now();
        self.istiod.put(Kind::Address, all);
        self.taken()?;
        let took = begin.elapsed();
        self.is_whole()?;
        Ok(took)
    }

    /// Waits until the agent has acknowledged everything: it serves it then. The agent is not asked, which would cost it
    /// time.
    pub(crate) fn taken(&self) -> Result {
        within(LOADING, "the agent has acknowledged everything", || {
            self.istiod.is_served(1).then_some(())
        })
        .because(self.near.last_words())
    }

    /// Fails unless the agent serves all of it.
    pub(crate) fn is_whole(&self) -> Result {
        let [workloads, services, _] = self.near.status()?.mesh_size;
        let wanted = [self.many.workloads + 2, self.many.services];
        if [workloads, services] == wanted {
            return Ok(());
        }
        Err(Failure::new(format!(
            "the agent serves {workloads} workloads and {services} services, not {wanted:?}"
        )))
    }

    /// A connection from client to server.
    pub(crate) fn connection(&self) -> Result<TcpStream> {
        self.client.connect(self.server.at(ECHO_THREADS))
    }
}
