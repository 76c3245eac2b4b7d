//! Enrolling and releasing running pods.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use isthmus_tests::{
    Agent, Capture, Lab, Pod, Result,
    agent::AgentOptions,
    log::{field, is_access},
    roundtrip,
    scene::OneNetwork,
    within,
};
use nix::{sys::stat::Mode, unistd::mkfifo};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

/// Whether a new connection from `client` to `server` opens in clear on its node's links.
fn opens_in_clear(client: &Pod, server: &Pod) -> Result<bool> {
    let capture = Capture::start(client.node()?.netns())?;
    capture.listen_for(b"fence");
    let mut stream = client.connect(server.at(PORT))?;
    roundtrip(&mut stream, b"hello")?;
    client.fence(server.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    Ok(!capture.syns_to(server.ip(), PORT).is_empty())
}

fn all_alive(streams: &mut [TcpStream]) -> Result {
    streams
        .iter_mut()
        .try_for_each(|stream| roundtrip(stream, b"still there?"))
}

#[test]
fn open_connections_survive_enrol_and_release_and_new_ones_are_redirected() -> Result {
    let scene = OneNetwork::not_enrolled("enrol", &AgentOptions::default())?;
    let (client, server) = (&scene.client, &scene.server);
    let _echo = [server.echo(PORT)?, client.echo(PORT)?];
    // Out of the pod that is enrolled, into it, and from outside the mesh into it; in both families.
    let mut open = Vec::new();
    for (from, to) in [(client, server), (server, client), (&scene.outside, client)] {
        open.extend([from.connect(to.at(PORT))?, from.connect(to.at6(PORT))?]);
    }
    all_alive(&mut open)?;
    for _ in 0..3 {
        assert!(opens_in_clear(client, server)?, "not enrolled, it connects in clear");
        client.enrol()?;
        server.enrol()?;
        all_alive(&mut open)?;
        assert!(!opens_in_clear(client, server)?, "enrolled, it does not");
        client.release()?;
        server.release()?;
        all_alive(&mut open)?;
    }
    Ok(())
}

#[test]
fn redirected_connections_live_on_after_release_until_the_deadline() -> Result {
    let arguments = ["--release-deadline", "4s"].map(str::to_owned).to_vec();
    let options = AgentOptions {
        arguments,
        ..AgentOptions::default()
    };
    let scene = OneNetwork::start_with("enrol", &options)?;
    let [agent, _] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"redirected")?;
    scene.client.release()?;
    roundtrip(&mut stream, b"released, and still carried")?;
    assert_eq!(scene.client.status()?.map(|pod| pod.state), Some("draining".to_owned()));
    within(
        Duration::from_secs(10),
        "the deadline passes and the pod is let go",
        || {
            agent
                .status()
                .ok()
                .filter(|status| !status.pods.contains_key(&scene.client.uid()))
        },
    )?;
    roundtrip(&mut stream, b"too late").unwrap_err();
    assert!(opens_in_clear(&scene.client, &scene.server)?);
    let rules = scene.client.netns().ip_output(&["rule"])?;
    assert!(
        !rules.contains("fwmark"),
        "a released pod keeps nothing of ours: {rules}"
    );
    Ok(())
}

