//! `isthmus cleanup`: afterwards nothing tells that an agent was here.

use std::{fs, path::Path, process::Command, time::Duration};

use isthmus_tests::{Capture, Node, Pod, Result, lab::Lab, roundtrip, scene::OneNetwork, wait::throughout, within};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

/// Exit code and text of a run.
fn cleanup(lab: &Lab, node: &Node, more: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(lab.binary())
        .args(["cleanup", "--node", node.name(), "--run-dir"])
        .arg(node.run_dir())
        .arg("--bpffs")
        .arg(node.pins().parent().unwrap_or(Path::new("/")))
        .args(more)
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

/// What an agent leaves in a pod's namespace.
fn traces(pod: &Pod) -> Result<String> {
    let mut found = String::new();
    for family in ["-4", "-6"] {
        let rules = pod.netns().ip_output(&[family, "rule"])?;
        found.extend(
            rules
                .lines()
                .filter(|line| line.contains("0x4953"))
                .map(|line| format!("{line}\n")),
        );
        let routes = pod.netns().ip_output(&[family, "route", "show", "table", "all"])?;
        found.extend(
            routes
                .lines()
                .filter(|line| line.contains("proto 73"))
                .map(|line| format!("{line}\n")),
        );
    }
    let sysctl = pod
        .netns()
        .enter(|| fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept"))??;
    if sysctl.trim() != "0" {
        found.push_str("tcp_fwmark_accept\n");
    }
    Ok(found)
}

/// A new connection works, and in clear.
fn speaks_in_clear(client: &Pod, server: &Pod) -> Result<bool> {
    let echo = server.echo(PORT)?;
    let capture = Capture::start(client.node()?.netns())?;
    capture.listen_for(b"fence");
    let mut stream = client.connect(server.at(PORT))?;
    roundtrip(&mut stream, b"hello")?;
    client.fence(server.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    drop(echo);
    Ok(!capture.syns_to(server.ip(), PORT).is_empty())
}

fn assert_nothing_is_left(node: &Node) {
    assert!(!node.pins().exists(), "{}", node.pins().display());
    assert!(!node.run_dir().exists(), "{}", node.run_dir().display());
}

#[test]
fn after_a_killed_agent_everything_goes_and_pods_speak_in_clear_again() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    assert!(!speaks_in_clear(&scene.client, &scene.server)?, "enrolled, it does not");
    assert!(!traces(&scene.client)?.is_empty() && !traces(&scene.neighbour)?.is_empty());
    agent.kill()?;
    let (code, text) = cleanup(&scene.lab, agent.node(), &[])?;
    assert_eq!(code, Some(0), "{text}");
    for says in [
        "removed rules, routes and sysctls of pod demo/client",
        "removed rules, routes and sysctls of pod demo/neighbour",
        "link_connect4",
        "link_claim",
        "link_guard_",
        "map_PODS",
        "prog_guard_ether",
        "removed record",
        "removed socket",
        "nothing is left",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert_nothing_is_left(agent.node());
    for pod in [&scene.client, &scene.neighbour] {
        assert_eq!(traces(pod)?, "");
        assert!(speaks_in_clear(pod, &scene.server)?);
    }
    // The other node is another agent's.
    assert!(scene.nodes[1].pins().exists() && scene.agents[1].status()?.pods.len() == 1);

    let (code, text) = cleanup(&scene.lab, agent.node(), &[])?;
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "nothing to do: no trace of Isthmus was found\n")
    );

    // It was no farewell for ever.
    agent.restart()?;
    scene.client.enrol()?;
    assert!(!traces(&scene.client)?.is_empty());
    Ok(())
}

#[test]
fn while_an_agent_runs_it_is_refused_and_changes_nothing() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    let before = agent.status()?;
    let (code, text) = cleanup(&scene.lab, agent.node(), &[])?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("an agent runs on") && text.contains("--force"), "{text}");
    let after = agent.status()?;
    let links = |status: &isthmus_wire::Status| -> Vec<_> {
        status
            .pods
            .iter()
            .map(|(uid, pod)| (uid.clone(), pod.state.clone(), pod.links.clone()))
            .collect()
    };
    assert_eq!(links(&before), links(&after));
    assert!(!speaks_in_clear(&scene.client, &scene.server)?);
    Ok(())
}

#[test]
fn without_capabilities_it_says_so_instead_of_finding_nothing() -> Result {
    let lab = Lab::new("cleanup")?;
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(lab.binary())
        .args(["cleanup", "--bpffs"])
        .arg(lab.dir())
        .arg("--run-dir")
        .arg(lab.dir())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("run it as root"), "{text}");
    Ok(())
}

