//! What a pod answers to CONNECT requests no agent of ours would send (wire-facts.md §3.6, §3.7).

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{Result, forger::Forger, log::field, roundtrip, scene::OneNetwork, within};
use serde_json::json;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_request_that_cannot_be_served_is_answered_with_its_status() -> Result {
    let scene = OneNetwork::start("hbone")?;
    let echo = scene.server.echo(PORT)?;
    let good = scene.lab.authority().issue("demo", "client")?;
    scene
        .lab
        .service("web")
        .vip("net1", scene.network.vip(3))
        .port(80, PORT)
        .endpoint(&scene.server)
        .add();
    scene.lab.publish()?;
    let to_server = || {
        Forger::client(scene.server.at(15008))
            .certificate(&good)
            .believing(&good)
    };
    let (own, other) = (scene.server.at(PORT).to_string(), scene.plain.at(PORT).to_string());
    let closed = scene.server.at(PORT + 1).to_string();
    for (authority, status) in [
        (own.as_str(), "200"),
        ("web.demo.svc.cluster.local:80", "200"),
        (&other, "400"),
        // HTTP/2 itself has no word for it: PROTOCOL_ERROR.
        ("not an authority", "reset 1"),
        ("10.1.2.12", "400"),
        (&closed, "503"),
        ("web.demo.svc.cluster.local:81", "503"),
        ("nobody.demo.svc.cluster.local:80", "503"),
        (&scene.server.at(15008).to_string(), "503"),
    ] {
        let outcome = to_server().connect(authority).run(&scene.outside)?;
        assert_eq!(outcome.status("only"), status, "{authority}: {outcome:?}");
    }
    echo.peer()?;
    echo.peer()?;
    echo.must_not_accept(Duration::from_millis(50))
}

#[test]
fn a_denied_identity_is_answered_401_and_its_open_connections_are_cut() -> Result {
    let scene = OneNetwork::start("hbone")?;
    let [near, agent] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    let mut open = scene.client.connect(scene.server.at(PORT))?;
    let mut neighbours = scene.neighbour.connect(scene.server.at(PORT))?;
    roundtrip(&mut open, b"allowed so far")?;
    roundtrip(&mut neighbours, b"allowed so far")?;
    let good = scene.lab.authority().issue("demo", "client")?;
    scene.lab.mesh(|mesh| {
        mesh.policy(json!({
            "name": "no-client", "namespace": "demo", "scope": "Namespace", "action": "Deny",
            "rules": [[[{ "principals": [{ "Exact": "cluster.local/ns/demo/sa/client" }] }]]],
        }));
    });
    let mark = near.log().mark();
    scene.lab.publish()?;
    within(SOON, "the open connection is cut", || {
        roundtrip(&mut open, b"still?").is_err().then_some(())
    })?;
    roundtrip(&mut neighbours, b"not concerned")?;
    let at = scene.server.at(15008);
    let request = Forger::client(at)
        .certificate(&good)
        .believing(&good)
        .connect(&scene.server.at(PORT).to_string());
    assert_eq!(request.run(&scene.outside)?.status("only"), "401");
    let denied = scene
        .client
        .connect(scene.server.at(PORT))
        .and_then(|mut late| roundtrip(&mut late, b"denied"));
    denied.unwrap_err();
    near.wait_access(mark, "outbound", |line| !field(line, "error").is_empty())?;
    agent.wait_log(0, |line| line.to_string().contains("no-client"))?;
    for _ in 0..2 {
        echo.peer()?;
    }
    echo.must_not_accept(Duration::from_millis(50))?;
    scene.lab.mesh(|mesh| mesh.policies.clear());
    scene.lab.publish()?;
    roundtrip(&mut scene.client.connect(scene.server.at(PORT))?, b"allowed again")
}

#[test]
fn policies_about_addresses_and_ports_hold_for_plaintext_too() -> Result {
    let scene = OneNetwork::start("hbone")?;
    let echo = scene.server.echo(PORT)?;
    roundtrip(&mut scene.outside.connect(scene.server.at(PORT))?, b"allowed so far")?;
    echo.peer()?;
    scene.server.release()?;
    scene.lab.mesh(|mesh| {
        mesh.policy(json!({
            "name": "meshed-only", "namespace": "demo", "scope": "Namespace", "action": "Deny",
            "rules": [[[{ "notPrincipals": [{ "Presence": [] }] }]]],
        }));
    });
    scene.lab.publish()?;
    scene.server.enrol_with(None)?;
    assert_eq!(scene.server.status()?.map(|pod| pod.mtls_required), Some(true));
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        scene.outside.connect_within(to, Duration::from_secs(2)).unwrap_err();
    }
    echo.must_not_accept(Duration::from_millis(50))?;
    for ip in scene.server.ips() {
        roundtrip(&mut scene.client.connect(SocketAddr::new(*ip, PORT))?, b"by mutual TLS")?;
    }
    Ok(())
}
