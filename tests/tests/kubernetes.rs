//! Pods come and go by their labels, as a real apiserver tells the agent; what is open lives on, and an apiserver that is
//! away changes nothing.

use std::time::Duration;

use isthmus_tests::{
    Agent, Cluster, Lab, Node, Pod, Result,
    agent::AgentOptions,
    control_plane::{SYSTEM, Sandbox, grant},
    failure::Because as _,
    roundtrip,
    under_istiod::{PORT, speaks},
    wait::throughout,
    within,
};
use serde_json::{Map, Value, json};

const SOON: Duration = Duration::from_secs(30);
/// Namespace of the pods that come and go.
const SPACE: &str = "shop";
/// The agent's service account. It may do what docs/kubernetes.md lists, and nothing else.
const ACCOUNT: &str = "isthmus";
const REDIRECTION: &str = "/metadata/annotations/ambient.istio.io~1redirection";

/// A pod with its sandbox, as a kubelet has made them.
struct Running {
    pod: Pod,
    uid: String,
    _sandbox: Sandbox,
}

/// A cluster of one node, with its agent.
struct World {
    client: Running,
    server: Running,
    agent: Agent,
    node: Node,
    cluster: Cluster,
    _lab: Lab,
}

impl World {
    fn start(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let cluster = Cluster::alone(&lab)?;
        let node = cluster.node("node1", "r1/z1")?;
        let client = running(&cluster, &node, SPACE, "client")?;
        let server = running(&cluster, &node, SPACE, "server")?;
        grant(&cluster, ACCOUNT, &[])?;
        // The lab makes namespaces that are in the mesh.
        label_namespace(&cluster, None)?;
        let kubeconfig = cluster.kubeconfig(SYSTEM, ACCOUNT)?;
        let mut options = AgentOptions {
            istiod: Some(cluster.access(&node)?.options()),
            ..AgentOptions::default()
        };
        let settings = ["--kubeconfig".to_owned(), kubeconfig.display().to_string()];
        options.arguments.extend(settings);
        options.arguments.push("--release-deadline=1h".to_owned());
        let agent = node.agent_with(options)?;
        let world = Self {
            client,
            server,
            agent,
            node,
            cluster,
            _lab: lab,
        };
        within(SOON, "the apiserver is followed", || {
            let status = world.agent.status().ok()?.kubernetes?;
            (status.listed && status.out_of_sync_seconds.is_none()).then_some(())
        })
        .because(format!("its last words:\n{}", world.agent.last_words()))?;
        Ok(world)
    }

    fn state(&self, running: &Running) -> Option<String> {
        let mut status = self.agent.status().ok()?;
        status.pods.remove(&running.uid).map(|pod| pod.state)
    }

    #[track_caller]
    fn becomes(&self, running: &Running, state: Option<&str>) -> Result {
        let what = format!("{} becomes {state:?} at the agent", running.pod.name());
        within(SOON, &what, || (self.state(running).as_deref() == state).then_some(()))
            .because(format!("its last words:\n{}", self.agent.last_words()))
    }

    #[track_caller]
    fn is_annotated(&self, pod: &Pod, value: Option<&str>) -> Result {
        let object = named(pod.namespace(), pod.name());
        let annotated = self.cluster.api().until(&object, SOON, |pod| {
            let said = pod.pointer(REDIRECTION).and_then(Value::as_str);
            (said == value).then_some(())
        });
        annotated.because(format!(
            "waiting for the annotation {value:?}; the agent's last words:\n{}",
            self.agent.last_words()
        ))
    }

    fn both_are_in(&self) -> Result {
        for running in [&self.client, &self.server] {
            self.becomes(running, Some("enrolled"))?;
            self.is_annotated(&running.pod, Some("enabled"))?;
        }
        within(SOON, "new connections go through a tunnel", || {
            speaks(&self.client.pod, &self.server.pod).ok()?;
            (self.agent.status().ok()?.tunnels > 0).then_some(())
        })
        .because(format!("its last words:\n{}", self.agent.last_words()))
    }
}

