//! What the agent says of itself: `isthmus status`, the admin port, readiness, metrics. Each test breaks something and
//! sees it reported.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    panic::resume_unwind,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use isthmus_tests::{
    Agent, Because as _, Lab, Netns, Result,
    agent::AgentOptions,
    log::field,
    pod::connect_from,
    roundtrip,
    scene::{OneNetwork, TwoNetworks},
    within,
};
use isthmus_wire::{Direction, MtlsBecause, Tunnel};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
const ADMIN: u16 = 15000;
const STATS: u16 = 15020;
const READINESS: u16 = 15021;

/// An answer: status, head and body.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks one of the agent's ports on its node's loopback.
fn http(netns: &Netns, port: u16, what: &str) -> Result<Answer> {
    let mut stream = asked(netns, SocketAddr::from(([127, 0, 0, 1], port)), what)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = b"\r\n\r\n";
    let head = bytes
        .windows(end.len())
        .position(|window| window == end)
        .because(format!("{what}: an HTTP head in {}", String::from_utf8_lossy(&bytes)))?;
    let status = String::from_utf8_lossy(&bytes).split(' ').nth(1).map(str::parse);
    Ok(Answer {
        status: status.because("a status line")??,
        body: bytes.split_off(head + end.len()),
    })
}

/// A connection on which was asked, and nothing read.
fn asked(netns: &Netns, to: SocketAddr, what: &str) -> Result<TcpStream> {
    let mut stream = connect_from(netns, to, SOON)?;
    stream.write_all(format!("{what} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
    Ok(stream)
}

fn admin(agent: &Agent, what: &str) -> Result<Answer> {
    http(agent.node().netns(), ADMIN, what)
}

fn isthmus_status(lab: &Lab, agent: &Agent, arguments: &[&str]) -> Command {
    let mut command = Command::new(lab.binary());
    command
        .args(["status", "--run-dir"])
        .arg(agent.node().run_dir())
        .args(arguments);
    command
}

fn run_status(lab: &Lab, agent: &Agent, arguments: &[&str]) -> Result<Output> {
    Ok(isthmus_status(lab, agent, arguments).output()?)
}

/// The problems as `isthmus status -o json` tells them, each with its advice.
fn problems(lab: &Lab, agent: &Agent) -> Result<Vec<String>> {
    let output = run_status(lab, agent, &["-o", "json"])?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    let listed = status
        .get("problems")
        .and_then(Value::as_array)
        .because("problems are a list")?;
    let line = |problem: &Value| format!("{} -> {}", field(problem, "what"), field(problem, "advice"));
    Ok(listed.iter().map(line).collect())
}

/// Waits until a problem with all these words is told, and sees it in the text too.
#[track_caller]
fn shows(lab: &Lab, agent: &Agent, words: &[&str]) -> Result {
    let told = |line: &String| words.iter().all(|word| line.contains(word));
    let mut last = Vec::new();
    within(SOON, "the problem is told", || {
        last = problems(lab, agent).ok()?;
        last.iter().any(told).then_some(())
    })
    .because(format!("{words:?} in {last:#?}"))?;
    let text = String::from_utf8(run_status(lab, agent, &[])?.stdout)?;
    assert!(text.starts_with("PROBLEMS\n"), "{text}");
    let first = words.first().copied().unwrap_or_default();
    assert!(text.contains(first), "{first} in {text}");
    Ok(())
}

/// Waits until no problem has this word any more.
#[track_caller]
fn heals(lab: &Lab, agent: &Agent, word: &str) -> Result {
    within(SOON, &format!("no problem tells of {word:?} any more"), || {
        let told = problems(lab, agent).ok()?;
        (!told.iter().any(|line| line.contains(word))).then_some(())
    })
}

/// The tunnel of a pod, in a direction, as `agent` lists it.
fn tunnel(agent: &Agent, pod: &str, direction: Direction) -> Option<Tunnel> {
    let status = agent.status().ok()?;
    let mut found = status.open_tunnels.into_iter();
    found.find(|tunnel| tunnel.pod == pod && tunnel.direction == direction)
}

#[test]
fn pods_and_tunnels_are_told_with_their_peers_while_traffic_flows_and_nothing_is_a_problem() -> Result {
    let scene = OneNetwork::start("status")?;
    let [near, far] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"hello")?;

    let client = scene.client.status()?.because("the client is enrolled")?;
    assert_eq!(client.identity, Some(scene.client.identity()));
    assert_eq!((client.connections_out, client.tunnels_out), (1, 1));
    let certificate = client.certificate.because("it has a certificate")?;
    assert!(
        certificate.remaining_seconds > Some(0) && certificate.failure.is_none(),
        "{certificate:?}"
    );
    let server = scene.server.status()?.because("the server is enrolled")?;
    assert_eq!((server.connections_in, server.tunnels_in), (1, 1));

    let out = tunnel(near, "demo/client", Direction::Outbound).because("the client's tunnel is listed")?;
    assert_eq!(out.peer, scene.server.at(15008));
    assert_eq!((out.peer_identity, out.streams), (scene.server.identity(), 1));
    let accepted = tunnel(far, "demo/server", Direction::Inbound).because("the server's tunnel is listed")?;
    assert_eq!(accepted.peer.ip(), scene.client.ip());
    assert_eq!((accepted.peer_identity, accepted.streams), (scene.client.identity(), 1));

    let status = near.status()?;
    assert!(
        status.descriptors.used > 0 && status.resident_bytes > 1 << 20,
        "{status:?}"
    );
    assert_eq!(status.pending, Vec::<String>::new());
    let text = String::from_utf8(run_status(&scene.lab, near, &[])?.stdout)?;
    assert!(!text.contains("PROBLEMS"), "{text}");
    for word in [
        "demo/client",
        "demo/neighbour",
        &scene.server.identity(),
        "connect_redirected",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    drop(stream);
    within(SOON, "the tunnel stays, without streams", || {
        let out = tunnel(near, "demo/client", Direction::Outbound)?;
        let accepted = tunnel(far, "demo/server", Direction::Inbound)?;
        ((out.streams, accepted.streams) == (0, 0)).then_some(())
    })
}

#[test]
fn a_mesh_file_that_is_gone_or_broken_and_a_pod_it_does_not_know_are_problems_until_mended() -> Result {
    let scene = OneNetwork::start("status")?;
    let (lab, [near, _]) = (&scene.lab, &scene.agents);
    let (path, text) = lab.mesh(|mesh| (mesh.path().to_owned(), mesh.text()));
    fs::remove_file(&path)?;
    shows(
        lab,
        near,
        &["the mesh is not taken", &path.display().to_string(), "serves on"],
    )?;
    lab.mesh(|mesh| mesh.write_text("workloads: 7\n"))?;
    shows(lab, near, &["the mesh is not taken", "mesh.yaml:1", "serves on"])?;
    lab.mesh(|mesh| mesh.write_text(&text))?;
    heals(lab, near, "mesh")?;

    let uid = scene.neighbour.workload_uid();
    let workload = lab
        .mesh(|mesh| mesh.workloads.remove(&uid))
        .because("the neighbour is listed")?;
    lab.publish()?;
    shows(lab, near, &["does not know pod demo/neighbour", "name neighbour"])?;
    lab.mesh(|mesh| mesh.workloads.insert(uid, workload));
    lab.publish()?;
    heals(lab, near, "neighbour")
}

#[test]
fn a_worker_that_was_killed_is_a_problem_with_its_end() -> Result {
    let scene = OneNetwork::start("status")?;
    let (lab, [near, _]) = (&scene.lab, &scene.agents);
    let killed = near.kill_worker()?;
    within(SOON, "another worker serves", || {
        let status = near.status().ok()?;
        (status.worker_pid != killed && status.worker_restarts == 1).then_some(())
    })?;
    shows(lab, near, &["the worker was started again once", "SIGKILL"])
}

#[test]
fn syns_that_found_no_agent_are_a_problem() -> Result {
    let scene = OneNetwork::start("status")?;
    let (lab, [near, _]) = (&scene.lab, &scene.agents);
    heals(lab, near, "no_listener")?;
    near.kill()?;
    let wait = Duration::from_millis(300);
    scene.client.connect_within(scene.server.at(PORT), wait).unwrap_err();
    near.restart()?;
    shows(
        lab,
        near,
        &["SYNs of enrolled pods found no listener", "syn_dropped_no_listener"],
    )
}

#[test]
fn a_gateway_tells_its_state_and_its_readiness_too() -> Result {
    let scene = TwoNetworks::start("status")?;
    let netns = scene.gateway.netns();
    let ready = http(netns, READINESS, "GET /healthz/ready")?;
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
    assert_eq!(http(netns, STATS, "GET /metrics")?.status, 200);
    let _echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let mut stream = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut stream, b"through the gateway")?;
    let state: Value = serde_json::from_slice(&http(netns, ADMIN, "GET /state")?.body)?;
    assert_eq!(state["connections"], 1);
    let tunnel = &state["open_tunnels"][0];
    assert_eq!(field(tunnel, "peer_identity"), scene.client.identity());
    assert_eq!(
        (field(tunnel, "pod"), field(tunnel, "streams")),
        ("gateway".to_owned(), "1".to_owned())
    );
    Ok(())
}

#[test]
fn plaintext_that_policies_refuse_is_a_problem_once_somebody_tried() -> Result {
    let scene = OneNetwork::not_enrolled("status", &AgentOptions::default())?;
    let (lab, [_, far]) = (&scene.lab, &scene.agents);
    scene.server.enrol_with(None)?;
    assert_eq!(scene.server.status()?.map(|pod| pod.mtls_required), Some(false));
    lab.mesh(|mesh| {
        mesh.policy(json!({
            "name": "only-client", "namespace": "demo", "scope": "Namespace", "action": "Allow",
            "rules": [[[{ "principals": [{ "Exact": "cluster.local/ns/demo/sa/client" }] }]]],
        }));
    });
    lab.publish()?;
    within(SOON, "plaintext is refused", || {
        let pod = scene.server.status().ok()??;
        (pod.mtls_required && pod.mtls_because == MtlsBecause::Policies).then_some(())
    })?;
    assert_eq!(problems(lab, far)?, Vec::<String>::new(), "nobody has tried yet");
    scene
        .outside
        .connect_within(scene.server.at(PORT), Duration::from_millis(500))
        .unwrap_err();
    shows(lab, far, &["plaintext SYNs to pod demo/server", "policies"])
}

#[test]
fn descriptors_that_run_out_are_a_problem_while_they_do() -> Result {
    let options = AgentOptions {
        open_files: Some(400),
        ..AgentOptions::default()
    };
    let scene = OneNetwork::start_with("status", &options)?;
    let (lab, [near, _]) = (&scene.lab, &scene.agents);
    let _echo = scene.plain.echo(PORT)?;
    heals(lab, near, "descriptors")?;
    let budget = near.status()?.descriptors;
    // Two each.
    let enough = budget.limit * 85 / 100 / 2;
    let mut open = Vec::new();
    for _ in 0..enough {
        let mut stream = scene.client.connect(scene.plain.at(PORT))?;
        roundtrip(&mut stream, b"x")?;
        open.push(stream);
    }
    shows(lab, near, &["descriptors are taken", "RLIMIT_NOFILE"])?;
    drop(open);
    heals(lab, near, "descriptors")
}

#[test]
fn a_connection_that_policy_denied_is_among_the_last_failures() -> Result {
    let scene = OneNetwork::start("status")?;
    let [_, far] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    scene.lab.mesh(|mesh| {
        mesh.policy(json!({
            "name": "nobody", "namespace": "demo", "scope": "Namespace", "action": "Deny",
            "rules": [[[{ "principals": [{ "Exact": "cluster.local/ns/demo/sa/client" }] }]]],
        }));
    });
    scene.lab.publish()?;
    assert_eq!(far.status()?.failures, []);
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"x").unwrap_err();
    let failure = within(SOON, "the failure is told", || far.status().ok()?.failures.pop())?;
    assert_eq!(
        (failure.pod.as_str(), failure.direction),
        ("demo/server", Direction::Inbound)
    );
    assert!(failure.reason.contains("demo/nobody"), "{failure:?}");
    let text = String::from_utf8(run_status(&scene.lab, far, &[])?.stdout)?;
    assert!(text.contains("FAILED AT") && text.contains("demo/nobody"), "{text}");
    Ok(())
}

