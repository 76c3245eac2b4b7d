//! An agent that dies, wholly or in part, and comes back.

use std::{collections::BTreeMap, fs, net::SocketAddr, panic::resume_unwind, thread, time::Duration};

use isthmus_tests::{
    Agent, Capture, Failure, Pod, Process, Result, log::field, roundtrip, scene::OneNetwork, wait::throughout, within,
};
use isthmus_wire::PodStatus;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

type Ids = BTreeMap<String, (BTreeMap<String, u32>, BTreeMap<String, u32>)>;

/// Link and program ids of every enrolled pod.
fn ids(agent: &Agent) -> Result<Ids> {
    let of = |pod: PodStatus| (pod.links, pod.programs);
    let ids: Ids = agent
        .status()?
        .pods
        .into_iter()
        .map(|(uid, pod)| (uid, of(pod)))
        .collect();
    assert!(
        ids.values()
            .all(|(links, programs)| !links.is_empty() && !programs.is_empty()),
        "{ids:?}"
    );
    Ok(ids)
}

/// A connect loop in each pod, towards another; a server in each.
fn loops(scene: &OneNetwork) -> Result<(Vec<Process>, Vec<Process>)> {
    let (mut servers, mut loops) = (Vec::new(), Vec::new());
    let pairs = [
        (&scene.client, &scene.server),
        (&scene.server, &scene.neighbour),
        (&scene.neighbour, &scene.client),
        (&scene.outside, &scene.client),
    ];
    for (_, to) in pairs.iter().take(3) {
        let server = to.peer(&["echo", &format!("[::]:{PORT}")])?;
        server
            .output()
            .wait_from(0, SOON, |line| line.get("listening").is_some())?;
        servers.push(server);
    }
    for (from, to) in pairs {
        for at in [to.at(PORT), to.at6(PORT)] {
            let churn = from.peer(&["churn", &at.to_string(), "--parallel", "2", "--pause-ms", "5"])?;
            churn
                .output()
                .wait_from(0, SOON, |line| line.get("churning").is_some())?;
            loops.push(churn);
        }
    }
    Ok((servers, loops))
}

#[test]
fn a_killed_worker_refuses_no_connect_and_its_successor_adopts_links_and_programs() -> Result {
    let scene = OneNetwork::start("restart")?;
    let before = [ids(&scene.agents[0])?, ids(&scene.agents[1])?];
    let (_servers, loops) = loops(&scene)?;
    for round in 1..=3 {
        for agent in &scene.agents {
            within(SOON, "traffic flows", || {
                agent.status().ok().filter(|status| status.connections > 0)
            })?;
            let killed = agent.kill_worker()?;
            let status = within(SOON, "the parent starts another worker", || {
                agent.status().ok().filter(|status| status.worker_pid != killed)
            })?;
            assert_eq!(status.worker_restarts, round);
        }
    }
    assert_eq!(before, [ids(&scene.agents[0])?, ids(&scene.agents[1])?]);
    for mut churn in loops {
        churn.close_input();
        let report = churn.report(Duration::from_secs(30))?;
        assert_eq!(report["unconnected"], 0, "{report}");
    }
    for (from, to) in [(&scene.client, &scene.server), (&scene.server, &scene.neighbour)] {
        let report = from.measure(
            Duration::from_secs(30),
            &["churn", &to.at(PORT).to_string(), "--seconds", "1"],
        )?;
        assert!(report["done"].as_u64() > Some(50), "{report}");
        assert_eq!(
            (&report["unconnected"], &report["broken"]),
            (&0.into(), &0.into()),
            "{report}"
        );
    }
    Ok(())
}

#[test]
fn an_agent_stopped_and_started_adopts_links_and_programs() -> Result {
    adopted_after(Agent::stop)
}

#[test]
fn an_agent_killed_and_started_adopts_links_and_programs() -> Result {
    adopted_after(Agent::kill)
}