#[test]
fn enrol_and_release_under_load_break_nothing() -> Result {
    let scene = OneNetwork::not_enrolled("enrol", &AgentOptions::default())?;
    let server = scene.server.peer(&["echo", &format!("[::]:{PORT}")])?;
    server
        .output()
        .wait_from(0, SOON, |line| line.get("listening").is_some())?;
    scene.server.enrol()?;
    let mut churns = Vec::new();
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        let churn = scene
            .client
            .peer(&["churn", &to.to_string(), "--parallel", "4", "--pause-ms", "2"])?;
        churn
            .output()
            .wait_from(0, SOON, |line| line.get("churning").is_some())?;
        churns.push(churn);
    }
    for round in 0..10 {
        let mark = scene.agents[1].log().mark();
        scene.client.enrol()?;
        scene.agents[1].wait_access(mark, "inbound", |line| {
            field(line, "src.identity") == scene.client.identity()
        })?;
        scene.client.release()?;
        assert!(
            scene.client.status()?.is_none_or(|pod| pod.state != "enrolled"),
            "round {round}"
        );
    }
    for churn in &mut churns {
        churn.close_input();
        let report = churn.report(Duration::from_secs(30))?;
        assert!(report["done"].as_u64() > Some(20), "{report}");
        assert_eq!(
            (&report["unconnected"], &report["broken"]),
            (&0.into(), &0.into()),
            "{report}"
        );
    }
    Ok(())
}

#[test]
fn enrolling_twice_changes_nothing_and_releasing_a_stranger_succeeds() -> Result {
    let scene = OneNetwork::start("enrol")?;
    let before = scene.client.status()?;
    scene.client.enrol()?;
    let after = scene.client.status()?;
    let ids = |pod: Option<isthmus_wire::PodStatus>| pod.map(|pod| (pod.links, pod.programs, pod.state));
    assert!(before.is_some());
    assert_eq!(ids(before), ids(after));
    scene.plain.release()
}

#[test]
fn enrolling_a_namespace_that_is_not_there_is_refused_with_its_path() -> Result {
    let scene = OneNetwork::not_enrolled("enrol", &AgentOptions::default())?;
    scene.client.delete()?;
    let text = scene.client.enrol().unwrap_err().to_string();
    assert!(
        text.contains(&scene.client.netns().path().display().to_string()),
        "{text}"
    );
    assert!(scene.client.status()?.is_none());
    Ok(())
}

#[test]
fn an_address_added_later_is_served_and_kept_as_source() -> Result {
    let scene = OneNetwork::start("enrol")?;
    let late: [IpAddr; 2] = ["10.1.2.77".parse()?, "fd00:10:1:2::77".parse()?];
    scene
        .server
        .netns()
        .ip("addr add 10.1.2.77/24 dev eth0\naddr add fd00:10:1:2::77/64 dev eth0 nodad\n")?;
    scene.lab.mesh(|mesh| {
        if let Some(ips) = mesh
            .workloads
            .get_mut(&scene.server.workload_uid())
            .and_then(|w| w.get_mut("workloadIps"))
        {
            ips.as_array_mut()
                .into_iter()
                .for_each(|ips| ips.extend(late.map(|ip| ip.to_string().into())));
        }
    });
    scene.lab.publish()?;
    within(SOON, "the agent sees the addresses", || {
        let seen = scene.server.status().ok()??.addresses;
        late.iter().all(|ip| seen.contains(ip)).then_some(())
    })?;
    let [_, agent] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    for ip in late {
        let to = SocketAddr::new(ip, PORT);
        let mark = agent.log().mark();
        let carried = |line: &serde_json::Value| {
            is_access(line, "inbound") && field(line, "src.identity") == scene.client.identity()
        };
        within(SOON, "the new address is carried by a tunnel", || {
            roundtrip(&mut scene.client.connect(to).ok()?, b"hello").ok()?;
            echo.peer()
                .ok()
                .filter(|peer| scene.client.ips().contains(&peer.ip()))?;
            (!agent.log().all_from(mark, carried).is_empty()).then_some(())
        })?;
        while echo.must_not_accept(Duration::from_millis(50)).is_err() {}
        // The pod itself still reaches it without the agent.
        let mut own = scene.server.connect(to)?;
        roundtrip(&mut own, b"own")?;
        assert_eq!(echo.peer()?, own.local_addr()?);
    }
    Ok(())
}