#[test]
fn forced_under_a_running_agent_every_pod_is_let_go_and_stays_free() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    let worker = agent.status()?.worker_pid;
    let (code, text) = cleanup(&scene.lab, agent.node(), &["--force"])?;
    assert_eq!(code, Some(0), "{text}");
    for pod in [&scene.client, &scene.neighbour] {
        assert!(text.contains(&format!("the agent let pod {} go", pod.uid())), "{text}");
    }
    within(SOON, "no trace is left in the pods", || {
        let clean = |pod| traces(pod).is_ok_and(|text| text.is_empty());
        (clean(&scene.client) && clean(&scene.neighbour)).then_some(())
    })?;
    assert!(!agent.node().pins().exists());
    assert!(Path::new(&format!("/proc/{worker}")).exists(), "the agent runs on");
    throughout(Duration::from_secs(1), "the agent puts nothing back", || {
        !agent.node().pins().exists() && traces(&scene.client).is_ok_and(|text| text.is_empty())
    })?;
    assert!(speaks_in_clear(&scene.client, &scene.server)?);
    Ok(())
}

#[test]
fn pods_that_are_gone_are_no_hindrance() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    agent.kill()?;
    scene.neighbour.delete()?;
    let (code, text) = cleanup(&scene.lab, agent.node(), &[])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("pod demo/neighbour: its network namespace is gone"),
        "{text}"
    );
    assert_nothing_is_left(agent.node());
    assert_eq!(traces(&scene.client)?, "");
    Ok(())
}

#[test]
fn half_made_state_goes_as_well() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    agent.kill()?;
    let run = agent.node().run_dir();
    // One pod's record is lost, the other's pins are; the node's programs are half there; a record was being written.
    let generation = fs::read_dir(agent.node().pins())?
        .flatten()
        .next()
        .expect("a generation")
        .path();
    fs::remove_file(run.join("pods/1.json"))?;
    fs::remove_dir_all(generation.join("pod_2"))?;
    fs::remove_file(generation.join("link_connect4"))?;
    fs::write(run.join("pods/7.new"), "half")?;
    fs::write(run.join("pods/8.json"), "{")?;
    fs::create_dir(agent.node().pins().join("0123456789abcdef"))?;
    let abandoned = agent.node().pins().with_file_name("isthmus_check_4294967295");
    fs::create_dir(&abandoned)?;
    let state = scene.lab.dir().join("state");
    fs::create_dir(&state)?;
    fs::write(state.join("namespaces.json"), "{}")?;
    let told = format!("--state-dir={}", state.display());
    let (code, text) = cleanup(&scene.lab, agent.node(), &[&told])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("rules, routes and sysctls of the pod of") && text.contains("0123456789abcdef"),
        "{text}"
    );
    assert_nothing_is_left(agent.node());
    assert!(!abandoned.exists() && !state.exists());
    for pod in [&scene.client, &scene.neighbour] {
        assert_eq!(traces(pod)?, "", "{}", pod.name());
        assert!(speaks_in_clear(pod, &scene.server)?);
    }
    Ok(())
}

#[test]
fn a_namespace_that_nothing_leads_to_any_more_is_cleared_when_it_is_named() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    agent.kill()?;
    fs::remove_dir_all(agent.node().run_dir())?;
    fs::remove_dir_all(agent.node().pins())?;
    assert!(!traces(&scene.client)?.is_empty());
    let netns = scene.client.netns().path().display().to_string();
    let (code, text) = cleanup(&scene.lab, agent.node(), &["--netns", &netns])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("removed rules, routes and sysctls of namespace {netns}")),
        "{text}"
    );
    assert_eq!(traces(&scene.client)?, "");
    let (code, text) = cleanup(&scene.lab, agent.node(), &["--netns", &netns])?;
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "nothing to do: no trace of Isthmus was found\n")
    );
    Ok(())
}

#[test]
fn what_cannot_be_removed_is_named_with_its_reason_and_a_second_run_goes_on() -> Result {
    let scene = OneNetwork::start("cleanup")?;
    let [agent, _] = &scene.agents;
    agent.kill()?;
    let odd = agent.node().run_dir().join("pods/9.json");
    fs::create_dir(&odd)?;
    let (code, text) = cleanup(&scene.lab, agent.node(), &[])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&format!("could not remove record {}", odd.display())),
        "{text}"
    );
    assert!(!agent.node().pins().exists(), "the rest is gone");
    fs::remove_dir(&odd)?;
    let (code, text) = cleanup(&scene.lab, agent.node(), &[])?;
    assert_eq!(code, Some(0), "{text}");
    assert_nothing_is_left(agent.node());
    Ok(())
}
