//! An agent with exactly the capabilities of the chart does all of its work, and with one less it does not: each is there
//! for what then fails.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    time::Duration,
};

use isthmus_tests::{
    Agent, Chart, Lab, Network, Node, Pod, Process, Result, agent::AgentOptions, cni::CniDirectories,
    failure::Because as _, roundtrip, within,
};
use isthmus_wire::{Enrol, Request, Response};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);
/// Whoever owns the directories of CNI on a node where that is not root.
const SOMEBODY: u32 = 65534;

/// A capability, the step that fails without it, what is said then, and what of its reason in the chart that is.
struct Row {
    capability: &'static str,
    fails: Step,
    says: &'static str,
    reason: &'static str,
}

const ROWS: [Row; 4] = [
    Row {
        capability: "NET_ADMIN",
        fails: Step::Start,
        says: "Operation not permitted",
        reason: "attach programs",
    },
    Row {
        capability: "SYS_ADMIN",
        fails: Step::Start,
        says: "Operation not permitted",
        reason: "enter the network namespaces of pods; load programs",
    },
    Row {
        capability: "SYS_PTRACE",
        fails: Step::Enrol,
        says: "Permission denied",
        reason: "/proc/PID/ns/net",
    },
    Row {
        capability: "DAC_OVERRIDE",
        fails: Step::Plugin,
        says: "Permission denied",
        reason: "CNI directories of another owner",
    },
];

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    Plugin,
    Enrol,
    Carry,
    Release,
}

/// Two nodes; the agent of the first is the one that is looked at.
struct Stage {
    _far: Agent,
    cni: CniDirectories,
    process: Process,
    client: Pod,
    server: Pod,
    node: Node,
    _network: Network,
    _lab: Lab,
}

impl Stage {
    fn build() -> Result<Self> {
        let lab = Lab::new("capabilities")?;
        let network = lab.network("net1")?;
        let (node, far) = (network.node("node1")?, network.node("node2")?);
        let (client, server) = (node.pod("client").start()?, far.pod("server").start()?);
        let far = far.agent()?;
        server.enrol()?;
        // It has every capability that the test has, as a pod's first process may have some that the agent lacks.
        let process = client.spawn("sleep", &["3600"])?;
        within(SOON, "the pod's process is in its namespace", || {
            client.netns().is_of(process.pid()).then_some(())
        })?;
        let cni = CniDirectories::make(lab.dir())?;
        let primary = cni.install_primary()?;
        fs::set_permissions(&primary, fs::Permissions::from_mode(0o600))?;
        for path in [&primary, cni.configurations(), cni.binaries()] {
            chown(path, Some(SOMEBODY), Some(SOMEBODY)).because(format!("giving {} away", path.display()))?;
        }
        Ok(Self {
            _far: far,
            cni,
            process,
            client,
            server,
            node,
            _network: network,
            _lab: lab,
        })
    }

    /// What an agent of these capabilities does, from its start to the pod's release.
    fn lives_with(&self, capabilities: &[String]) -> std::result::Result<(), (Step, String)> {
        let at = |step| move |failure: isthmus_tests::Failure| (step, failure.to_string());
        self.cni.forget().map_err(at(Step::Plugin))?;
        let options = AgentOptions {
            capabilities: Some(capabilities.iter().map(|name| name.to_lowercase()).collect()),
            arguments: self.cni.arguments(),
            ..AgentOptions::default()
        };
        let agent = self.node.agent_with(options).map_err(at(Step::Start))?;
        self.plugin_is_called(&agent).map_err(at(Step::Plugin))?;
        self.enrol().map_err(at(Step::Enrol))?;
        self.carries(&agent).map_err(at(Step::Carry))?;
        // What another worker left is taken up again.
        agent.kill_worker().map_err(at(Step::Start))?;
        within(SOON, "the next worker serves", || self.carries(&agent).ok()).map_err(at(Step::Carry))?;
        self.release(&agent).map_err(at(Step::Release))
    }

    fn plugin_is_called(&self, agent: &Agent) -> Result {
        let mut last = None;
        let called = within(SOON, "runtimes call the plugin", || {
            last = agent.status().ok()?.cni;
            last.as_ref()?.called.then_some(())
        });
        called.because(format!("{last:?}"))
    }

