//! Destinations outside the mesh: left alone in the connect hook, and only they.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{
    Agent, Capture, Pod, Result, agent::AgentOptions, log::field, roundtrip, scene::OneNetwork, within,
};
use serde_json::json;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

fn both(pod: &Pod) -> [SocketAddr; 2] {
    [pod.at(PORT), pod.at6(PORT)]
}

fn counted(agent: &Agent, verdict: &str) -> Result<u64> {
    Ok(agent.status()?.verdicts.get(verdict).copied().unwrap_or_default())
}

/// Makes a connection and says whether the server met the client's own socket, untouched by any agent.
fn meets_the_very_socket(scene: &OneNetwork, to: SocketAddr, echo: &isthmus_tests::Echo) -> Result<bool> {
    let mut stream = scene.client.connect(to)?;
    roundtrip(&mut stream, b"hello")?;
    Ok(echo.peer()? == stream.local_addr()?)
}

#[test]
fn a_stranger_is_met_by_the_pods_own_socket_and_counted() -> Result {
    let scene = OneNetwork::start("strangers")?;
    let [agent, _] = &scene.agents;
    let echo = scene.outside.echo(PORT)?;
    for (number, to) in (1..).zip(both(&scene.outside)) {
        assert!(meets_the_very_socket(&scene, to, &echo)?, "to {to}");
        assert_eq!(counted(agent, "connect_left_alone")?, number);
    }
    // A workload which the mesh knows is not a stranger, even where it is spoken to in clear.
    let plain = scene.plain.echo(PORT)?;
    let redirected = counted(agent, "connect_redirected")?;
    for (number, to) in (1..).zip(both(&scene.plain)) {
        let mark = agent.log().mark();
        assert!(!meets_the_very_socket(&scene, to, &plain)?, "to {to}");
        agent.wait_access(mark, "outbound", |line| field(line, "dst.addr") == to.to_string())?;
        assert_eq!(counted(agent, "connect_redirected")?, redirected + number);
    }
    assert_eq!(counted(agent, "connect_left_alone")?, 2);
    Ok(())
}

#[test]
fn who_joins_the_mesh_is_a_stranger_no_longer() -> Result {
    let scene = OneNetwork::start("strangers")?;
    let [agent, _] = &scene.agents;
    let echo = scene.outside.echo(PORT)?;
    let [v4, v6] = both(&scene.outside);
    assert!(meets_the_very_socket(&scene, v4, &echo)?);
    scene.lab.mesh(|mesh| {
        mesh.add_workload(json!({
            "uid": "joined", "name": "joined", "namespace": "demo", "network": "net1", "protocol": "TCP",
            "workloadIps": [v4.ip()],
        }));
    });
    scene.lab.publish()?;
    within(SOON, "it is redirected", || {
        meets_the_very_socket(&scene, v4, &echo).ok().filter(|very| !very)
    })?;
    assert!(
        meets_the_very_socket(&scene, v6, &echo)?,
        "its other address did not join"
    );
    // A whole range, as a service entry has it.
    scene.lab.mesh(|mesh| {
        mesh.add_service(json!({
            "name": "range", "namespace": "demo", "hostname": "range.example", "ports": { "8080": 8080 },
            "cidrVips": [{ "cidr": format!("{}/112", v6.ip()), "network": "net1" }],
            "loadBalancer": { "mode": "Passthrough" },
        }));
    });
    scene.lab.publish()?;
    within(SOON, "the range is redirected", || {
        meets_the_very_socket(&scene, v6, &echo).ok().filter(|very| !very)
    })?;
    let left = counted(agent, "connect_left_alone")?;
    assert!(!meets_the_very_socket(&scene, v6, &echo)?);
    assert_eq!(counted(agent, "connect_left_alone")?, left);
    Ok(())
}

