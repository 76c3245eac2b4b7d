//! An agent or a gateway that is told to end.

use std::{
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use isthmus_tests::{
    Agent, Result,
    agent::AgentOptions,
    log::{field, message},
    must_be_reset, roundtrip,
    scene::{OneNetwork, TwoNetworks},
    wait::throughout,
    within,
};
use nix::sys::signal::Signal;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
/// A deadline that nobody waits for.
const LONG: Duration = Duration::from_secs(60);
/// How long after its deadline a process may take to have ended.
const AFTER: Duration = Duration::from_secs(3);

fn scene(drain_deadline: Duration) -> Result<OneNetwork> {
    let options = AgentOptions {
        drain_deadline,
        ..AgentOptions::default()
    };
    OneNetwork::start_with("drain", &options)
}

/// Sends SIGTERM and waits until the worker says that it drains.
fn drain(agent: &Agent) -> Result {
    let mark = agent.log().mark();
    agent.signal(Signal::SIGTERM)?;
    agent.wait_log(mark, |line| message(line).starts_with("draining"))?;
    Ok(())
}

#[test]
fn open_connections_finish_and_the_agent_ends_with_the_last_one() -> Result {
    // The server's agent first, which has accepted the tunnel, then the client's, which has dialled it.
    for draining in [1, 0] {
        let scene = scene(LONG)?;
        let agent = &scene.agents[draining];
        let _echo = scene.server.echo(PORT)?;
        let mut streams = Vec::new();
        for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
            let mut stream = scene.client.connect(to)?;
            roundtrip(&mut stream, b"before")?;
            streams.push(stream);
        }
        drain(agent)?;
        for stream in &mut streams {
            roundtrip(stream, &[7; 300_000])?;
        }
        drop(streams.pop());
        throughout(
            Duration::from_millis(500),
            "it goes on while there is a connection",
            || streams.iter_mut().all(|stream| roundtrip(stream, b"still").is_ok()),
        )?;
        drop(streams);
        let status = agent.ended(AFTER)?;
        assert_eq!(status.code(), Some(0), "agent {draining}: {status}");
    }
    Ok(())
}

#[test]
fn an_agent_without_connections_says_goaway_and_ends_at_once() -> Result {
    let scene = scene(LONG)?;
    let [near, far] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let tunnels = |agent: &Agent| agent.status().map(|status| status.tunnels).ok();
    for (ending, other) in [(far, near), (near, far)] {
        let mut stream = scene.client.connect(scene.server.at(PORT))?;
        roundtrip(&mut stream, b"to have a tunnel")?;
        drop(stream);
        within(SOON, "both have a tunnel", || {
            (tunnels(near)? > 0 && tunnels(far)? > 0).then_some(())
        })?;
        ending.signal(Signal::SIGTERM)?;
        assert_eq!(ending.ended(AFTER)?.code(), Some(0));
        within(SOON, "the peer has let go of its tunnels", || {
            (tunnels(other)? == 0).then_some(())
        })?;
        ending.restart()?;
    }
    Ok(())
}

#[test]
fn what_outlives_the_deadline_is_reset_at_both_ends_and_the_agent_has_ended() -> Result {
    let deadline = Duration::from_secs(1);
    for draining in [1, 0] {
        let scene = scene(deadline)?;
        let agent = &scene.agents[draining];
        let listener = scene
            .server
            .netns()
            .enter(|| std::net::TcpListener::bind(("::", PORT)))??;
        let near = scene.client.connect(scene.server.at(PORT))?;
        let (far, _) = listener.accept()?;
        far.set_read_timeout(Some(Duration::from_secs(10)))?;
        let began = Instant::now();
        drain(agent)?;
        must_be_reset(&near);
        must_be_reset(&far);
        let held = began.elapsed();
        assert!(held >= deadline, "reset {held:?} after the signal");
        let left = (deadline + AFTER).saturating_sub(began.elapsed());
        assert_eq!(agent.ended(left)?.code(), Some(0));
    }
    Ok(())
}

