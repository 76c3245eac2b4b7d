//! Many connections at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use isthmus_tests::{Lab, Pod, Process, Result, agent::AgentOptions, roundtrip, scene::OneNetwork, within};
use serde_json::Value;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
const BOUND: Duration = Duration::from_secs(90);
const MANY: usize = 5_000;

/// These promises are about time and files, so one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(pod: &Pod) -> Result<Process> {
    let server = pod.peer(&["echo", &format!("[::]:{PORT}")])?;
    server
        .output()
        .wait_from(0, SOON, |line| line.get("listening").is_some())?;
    Ok(server)
}

/// Opens `count` connections and leaves them open.
fn hold(pod: &Pod, to: &Pod, count: usize) -> Result<(Process, Value)> {
    let hold = pod.peer(&["hold", &to.at(PORT).to_string(), "--count", &count.to_string()])?;
    let mut failed = None;
    let held = hold.output().wait_from(0, BOUND, |line| line["held"] == count);
    if held.is_err() {
        failed = hold.errors().all_from(0, |_| true).pop();
    }
    assert_eq!(failed, None, "holding {count} connections");
    Ok((hold, held?))
}

#[test]
fn five_thousand_connections_live_at_once_in_one_pod() -> Result {
    let _alone = alone();
    let scene = OneNetwork::start("load")?;
    let [near, far] = &scene.agents;
    let _server = serve(&scene.server)?;
    let (mut hold, held) = hold(&scene.client, &scene.server, MANY)?;
    for agent in [near, far] {
        let status = agent.status()?;
        assert!(status.connections >= MANY, "{}", status.connections);
    }
    let tunnels = near.status()?.tunnels;
    assert!(tunnels < MANY / 20, "they share tunnels: {tunnels}");
    hold.close_input();
    let report = hold.report(BOUND)?;
    assert_eq!(report["alive"], MANY, "{report}, {held}");
    within(SOON, "all of them are forgotten", || {
        near.status().ok().filter(|status| status.connections == 0)
    })?;
    Ok(())
}

#[test]
fn with_five_thousand_plaintext_connections_open_no_connect_takes_a_second_for_a_minute() -> Result {
    let _alone = alone();
    let scene = OneNetwork::start("load")?;
    let _server = serve(&scene.server)?;
    let (mut hold, held) = hold(&scene.outside, &scene.server, MANY)?;
    let to = scene.server.at(PORT).to_string();
    let mut churns = Vec::new();
    for from in [&scene.outside, &scene.plain] {
        churns.push(from.peer(&["churn", &to, "--seconds", "60", "--parallel", "8", "--pause-ms", "25"])?);
    }
    for churn in &mut churns {
        let report = churn.report(BOUND)?;
        assert!(report["done"].as_u64() > Some(1_000), "{report}");
        assert_eq!(
            (&report["unconnected"], &report["broken"]),
            (&0.into(), &0.into()),
            "{report}"
        );
        assert!(report["longest_ms"].as_f64() < Some(1_000.0), "{report}");
    }
    assert!(held["longest_ms"].as_f64() < Some(1_000.0), "{held}");
    hold.close_input();
    assert_eq!(hold.report(BOUND)?["alive"], MANY);
    Ok(())
}

#[test]
fn a_hundred_pods_are_enrolled_one_after_the_other() -> Result {
    let _alone = alone();
    let lab = Lab::new("load")?;
    let node = lab.network("net1")?.node("node1")?;
    let pods = (0..100)
        .map(|n| node.pod(&format!("pod{n}")).start())
        .collect::<Result<Vec<_>>>()?;
    let agent = node.agent()?;
    let mut took = Vec::new();
    for pod in &pods {
        let begin = Instant::now();
        pod.enrol()?;
        took.push(begin.elapsed());
    }
    assert_eq!(agent.status()?.pods.len(), 100);
    took.sort_unstable();
    let (p50, p99) = (took[50], took[98]);
    // A figure and no assertion: what else the machine does is in it.
    println!("enrolling one pod of a hundred: p50 {p50:?}, p99 {p99:?}");
    Ok(())
}

#[test]
fn above_the_limit_of_open_files_the_log_says_so_and_below_it_all_goes_on() -> Result {
    let _alone = alone();
    let options = AgentOptions {
        open_files: Some(400),
        ..AgentOptions::default()
    };
    let scene = OneNetwork::start_with("load", &options)?;
    let [near, _] = &scene.agents;
    let _server = serve(&scene.server)?;
    let echo = scene.server.echo(PORT + 1)?;
    let mark = near.log().mark();
    let (hold, _) = hold(&scene.client, &scene.server, 20)?;
    let worker = near.status()?.worker_pid;
    let mut more = scene
        .client
        .peer(&["hold", &scene.server.at(PORT).to_string(), "--count", "1000"])?;
    let ended = more.finish(BOUND)?;
    assert!(
        !ended.status.success(),
        "a thousand connections cannot be served: {}",
        ended.output
    );
    let line = near.wait_log(mark, |line| {
        let text = line.to_string().to_lowercase();
        text.contains("rlimit_nofile") || text.contains("open files") || text.contains("descriptor")
    })?;
    assert!(line.to_string().len() < 2_000, "{line}");
    drop(hold);
    within(SOON, "new connections are served again", || {
        roundtrip(&mut scene.client.connect(scene.server.at(PORT + 1)).ok()?, b"again").ok()
    })?;
    assert_eq!(near.status()?.worker_pid, worker, "the worker lived on");
    drop(echo);
    Ok(())
}