#[test]
fn without_an_agent_the_command_fails_with_1_and_says_where_it_looked() -> Result {
    let scene = OneNetwork::not_enrolled("status", &AgentOptions::default())?;
    let [near, _] = &scene.agents;
    assert!(run_status(&scene.lab, near, &[])?.status.success());
    near.stop()?;
    let output = run_status(&scene.lab, near, &[])?;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr)?;
    let socket = near.node().socket().display().to_string();
    assert!(
        said.contains(&socket) && said.contains("is the agent of this node running"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
    Ok(())
}

#[test]
fn watching_goes_on_until_it_is_interrupted_or_nobody_reads() -> Result {
    let scene = OneNetwork::not_enrolled("status", &AgentOptions::default())?;
    let [near, _] = &scene.agents;
    let watch = isthmus_status(&scene.lab, near, &["--watch=1"]);
    let mut watching = scene.lab.start("watch", watch)?;
    let looks = || {
        watching
            .output()
            .all_from(0, |line| line.as_str() == Some("no pods are enrolled"))
            .len()
    };
    within(SOON, "it has looked twice", || (looks() >= 2).then_some(()))?;
    watching.signal(Signal::SIGINT)?;
    assert!(watching.wait(SOON)?.success());
    let mut bash = Command::new("bash");
    let inner = isthmus_status(&scene.lab, near, &["--watch=1", "-o", "json"]);
    bash.args(["-c", "set -o pipefail; \"$@\" | head -n 1", "bash"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let mut piped = scene.lab.start("piped", bash)?;
    assert!(
        piped.wait(SOON)?.success(),
        "{:?}",
        fs::read_to_string(piped.errors().path())
    );
    Ok(())
}

#[test]
fn the_admin_port_tells_the_state_and_changes_nothing_but_the_log() -> Result {
    let scene = OneNetwork::start("status")?;
    let [near, _] = &scene.agents;
    let answer = admin(near, "GET /state")?;
    assert_eq!(answer.status, 200);
    let state: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(state["node"], "node1");
    assert_eq!(state["pods"].as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(admin(near, "POST /quitquitquit")?.status, 403);
    assert!(admin(near, "GET /nothing")?.text().contains("/state"));
    assert_eq!(near.status()?.worker_restarts, 0);
    // Nobody else's: on the node's own address nothing listens.
    let outer = SocketAddr::from(([10, 1, 1, 1], ADMIN));
    connect_from(near.node().netns(), outer, SOON).unwrap_err();
    let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, ADMIN));
    drop(connect_from(near.node().netns(), v6, SOON)?);
    Ok(())
}

#[test]
fn the_log_filter_is_changed_and_reset_while_the_agent_runs() -> Result {
    let scene = OneNetwork::start("status")?;
    let [near, _] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let is_debug = |line: &Value| field(line, "level").eq_ignore_ascii_case("debug");
    let talk = |mark: usize| -> Result {
        let mut stream = scene.client.connect(scene.server.at(PORT))?;
        roundtrip(&mut stream, b"x")?;
        let from = stream.local_addr()?.to_string();
        drop(stream);
        near.wait_access(mark, "outbound", |line| {
            field(line, "src.addr") == from && field(line, "message") == "connection complete"
        })?;
        Ok(())
    };
    talk(near.log().mark())?;
    assert!(near.log().all_from(0, is_debug).is_empty());
    let answer = admin(near, "POST /logging")?;
    assert!(
        answer.status == 200 && answer.text().contains("info"),
        "{}",
        answer.text()
    );
    assert_eq!(admin(near, "POST /logging?level=h2%3D%3Dx")?.status, 400);
    let answer = admin(near, "POST /logging?level=debug")?;
    assert!(
        answer.status == 200 && answer.text().contains("debug"),
        "{}",
        answer.text()
    );
    let mark = near.log().mark();
    talk(mark)?;
    near.wait_log(mark, is_debug)?;
    let answer = admin(near, "POST /logging?reset")?;
    assert!(
        answer.status == 200 && answer.text().contains("info"),
        "{}",
        answer.text()
    );
    // Lines of one thread come in their order: behind this connection's last there are none of before.
    talk(near.log().mark())?;
    let mark = near.log().mark();
    talk(mark)?;
    assert_eq!(near.log().all_from(mark, is_debug), Vec::<Value>::new());
    Ok(())
}

#[test]
fn readiness_is_told_and_ends_when_the_agent_drains() -> Result {
    let options = AgentOptions {
        drain_deadline: Duration::from_secs(3),
        ..AgentOptions::default()
    };
    let scene = OneNetwork::start_with("status", &options)?;
    let [near, _] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let ready = || http(near.node().netns(), READINESS, "GET /healthz/ready");
    let answer = ready()?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ready\n"));
    // From elsewhere too, as the kubelet asks.
    let outer = SocketAddr::from(([10, 1, 1, 1], READINESS));
    drop(connect_from(near.node().netns(), outer, SOON)?);
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"x")?;
    kill(
        Pid::from_raw(i32::try_from(near.status()?.worker_pid)?),
        Signal::SIGTERM,
    )?;
    within(Duration::from_secs(2), "it is not ready while it drains", || {
        let answer = ready().ok()?;
        ((answer.status, answer.text().as_str()) == (500, "not ready, waiting for: drain\n")).then_some(())
    })?;
    roundtrip(&mut stream, b"still carried")
}

#[test]
fn profiles_of_cpu_and_heap_are_taken_over_the_admin_port() -> Result {
    let options = AgentOptions {
        environment: vec![(
            "_RJEM_MALLOC_CONF".to_owned(),
            "prof:true,prof_active:false,lg_prof_sample:12".to_owned(),
        )],
        ..AgentOptions::default()
    };
    let scene = OneNetwork::start_with("status", &options)?;
    let [near, _] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    // While it is interrupted a thousand times a second, it carries on.
    let mut talking = scene.client.connect(scene.server.at(PORT))?;
    let answer = thread::scope(|scope| {
        let profile = scope.spawn(|| admin(near, "GET /debug/pprof/profile?seconds=1&frequency=1000"));
        while !profile.is_finished() {
            roundtrip(&mut talking, &[7; 4096])?;
        }
        profile.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // profile.proto: field 1, sample_type, a message.
    assert_eq!(answer.body.first(), Some(&0x0a), "{} bytes", answer.body.len());
    assert_eq!(admin(near, "GET /debug/pprof/profile?seconds=301")?.status, 400);

    assert_eq!(admin(near, "GET /debug/pprof/heap/profiling")?.text(), "inactive\n");
    assert_eq!(admin(near, "GET /debug/pprof/heap")?.status, 409);
    assert_eq!(
        admin(near, "POST /debug/pprof/heap/profiling?active=true")?.text(),
        "active\n"
    );
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"allocates")?;
    let answer = admin(near, "GET /debug/pprof/heap")?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // RFC 1952.
    assert_eq!(
        answer.body.get(..2),
        Some([0x1f, 0x8b].as_slice()),
        "{} bytes",
        answer.body.len()
    );
    assert_eq!(
        admin(near, "POST /debug/pprof/heap/profiling?active=false")?.text(),
        "inactive\n"
    );
    // The agent serves on.
    roundtrip(&mut stream, b"still there")
}

#[test]
fn scrapers_that_never_read_harm_nobody() -> Result {
    let scene = OneNetwork::start("status")?;
    let [near, _] = &scene.agents;
    let netns = near.node().netns();
    assert_eq!(http(netns, STATS, "GET /metrics")?.status, 200);
    let before = near.status()?.resident_bytes;
    let to = SocketAddr::from(([127, 0, 0, 1], STATS));
    let stuck: Vec<TcpStream> = (0..200)
        .map(|_| asked(netns, to, "GET /metrics"))
        .collect::<Result<_>>()?;
    let silent: Vec<TcpStream> = (0..200).map(|_| connect_from(netns, to, SOON)).collect::<Result<_>>()?;
    let began = Instant::now();
    assert_eq!(http(netns, STATS, "GET /stats/prometheus")?.status, 200);
    assert!(began.elapsed() < SOON);
    let _echo = scene.server.echo(PORT)?;
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"carried meanwhile")?;
    let grown = near.status()?.resident_bytes.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    // Of all these connections it holds only as many as it wants.
    let pid = near.status()?.worker_pid;
    let held = within(SOON, "the agent holds few of them", || {
        let listed = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        (listed < 200).then_some(listed)
    })?;
    assert!(held > 10, "the look at its descriptors worked");
    drop((stuck, silent));
    Ok(())
}

#[test]
fn a_port_that_somebody_holds_is_named_when_the_agent_starts() -> Result {
    let scene = OneNetwork::not_enrolled("status", &AgentOptions::default())?;
    let node = scene.network.node("node3")?;
    let holder = node.netns().enter(|| TcpListener::bind(("::", STATS)))??;
    let said = node.agent().map(drop).unwrap_err().to_string();
    for word in ["[::]:15020", "--stats-port", "ztunnel"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    // Off, it needs none; and once it is free, it is taken.
    let options = AgentOptions {
        arguments: ["--stats-port", "0"].map(str::to_owned).to_vec(),
        ..AgentOptions::default()
    };
    drop(node.agent_with(options)?);
    drop(holder);
    drop(node.agent()?);
    Ok(())
}
