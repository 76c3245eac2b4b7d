//! A world whose agents are told of the mesh by a scripted istiod, and traffic in it that must not notice its faults.

use std::{net::TcpStream, time::Duration};

use serde_json::Value;

use crate::{
    agent::{Agent, AgentOptions},
    capture::Capture,
    echo::roundtrip,
    failure::{Because as _, Failure, Result},
    pod::Pod,
    process::Process,
    scene::OneNetwork,
    scripted_istiod::ScriptedIstiod,
    wait::within,
};

/// Where [`Traffic`] goes.
pub const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(20);

/// [`OneNetwork`] under a scripted istiod.
#[derive(Debug)]
pub struct UnderIstiod {
    /// The world; its three pods are enrolled.
    pub scene: OneNetwork,
    /// What its agents are told by.
    pub istiod: ScriptedIstiod,
}

/// What differs from an istiod that tells of the mesh and signs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Certificates come from istiod's CA, and not from the lab's embedded one.
    pub signs: bool,
    /// More arguments of both agents.
    pub arguments: Vec<String>,
}

impl Default for Difference {
    fn default() -> Self {
        Self {
            signs: true,
            arguments: Vec::new(),
        }
    }
}

/// A new connection carries.
pub fn speaks(from: &Pod, to: &Pod) -> Result {
    roundtrip(&mut from.connect(to.at(PORT))?, b"hello")
}

/// A new connection is ended without an answer.
pub fn is_refused(from: &Pod, to: &Pod) -> bool {
    match from.connect(to.at(PORT)) {
        Ok(mut stream) => roundtrip(&mut stream, b"hello").is_err(),
        Err(_) => true,
    }
}

impl UnderIstiod {
    /// Starts it and waits until agents have everything.
    pub fn start(title: &str) -> Result<Self> {
        Self::differing(title, &Difference::default(), |_| Ok(()))
    }

    /// Starts it with certificates of the lab's embedded CA: for faults that have nothing to do with istiod's.
    pub fn with_embedded_ca(title: &str) -> Result<Self> {
        let difference = Difference {
            signs: false,
            ..Difference::default()
        };
        Self::differing(title, &difference, |_| Ok(()))
    }

    /// Starts it so that the istiod is scripted before any agent asks it.
    pub fn differing(
        title: &str,
        difference: &Difference,
        before: impl FnOnce(&ScriptedIstiod) -> Result,
    ) -> Result<Self> {
        let mut started = None;
        let scene = OneNetwork::made_by(title, |lab| {
            let istiod = started.insert(ScriptedIstiod::start(lab)?);
            before(istiod)?;
            let mut options = istiod.options();
            options.signs = difference.signs;
            Ok(AgentOptions {
                istiod: Some(options),
                arguments: difference.arguments.clone(),
                ..AgentOptions::default()
            })
        })?;
        let under = Self {
            scene,
            istiod: started.because("the options were made")?,
        };
        for pod in [&under.scene.client, &under.scene.neighbour, &under.scene.server] {
            pod.enrol()?;
        }
        Ok(under)
    }

    /// The agent of the client's node.
    pub fn near(&self) -> &Agent {
        let [near, _] = &self.scene.agents;
        near
    }

    /// The agent of the server's node.
    pub fn far(&self) -> &Agent {
        let [_, far] = &self.scene.agents;
        far
    }

    /// Waits until an agent says of its mesh source what `wanted` accepts, and answers that.
    #[track_caller]
    pub fn mesh_says(&self, agent: &Agent, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        within(SOON, &format!("status says of the mesh {what}"), || {
            last = agent.status().ok()?.mesh;
            wanted(&last).then(|| last.clone())
        })
        .because(format!("it says last {last:?}"))
    }

    /// Waits until both agents are content with their mesh source and have answered everything.
    #[track_caller]
    pub fn heals(&self) -> Result {
        for agent in &self.scene.agents {
            self.mesh_says(agent, "that it is well", |said| said == "ok")?;
        }
        self.istiod.served(self.scene.agents.len())
    }

    /// Waits until an agent serves so many workloads, services and policies.
    #[track_caller]
    pub fn sizes(&self, agent: &Agent, sizes: [usize; 3]) -> Result {
        let mut last = [0; 3];
        within(SOON, &format!("the agent serves {sizes:?}"), || {
            last = agent.status().ok()?.mesh_size;
            (last == sizes).then_some(())
        })
        .because(format!("it serves {last:?}"))
    }

    /// Starts traffic.
    pub fn traffic(&self) -> Result<Traffic> {
        Traffic::start(self)
    }
}

/// An open connection and a loop of new ones from `client` to `server`, and a watch for anything in clear between them.
#[derive(Debug)]
pub struct Traffic {
    open: TcpStream,
    churn: Process,
    _server: Process,
    capture: Capture,
    client: Pod,
    server: Pod,
}

impl Traffic {
    fn start(under: &UnderIstiod) -> Result<Self> {
        let (client, server) = (under.scene.client.clone(), under.scene.server.clone());
        let capture = Capture::start(under.scene.agents[0].node().netns())?;
        capture.listen_for(b"fence");
        let echo = server.peer(&["echo", &format!("[::]:{PORT}")])?;
        echo.output()
            .wait_from(0, SOON, |line| line.get("listening").is_some())?;
        let mut open = client.connect(server.at(PORT))?;
        roundtrip(&mut open, b"the first word")?;
        let to = server.at(PORT).to_string();
        let churn = client.peer(&["churn", &to, "--parallel", "2", "--pause-ms", "10"])?;
        churn
            .output()
            .wait_from(0, SOON, |line| line.get("churning").is_some())?;
        Ok(Self {
            open,
            churn,
            _server: echo,
            capture,
            client,
            server,
        })
    }

    /// The open connection carries, and so does a new one.
    #[track_caller]
    pub fn goes_on(&mut self) -> Result {
        roundtrip(&mut self.open, b"the open connection")?;
        let mut fresh = self.client.connect(self.server.at(PORT))?;
        roundtrip(&mut fresh, b"a new connection").because("on a new connection")
    }

    /// The connection that was open from the beginning.
    pub fn open(&mut self) -> &mut TcpStream {
        &mut self.open
    }

    /// Everything went well from the beginning to now: every new connection, the open one, and nothing was in clear.
    #[track_caller]
    pub fn was_unharmed(mut self) -> Result {
        self.goes_on()?;
        // A loop that hardly ran has proved nothing.
        self.churn
            .output()
            .wait_from(0, SOON, |line| line.get("well").is_some())?;
        let report = self.loop_ended()?;
        let none = Value::from(0);
        if report.get("unconnected") != Some(&none) || report.get("broken") != Some(&none) {
            return Err(Failure::new(format!("new connections failed: {report}")));
        }
        self.was_never_in_clear()
    }

    /// Nothing was in clear from the beginning to now, whatever became of connections.
    #[track_caller]
    pub fn was_never_in_clear(&self) -> Result {
        self.client.fence(self.server.ip(), b"fence")?;
        self.capture.wait_for(b"fence", SOON)?;
        match self.capture.syns_to(self.server.ip(), PORT).as_slice() {
            [] => Ok(()),
            clear => Err(Failure::new(format!("{} SYNs were in clear", clear.len()))),
        }
    }

    /// Ends the loop of new connections; answers its report.
    pub fn loop_ended(&mut self) -> Result<Value> {
        self.churn.close_input();
        self.churn.report(SOON + SOON)
    }
}
