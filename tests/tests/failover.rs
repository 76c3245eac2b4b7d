//! What is down is passed over: endpoints, gateways, whole networks. No connection of an application fails for it as long
//! as there is another way.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use isthmus_tests::{
    Because as _, Pod, Result,
    log::field,
    must_be_reset, roundtrip,
    scene::{OneNetwork, TwoNetworks},
    within,
};
use serde_json::json;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

/// Every one of many connections is answered.
fn all_answered(client: &Pod, to: SocketAddr, many: usize) -> Result {
    (0..many).try_for_each(|_| roundtrip(&mut client.connect(to)?, b"hello"))
}

#[test]
fn an_endpoint_whose_agent_is_gone_fails_no_connection_and_comes_back() -> Result {
    let scene = OneNetwork::start("failover")?;
    let vip = SocketAddr::new(scene.network.vip(1), 80);
    let service = scene.lab.service("both").vip("net1", vip.ip()).port(80, PORT);
    service.endpoint(&scene.server).endpoint(&scene.neighbour).add();
    scene.lab.publish()?;
    let _echoes = [scene.server.echo(PORT)?, scene.neighbour.echo(PORT)?];
    let [near, far] = &scene.agents;
    within(SOON, "both endpoints are used", || {
        let mark = near.log().mark();
        all_answered(&scene.client, vip, 10).ok()?;
        let lines = near.log().all_from(mark, |line| field(line, "direction") == "outbound");
        let to = |pod: &Pod| lines.iter().any(|line| field(line, "dst.workload") == pod.name());
        (to(&scene.server) && to(&scene.neighbour)).then_some(())
    })?;
    far.kill()?;
    let mark = near.log().mark();
    all_answered(&scene.client, vip, 40)?;
    let failed = near.log().all_from(mark, |line| {
        field(line, "direction") == "outbound" && field(line, "close") != "finished"
    });
    // What was open when the agent died is another matter; nothing was.
    assert_eq!(failed, Vec::<serde_json::Value>::new());
    far.restart()?;
    within(Duration::from_secs(60), "the endpoint is used again", || {
        let mark = near.log().mark();
        all_answered(&scene.client, vip, 10).ok()?;
        let back = |line: &serde_json::Value| field(line, "dst.workload") == scene.server.name();
        (!near.log().all_from(mark, back).is_empty()).then_some(())
    })
}

#[test]
fn one_gateway_of_two_is_enough_and_none_is_a_clear_error_in_time() -> Result {
    let scene = TwoNetworks::start("failover")?;
    let [_, net2] = &scene.networks;
    let second = net2.gateway("gateway3").start()?;
    scene.lab.publish()?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let [near, _] = &scene.agents;
    let to = scene.at(PORT);
    within(SOON, "both gateways are used", || {
        let mark = near.log().mark();
        all_answered(&scene.client, to, 10).ok()?;
        let lines = near.log().all_from(mark, |line| field(line, "direction") == "outbound");
        let used = |at: SocketAddr| lines.iter().any(|line| field(line, "dst.hbone_addr") == at.to_string());
        (used(scene.gateway.at()) && used(second.at())).then_some(())
    })?;
    scene.gateway.kill();
    all_answered(&scene.client, to, 20).because("one gateway is enough")?;
    second.kill();
    let (mark, began) = (near.log().mark(), Instant::now());
    match scene.client.connect(to) {
        Ok(stream) => must_be_reset(&stream),
        // The agent may have said so before the client has looked.
        Err(failure) => assert!(failure.to_string().contains("reset"), "{failure}"),
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // A line of a connection from before may come late.
    let line = near.wait_access(mark, "outbound", |line| field(line, "close.phase") == "connect")?;
    assert_eq!(field(&line, "close"), "hbone-refused", "{line}");
    scene.gateway.restart()?;
    within(Duration::from_secs(40), "a gateway that is back is used", || {
        roundtrip(&mut scene.client.connect(to).ok()?, b"back").ok()
    })
}

#[test]
fn the_other_network_takes_over_when_local_endpoints_go_and_gives_back() -> Result {
    let scene = TwoNetworks::start("failover")?;
    let [near, _] = &scene.agents;
    let local = near.node().pod("local").service_account("web").start()?;
    local.enrol()?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?, local.echo(PORT)?];
    let key = format!("demo/{}", scene.hostname);
    let publish = |health: &str| -> Result {
        scene.lab.mesh(|mesh| {
            if let Some(service) = mesh.services.get_mut(&key).and_then(|service| service.as_object_mut()) {
                let balancing = json!({ "mode": "Failover", "routingPreferences": ["Network"] });
                service.insert("loadBalancer".to_owned(), balancing);
            }
            if let Some(workload) = mesh.workloads.get_mut(&local.workload_uid())
                && let Some(fields) = workload.as_object_mut()
            {
                fields.insert("services".to_owned(), json!({ key.clone(): { "8080": PORT } }));
                fields.insert("status".to_owned(), json!(health));
            }
        });
        scene.lab.publish()
    };
    let goes_to = |network: &str| {
        let mark = near.log().mark();
        all_answered(&scene.client, scene.at(PORT), 6).ok()?;
        let lines = within(SOON, "six lines", || {
            let lines = near.log().all_from(mark, |line| field(line, "direction") == "outbound");
            (lines.len() >= 6).then_some(lines)
        })
        .ok()?;
        let is_local = |line: &serde_json::Value| field(line, "dst.workload") == local.name();
        let wanted = network == "net1";
        lines.iter().all(|line| is_local(line) == wanted).then_some(())
    };
    publish("Healthy")?;
    within(SOON, "local endpoints come first", || goes_to("net1"))?;
    publish("Unhealthy")?;
    within(SOON, "the other network takes over", || goes_to("net2"))?;
    publish("Healthy")?;
    within(SOON, "and gives back", || goes_to("net1"))
}