    fn enrol(&self) -> Result {
        let request = Request::Enrol(Enrol {
            uid: self.client.uid(),
            namespace: self.client.namespace().to_owned(),
            name: self.client.name().to_owned(),
            service_account: Some(self.client.service_account().to_owned()),
            // As a pod that runs already is found.
            netns: format!("/proc/{}/ns/net", self.process.pid()).into(),
            mtls_required: Some(false),
            reroute_interfaces: Vec::new(),
            capture: Box::default(),
        });
        match isthmus_wire::ask(&self.node.socket(), &request, SOON)? {
            Response::Done => Ok(()),
            other => Err(isthmus_tests::Failure::new(format!("{other:?}"))),
        }
    }

    /// Out of the pod and into it, whose delivery is bound to its `lo`.
    fn carries(&self, agent: &Agent) -> Result {
        let _echo = [self.server.echo(PORT)?, self.client.echo(PORT)?];
        roundtrip(&mut self.client.connect(self.server.at(PORT))?, b"hello")?;
        roundtrip(&mut self.server.connect(self.client.at(PORT))?, b"hello")?;
        within(SOON, "it went through a tunnel", || {
            (agent.status().ok()?.tunnels > 0).then_some(())
        })
    }

    fn release(&self, agent: &Agent) -> Result {
        self.client.release()?;
        within(SOON, "the pod is let go", || {
            agent.status().ok()?.pods.is_empty().then_some(())
        })
        .because(agent.last_words())?;
        let rules = self.client.netns().ip_output(&["rule"])?;
        match rules.contains("fwmark") {
            true => Err(isthmus_tests::Failure::new(format!("rules are left: {rules}"))),
            false => Ok(()),
        }
    }
}

/// The capabilities that the chart adds, each with the reason in its line.
fn of_the_chart() -> Result<BTreeMap<String, String>> {
    let rendered = Chart::new("isthmus").render()?;
    let context = "/spec/template/spec/containers/0/securityContext/capabilities/add";
    let added = rendered.object("DaemonSet", "ztunnel").pointer(context);
    let added = added
        .and_then(|added| added.as_array())
        .because("the chart adds capabilities")?;
    let with_reason = |name: &str| {
        let line = rendered.text.lines().find_map(|line| {
            let item = line.trim_start().strip_prefix("- ")?.strip_prefix(name)?;
            item.trim_start().strip_prefix('#')
        });
        (name.to_owned(), line.unwrap_or_default().to_owned())
    };
    Ok(added.iter().filter_map(|name| name.as_str()).map(with_reason).collect())
}

/// Whether this test itself has it; an agent started by it cannot have more.
fn is_had(capability: &str) -> Result<bool> {
    let name = format!("cap_{}", capability.to_lowercase());
    let output = std::process::Command::new("setpriv").arg("--dump").output()?;
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let bounding = text
        .lines()
        .find_map(|line| line.strip_prefix("capability bounding set:"));
    let names = bounding.because("setpriv tells the bounding set")?.split(',');
    Ok(names
        .map(str::trim)
        .any(|had| format!("cap_{had}") == name || had == name))
}

#[test]
fn each_capability_of_the_chart_is_needed_and_they_suffice() -> Result {
    let wanted = of_the_chart()?;
    let known: Vec<&str> = ROWS.iter().map(|row| row.capability).collect();
    let mut listed = known.clone();
    listed.sort_unstable();
    assert_eq!(
        wanted.keys().collect::<Vec<_>>(),
        listed,
        "every capability has a row here"
    );
    for name in wanted.keys() {
        if !is_had(name)? {
            eprintln!("skipped: this machine itself has no CAP_{name}, so that no agent on it can");
            return Ok(());
        }
    }
    let stage = Stage::build()?;
    let all: Vec<String> = wanted.keys().cloned().collect();
    if let Err((step, why)) = stage.lives_with(&all) {
        return Err(isthmus_tests::Failure::new(format!(
            "with all of the chart's, {step:?} fails: {why}"
        )));
    }
    for row in &ROWS {
        let others: Vec<String> = all.iter().filter(|name| *name != row.capability).cloned().collect();
        let lived = stage.lives_with(&others);
        let (step, why) = lived.err().because(format!("{} is not needed", row.capability))?;
        assert!(
            step == row.fails && why.contains(row.says),
            "without {}: {step:?}: {why}",
            row.capability
        );
        let reason = &wanted[row.capability];
        assert!(reason.contains(row.reason), "{}: {reason}", row.capability);
        eprintln!("without {}: {step:?} fails", row.capability);
    }
    Ok(())
}
