//! Envoy joins two networks.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr},
    time::Duration,
};

use isthmus_tests::{
    Result,
    authority::Issued,
    envoy::{Envoy, Tunnel},
    log::field,
    roundtrip,
    scene::TwoNetworks,
};
use serde_json::json;
use socket2::SockRef;

use super::{PORT, accepted, carries_everything, connect, ends, ends_in_reset, is_refused, name_workloads, open, said};

/// Two networks with an Envoy where the second one's gateway was.
fn two_networks(over_v6: bool, routes: impl Fn(&TwoNetworks) -> Vec<SocketAddr>) -> Result<(Envoy, TwoNetworks)> {
    let scene = TwoNetworks::start_with("envoy", |gateway| if over_v6 { gateway.over_v6() } else { gateway })?;
    scene.gateway.kill();
    let certificate = scene.lab.authority().issue("istio-system", "gateway2")?;
    Ok((gateway(&scene, &certificate, routes(&scene))?, scene))
}

fn gateway(scene: &TwoNetworks, certificate: &Issued, endpoints: Vec<SocketAddr>) -> Result<Envoy> {
    let routes = [(format!("{}:{PORT}", scene.hostname), endpoints)];
    Envoy::server(&scene.lab, scene.gateway.netns(), certificate, &routes)
}

fn endpoints(scene: &TwoNetworks) -> Vec<SocketAddr> {
    vec![scene.server.at(15008), scene.twin.at(15008)]
}

#[test]
fn a_service_of_another_network_is_reached_through_an_envoy_that_sees_nothing_of_the_inner_tunnel() -> Result {
    between_networks(false)
}

#[test]
fn an_envoy_gateway_is_reached_over_ipv6_too() -> Result {
    between_networks(true)
}

fn between_networks(over_v6: bool) -> Result {
    let only_server = |scene: &TwoNetworks| {
        vec![if over_v6 {
            scene.server.at6(15008)
        } else {
            scene.server.at(15008)
        }]
    };
    let (envoy, scene) = two_networks(over_v6, only_server)?;
    let [near, far] = &scene.agents;
    // The gateway's inner address is a workload too. It is not the source, in spite of its address.
    scene.lab.mesh(|mesh| {
        let inner = json!({
            "uid": "inner-address", "name": "inner-address", "namespace": "istio-system", "network": "net2",
            "workloadIps": ["10.2.0.201", "fd00:10:2::201"], "protocol": "TCP", "services": {},
        });
        mesh.workloads.insert("inner-address".to_owned(), inner);
    });
    name_workloads(&scene.lab);
    scene.lab.publish()?;
    let _echo = scene.server.echo(PORT)?;
    let (from_near, from_far) = (near.log().mark(), far.log().mark());
    let [v4, v6] = scene.vips();
    let vip = if over_v6 { v6 } else { v4 };
    let mut stream = scene.client.connect(SocketAddr::new(vip, PORT))?;
    let client = stream.local_addr()?;
    roundtrip(&mut stream, b"across")?;
    drop(stream);
    let outbound = near.wait_access(from_near, "outbound", |_| true)?;
    assert_eq!(field(&outbound, "dst.identity"), scene.server.identity());
    assert_eq!(field(&outbound, "dst.hbone_addr"), scene.gateway.at().to_string());
    assert_eq!(field(&outbound, "dst.service"), scene.hostname);
    let inbound = far.wait_access(from_far, "inbound", |_| true)?;
    assert_eq!(field(&inbound, "src.identity"), scene.client.identity());
    assert_eq!(
        field(&inbound, "src.workload"),
        "client",
        "told by x-forwarded-network and baggage: {inbound}"
    );
    assert_eq!(field(&inbound, "dst.service"), scene.hostname);
    let outer = said(envoy.log(), |line| field(line, "method") == "CONNECT")?;
    assert_eq!(field(&outer, "authority"), format!("{}:{PORT}", scene.hostname));
    assert_eq!(field(&outer, "peer"), scene.client.identity());
    assert_eq!(field(&outer, "network"), "", "only the inner CONNECT tells the network");
    let forwarded = field(&outer, "forwarded");
    assert_eq!(forwarded, format!("for=\"{client}\";host={}", scene.hostname));

    // The control: the same Envoy's namespace, one tunnel, no header.
    let from_far = far.log().mark();
    let (certificate, listen) = (
        scene.lab.authority().issue("demo", "direct")?,
        SocketAddr::from((Ipv4Addr::LOCALHOST, 7000)),
    );
    let tunnel = Tunnel {
        certificate: &certificate,
        expected: &scene.server.identity(),
        peer: scene.server.at(15008),
        authority: &scene.server.at(PORT).to_string(),
    };
    let _direct = Envoy::client(&scene.lab, scene.gateway.netns(), listen, &tunnel)?;
    roundtrip(&mut connect(scene.gateway.netns(), listen)?, b"direct")?;
    let inbound = far.wait_access(from_far, "inbound", |_| true)?;
    assert_eq!(field(&inbound, "src.workload"), "inner-address");
    Ok(())
}

