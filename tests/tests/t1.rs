//! Topology T1 under two real istiods: two clusters, two networks, east-west gateways.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use isthmus_tests::{
    Lab, Pod, Result,
    agent::AgentOptions,
    authority::spiffe,
    control_plane::{EastWest, SYSTEM, Second, T1},
    envoy::Envoy,
    log::field,
    roundtrip, within,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
/// The most that a question may take when nobody can answer it.
const ANSWER: Duration = Duration::from_secs(12);
const GATEWAY: &str = "istio-eastwestgateway";
const HOSTNAME: &str = "helloworld.sample.svc.cluster.local";

#[test]
fn a_global_service_is_answered_by_pods_of_both_clusters_and_a_local_one_at_home() -> Result {
    let t1 = T1::start("t1")?;
    for (here, client) in t1.clients.iter().enumerate() {
        for at in [t1.hello(client)?, t1.hello6(client)?] {
            let counts = t1.ask(client, at, 40)?;
            // By capacity, which is one each: to miss four of forty by chance is one in a hundred million.
            assert!(counts.iter().all(|count| *count >= 4), "{}: {counts:?}", client.name());
        }
        let mut home = [0, 0];
        home[here] = 20;
        assert_eq!(t1.ask(client, t1.nearby(client)?, 20)?, home);
    }
    both_agents_know_with_whom_they_speak(&t1)?;
    a_policy_holds_for_who_comes_through_a_gateway(&t1)
}

fn both_agents_know_with_whom_they_speak(t1: &T1) -> Result {
    let ([near, far], [client, _], [_, server]) = (&t1.agents, &t1.clients, &t1.servers);
    let (from_near, from_far) = (near.log().mark(), far.log().mark());
    t1.ask(client, t1.hello(client)?, 40)?;
    let gateway = t1.gateways[1].at().to_string();
    let outbound = near.wait_access(from_near, "outbound", |line| field(line, "dst.hbone_addr") == gateway)?;
    assert_eq!(field(&outbound, "dst.identity"), server.identity());
    assert_eq!(field(&outbound, "dst.service"), HOSTNAME);
    let inbound = far.wait_access(from_far, "inbound", |_| true)?;
    assert_eq!(field(&inbound, "src.identity"), client.identity());
    Ok(())
}

fn a_policy_holds_for_who_comes_through_a_gateway(t1: &T1) -> Result {
    let ([one, two], [node1, _]) = (&t1.clusters, &t1.nodes);
    let [client, _] = &t1.clients;
    let other = one.pod(node1, "other").namespace("sample").start()?;
    one.settled(&t1.agents[0])?;
    other.enrol()?;
    // Only the second cluster serves.
    one.set_ready(&t1.servers[0], false)?;
    for client in [client, &other] {
        t1.until_answered_by(client, t1.hello(client)?, [false, true])?;
    }
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": "only-curl", "namespace": "sample" },
        "spec": {
            "selector": { "matchLabels": { "app": "helloworld" } },
            "action": "ALLOW",
            "rules": [{ "from": [{ "source": { "principals": ["cluster.local/ns/sample/sa/curl"] } }] }],
        },
    });
    two.apply(&policy)?;
    let to = t1.hello(&other)?;
    within(SOON, "the policy refuses the other client", || {
        question(&other, to).err()
    })?;
    assert_eq!(t1.ask(client, to, 20)?, [0, 20]);
    let mark = t1.agents[1].log().mark();
    assert!(question(&other, to).is_err());
    // Lines of connections from before may come late.
    let refused = t1.agents[1].wait_access(mark, "inbound", |line| field(line, "close") == "policy-denied")?;
    assert_eq!(field(&refused, "src.identity"), other.identity(), "{refused}");
    two.delete(&policy)?;
    t1.until_answered_by(&other, to, [false, true])
}