fn running(cluster: &Cluster, node: &Node, namespace: &str, name: &str) -> Result<Running> {
    let pod = cluster.pod(node, name).namespace(namespace).plain().start()?;
    let uid = uid(cluster, namespace, name)?;
    let sandbox = Sandbox::start(&pod, &uid)?;
    Ok(Running {
        pod,
        uid,
        _sandbox: sandbox,
    })
}

fn uid(cluster: &Cluster, namespace: &str, name: &str) -> Result<String> {
    let pod = cluster
        .api()
        .get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?;
    let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
    Ok(uid.because("a pod has a UID")?.to_owned())
}

fn named(namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace } })
}

fn label_namespace(cluster: &Cluster, mode: Option<&str>) -> Result {
    let labels = mode.map_or_else(|| json!({}), |mode| json!({ "istio.io/dataplane-mode": mode }));
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SPACE, "labels": labels } });
    cluster.api().apply(&object).map(drop)
}

/// Says of a pod what its Deployment would after its labels were changed.
fn label_pod(world: &World, running: &Running, mode: Option<&str>) -> Result {
    let labels = mode.map_or_else(|| json!({}), |mode| json!({ "istio.io/dataplane-mode": mode }));
    say(world, running, "labels", &labels)
}

/// Says of a pod what its Deployment would after its annotations were changed; those of before go.
fn annotate_pod(world: &World, running: &Running, annotations: &[(&str, &str)]) -> Result {
    let annotations: Map<String, Value> = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    say(world, running, "annotations", &annotations.into())
}

fn say(world: &World, running: &Running, what: &str, said: &Value) -> Result {
    let pod = &running.pod;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod.name(), "namespace": pod.namespace(), what: said },
        "spec": {
            "nodeName": world.node.name(),
            "serviceAccountName": pod.service_account(),
            "containers": [{ "name": "app", "image": "app" }],
        },
    });
    world.cluster.api().apply(&object).map(drop)
}

#[test]
fn labels_bring_running_pods_in_and_out_and_their_connections_live_on() -> Result {
    let world = World::start("kubernetes labels")?;
    let World {
        client,
        server,
        cluster,
        node,
        ..
    } = &world;
    let _echo = server.pod.echo(PORT)?;
    let mut before = client.pod.connect(server.pod.at(PORT))?;
    roundtrip(&mut before, b"before")?;
    assert_eq!(
        (world.state(client), world.state(server)),
        (None, None),
        "nobody asked for it"
    );

    // Pods that are never enrolled: one of an excluded namespace, and one with the node's network.
    let system = running(cluster, node, "kube-system", "dns")?;
    let host = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "host", "namespace": SPACE },
        "spec": {
            "nodeName": node.name(),
            "serviceAccountName": "client",
            "hostNetwork": true,
            "containers": [{ "name": "app", "image": "app" }],
        },
    });
    cluster.api().apply(&host)?;

    label_namespace(cluster, Some("ambient"))?;
    world.both_are_in()?;
    roundtrip(&mut before, b"enrolled")?;
    let mut meshed = client.pod.connect(server.pod.at(PORT))?;
    roundtrip(&mut meshed, b"through the mesh")?;

    label_pod(&world, client, Some("none"))?;
    world.is_annotated(&client.pod, None)?;
    world.becomes(client, Some("draining"))?;
    roundtrip(&mut meshed, b"released")?;
    roundtrip(&mut before, b"released")?;
    speaks(&client.pod, &server.pod)?;
    assert_eq!(world.state(server).as_deref(), Some("enrolled"), "its neighbour stays");

    // And back again, with the same connections.
    label_pod(&world, client, None)?;
    world.both_are_in()?;
    roundtrip(&mut meshed, b"taken back")?;

    let host = uid(cluster, SPACE, "host")?;
    for (namespace, name, uid) in [("kube-system", "dns", &system.uid), (SPACE, "host", &host)] {
        assert!(!world.agent.status()?.pods.contains_key(uid), "{name} is enrolled");
        let pod = cluster
            .api()
            .get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?;
        assert_eq!(pod.pointer(REDIRECTION), None, "{name} is annotated");
    }

    label_namespace(cluster, None)?;
    for running in [client, server] {
        world.is_annotated(&running.pod, None)?;
    }
    roundtrip(&mut before, b"after")?;
    roundtrip(&mut meshed, b"after")?;
    Ok(())
}

