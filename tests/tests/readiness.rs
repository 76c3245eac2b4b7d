//! When a node is ready: a real apiserver, a real istiod, the real plugin called by the configuration that is on the disk.

use std::{fs, path::PathBuf, time::Duration};

use isthmus_tests::{
    Agent, Cluster, Lab, Node, Pod, Result,
    agent::AgentOptions,
    cni::{Added, CniDirectories},
    control_plane::{SYSTEM, Sandbox, grant, rule},
    failure::Because as _,
    under_istiod::{PORT, speaks},
    wait::throughout,
    within,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// A namespace that is in the mesh, and two that are not.
const SHOP: &str = "shop";
const TOOLS: &str = "tools";
const EXCLUDED: &str = "kube-system";
const ACCOUNT: &str = "isthmus";
const TAINT: &str = "example.com/not-ready";
const OTHER_TAINT: &str = "example.com/kept";

/// A cluster of one node, whose agent is not started yet.
struct World {
    cni: CniDirectories,
    state: PathBuf,
    node: Node,
    cluster: Cluster,
    _lab: Lab,
}

impl World {
    fn make(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let cluster = Cluster::alone(&lab)?;
        let node = cluster.node("node1", "r1/z1")?;
        grant(&cluster, ACCOUNT, &[rule("", "nodes", &["get", "patch"])])?;
        for (name, mode) in [(SHOP, "ambient"), (TOOLS, "none"), (EXCLUDED, "ambient")] {
            let labels = json!({ "istio.io/dataplane-mode": mode });
            let object =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
            cluster.api().apply(&object)?;
        }
        Ok(Self {
            cni: CniDirectories::make(lab.dir())?,
            state: lab.dir().join("state"),
            node,
            cluster,
            _lab: lab,
        })
    }

    fn agent(&self, more: &[&str]) -> Result<Agent> {
        let kubeconfig = self.cluster.kubeconfig(SYSTEM, ACCOUNT)?;
        let mut options = AgentOptions {
            istiod: Some(self.cluster.access(&self.node)?.options()),
            arguments: self.cni.arguments(),
            ..AgentOptions::default()
        };
        let settings = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--state-dir={}", self.state.display()),
        ];
        options.arguments.extend(settings);
        options
            .arguments
            .extend(more.iter().map(|&argument| argument.to_owned()));
        self.node.agent_with(options)
    }

    /// A pod that runs, as a kubelet tells of it; nobody has called a plugin for it.
    fn runs(&self, name: &str) -> Result<(Pod, Sandbox)> {
        let pod = self.cluster.pod(&self.node, name).namespace(SHOP).plain().start()?;
        let sandbox = Sandbox::start(&pod, &self.uid(SHOP, name)?)?;
        Ok((pod, sandbox))
    }

    /// A pod of which there is the object and the network, as before ADD.
    fn begins(&self, namespace: &str, name: &str) -> Result<(Pod, String)> {
        self.cluster.account(namespace, name)?;
        self.cluster.api().apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "nodeName": self.node.name(),
                "serviceAccountName": name,
                "containers": [{ "name": "app", "image": "app" }],
            },
        }))?;
        let pod = self
            .node
            .pod(name)
            .namespace(namespace)
            .service_account(name)
            .unlisted()
            .start()?;
        Ok((pod, self.uid(namespace, name)?))
    }

    fn uid(&self, namespace: &str, name: &str) -> Result<String> {
        let pod = self
            .cluster
            .api()
            .get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?;
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
        Ok(uid.because("a pod has a UID")?.to_owned())
    }

    fn add(&self, (pod, uid): &(Pod, String)) -> Result<Added> {
        self.cni.add(pod, uid)
    }

    /// What a reboot takes, with the agent still down: /run, the BPF file system, and whoever ran.
    fn loses_its_memory(&self) -> Result {
        fs::remove_dir_all(self.node.run_dir()).because("emptying /run")?;
        fs::remove_dir_all(self.node.pins()).because("emptying the BPF file system")
    }

    fn taints(&self) -> Result<Vec<String>> {
        let node = self.cluster.api().get("/api/v1/nodes/node1")?;
        let taints = node.pointer("/spec/taints").and_then(Value::as_array);
        let keys = taints
            .into_iter()
            .flatten()
            .filter_map(|taint| taint.get("key")?.as_str());
        Ok(keys.map(str::to_owned).collect())
    }
}

/// Waits until the agent waits for exactly these.
#[track_caller]
fn waits_for(agent: &Agent, parts: &[&str]) -> Result {
    let mut last = Vec::new();
    let waited = within(SOON, &format!("readiness waits for {parts:?}"), || {
        last = agent.status().ok()?.pending;
        (last == parts).then_some(())
    });
    waited.because(format!(
        "it waits for {last:?}; its last words:\n{}",
        agent.last_words()
    ))
}