#[test]
fn a_pod_that_changed_after_its_release_is_guarded_when_it_is_taken_back() -> Result {
    let scene = OneNetwork::start("enrol")?;
    let (client, agent) = (&scene.client, &scene.agents[0]);
    let _echo = scene.server.echo(PORT)?;
    let mut stream = client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"keeps the pod draining")?;
    client.release()?;
    let mark = agent.log().mark();
    client.netns().ip("address add 10.1.1.99/24 dev eth0")?;
    agent.wait_log(mark, |line| field(line, "message") == "the pod's addresses changed")?;
    let guards = || -> Result<usize> {
        let links = client.status()?.map(|pod| pod.links).unwrap_or_default();
        Ok(links.keys().filter(|name| name.starts_with("guard_")).count())
    };
    assert_eq!(guards()?, 0);
    client.enrol()?;
    assert_eq!(guards()?, 1);
    roundtrip(&mut stream, b"as before")?;
    assert!(!opens_in_clear(client, &scene.server)?);
    Ok(())
}

/// Stands in for a kernel whose locks others hold: in front of the agent's sysctls lies a pipe, and whoever writes one waits
/// for its reader.
struct Blockade<'a> {
    agent: &'a Agent,
    pipe: PathBuf,
}

impl<'a> Blockade<'a> {
    fn raise(lab: &Lab, agent: &'a Agent) -> Result<Self> {
        let front = lab.dir().join("sysctls");
        let pipe = front.join("ipv4/tcp_fwmark_accept");
        fs::create_dir_all(front.join("ipv4"))?;
        mkfifo(&pipe, Mode::S_IRWXU)?;
        let blockade = Self { agent, pipe };
        blockade.within(&["mount", "--bind", &front.to_string_lossy(), "/proc/sys/net"])?;
        Ok(blockade)
    }

    /// Lets whoever waits go on, as long as what it gives is held, and lets nobody wait any more.
    fn lift(self) -> Result<File> {
        self.within(&["umount", "--lazy", "/proc/sys/net"])?;
        // Opened for both, it needs nobody on its other side.
        Ok(File::options().read(true).write(true).open(&self.pipe)?)
    }

    fn within(&self, command: &[&str]) -> Result {
        let [_, worker] = self.agent.pids()?;
        let mounts = format!("--mount=/proc/{worker}/ns/mnt");
        let status = Command::new("nsenter").arg(mounts).arg("--").args(command).status()?;
        assert!(status.success(), "{command:?}: {status}");
        Ok(())
    }
}

#[test]
fn a_pod_that_waits_for_the_kernel_holds_up_nobody_else() -> Result {
    let options = AgentOptions {
        own_mounts: true,
        ..AgentOptions::default()
    };
    let scene = OneNetwork::not_enrolled("enrol", &options)?;
    let (client, neighbour, server) = (&scene.client, &scene.neighbour, &scene.server);
    let _echo = server.echo(PORT)?;
    client.enrol()?;
    server.enrol()?;
    let blockade = Blockade::raise(&scene.lab, &scene.agents[0])?;
    thread::scope(|scope| {
        let enrolling = scope.spawn(|| neighbour.enrol());
        let state = || Some(neighbour.status().ok()??.state);
        within(SOON, "the neighbour is being brought in", || {
            (state()? == "entering").then_some(())
        })?;
        // Asked about while it is under way: that waits, and nothing else does.
        let releasing = scope.spawn(|| neighbour.release());
        assert!(!opens_in_clear(client, server)?);
        client.release()?;
        assert!(opens_in_clear(client, server)?);
        // What is left of the client waits as well.
        assert_eq!(client.status()?.map(|pod| pod.state).as_deref(), Some("draining"));
        assert_eq!(state().as_deref(), Some("entering"));
        assert!(!enrolling.is_finished() && !releasing.is_finished());
        let _reader = blockade.lift()?;
        enrolling.join().expect("no panic")?;
        releasing.join().expect("no panic")?;
        within(SOON, "both are let go", || {
            scene.agents[0].status().ok()?.pods.is_empty().then_some(())
        })
    })
}