#[test]
fn what_annotations_leave_outside_is_outside_as_long_as_they_say_so() -> Result {
    let world = World::start("kubernetes annotations")?;
    let World {
        client, server, agent, ..
    } = &world;
    let _echo = [server.pod.echo(PORT)?, server.pod.echo(PORT + 1)?];
    label_namespace(&world.cluster, Some("ambient"))?;
    world.both_are_in()?;
    let mut open = client.pod.connect(server.pod.at(PORT))?;
    roundtrip(&mut open, b"through the mesh")?;
    let counted = |uid: &str, verdict: &str| -> Option<u64> {
        let pod = agent.status().ok()?.pods.remove(uid)?;
        Some(pod.verdicts.get(verdict).copied().unwrap_or_default())
    };
    let left = || counted(&client.uid, "connect_not_captured");
    assert_eq!(left(), Some(0));

    let port = PORT.to_string();
    annotate_pod(
        &world,
        client,
        &[("traffic.sidecar.istio.io/excludeOutboundPorts", &port)],
    )?;
    annotate_pod(&world, server, &[("ambient.istio.io/bypass-inbound-capture", "true")])?;
    let captures = |running: &Running, wanted: fn(&isthmus_wire::Capture) -> bool| {
        within(SOON, "the kernel was told", || {
            let pod = agent.status().ok()?.pods.remove(&running.uid)?;
            wanted(&pod.capture).then_some(())
        })
        .because(format!("its last words:\n{}", agent.last_words()))
    };
    captures(client, |capture| capture.exclude_outbound_ports.contains(&PORT))?;
    captures(server, |capture| capture.bypass_inbound)?;
    let mut outside = client.pod.connect(server.pod.at(PORT))?;
    roundtrip(&mut outside, b"outside")?;
    assert_eq!(left(), Some(1));
    assert_eq!(counted(&server.uid, "syn_passed_not_captured"), Some(1));
    let mut beside = client.pod.connect(server.pod.at(PORT + 1))?;
    roundtrip(&mut beside, b"beside it")?;
    assert_eq!(left(), Some(1), "the port beside it is captured");
    assert_eq!(
        counted(&server.uid, "syn_passed_not_captured"),
        Some(1),
        "and comes through a tunnel"
    );

    annotate_pod(&world, client, &[])?;
    annotate_pod(&world, server, &[])?;
    captures(client, isthmus_wire::Capture::is_usual)?;
    captures(server, isthmus_wire::Capture::is_usual)?;
    let mut again = client.pod.connect(server.pod.at(PORT))?;
    roundtrip(&mut again, b"captured again")?;
    assert_eq!(left(), Some(1));
    for stream in [&mut open, &mut outside, &mut beside] {
        roundtrip(stream, b"as it was")?;
    }

    // A mistake takes nothing out, and is told.
    annotate_pod(
        &world,
        client,
        &[("traffic.sidecar.istio.io/excludeOutboundPorts", "http")],
    )?;
    within(SOON, "the mistake is told", || {
        let troubles = agent.status().ok()?.kubernetes?.troubles;
        troubles
            .iter()
            .any(|trouble| trouble.what.contains("excludeOutboundPorts"))
            .then_some(())
    })?;
    captures(client, isthmus_wire::Capture::is_usual)
}