#[test]
fn a_connection_of_the_peer_keeps_off_the_old_tunnel_and_opens_a_new_one_to_the_next_agent() -> Result {
    let scene = scene(LONG)?;
    let [near, far] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let mut open = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    drain(far)?;
    // The old tunnel stands, and carries what comes before GOAWAY does.
    let mark = near.log().mark();
    within(SOON, "GOAWAY reaches the peer", || {
        let mut late = scene.client.connect(scene.server.at(PORT)).ok()?;
        roundtrip(&mut late, b"late").is_err().then_some(())
    })?;
    near.wait_access(mark, "outbound", |line| field(line, "error").contains(":15008: "))?;
    roundtrip(&mut open, b"still")?;
    drop(open);
    assert_eq!(far.ended(AFTER)?.code(), Some(0));
    far.restart()?;
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        roundtrip(&mut scene.client.connect(to)?, b"after")?;
    }
    Ok(())
}

#[test]
fn a_second_signal_ends_the_agent_at_once() -> Result {
    let scene = scene(LONG)?;
    let _echo = scene.server.echo(PORT)?;
    let mut open = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    let agent = &scene.agents[0];
    drain(agent)?;
    agent.signal(Signal::SIGTERM)?;
    assert_eq!(agent.ended(Duration::from_secs(2))?.code(), Some(4));
    must_be_reset(&open);
    Ok(())
}

#[test]
fn a_worker_that_does_not_end_is_killed_after_the_deadline_and_its_margin() -> Result {
    const MARGIN: Duration = Duration::from_secs(2);
    let deadline = Duration::from_secs(1);
    let scene = scene(deadline)?;
    let _echo = scene.server.echo(PORT)?;
    let mut open = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    let agent = &scene.agents[0];
    let mark = agent.log().mark();
    let worker = agent.signal_worker(Signal::SIGSTOP)?;
    let began = Instant::now();
    agent.signal(Signal::SIGTERM)?;
    assert_eq!(agent.ended(deadline + MARGIN + Duration::from_secs(2))?.code(), Some(3));
    let took = began.elapsed();
    assert!(took >= deadline + MARGIN, "killed {took:?} after the signal");
    agent.wait_log(mark, |line| message(line).contains("it is killed"))?;
    must_be_reset(&open);
    assert!(
        !std::path::Path::new(&format!("/proc/{worker}")).exists(),
        "the worker is gone"
    );
    // Nothing of this has opened the pod.
    let late = scene
        .client
        .connect_within(scene.server.at(PORT), Duration::from_millis(500));
    late.unwrap_err();
    agent.restart()?;
    roundtrip(&mut scene.client.connect(scene.server.at(PORT))?, b"after")
}

#[test]
fn a_worker_that_is_told_to_end_without_its_parent_drains_and_is_replaced() -> Result {
    let scene = scene(LONG)?;
    let _echo = scene.server.echo(PORT)?;
    let mut open = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    let agent = &scene.agents[0];
    let mark = agent.log().mark();
    let old = agent.signal_worker(Signal::SIGTERM)?;
    agent.wait_log(mark, |line| message(line).starts_with("draining"))?;
    thread::scope(|scope| -> Result {
        let (client, to) = (&scene.client, scene.server.at(PORT));
        let late = scope.spawn(move || roundtrip(&mut client.connect(to)?, b"late"));
        roundtrip(&mut open, b"still")?;
        drop(open);
        let status = within(SOON, "the parent starts another worker", || {
            agent.status().ok().filter(|status| status.worker_pid != old)
        })?;
        assert_eq!(status.worker_restarts, 1);
        late.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[test]
fn a_gateway_drains_as_an_agent_does() -> Result {
    let scene = TwoNetworks::start_with("drain", |gateway| gateway.drain_deadline(LONG))?;
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let mut open = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    let drain = || -> Result {
        let mark = scene.gateway.log().mark();
        scene.gateway.signal(Signal::SIGTERM)?;
        scene
            .gateway
            .log()
            .wait_from(mark, SOON, |line| message(line) == "draining")?;
        Ok(())
    };
    drain()?;
    roundtrip(&mut open, &[7; 300_000])?;
    drop(open);
    assert_eq!(scene.gateway.wait(AFTER)?.code(), Some(0));
    scene.gateway.restart()?;
    let mut open = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut open, b"again")?;
    drain()?;
    scene.gateway.signal(Signal::SIGTERM)?;
    assert_eq!(scene.gateway.wait(Duration::from_secs(2))?.code(), Some(4));
    must_be_reset(&open);
    Ok(())
}
