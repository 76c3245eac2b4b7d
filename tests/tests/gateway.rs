//! Between networks: double HBONE through an east-west gateway.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use isthmus_tests::{
    Capture, Result, forger::Forger, log::field, must_be_reset, roundtrip, scene::TwoNetworks, within,
};
use nix::sys::signal::Signal;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_service_of_another_network_is_reached_and_both_agents_know_with_whom_they_speak() -> Result {
    reached(&TwoNetworks::start("gateway")?)
}

#[test]
fn a_gateway_is_reached_over_ipv6_too() -> Result {
    let scene = TwoNetworks::start_with("gateway", |gateway| gateway.over_v6())?;
    assert!(scene.gateway.outer().is_ipv6());
    reached(&scene)
}

fn reached(scene: &TwoNetworks) -> Result {
    let [near, far] = &scene.agents;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let capture = Capture::start(scene.lab.internet())?;
    for mark in [b"the secret".as_slice(), b"fence"] {
        capture.listen_for(mark);
    }
    for ip in scene.vips() {
        let (from_near, from_far) = (near.log().mark(), far.log().mark());
        let mut stream = scene.client.connect(SocketAddr::new(ip, PORT))?;
        assert_eq!(stream.peer_addr()?.ip(), ip);
        roundtrip(&mut stream, b"the secret")?;
        drop(stream);
        let inbound = far.wait_access(from_far, "inbound", |_| true)?;
        assert_eq!(field(&inbound, "src.identity"), scene.client.identity());
        let outbound = near.wait_access(from_near, "outbound", |_| true)?;
        assert_eq!(field(&outbound, "dst.identity"), scene.server.identity());
        assert_eq!(field(&outbound, "dst.hbone_addr"), scene.gateway.at().to_string());
    }
    scene.client.fence(scene.gateway.outer(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    assert!(!capture.saw(b"the secret"));
    assert!(!capture.syns_to(scene.gateway.outer(), 15008).is_empty());
    Ok(())
}

#[test]
fn streams_of_one_tunnel_are_spread_over_the_endpoints() -> Result {
    let scene = TwoNetworks::start("gateway")?;
    let echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let capture = Capture::start(scene.gateway.netns())?;
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut stream = scene.client.connect(scene.at(PORT))?;
        roundtrip(&mut stream, b"hello")?;
        open.push(stream);
    }
    let outer = scene.gateway.outer();
    let tunnels = capture.syns_to(outer, 15008).len();
    assert_eq!(tunnels, 1, "all 40 streams share the tunnel to the gateway");
    let count = |echo: &isthmus_tests::Echo| {
        std::iter::from_fn(|| echo.must_not_accept(Duration::from_millis(20)).err()).count()
    };
    let counts = echoes.each_ref().map(count);
    assert_eq!(counts.iter().sum::<usize>(), 40);
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
    open.iter_mut().try_for_each(|stream| roundtrip(stream, b"all at once"))
}

#[test]
fn a_gateway_refuses_what_is_not_in_its_network() -> Result {
    let scene = TwoNetworks::start("gateway")?;
    let [net1, net2] = &scene.networks;
    let node3 = net1.node("node3")?;
    let elsewhere = node3.pod("elsewhere").start()?;
    let local = scene
        .lab
        .service("local")
        .vip("net2", net2.vip(30))
        .port(80, PORT)
        .endpoint(&elsewhere)
        .add();
    scene.lab.publish()?;
    let stranger = net1.host("stranger")?;
    let good = scene.lab.authority().issue("demo", "client")?;
    let _echo = scene.server.echo(PORT)?;
    let capture = Capture::start(net2.wire())?;
    capture.listen_for(b"fence");
    let ask = |authority: &str| -> Result<String> {
        let forger = Forger::client(scene.gateway.at())
            .certificate(&good)
            .believing(&good)
            .connect(authority);
        Ok(forger.run(&stranger)?.status("only"))
    };
    let mut status = String::new();
    within(SOON, "the gateway knows the new service and refuses it", || {
        status = ask(&format!("{local}:80")).ok()?;
        (status == "503" || status == "404").then_some(())
    })?;
    for authority in [
        "nobody.demo.svc.cluster.local:80",
        &format!("{}:81", scene.hostname),
        &scene.server.at(PORT).to_string(),
        &scene.server.at6(15008).to_string(),
        "127.0.0.1:22",
        "no authority",
    ] {
        let status = ask(authority)?;
        // "no authority" is none that HTTP/2 itself would carry: PROTOCOL_ERROR.
        assert!(
            status.starts_with(['4', '5']) || status == "reset 1",
            "{authority}: {status:?}"
        );
    }
    isthmus_tests::pod::connect_from(scene.gateway.netns(), scene.server.at(PORT), SOON)?;
    within(SOON, "the capture hears the gateway", || {
        (!capture.syns_to(scene.server.ip(), PORT).is_empty()).then_some(())
    })?;
    for ip in [scene.server.ip(), scene.server.ip6(), scene.twin.ip()] {
        assert_eq!(capture.syns_to(ip, 15008), [], "it dialled nobody");
    }
    assert_eq!(ask(&format!("{}:{PORT}", scene.hostname))?, "200", "the control");
    Ok(())
}

/// The application's next read fails with a reset; a clean end would look like all data had come.
fn ends_in_reset(stream: &TcpStream) -> Result {
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    must_be_reset(stream);
    Ok(())
}

#[test]
fn when_the_gateway_dies_the_client_sees_a_reset() -> Result {
    let scene = TwoNetworks::start("gateway")?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let mut stream = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut stream, b"in the middle of")?;
    scene.gateway.kill();
    ends_in_reset(&stream)?;
    scene.gateway.restart()?;
    roundtrip(&mut scene.client.connect(scene.at(PORT))?, b"and again")
}

#[test]
fn when_the_far_agent_dies_the_client_sees_a_reset() -> Result {
    let scene = TwoNetworks::start("gateway")?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let [_, far] = &scene.agents;
    let mut stream = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut stream, b"in the middle of")?;
    far.kill()?;
    ends_in_reset(&stream)
}

#[test]
fn a_gateway_told_to_end_lets_streams_finish_and_takes_no_new_ones() -> Result {
    let scene = TwoNetworks::start_with("gateway", |gateway| gateway.drain_deadline(Duration::from_secs(20)))?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let mut stream = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut stream, b"before")?;
    scene.gateway.signal(Signal::SIGTERM)?;
    within(SOON, "the gateway takes no new connections", || {
        scene
            .client
            .connect(scene.at(PORT))
            .and_then(|mut late| roundtrip(&mut late, b"new"))
            .err()
    })?;
    roundtrip(&mut stream, b"drained, not cut")?;
    drop(stream);
    scene.gateway.wait(Duration::from_secs(10))?;
    Ok(())
}

#[test]
fn a_gateway_past_its_drain_deadline_resets_what_is_left() -> Result {
    let scene = TwoNetworks::start("gateway")?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let mut stream = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut stream, b"before")?;
    scene.gateway.signal(Signal::SIGTERM)?;
    scene.gateway.wait(Duration::from_secs(10))?;
    ends_in_reset(&stream)
}