fn adopted_after(end: impl Fn(&Agent) -> Result) -> Result {
    let scene = OneNetwork::start("restart")?;
    let [agent, _] = &scene.agents;
    let before = ids(agent)?;
    let (_servers, loops) = loops(&scene)?;
    for _ in 0..2 {
        end(agent)?;
        agent.restart()?;
        within(SOON, "the pods are enrolled as before", || {
            let status = agent.status().ok()?;
            (status.pods.len() == before.len()).then_some(())
        })?;
        assert_eq!(before, ids(agent)?);
    }
    // Whatever they met while nobody was home, they connect now.
    for mut churn in loops {
        churn.close_input();
        churn.report(Duration::from_secs(60))?;
    }
    let echo = scene.server.echo(PORT + 1)?;
    let mark = scene.agents[1].log().mark();
    let mut stream = scene.client.connect(scene.server.at(PORT + 1))?;
    roundtrip(&mut stream, b"back again")?;
    assert_eq!(echo.peer()?.ip(), stream.local_addr()?.ip());
    drop(stream);
    scene.agents[1].wait_access(mark, "inbound", |line| {
        field(line, "src.identity") == scene.client.identity()
    })?;
    Ok(())
}

#[test]
fn while_the_agent_is_down_nothing_leaves_in_clear_and_waiting_connects_succeed_when_it_is_back() -> Result {
    let scene = OneNetwork::start("restart")?;
    let [agent, _] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    let capture = Capture::start(scene.nodes[0].netns())?;
    capture.listen_for(b"fence");
    // The control: what is in clear is heard here.
    let _own = scene.client.echo(PORT)?;
    roundtrip(&mut scene.outside.connect(scene.client.at(PORT))?, b"in clear")?;
    within(SOON, "the capture hears it", || {
        (!capture.syns_to(scene.client.ip(), PORT).is_empty()).then_some(())
    })?;
    agent.kill()?;
    let targets = [scene.server.at(PORT), scene.server.at6(PORT)];
    thread::scope(|scope| -> Result {
        let client = &scene.client;
        let waiting = targets.map(|to| scope.spawn(move || connect_and_speak(client, to)));
        // What ends early ends in refusal: an IPv6 SYN that nobody takes is answered with RST, an IPv4 one is not.
        throughout(
            Duration::from_secs(2),
            "the IPv4 connect waits while nobody is home",
            || !waiting[0].is_finished(),
        )?;
        scene.client.fence(scene.server.ip(), b"fence")?;
        capture.wait_for(b"fence", SOON)?;
        for to in targets {
            assert_eq!(capture.syns_to(to.ip(), PORT), [], "in clear to {to}");
        }
        echo.must_not_accept(Duration::from_millis(50))?;
        agent.restart()?;
        let ended = waiting.map(|connect| connect.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let [v4, v6] = ended;
        v4?;
        assert!(
            v6.as_ref()
                .err()
                .is_none_or(|error| error.to_string().contains("refused")),
            "{v6:?}"
        );
        connect_and_speak(&scene.client, targets[1])
    })?;
    for to in targets {
        assert_eq!(capture.syns_to(to.ip(), PORT), [], "in clear to {to}");
    }
    Ok(())
}

#[test]
fn a_released_pod_stays_released_when_the_worker_dies() -> Result {
    let scene = OneNetwork::start("restart")?;
    let [agent, _] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let mut open = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut open, b"redirected")?;
    scene.client.release()?;
    let draining = scene.client.status()?.map(|pod| pod.state);
    assert_eq!(draining.as_deref(), Some("draining"), "its open connection keeps it");
    agent.kill_worker()?;
    within(SOON, "the next worker takes it out", || {
        agent
            .status()
            .ok()
            .filter(|status| !status.pods.contains_key(&scene.client.uid()))
    })?;
    let rules = scene.client.netns().ip_output(&["rule"])?;
    assert!(!rules.contains("fwmark"), "{rules}");
    // The other pod of that agent was taken up as ever, and this one may come back.
    assert!(scene.neighbour.status()?.is_some_and(|pod| pod.state == "enrolled"));
    scene.client.enrol()?;
    connect_and_speak(&scene.client, scene.server.at(PORT))
}

/// Makes what an agent left look like another version's: its pins and its records name other programs.
fn as_of_another_version(agent: &Agent) -> Result<String> {
    let pins = agent.node().pins();
    let own = generation(agent)?;
    let other = "0123456789abcdef";
    fs::rename(pins.join(&own), pins.join(other))?;
    for record in fs::read_dir(agent.node().run_dir().join("pods"))? {
        let path = record?.path();
        let text = fs::read_to_string(&path)?;
        assert!(text.contains(&own), "{text}");
        fs::write(path, text.replace(&own, other))?;
    }
    Ok(own)
}

