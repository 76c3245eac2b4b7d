//! An enrolled pod dials Envoy.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::Duration,
};

use isthmus_tests::{Failure, Result, envoy::SERVER_STREAMS, log::field, roundtrip};
use serde_json::json;
use socket2::SockRef;

use super::{BULK, OTHER, PORT, Scene, carries_everything, ends, ends_in_reset, is_refused, open, said};

#[test]
fn envoy_serves_an_enrolled_pod_and_each_knows_the_other() -> Result {
    let scene = Scene::start()?;
    let envoy = scene.server(&scene.certificate()?)?;
    let _echo = scene.envoy.echo(PORT)?;
    for target in [scene.envoy.at(PORT), scene.envoy.at6(PORT)] {
        let mark = scene.agent.log().mark();
        let mut stream = scene.pod.connect(target)?;
        let client = stream.local_addr()?;
        roundtrip(&mut stream, b"to Envoy")?;
        drop(stream);
        let line = scene.agent.wait_access(mark, "outbound", |_| true)?;
        assert_eq!(field(&line, "dst.identity"), scene.envoy.identity());
        assert_eq!(
            field(&line, "dst.hbone_addr"),
            SocketAddr::new(target.ip(), 15008).to_string()
        );
        assert_eq!(field(&line, "error"), "");
        let line = said(envoy.log(), |line| line["authority"] == target.to_string())?;
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (text("peer"), text("method")),
            (scene.pod.identity(), "CONNECT".to_owned())
        );
        assert_eq!(
            (&line["path"], &line["server_name"], &line["network"]),
            (&json!(null), &json!(null), &json!(null))
        );
        assert_eq!((&line["status"], text("tls")), (&json!(200), "TLSv1.3".to_owned()));
        assert_eq!(text("forwarded"), format!("for=\"{client}\""));
        let baggage = text("baggage");
        assert_eq!(
            baggage,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.pod.name=pod"
        );
        let trace = text("traceparent");
        assert!(
            trace.len() == 55 && trace.starts_with("00-") && trace.ends_with("-00"),
            "{trace}"
        );
    }
    Ok(())
}

#[test]
fn everything_a_pod_sends_to_envoy_arrives_and_half_close_is_kept() -> Result {
    let scene = Scene::start()?;
    let envoy = scene.server(&scene.certificate()?)?;
    for target in [scene.envoy.at(PORT), scene.envoy.at6(PORT)] {
        let (near, far) = ends(&[&scene.envoy], || scene.pod.connect(target))?;
        carries_everything(near, far)?;
    }
    assert_eq!(envoy.tunnels_taken()?, 2, "one tunnel to each address");
    Ok(())
}

/// Envoy ends a CONNECT as soon as the server has ended: what it has not sent by then it gives up with a reset.
#[test]
fn what_a_server_behind_envoy_said_before_it_closed_arrives_and_is_never_cut_short_unseen() -> Result {
    let scene = Scene::start()?;
    let _envoy = scene.server(&scene.certificate()?)?;
    for length in [1, 1 << 10, 64 << 10, 1 << 20, BULK].into_iter().cycle().take(40) {
        let (mut near, mut far) = ends(&[&scene.envoy], || scene.pod.connect(scene.envoy.at(PORT)))?;
        near.write_all(b"question")?;
        let answering = thread::spawn(move || {
            far.read_exact(&mut [0; 8])?;
            far.write_all(&vec![7; length])
        });
        let mut all = Vec::new();
        match near.read_to_end(&mut all) {
            Ok(arrived) => assert_eq!(arrived, length, "cut short with an end that looks clean"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                assert_eq!(length, BULK, "{} bytes arrived", all.len());
            }
        }
        drop(near);
        // It fails when the rest was given up.
        let _given_up = answering.join().map_err(|_| Failure::new("the server panicked"))?;
    }
    Ok(())
}

#[test]
fn fifty_streams_share_a_tunnel_to_envoy_and_more_than_it_allows_take_another() -> Result {
    let scene = Scene::start()?;
    let envoy = scene.server(&scene.certificate()?)?;
    let _echo = scene.envoy.echo(PORT)?;
    let connect = || scene.pod.connect(scene.envoy.at(PORT));
    let mut streams = open(50, connect)?;
    assert_eq!((envoy.tunnels_taken()?, envoy.streams_taken()?), (1, 50));
    streams.extend(open(SERVER_STREAMS, connect)?);
    assert_eq!(
        (envoy.tunnels_taken()?, envoy.streams_taken()?),
        (2, 50 + SERVER_STREAMS as u64)
    );
    streams
        .iter_mut()
        .try_for_each(|stream| roundtrip(stream, b"all at once"))
}

#[test]
fn when_envoy_or_the_application_behind_it_dies_the_client_sees_a_reset() -> Result {
    let scene = Scene::start()?;
    let mut envoy = scene.server(&scene.certificate()?)?;
    let to = || scene.pod.connect(scene.envoy.at(PORT));
    let (mut near, far) = ends(&[&scene.envoy], to)?;
    let (mut other, mut others) = ends(&[&scene.envoy], to)?;
    for stream in [&mut near, &mut other] {
        stream.write_all(b"in the middle of")?;
    }
    SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
    drop(far);
    ends_in_reset(near)?;
    others.read_exact(&mut [0; 16])?;
    envoy.kill();
    ends_in_reset(other)
}

#[test]
fn a_pod_does_not_speak_to_an_envoy_of_another_identity_and_takes_its_refusals_for_refusals() -> Result {
    let scene = Scene::start()?;
    let echo = scene.envoy.echo(PORT)?;
    let control = scene.server(&scene.certificate()?)?;
    let mark = scene.agent.log().mark();
    roundtrip(&mut scene.pod.connect(scene.envoy.at(PORT))?, b"the control")?;
    echo.peer()?;
    // Nobody listens on one of the two ports, and Envoy has no route for the other.
    for (port, status) in [(OTHER, "503"), (OTHER + 1, "404")] {
        is_refused(scene.pod.connect(scene.envoy.at(port)));
        let line = scene.agent.wait_access(mark, "outbound", |line| {
            field(line, "dst.addr") == scene.envoy.at(port).to_string()
        })?;
        assert!(field(&line, "error").contains(status), "{line}");
    }
    drop(control);
    let mark = scene.agent.log().mark();
    let wrong = scene.server(&scene.lab.authority().issue("demo", "somebody")?)?;
    is_refused(scene.pod.connect(scene.envoy.at(PORT)));
    scene
        .agent
        .wait_log(mark, |line| line.to_string().contains("sa/somebody"))?;
    assert_eq!(wrong.stat("http.hbone.downstream_rq_total")?, 0);
    echo.must_not_accept(Duration::from_millis(50))
}
