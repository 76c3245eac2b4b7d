//! Checks that need power over nodes, or change what all pods stand on; in clusters of ours only.

use std::time::{Duration, Instant};

use isthmus_tests::{
    Because as _, Result,
    fleet::{Kubectl, Machine, Site, is_ready},
    within,
};
use serde_json::{Value, json};

use crate::{
    Member,
    checks::{SOON, address, items, pod_address, rolled_out},
    demo::{self, DEMO, PLAIN},
    load,
    runner::Runner,
    takeover,
};

/// What a node joins with until its agent is ready.
const TAINT: &str = "isthmus.example/agent-not-ready";
/// Pods that are started at once.
const MANY: usize = 200;
/// So many pods on two cores.
const LATER: Duration = Duration::from_secs(420);
type Check = fn(&Kubectl, &Site) -> Result;
const CHECKS: [(&str, Check); 7] = [
    ("an_upgrade_of_the_chart_fails_no_connection", upgraded),
    ("a_container_that_crashes_comes_back", crashed),
    ("an_address_that_goes_to_the_next_pod_takes_no_identity_along", reused),
    ("a_node_that_lost_power_lets_no_pod_out_before_the_agent", power_lost),
    ("two_hundred_pods_start_at_once", many),
    ("uninstalling_leaves_nothing_on_nodes", uninstalled),
    (
        "a_node_is_taken_over_from_istio_cni_and_given_back",
        takeover::taken_over_and_given_back,
    ),
];

pub(crate) fn all(runner: &mut Runner, member: &Member<'_>) {
    for (name, check) in CHECKS {
        match member.site {
            Some(site) => runner.check(name, || check(&member.kubectl, site)),
            None => runner.leave_out(name, "it needs nodes of its own"),
        }
    }
}

/// Asks without end while agents are replaced, node by node.
fn upgraded(kubectl: &Kubectl, site: &Site) -> Result {
    let pods = callers(kubectl, site)?;
    let release = site.agent()?.with(&json!({ "podAnnotations": { "upgraded": "once" } }));
    let (took, asked) = load::during(kubectl, &pods, &address(kubectl, "hello")?, || {
        let begin = Instant::now();
        release.install(kubectl)?;
        Ok(begin.elapsed())
    })?;
    println!("  rolled out within {:.1} s; {asked:?}", took.as_secs_f64());
    assert_eq!(asked.unanswered, 0, "{asked:?}");
    assert!(asked.times > 100, "{asked:?}");
    Ok(())
}

/// Kills every process of an agent at once: a new container serves; what is asked meanwhile fails, and nothing goes out in
/// clear, because the server would refuse that too and the question after it would not be answered by the mesh.
fn crashed(kubectl: &Kubectl, site: &Site) -> Result {
    let pods = callers(kubectl, site)?;
    let machine = site.machines().first().because("there is a node")?;
    let ((), asked) = load::during(kubectl, &pods, &address(kubectl, "hello")?, || {
        let before = restarts(kubectl, machine.name())?;
        machine.run(&["pkill", "-KILL", "-x", "isthmus"])?;
        within(SOON, "the container is started again", || {
            restarts(kubectl, machine.name()).ok().filter(|now| *now > before)
        })?;
        site.agent()?.rolled_out(kubectl)
    })?;
    println!("  {asked:?}");
    assert!(asked.unanswered < asked.times, "{asked:?}");
    Ok(())
}

fn restarts(kubectl: &Kubectl, node: &str) -> Result<u64> {
    let of_node = format!("--field-selector=spec.nodeName={node}");
    let pods = kubectl.get(&["pods", "--namespace=istio-system", "--selector=app=ztunnel", &of_node])?;
    let of = |pod: &Value| {
        pod.pointer("/status/containerStatuses/0/restartCount")
            .and_then(Value::as_u64)
    };
    Ok(items(&pods).iter().filter_map(of).sum())
}

/// A node with so few addresses that the next pod gets the last one's, and that joins with a taint which the agent takes off.
fn reused(kubectl: &Kubectl, site: &Site) -> Result {
    let machine = site
        .add_machine(3)?
        .addresses(10, 11)
        .taint(&format!("{TAINT}=true:NoSchedule"));
    let release = site.agent()?.with(&json!({ "startupTaint": TAINT }));
    let done = release
        .install(kubectl)
        .and_then(|()| given_on(kubectl, site, &machine));
    // The checks that follow have the nodes and policies that they began with.
    let off = machine.power_off();
    kubectl.run(&["delete", "node", machine.name(), "--ignore-not-found"])?;
    let policy = ["delete", "authorizationpolicy", "only", "--namespace", DEMO];
    kubectl.run(&[&policy[..], &["--ignore-not-found"]].concat())?;
    done.and(off)
}