#[test]
fn nobody_is_left_alone_where_that_is_switched_off() -> Result {
    let options = AgentOptions {
        arguments: vec!["--leave-non-mesh=false".to_owned()],
        ..AgentOptions::default()
    };
    let scene = OneNetwork::start_with("strangers", &options)?;
    let [agent, _] = &scene.agents;
    let echo = scene.outside.echo(PORT)?;
    for to in both(&scene.outside) {
        let mark = agent.log().mark();
        assert!(!meets_the_very_socket(&scene, to, &echo)?, "to {to}");
        agent.wait_access(mark, "outbound", |line| field(line, "dst.addr") == to.to_string())?;
    }
    assert_eq!(counted(agent, "connect_left_alone")?, 0);
    Ok(())
}

#[test]
fn what_an_agent_knew_that_is_gone_is_not_believed() -> Result {
    let scene = OneNetwork::start("strangers")?;
    let [node1, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let echo = scene.outside.echo(PORT)?;
    let to = scene.outside.at(PORT);
    assert!(meets_the_very_socket(&scene, to, &echo)?);
    agent.kill()?;
    within(SOON, "a connect is redirected to the agent that is not there", || {
        scene.client.connect_within(to, Duration::from_millis(300)).err()
    })?;
    let capture = Capture::start(node1.netns())?;
    capture.listen_for(b"fence");
    scene.client.connect_within(to, Duration::from_millis(300)).unwrap_err();
    scene.client.fence(scene.outside.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    assert_eq!(capture.syns_to(scene.outside.ip(), PORT), []);
    agent.restart()?;
    // The first echo was also reached while the gone agent was still believed.
    let echo = scene.outside.echo(PORT + 1)?;
    within(SOON, "the new agent is believed", || {
        meets_the_very_socket(&scene, scene.outside.at(PORT + 1), &echo)
            .ok()
            .filter(|very| *very)
    })?;
    Ok(())
}

#[test]
fn a_pod_that_the_mesh_does_not_know_is_redirected_whoever_it_calls() -> Result {
    let scene = OneNetwork::start("strangers")?;
    let [node1, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let _echo = scene.outside.echo(PORT)?;
    let unlisted = node1.pod("unlisted").unlisted().start()?;
    unlisted.enrol()?;
    let redirected = counted(agent, "connect_redirected")?;
    let mut stream = unlisted.connect(scene.outside.at(PORT))?;
    assert_eq!(counted(agent, "connect_redirected")?, redirected + 1);
    assert_eq!(counted(agent, "connect_left_alone")?, 0);
    roundtrip(&mut stream, b"hello").unwrap_err();
    Ok(())
}

#[test]
fn a_stranger_rewritten_to_a_mesh_address_does_not_get_past_the_guard() -> Result {
    let scene = OneNetwork::start("strangers")?;
    let [node1, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let echo = scene.outside.echo(PORT)?;
    let capture = Capture::start(node1.netns())?;
    capture.listen_for(b"fence");
    let rules = "table inet trick { chain out { type nat hook output priority -100; }; }";
    scene.client.netns().output("nft", &[rules], "")?;
    for (family, [from, to]) in [
        ("ip", [scene.outside.ip(), scene.server.ip()]),
        ("ip6", [scene.outside.ip6(), scene.server.ip6()]),
    ] {
        assert!(
            meets_the_very_socket(&scene, SocketAddr::new(from, PORT), &echo)?,
            "not rewritten yet"
        );
        scene.client.netns().output(
            "nft",
            &[&format!(
                "add rule inet trick out {family} daddr {from} dnat {family} to {to}"
            )],
            "",
        )?;
        let dropped = counted(agent, "guard_dropped_syn")?;
        scene
            .client
            .connect_within(SocketAddr::new(from, PORT), Duration::from_millis(300))
            .unwrap_err();
        assert!(counted(agent, "guard_dropped_syn")? > dropped, "to {to}");
        assert_eq!(capture.syns_to(to, PORT), []);
    }
    scene.client.fence(scene.server.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    for ip in [scene.server.ip(), scene.server.ip6()] {
        assert_eq!(capture.syns_to(ip, PORT), []);
    }
    Ok(())
}