/// The one directory of pins that an agent has.
fn generation(agent: &Agent) -> Result<String> {
    let found = fs::read_dir(agent.node().pins())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    match &found[..] {
        [one] => Ok(one.clone()),
        _ => Err(Failure::new(format!("one generation is expected, not {found:?}"))),
    }
}

#[test]
fn an_agent_with_other_programs_arms_its_own_before_it_removes_the_old() -> Result {
    let scene = OneNetwork::start("restart")?;
    let [agent, _] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    let before = ids(agent)?;
    let capture = Capture::start(scene.nodes[0].netns())?;
    capture.listen_for(b"fence");
    agent.kill()?;
    let own = as_of_another_version(agent)?;
    let churn = scene.client.peer(&[
        "churn",
        &scene.server.at(PORT).to_string(),
        "--parallel",
        "2",
        "--pause-ms",
        "5",
    ])?;
    agent.restart()?;
    assert_eq!(generation(agent)?, own, "the other version's pins are gone");
    let after = ids(agent)?;
    assert_eq!(after.len(), before.len());
    for (uid, (links, programs)) in &after {
        let (old_links, old_programs) = &before[uid];
        assert!(
            links.values().all(|id| !old_links.values().any(|old| old == id)),
            "{uid}: {links:?} {old_links:?}"
        );
        assert!(programs["claim"] != old_programs["claim"], "{uid}");
    }
    let mark = scene.agents[1].log().mark();
    connect_and_speak(&scene.client, scene.server.at(PORT))?;
    scene.agents[1].wait_access(mark, "inbound", |line| {
        field(line, "src.identity") == scene.client.identity()
    })?;
    drop(churn);
    scene.client.fence(scene.server.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    assert_eq!(capture.syns_to(scene.server.ip(), PORT), [], "in clear meanwhile");
    drop(echo);
    Ok(())
}

fn connect_and_speak(pod: &Pod, to: SocketAddr) -> Result {
    roundtrip(&mut pod.connect_within(to, Duration::from_secs(25))?, b"at last")
}

#[test]
fn while_the_agent_is_down_plaintext_into_a_pod_that_requires_mutual_tls_stays_out() -> Result {
    let scene = OneNetwork::start("restart")?;
    scene.client.release()?;
    scene.client.enrol_with(Some(true))?;
    let echo = scene.client.echo(PORT)?;
    scene.agents[0].kill()?;
    for to in [scene.client.at(PORT), scene.client.at6(PORT)] {
        scene.outside.connect_within(to, Duration::from_secs(1)).unwrap_err();
    }
    echo.must_not_accept(Duration::from_millis(50))
}

/// Serial numbers of all pods' certificates; none as long as one lacks its own.
fn serials(agent: &Agent) -> Option<BTreeMap<String, String>> {
    let pods = agent.status().ok()?.pods;
    let serial = |pod: PodStatus| pod.certificate?.serial;
    pods.into_iter().map(|(uid, pod)| Some((uid, serial(pod)?))).collect()
}

#[test]
fn certificates_are_there_before_the_first_connection_and_outlive_the_worker() -> Result {
    let scene = OneNetwork::start("restart")?;
    let [agent, _] = &scene.agents;
    let all_there = || {
        within(SOON, "every pod has its certificate", || {
            serials(agent).filter(|all| !all.is_empty())
        })
    };
    let before = all_there()?;
    let echo = scene.server.echo(PORT)?;
    for _ in 0..2 {
        let killed = agent.kill_worker()?;
        within(SOON, "the parent starts another worker", || {
            agent.status().ok().filter(|status| status.worker_pid != killed)
        })?;
        assert_eq!(all_there()?, before);
        roundtrip(
            &mut scene.client.connect(scene.server.at(PORT))?,
            b"with a certificate of the worker before",
        )?;
        echo.peer()?;
    }
    // Nothing is kept of a pod that left.
    let uid = scene.client.uid();
    scene.client.release()?;
    within(SOON, "the pod is taken out", || {
        agent.status().ok().filter(|status| !status.pods.contains_key(&uid))
    })?;
    scene.client.enrol()?;
    let after = all_there()?;
    assert_ne!(after[&uid], before[&uid]);
    assert!(
        before
            .iter()
            .all(|(other, serial)| *other == uid || after[other] == *serial)
    );
    Ok(())
}