fn given_on(kubectl: &Kubectl, site: &Site, machine: &Machine) -> Result {
    machine.boot()?;
    site.until_ready(machine)?;
    site.agent()?.rolled_out(kubectl)?;
    kubectl.until(&["node", machine.name()], SOON, |node| {
        let taints = node.pointer("/spec/taints").map(Value::to_string).unwrap_or_default();
        (!taints.contains(TAINT)).then_some(())
    })?;
    // Of this cluster alone: the other one's policies are its own.
    let ask = demo::ask(&pod_address(kubectl, DEMO, "hello")?);
    kubectl.apply(&[
        demo::account("admitted"),
        demo::account("turned-away"),
        only("hello", "admitted"),
    ])?;
    within(SOON, "the policy holds", || {
        kubectl.exec(DEMO, "deploy/curl", &demo::sh(&ask)).err()
    })?;
    let mut seen = Vec::new();
    for (name, account, wanted) in [
        ("one", "turned-away", "Failed"),
        ("two", "admitted", "Succeeded"),
        ("three", "turned-away", "Failed"),
    ] {
        kubectl.apply(&[once(name, account, machine.name(), &ask)])?;
        let (phase, ip) = kubectl.until(&["pod", name, "--namespace", DEMO], SOON, |pod| {
            let phase = pod.pointer("/status/phase")?.as_str()?;
            let ip = pod.pointer("/status/podIP")?.as_str()?;
            matches!(phase, "Failed" | "Succeeded").then(|| (phase.to_owned(), ip.to_owned()))
        })?;
        assert_eq!(phase, wanted, "{name} as {account} at {ip}");
        seen.push(ip);
        kubectl.run(&["delete", "pod", name, "--namespace", DEMO, "--now"])?;
    }
    let is_one = seen.windows(2).all(|pair| pair.first() == pair.last());
    assert!(is_one, "addresses are given on: {seen:?}");
    Ok(())
}

/// Whoever is `app` admits this account alone.
fn only(app: &str, account: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "only", "namespace": DEMO },
        "spec": {
            "selector": { "matchLabels": { "app": app } },
            "action": "ALLOW",
            "rules": [{ "from": [{ "source": { "principals": [format!("cluster.local/ns/{DEMO}/sa/{account}")] } }] }],
        },
    })
}

