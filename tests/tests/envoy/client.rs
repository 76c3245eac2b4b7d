//! Envoy dials an enrolled pod.

use std::{
    io::Read as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    time::Duration,
};

use isthmus_tests::{
    Because as _, Result,
    authority::{Authority, Issued},
    log::field,
    roundtrip,
};
use socket2::SockRef;

use super::{PORT, Scene, accepted, carries_everything, connect, ends, ends_in_reset, is_refused, open, said};

const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

#[test]
fn an_enrolled_pod_serves_envoy_and_knows_who_it_is() -> Result {
    let scene = Scene::start()?;
    let certificate = scene.certificate()?;
    let echo = scene.pod.echo(PORT)?;
    for (local, target) in LOCAL.into_iter().zip([scene.pod.at(PORT), scene.pod.at6(PORT)]) {
        let mark = scene.agent.log().mark();
        let listen = SocketAddr::new(local, 7000);
        let envoy = scene.client(listen, target, &certificate)?;
        let mut stream = connect(scene.envoy.netns(), listen)?;
        roundtrip(&mut stream, b"from Envoy")?;
        let own = if target.is_ipv4() {
            scene.envoy.ip()
        } else {
            scene.envoy.ip6()
        };
        assert_eq!(echo.peer()?.ip(), own, "the application sees where it came from");
        drop(stream);
        let line = scene.agent.wait_access(mark, "inbound", |_| true)?;
        assert_eq!(field(&line, "src.identity"), scene.envoy.identity());
        assert_eq!(field(&line, "src.workload"), "envoy");
        assert_eq!(field(&line, "dst.addr"), target.to_string());
        let line = said(envoy.log(), |line| line["authority"] == target.to_string())?;
        assert_eq!(line["peer"], scene.pod.identity());
    }
    Ok(())
}

#[test]
fn everything_envoy_sends_to_an_enrolled_pod_arrives_and_half_close_is_kept() -> Result {
    let scene = Scene::start()?;
    let certificate = scene.certificate()?;
    for (local, target) in LOCAL.into_iter().zip([scene.pod.at(PORT), scene.pod.at6(PORT)]) {
        let listen = SocketAddr::new(local, 7000);
        let _envoy = scene.client(listen, target, &certificate)?;
        let (near, far) = ends(&[&scene.pod], || connect(scene.envoy.netns(), listen))?;
        carries_everything(near, far)?;
    }
    Ok(())
}

#[test]
fn a_pod_serves_fifty_streams_of_one_tunnel_of_envoys_and_resets_only_the_one_that_broke() -> Result {
    let scene = Scene::start()?;
    let listen = SocketAddr::new(LOCAL[0], 7000);
    let envoy = scene.client(listen, scene.pod.at(PORT), &scene.certificate()?)?;
    let echo = scene.pod.echo(PORT)?;
    let mut streams = open(50, || connect(scene.envoy.netns(), listen))?;
    assert_eq!(envoy.stat("cluster.pod.upstream_cx_total")?, 1);
    assert_eq!(envoy.stat("cluster.pod.upstream_rq_active")?, 50);
    assert_eq!(accepted(&echo), 50);
    drop(echo);
    let (near, far) = ends(&[&scene.pod], || connect(scene.envoy.netns(), listen))?;
    SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
    drop(far);
    ends_in_reset(near).because("Envoy tells its application only of some codes of RST_STREAM")?;
    assert_eq!(envoy.stat("cluster.pod.upstream_rq_rx_reset")?, 1);
    assert_eq!(envoy.stat("cluster.pod.upstream_cx_total")?, 1);
    let mut last = streams.pop().because("fifty streams")?;
    last.shutdown(Shutdown::Write)?;
    // The echo server ended all its connections in order.
    assert_eq!(last.read(&mut [0; 16])?, 0);
    Ok(())
}

#[test]
fn a_pod_refuses_an_envoy_without_a_good_certificate() -> Result {
    let scene = Scene::start()?;
    let echo = scene.pod.echo(PORT)?;
    let listen = SocketAddr::new(LOCAL[0], 7000);
    let good = scene.certificate()?;
    let other = Authority::create(scene.lab.binary(), &scene.lab.dir().join("other-ca"))?;
    let trusting_ours = |issued: Issued| Issued {
        root: good.root.clone(),
        ..issued
    };
    let past = [
        "--not-before",
        "2020-01-01T00:00:00Z",
        "--not-after",
        "2020-01-02T00:00:00Z",
    ];
    let own = scene.lab.authority();
    let elsewhere = own.issue_for("spiffe://elsewhere.test/ns/demo/sa/envoy", &[])?;
    let cases = [
        (elsewhere, "elsewhere.test"),
        (trusting_ours(other.issue("demo", "envoy")?), "not trusted"),
        (own.issue_for(&scene.envoy.identity(), &past)?, "expired"),
    ];
    let control = scene.client(listen, scene.pod.at(PORT), &good)?;
    roundtrip(&mut connect(scene.envoy.netns(), listen)?, b"the control")?;
    echo.peer()?;
    drop(control);
    for (certificate, word) in cases {
        let mark = scene.agent.log().mark();
        let _envoy = scene.client(listen, scene.pod.at(PORT), &certificate)?;
        is_refused(connect(scene.envoy.netns(), listen));
        let told = scene.agent.wait_log(mark, |line| line.to_string().contains(word));
        told.because(format!("looking for {word:?} in the log"))?;
    }
    echo.must_not_accept(Duration::from_millis(50))
}