#[test]
fn an_apiserver_that_is_away_loses_nobody_and_is_followed_when_it_is_back() -> Result {
    let world = World::start("kubernetes away")?;
    let World {
        client,
        server,
        cluster,
        agent,
        ..
    } = &world;
    let _echo = server.pod.echo(PORT)?;
    label_namespace(cluster, Some("ambient"))?;
    world.both_are_in()?;
    let mut open = client.pod.connect(server.pod.at(PORT))?;
    roundtrip(&mut open, b"before")?;

    cluster.kill_apiserver();
    within(SOON, "the agent says that the apiserver is not followed", || {
        let status = agent.status().ok()?.kubernetes?;
        (status.out_of_sync_seconds.is_some() && status.last_error.is_some()).then_some(())
    })?;
    throughout(Duration::from_secs(3), "both stay enrolled", || {
        [client, server]
            .iter()
            .all(|running| world.state(running).as_deref() == Some("enrolled"))
    })?;
    roundtrip(&mut open, b"meanwhile")?;
    speaks(&client.pod, &server.pod)?;
    // A worker that begins while nobody tells it anything takes up what was.
    agent.kill_worker()?;
    for running in [client, server] {
        world.becomes(running, Some("enrolled"))?;
    }
    within(SOON, "new connections carry", || speaks(&client.pod, &server.pod).ok())?;
    let status = agent.status()?.kubernetes.because("enrolment is on")?;
    assert!(!status.listed, "{status:?}");

    cluster.start_apiserver()?;
    within(SOON + SOON, "the apiserver is followed again", || {
        let status = agent.status().ok()?.kubernetes?;
        (status.listed && status.out_of_sync_seconds.is_none()).then_some(())
    })
    .because(format!("its last words:\n{}", agent.last_words()))?;
    for running in [client, server] {
        assert_eq!(world.state(running).as_deref(), Some("enrolled"));
        world.is_annotated(&running.pod, Some("enabled"))?;
    }
    label_pod(&world, client, Some("none"))?;
    world.is_annotated(&client.pod, None)?;
    assert_eq!(world.state(server).as_deref(), Some("enrolled"));
    Ok(())
}

#[test]
fn a_pod_without_a_proof_is_refused_and_told_and_enrolled_once_there_is_one() -> Result {
    let world = World::start("kubernetes proof")?;
    let World {
        server, cluster, node, ..
    } = &world;
    let _echo = server.pod.echo(PORT)?;
    // In the mesh by its labels, and without a process that could tell its namespace.
    let bare = cluster.pod(node, "bare").namespace(SPACE).plain().start()?;
    label_namespace(cluster, Some("ambient"))?;
    world.both_are_in()?;
    world.is_annotated(&bare, Some("pending"))?;
    let uid = uid(cluster, SPACE, "bare")?;
    let status = world.agent.status()?;
    assert!(!status.pods.contains_key(&uid));
    let troubles = status.kubernetes.because("enrolment is on")?.troubles;
    let told = troubles.iter().find(|trouble| trouble.pod == "shop/bare");
    let told = told.because("the trouble is told")?;
    assert!(told.what.contains("no process"), "{told:?}");
    within(SOON, "an event tells of it", || {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{SPACE}/events");
        let events = cluster.api().get(&path).ok()?.to_string();
        (events.contains("NotEnrolled") && events.contains(&uid)).then_some(())
    })
    .because(format!("its last words:\n{}", world.agent.last_words()))?;

    // A process that is in another pod's namespace proves nothing.
    let wrong = Sandbox::start(&world.client.pod, &uid)?;
    within(SOON, "the wrong namespace is refused", || {
        let troubles = world.agent.status().ok()?.kubernetes?.troubles;
        let of_it = troubles.iter().find(|trouble| trouble.pod == "shop/bare")?;
        (of_it.what.contains("same network namespace") || of_it.what.contains("none of its addresses")).then_some(())
    })
    .because(format!("its last words:\n{}", world.agent.last_words()))?;
    assert_eq!(world.state(&world.client).as_deref(), Some("enrolled"));
    drop(wrong);

    let _right = Sandbox::start(&bare, &uid)?;
    world.is_annotated(&bare, Some("enabled"))?;
    assert!(world.agent.status()?.pods.contains_key(&uid));
    Ok(())
}