/// A pod on a node that runs a script once.
fn once(name: &str, account: &str, node: &str, script: &str) -> Value {
    let spec = demo::runs(account, script, &json!({ "nodeName": node, "restartPolicy": "Never" }));
    let metadata = json!({ "name": name, "namespace": DEMO });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// A pod asks as the first thing it does, every time that it starts; after its node lost power too.
fn power_lost(kubectl: &Kubectl, site: &Site) -> Result {
    let [first, second, ..] = site.machines() else {
        return Ok(());
    };
    let ask = demo::ask(&address(kubectl, "hello")?);
    let script = format!("{ask} || echo nobody; exec /bin/busybox sleep 2147483647");
    let spec = demo::runs("curl", &script, &json!({ "nodeName": second.name() }));
    // The server is where the power stays.
    let pin = json!({ "spec": { "template": { "spec": { "nodeName": first.name() } } } }).to_string();
    kubectl.run(&["patch", "deployment", "hello", "--namespace", DEMO, "--patch", &pin])?;
    rolled_out(kubectl, DEMO, "hello")?;
    kubectl.apply(&[demo::deployment(DEMO, "early", 4, &spec)])?;
    rolled_out(kubectl, DEMO, "early")?;
    let before = logs(kubectl)?;
    second.power_off()?;
    kubectl.until(&["node", second.name()], SOON, |node| (!is_ready(node)).then_some(()))?;
    second.boot()?;
    site.until_ready(second)?;
    let begun = kubectl.until(&["pods", "--namespace", DEMO, "--selector=app=early"], LATER, |pods| {
        let again = items(pods)
            .into_iter()
            .filter(|pod| is_ready(pod) && pod.pointer("/status/containerStatuses/0/restartCount") != Some(&json!(0)));
        (again.count() == 4).then_some(())
    });
    begun?;
    let after = within(SOON, "all have asked", || {
        logs(kubectl).ok().filter(|text| text.lines().count() >= 4)
    })?;
    assert!(!after.contains("nobody"), "before: {before:?}, after: {after:?}");
    site.agent()?.rolled_out(kubectl)?;
    kubectl
        .run(&["delete", "deployment", "early", "--namespace", DEMO])
        .map(drop)
}

fn logs(kubectl: &Kubectl) -> Result<String> {
    kubectl.run(&["logs", "--namespace", DEMO, "--selector=app=early", "--tail=-1"])
}

fn many(kubectl: &Kubectl, site: &Site) -> Result {
    let begin = Instant::now();
    kubectl.apply(&[demo::deployment(DEMO, "many", MANY, &demo::idle("curl"))])?;
    let bound = format!("--timeout={}s", LATER.as_secs());
    kubectl.run_patiently(&["rollout", "status", "--namespace", DEMO, &bound, "deployment/many"])?;
    println!("  {MANY} pods are ready after {:.1} s", begin.elapsed().as_secs_f64());
    let pods = kubectl.get(&["pods", "--namespace", DEMO, "--selector=app=many"])?;
    for pod in items(&pods) {
        let told = pod.pointer("/metadata/annotations/ambient.istio.io~1redirection");
        assert_eq!(told, Some(&json!("enabled")), "{pod}");
    }
    for machine in site.machines() {
        let metrics = machine.run(&["curl", "--silent", "--fail", "http://127.0.0.1:1338/v1/metrics"])?;
        println!(
            "  {}: all CNI plugins of a pod, seconds: {}",
            machine.name(),
            setups(&metrics)
        );
    }
    println!("  the agent's part of ADD: {}", additions(kubectl, site)?);
    let machine = site.machines().first().because("there is a node")?;
    let took = machine.run(&["bash", "-c", include_str!("plugin_took.sh")])?;
    println!("  the plugin's part, one question asked, p50 and p99, µs: {took}");
    kubectl.run(&["delete", "deployment", "many", "--namespace", DEMO, "--wait=false"])?;
    let all = ["pods", "--namespace", DEMO, "--selector=app=many"];
    kubectl.until(&all, LATER, |pods| items(pods).is_empty().then_some(()))
}

/// What containerd counted: numbers of pods by the seconds that their networks took at most.
fn setups(metrics: &str) -> String {
    let bucket = |line: &str| {
        let wanted = "network_plugin_operations_duration_seconds_seconds_bucket{operation_type=\"set_up_pod\",le=\"";
        let (bound, count) = line.split_once(wanted)?.1.split_once("\"} ")?;
        Some(format!("{count} ≤ {bound}"))
    };
    metrics.lines().filter_map(bucket).collect::<Vec<_>>().join(", ")
}

/// Quantiles of what agents say that their answers took.
fn additions(kubectl: &Kubectl, site: &Site) -> Result<String> {
    let mut text = String::new();
    for machine in site.machines() {
        let of_node = format!("--field-selector=spec.nodeName={}", machine.name());
        let agents = kubectl.get(&["pods", "--namespace=istio-system", "--selector=app=ztunnel", &of_node])?;
        for agent in items(&agents) {
            let name = agent.pointer("/metadata/name").and_then(Value::as_str);
            let name = name.because("a pod has a name")?;
            text += &kubectl.run(&["logs", "--namespace=istio-system", name, "--tail=-1"])?;
        }
    }
    let mut all: Vec<u64> = text
        .lines()
        .filter(|line| line.contains("ADD is answered") && line.contains("many-"))
        .filter_map(|line| line.split_once("took_ms=")?.1.split(' ').next()?.parse().ok())
        .collect();
    all.sort_unstable();
    assert!(
        all.len() >= MANY,
        "{} pods of {MANY} were brought in by their CNI plugin",
        all.len()
    );
    let at = |share: usize| all.get(all.len() * share / 100).copied().unwrap_or_default();
    Ok(format!("p50 {} ms, p99 {} ms", at(50), at(99)))
}

/// Takes agents off all nodes, if there are any.
pub(crate) fn uninstall(kubectl: &Kubectl, site: &Site) -> Result {
    let agent = site.agent()?;
    if !agent.is_installed(kubectl)? {
        return Ok(());
    }
    agent.uninstall(kubectl)?;
    let cleanup = ["daemonset/ztunnel-cleanup", "--namespace=istio-system"];
    kubectl.run(&[&["rollout", "status", "--timeout=120s"], &cleanup[..]].concat())?;
    kubectl.run(&[&["delete"], &cleanup[..]].concat()).map(drop)
}

fn uninstalled(kubectl: &Kubectl, site: &Site) -> Result {
    uninstall(kubectl, site)?;
    for machine in site.machines() {
        let left = machine.run(&[
            "find",
            "/etc/cni/net.d",
            "/opt/cni/bin",
            "/sys/fs/bpf",
            "/run/isthmus",
            "-mindepth",
            "1",
        ])?;
        assert!(!left.contains("isthmus"), "on {}: {left}", machine.name());
        assert!(left.contains("10-lab.conflist"), "on {}: {left}", machine.name());
    }
    // Pods that were in the mesh speak in clear now, and new ones start.
    kubectl.apply(&[demo::deployment(
        PLAIN,
        "plain",
        1,
        &demo::server("default", "plain", ""),
    )])?;
    rolled_out(kubectl, PLAIN, "plain")?;
    let ask = demo::ask(&pod_address(kubectl, PLAIN, "plain")?);
    kubectl.exec(DEMO, "deploy/curl", &demo::sh(&ask))?;
    kubectl.apply(&[demo::deployment(DEMO, "after", 1, &demo::idle("curl"))])?;
    rolled_out(kubectl, DEMO, "after")
}

/// Pods in the mesh that ask, on all nodes.
fn callers(kubectl: &Kubectl, site: &Site) -> Result<Vec<String>> {
    let count = 2 * site.machines().len();
    kubectl.apply(&[demo::deployment(DEMO, "callers", count, &demo::idle("curl"))])?;
    rolled_out(kubectl, DEMO, "callers")?;
    let pods = kubectl.get(&["pods", "--namespace", DEMO, "--selector=app=callers"])?;
    let name = |pod: &Value| Some(pod.pointer("/metadata/name")?.as_str()?.to_owned());
    Ok(items(&pods)
        .iter()
        .filter(|pod| is_ready(pod))
        .filter_map(name)
        .collect())
}
