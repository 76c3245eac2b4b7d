//! An agent is replaced by another one, as in a rolling update of the DaemonSet: no connect fails for it, and what is open
//! has time to end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use isthmus_tests::{
    Agent, Because as _, Pod, Result, agent::AgentOptions, log::message, roundtrip, scene::OneNetwork, within,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(20);
/// How often both agents are replaced.
const ROUNDS: usize = 3;
/// Longer than the test waits for anything else.
const DRAIN: Duration = Duration::from_secs(30);

fn scene(title: &str) -> Result<OneNetwork> {
    let scene = OneNetwork::made_by(title, |_| {
        Ok(AgentOptions {
            drain_deadline: DRAIN,
            ..AgentOptions::default()
        })
    })?;
    for pod in [&scene.client, &scene.neighbour, &scene.server] {
        pod.enrol()?;
    }
    Ok(scene)
}

/// Replaces an agent while a connection is open, which the old one carries to its end.
fn upgrade(agent: &Agent, client: &Pod, to: SocketAddr) -> Result {
    let mut open = client.connect(to)?;
    roundtrip(&mut open, b"before")?;
    let mark = agent.log().mark();
    let mut old = agent.succeeded(&[])?;
    agent.wait_log(mark, |line| message(line).contains("took over from the agent before"))?;
    // The DaemonSet ends the old one as soon as the other is ready.
    old.signal(Signal::SIGTERM)?;
    roundtrip(&mut open, b"meanwhile")?;
    roundtrip(&mut client.connect(to)?, b"a new one")?;
    assert!(old.runs(), "it has an open connection");
    drop(open);
    let status = old.wait(SOON).because("nothing is open any more")?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn under_a_thousand_connects_a_second_not_one_fails() -> Result {
    let scene = scene("upgrade")?;
    let (client, server) = (&scene.client, &scene.server);
    let echo = server.peer(&["echo", &format!("[::]:{PORT}")])?;
    echo.output()
        .wait_from(0, SOON, |line| line.get("listening").is_some())?;
    let to = server.at(PORT);
    let mut churn = client.peer(&["churn", &to.to_string(), "--parallel", "32", "--pause-ms", "10"])?;
    churn.output().wait_from(0, SOON, |line| line.get("well").is_some())?;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        for agent in &scene.agents {
            upgrade(agent, client, to)?;
        }
    }
    churn.close_input();
    let report = churn.report(SOON)?;
    let rate = number(&report, "done") / began.elapsed().as_secs_f64();
    println!("{report}, {rate:.0}/s");
    let failed = [number(&report, "broken"), number(&report, "unconnected")];
    assert_eq!(failed, [0.0, 0.0], "{report}");
    assert!(rate > 100.0, "hardly any connections: {rate}/s, {report}");
    // What is brought in now is the successor's.
    scene.neighbour.release()?;
    scene.neighbour.enrol()?;
    roundtrip(&mut scene.neighbour.connect(to)?, b"enrolled by the successor")
}

#[test]
fn a_successor_that_cannot_serve_takes_nothing() -> Result {
    let scene = scene("upgrade fails")?;
    let (client, server) = (&scene.client, &scene.server);
    let _echo = server.echo(PORT)?;
    let mut open = client.connect(server.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    let [near, _] = &scene.agents;
    let before = near.status()?.worker_pid;
    let mut second = near.second(&["--node-netns", "/nonexistent"])?;
    assert!(!second.wait(SOON)?.success());
    roundtrip(&mut open, b"after")?;
    roundtrip(&mut client.connect(server.at(PORT))?, b"a new one")?;
    assert_eq!(near.status()?.worker_pid, before);
    Ok(())
}

#[test]
fn who_was_succeeded_stays_until_it_is_told_to_end_and_takes_nothing_back() -> Result {
    let scene = scene("upgrade rests")?;
    let (client, server) = (&scene.client, &scene.server);
    let _echo = server.echo(PORT)?;
    let [near, _] = &scene.agents;
    let mark = near.log().mark();
    let mut old = near.succeeded(&[])?;
    let serving = near.status()?.worker_pid;
    near.wait_log(mark, |line| message(line).contains("waiting to be ended"))?;
    assert!(old.runs(), "a container that ends is started again");
    roundtrip(&mut client.connect(server.at(PORT))?, b"hello")?;
    assert_eq!(near.status()?.worker_pid, serving);
    old.signal(Signal::SIGTERM)?;
    assert!(old.wait(SOON)?.success());
    // And the successor can be succeeded.
    let mut successor = near.succeeded(&[])?;
    within(SOON, "a connection after the second upgrade", || {
        roundtrip(&mut client.connect(server.at(PORT)).ok()?, b"hello").ok()
    })?;
    successor.signal(Signal::SIGTERM)?;
    assert!(successor.wait(SOON)?.success());
    Ok(())
}

fn number(report: &Value, name: &str) -> f64 {
    report.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
}
