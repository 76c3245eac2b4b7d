//! Checks of any two clusters that are one mesh.

use std::time::Duration;

use isthmus_tests::{
    Because as _, Failure, Result,
    fleet::{Kubectl, is_ready},
    within,
};
use serde_json::{Value, json};

use crate::{
    Member,
    demo::{self, DEMO, PLAIN},
    runner::Runner,
};

/// Pods of two busy cores.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// Runs all on two clusters that are one mesh.
pub(crate) fn all(runner: &mut Runner, members: &[Member<'_>]) -> Result {
    let [one, two] = members else {
        return Err(Failure::new("checks need two clusters"));
    };
    if runner.stage("workloads_start", || workloads(members)).is_none() {
        return Ok(());
    }
    runner.check("pods_are_in_the_mesh_from_their_first_packet", || first_packet(one));
    runner.check("probes_pass_under_strict_and_strangers_do_not", || strict(one));
    runner.check("traffic_reaches_the_other_network", || other_network(one, two));
    runner.check("an_application_may_own_port_15008", || own_port(one));
    runner.check("a_running_pod_is_brought_in_and_let_go_by_its_label", || labelled(one));
    crate::nodes::all(runner, one);
    Ok(())
}

fn workloads(members: &[Member<'_>]) -> Result {
    for (number, member) in members.iter().enumerate() {
        let answer = format!("cluster{}", number + 1);
        let kubectl = &member.kubectl;
        kubectl.apply(&demo::namespaces())?;
        kubectl.apply(&[
            demo::account("hello"),
            demo::account("curl"),
            demo::service(DEMO, "hello", true),
            demo::deployment(DEMO, "hello", 1, &demo::server("hello", &answer, "")),
            demo::deployment(DEMO, "curl", 1, &demo::idle("curl")),
            demo::deployment(PLAIN, "curl", 1, &demo::idle("default")),
        ])?;
    }
    for member in members {
        for (namespace, name) in [(DEMO, "hello"), (DEMO, "curl"), (PLAIN, "curl")] {
            rolled_out(&member.kubectl, namespace, name)?;
        }
        println!(
            "{}",
            member
                .kubectl
                .run(&["get", "pods", "--all-namespaces", "--output=wide"])?
        );
    }
    Ok(())
}

/// Every pod asks as the first thing it does, and is believed to be who it is.
fn first_packet(member: &Member<'_>) -> Result {
    let kubectl = &member.kubectl;
    let script = demo::ask(&address(kubectl, "hello")?);
    kubectl.apply(&[demo::job("first", "curl", 12, 6, &script)])?;
    let counts = kubectl.until(&["job", "first", "--namespace", DEMO], SOON, |job| {
        let count = |name: &str| {
            job.pointer(&format!("/status/{name}"))
                .and_then(Value::as_u64)
                .unwrap_or(0)
        };
        let [good, bad] = [count("succeeded"), count("failed")];
        (good + bad == 12 || bad > 0).then_some([good, bad])
    });
    let counts = counts?;
    let said = kubectl.run(&["logs", "--namespace", DEMO, "--selector=app=first", "--tail=3"])?;
    assert_eq!(counts, [12, 0], "answered and not: {said}");
    kubectl.run(&["delete", "job", "first", "--namespace", DEMO]).map(drop)
}

fn strict(member: &Member<'_>) -> Result {
    let kubectl = &member.kubectl;
    let address = pod_address(kubectl, DEMO, "hello")?;
    let from = |namespace: &str| kubectl.exec(namespace, "deploy/curl", &demo::sh(&demo::ask(&address)));
    from(DEMO).because("a pod of the mesh is answered")?;
    let refused = from(PLAIN);
    assert!(refused.is_err(), "a stranger was answered under STRICT: {refused:?}");
    let pods = kubectl.get(&["pods", "--namespace", DEMO, "--selector=app=hello"])?;
    for pod in items(&pods) {
        assert!(is_ready(&pod), "{pod}");
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
        assert_eq!(restarts, Some(&json!(0)), "no probe has failed");
        let told = pod.pointer("/metadata/annotations/ambient.istio.io~1redirection");
        assert_eq!(told, Some(&json!("enabled")));
    }
    Ok(())
}

/// Answers come from both clusters, and from the other alone when the own server is gone.
fn other_network(one: &Member<'_>, two: &Member<'_>) -> Result {
    for member in [one, two] {
        let at = address(&member.kubectl, "hello")?;
        until_answered(&member.kubectl, &at, &["cluster1", "cluster2"])?;
    }
    let at = address(&one.kubectl, "hello")?;
    scale(&one.kubectl, "hello", 0)?;
    let without = until_answered(&one.kubectl, &at, &["cluster2"]);
    scale(&one.kubectl, "hello", 1)?;
    without?;
    until_answered(&one.kubectl, &at, &["cluster1", "cluster2"])
}

/// Asks until exactly these answer.
fn until_answered(kubectl: &Kubectl, address: &str, wanted: &[&str]) -> Result {
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do {} || echo nobody; done",
        demo::ask(address)
    );
    let mut last = String::new();
    let answered = within(SOON, &format!("answers come from {wanted:?}"), || {
        match kubectl.exec(DEMO, "deploy/curl", &demo::sh(&script)) {
            Ok(text) => {
                let mut names: Vec<&str> = text.lines().collect();
                names.sort_unstable();
                names.dedup();
                last.clone_from(&text);
                (names == wanted).then_some(())
            }
            Err(failure) => {
                last = failure.to_string();
                None
            }
        }
    });
    answered.because(format!("last it was {last}"))
}

/// The mesh's port is the mesh's: the application listens there for its own namespace, and nobody else reaches it.
fn own_port(member: &Member<'_>) -> Result {
    let kubectl = &member.kubectl;
    let spec = demo::server("hello", "own", "/bin/busybox httpd -p 15008 -h /www;");
    kubectl.apply(&[demo::deployment(DEMO, "owner", 1, &spec)])?;
    rolled_out(kubectl, DEMO, "owner")?;
    let address = pod_address(kubectl, DEMO, "owner")?;
    let ask = demo::ask(&address);
    let answer = kubectl.exec(DEMO, "deploy/curl", &demo::sh(&ask))?;
    assert_eq!(answer.trim(), "own", "its other port is served through the mesh");
    let inside = demo::ask("127.0.0.1").replace(":5000", ":15008");
    let answer = kubectl.exec(DEMO, "deploy/owner", &demo::sh(&inside))?;
    assert_eq!(answer.trim(), "own", "it has its port for itself");
    let outside = kubectl.exec(PLAIN, "deploy/curl", &demo::sh(&ask.replace(":5000", ":15008")));
    assert!(
        outside.is_err(),
        "a stranger reached an application at the mesh's port: {outside:?}"
    );
    kubectl
        .run(&["delete", "deployment", "owner", "--namespace", DEMO])
        .map(drop)
}

/// A pod of a namespace outside of the mesh gets the label, and loses it again.
fn labelled(member: &Member<'_>) -> Result {
    let kubectl = &member.kubectl;
    let pods = kubectl.get(&["pods", "--namespace", PLAIN, "--selector=app=curl"])?;
    let pod = items(&pods)
        .first()
        .and_then(|pod| Some(pod.pointer("/metadata/name")?.as_str()?.to_owned()));
    let pod = pod.because("there is a pod outside of the mesh")?;
    let ask = demo::ask(&address(kubectl, "hello")?);
    let asked = || kubectl.exec(PLAIN, &pod, &demo::sh(&ask));
    let refused = asked();
    assert!(refused.is_err(), "a stranger was answered under STRICT: {refused:?}");
    kubectl.run(&[
        "label",
        "pod",
        &pod,
        "--namespace",
        PLAIN,
        "istio.io/dataplane-mode=ambient",
    ])?;
    within(SOON, "a pod that was labelled is in the mesh", || asked().ok())?;
    kubectl.run(&["label", "pod", &pod, "--namespace", PLAIN, "istio.io/dataplane-mode-"])?;
    within(SOON, "a pod that lost its label is a stranger again", || asked().err())?;
    let after = kubectl.get(&["pod", &pod, "--namespace", PLAIN])?;
    let restarts = after.pointer("/status/containerStatuses/0/restartCount");
    assert_eq!(restarts, Some(&json!(0)), "it was never ended");
    Ok(())
}

pub(crate) fn scale(kubectl: &Kubectl, name: &str, replicas: usize) -> Result {
    let replicas = format!("--replicas={replicas}");
    kubectl.run(&["scale", "deployment", name, "--namespace", DEMO, &replicas])?;
    rolled_out(kubectl, DEMO, name)
}

pub(crate) fn rolled_out(kubectl: &Kubectl, namespace: &str, name: &str) -> Result {
    let place = format!("deployment/{name}");
    let bound = format!("--timeout={}s", SOON.as_secs());
    kubectl
        .run(&["rollout", "status", "--namespace", namespace, &bound, &place])
        .map(drop)
}

pub(crate) fn address(kubectl: &Kubectl, service: &str) -> Result<String> {
    let service = kubectl.get(&["service", service, "--namespace", DEMO])?;
    let ip = service.pointer("/spec/clusterIP").and_then(Value::as_str);
    Ok(ip.because("a service has an address")?.to_owned())
}

/// The address of a ready pod `app=NAME`.
pub(crate) fn pod_address(kubectl: &Kubectl, namespace: &str, app: &str) -> Result<String> {
    let selector = format!("--selector=app={app}");
    kubectl.until(&["pods", "--namespace", namespace, &selector], SOON, |pods| {
        let pod = items(pods).into_iter().find(is_ready)?;
        Some(pod.pointer("/status/podIP")?.as_str()?.to_owned())
    })
}

pub(crate) fn items(list: &Value) -> Vec<Value> {
    list.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}