/// Waits until it is ready, and answers who was enrolled at that very moment.
#[track_caller]
fn enrolled_when_ready(agent: &Agent) -> Result<Vec<String>> {
    let status = within(SOON, "the agent is ready", || {
        agent.status().ok().filter(|status| status.pending.is_empty())
    })
    .because(format!("its last words:\n{}", agent.last_words()))?;
    let pods = status.pods.into_iter().filter(|(_, pod)| pod.state == "enrolled");
    Ok(pods.map(|(uid, _)| uid).collect())
}

#[test]
fn the_startup_taint_is_taken_off_when_the_last_part_is_reached_and_not_before() -> Result {
    let world = World::make("readiness taint")?;
    let taint = |key: &str| json!({ "key": key, "effect": "NoSchedule" });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node1" } });
    let mut tainted = node.clone();
    tainted["spec"] = json!({ "taints": [taint(OTHER_TAINT), taint(TAINT)] });
    world.cluster.api().apply(&tainted)?;
    let (slipped, _sandbox) = world.runs("slipped")?;

    let agent = world.agent(&[&format!("--startup-taint={TAINT}")])?;
    waits_for(&agent, &["CNI plugin"])?;
    let uid = world.uid(SHOP, slipped.name())?;
    assert!(agent.status()?.pods.contains_key(&uid), "it was enrolled before");
    throughout(Duration::from_secs(2), "the taint stays", || {
        world.taints().is_ok_and(|taints| taints == [OTHER_TAINT, TAINT])
    })?;

    world.cni.install_primary()?;
    assert_eq!(enrolled_when_ready(&agent)?, [uid]);
    world.cluster.api().until(&node, SOON, |node| {
        let taints = node.pointer("/spec/taints")?.as_array()?;
        (taints.len() == 1 && taints.first()?.get("key")? == OTHER_TAINT).then_some(())
    })?;
    within(SOON, "an event tells of it", || {
        let events = world
            .cluster
            .api()
            .get("/apis/events.k8s.io/v1/namespaces/default/events");
        events.ok()?.to_string().contains("StartupTaintRemoved").then_some(())
    })
    .because(format!("its last words:\n{}", agent.last_words()))?;

    // Somebody else's taint is his business from now on, also when the agent is started again.
    world.cluster.api().apply(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node1" }, "spec": { "taints": [taint(OTHER_TAINT)] },
    }))?;
    agent.kill_worker()?;
    enrolled_when_ready(&agent)?;
    assert_eq!(world.taints()?, [OTHER_TAINT]);
    Ok(())
}

/// With `pass`, the most careless of settings: what is on the disk must hold pods of the mesh back all the same.
#[test]
fn after_a_reboot_no_pod_of_the_mesh_starts_before_the_agent_is_back() -> Result {
    let world = World::make("readiness reboot")?;
    world.cni.install_primary()?;
    let agent = world.agent(&["--cni-when-away=pass"])?;
    enrolled_when_ready(&agent)?;
    let before = world.begins(SHOP, "before")?;
    assert_eq!(world.add(&before)?, Added::Starts);
    assert_eq!(enrolled_when_ready(&agent)?, [before.1.as_str()]);

    agent.kill()?;
    before.0.delete()?;
    world.cluster.delete_pod(&before.0)?;
    world.loses_its_memory()?;

    let early = world.begins(SHOP, "early")?;
    let Added::Waits { code, why } = world.add(&early)? else {
        panic!("a pod of the mesh started before its agent");
    };
    assert_eq!(code, 11, "{why}");
    assert!(why.contains("namespace shop is ambient"), "{why}");
    for namespace in [EXCLUDED, TOOLS] {
        let other = world.begins(namespace, &format!("in-{namespace}"))?;
        assert_eq!(world.add(&other)?, Added::Starts, "{namespace}");
    }
    // One whose runtime called no plugin.
    let (slipped, _sandbox) = world.runs("slipped")?;
    let (server, _server_sandbox) = world.runs("server")?;
    let _echo = server.echo(PORT)?;
    speaks(&slipped, &server)?;

    agent.restart()?;
    let mut enrolled = enrolled_when_ready(&agent)?;
    enrolled.sort();
    let mut expected = vec![world.uid(SHOP, "slipped")?, world.uid(SHOP, "server")?];
    expected.sort();
    assert_eq!(enrolled, expected, "those that slipped through, before it is ready");
    assert_eq!(world.add(&early)?, Added::Starts);
    assert_eq!(
        agent.status()?.pods.get(&early.1).map(|pod| pod.state.as_str()),
        Some("enrolled")
    );
    within(SOON, "who slipped through speaks through a tunnel", || {
        speaks(&slipped, &server).ok()?;
        (agent.status().ok()?.tunnels > 0).then_some(())
    })
    .because(format!("its last words:\n{}", agent.last_words()))
}