/// One question and its answer, within the bound of [`ANSWER`] also when there is none.
fn question(client: &Pod, at: SocketAddr) -> Result {
    let mut stream = client.connect_within(at, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    roundtrip(&mut stream, b"who is there?")
}

#[test]
fn the_other_cluster_takes_over_when_endpoints_go_and_gives_back_when_they_return() -> Result {
    let t1 = T1::start("t1")?;
    let ([one, _], [client, _], [server, _]) = (&t1.clusters, &t1.clients, &t1.servers);
    let at = t1.hello(client)?;
    t1.until_answered_by(client, at, [true, true])?;
    let mut kept = client.connect(at)?;
    roundtrip(&mut kept, b"before")?;
    one.set_ready(server, false)?;
    t1.until_answered_by(client, at, [false, true])?;
    one.set_ready(server, true)?;
    t1.until_answered_by(client, at, [true, true])?;
    one.delete_pod(server)?;
    t1.until_answered_by(client, at, [false, true])?;
    roundtrip(&mut kept, b"after")
}

#[test]
fn a_gateway_that_is_down_costs_a_bounded_time_and_is_used_again_when_it_is_back() -> Result {
    let t1 = T1::start("t1")?;
    let ([one, _], [client, _], [server, _]) = (&t1.clusters, &t1.clients, &t1.servers);
    let at = t1.hello(client)?;
    one.set_ready(server, false)?;
    t1.until_answered_by(client, at, [false, true])?;
    let [_, gateway] = &t1.gateways;
    gateway.kill();
    let begin = Instant::now();
    assert!(question(client, at).is_err(), "nobody can answer");
    assert!(begin.elapsed() < ANSWER, "{:?}", begin.elapsed());
    gateway.restart()?;
    t1.until_answered_by(client, at, [false, true])
}

#[test]
fn nobody_notices_a_gateway_that_is_down_while_there_is_another_way() -> Result {
    let t1 = T1::start("t1")?;
    let ([one, two], [client, _], [server, _]) = (&t1.clusters, &t1.clients, &t1.servers);
    let at = t1.hello(client)?;
    let [_, gateway] = &t1.gateways;
    gateway.kill();
    assert_eq!(t1.ask(client, at, 20)?, [20, 0], "the endpoint at home");
    gateway.restart()?;
    t1.until_answered_by(client, at, [true, true])?;

    // Istiod leads through one of several, and cannot know that nothing is there.
    let nowhere = |last| ([10, 2, 0, last].into(), IpAddr::from([198, 51, 100, last]));
    let (inner, outer) = nowhere(250);
    let stray = EastWest::new("a-gateway-without-hbone").without_hbone();
    stray.tell(two, inner, outer)?;
    let (inner, outer) = nowhere(251);
    EastWest::new("a-second-gateway").tell(two, inner, outer)?;
    within(SOON, "istiod of cluster1 tells of both gateways", || {
        let told = one.told().ok()?;
        let second = format!("NetworkGateway/network2/{outer}/0");
        told.workloads.contains_key(&second).then_some(())
    })?;
    one.settled(&t1.agents[0])?;
    one.set_ready(server, false)?;
    t1.until_answered_by(client, at, [false, true])?;
    assert_eq!(t1.ask(client, at, 20)?, [0, 20], "the gateway that is up");
    Ok(())
}

#[test]
fn an_envoy_joins_two_clusters_as_well_as_our_gateway_does() -> Result {
    let t1 = T1::start_in(Lab::new("t1")?, Second::Stopped, &AgentOptions::default())?;
    let ([_, two], [client, _], [_, server]) = (&t1.clusters, &t1.clients, &t1.servers);
    let certificate = two.authority().issue(&spiffe(SYSTEM, GATEWAY))?;
    let routes = [(format!("{HOSTNAME}:5000"), vec![SocketAddr::new(server.ip(), 15008)])];
    let envoy = Envoy::server(&t1.lab, t1.gateways[1].netns(), &certificate, &routes)?;
    t1.until_answered_by(client, t1.hello(client)?, [true, true])?;
    assert!(envoy.tunnels_taken()? > 0);
    let mut stream = client.connect(t1.hello(client)?)?;
    stream.write_all(b"half")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    assert_eq!(back, b"half");
    Ok(())
}