#[test]
fn everything_sent_through_an_envoy_gateway_arrives_and_half_close_is_kept() -> Result {
    let (_envoy, scene) = two_networks(false, endpoints)?;
    let (near, far) = ends(&[&scene.server, &scene.twin], || scene.client.connect(scene.at(PORT)))?;
    carries_everything(near, far)
}

#[test]
fn a_server_may_end_first_and_what_the_client_says_last_still_passes_an_envoy_gateway() -> Result {
    let (_envoy, scene) = two_networks(false, endpoints)?;
    for _ in 0..20 {
        let (mut near, mut far) = ends(&[&scene.server, &scene.twin], || scene.client.connect(scene.at(PORT)))?;
        far.write_all(b"greeting")?;
        far.shutdown(Shutdown::Write)?;
        let (mut greeting, mut last) = (Vec::new(), Vec::new());
        near.read_to_end(&mut greeting)?;
        assert_eq!(greeting, b"greeting");
        near.write_all(b"and a late question")?;
        drop(near);
        far.read_to_end(&mut last)?;
        assert_eq!(last, b"and a late question");
    }
    Ok(())
}

#[test]
fn an_envoy_gateway_spreads_the_streams_of_one_tunnel_over_the_endpoints() -> Result {
    let (envoy, scene) = two_networks(false, endpoints)?;
    let echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let mut streams = open(40, || scene.client.connect(scene.at(PORT)))?;
    assert_eq!((envoy.tunnels_taken()?, envoy.streams_taken()?), (1, 40));
    let counts = echoes.each_ref().map(accepted);
    assert_eq!(counts.iter().sum::<usize>(), 40);
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
    streams
        .iter_mut()
        .try_for_each(|stream| roundtrip(stream, b"all at once"))
}

#[test]
fn when_an_envoy_gateway_or_the_pod_behind_it_dies_the_client_sees_a_reset() -> Result {
    let (mut envoy, scene) = two_networks(false, endpoints)?;
    let [_, far] = &scene.agents;
    let to = || scene.client.connect(scene.at(PORT));
    let pods = [&scene.server, &scene.twin];
    let (mut near, server) = ends(&pods, to)?;
    near.write_all(b"in the middle of")?;
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    ends_in_reset(near)?;
    let (near, server) = ends(&pods, to)?;
    envoy.kill();
    ends_in_reset(near)?;
    drop(server);
    let certificate = scene.lab.authority().issue("istio-system", "gateway2")?;
    let _again = gateway(&scene, &certificate, endpoints(&scene))?;
    let (near, _server) = ends(&pods, to)?;
    far.kill()?;
    ends_in_reset(near)
}

#[test]
fn a_pod_trusts_no_envoy_gateway_of_another_identity_and_no_pod_it_was_led_to_wrongly() -> Result {
    let (right, scene) = two_networks(false, endpoints)?;
    let [near, _] = &scene.agents;
    let other = scene.server.node()?.pod("other").start()?;
    scene.lab.publish()?;
    other.enrol()?;
    let echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?, other.echo(PORT)?];
    roundtrip(&mut scene.client.connect(scene.at(PORT))?, b"the control")?;
    assert_eq!(echoes.each_ref().map(accepted).iter().sum::<usize>(), 1);
    drop(right);
    let authority = scene.lab.authority();
    let mark = near.log().mark();
    let wrong = gateway(&scene, &authority.issue("istio-system", "somebody")?, endpoints(&scene))?;
    is_refused(scene.client.connect(scene.at(PORT)));
    near.wait_log(mark, |line| line.to_string().contains("sa/somebody"))?;
    assert_eq!(wrong.stat("http.hbone.downstream_rq_total")?, 0);
    drop(wrong);
    let mark = near.log().mark();
    let astray = gateway(
        &scene,
        &authority.issue("istio-system", "gateway2")?,
        vec![other.at(15008)],
    )?;
    is_refused(scene.client.connect(scene.at(PORT)));
    near.wait_log(mark, |line| line.to_string().contains("sa/other"))?;
    assert!(astray.stat("http.hbone.downstream_rq_total")? > 0);
    echoes
        .iter()
        .try_for_each(|echo| echo.must_not_accept(Duration::from_millis(50)))
}
