//! Pods that end while their connections are busy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use isthmus_tests::{Capture, Node, Pod, Process, Result, scene::OneNetwork, within};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
const PROMISED: Duration = Duration::from_secs(2);

/// Everything an agent has pinned.
fn pins(directory: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(pins(&entry.path()));
        }
        all.insert(entry.path());
    }
    all
}

/// The names of a node's links; the one to a pod goes exactly when the pod's namespace does.
fn links(node: &Node) -> Result<BTreeSet<String>> {
    let text = node.netns().ip_output(&["-o", "link"])?;
    Ok(text
        .lines()
        .filter_map(|line| line.split([':', '@']).nth(1))
        .map(|name| name.trim().to_owned())
        .collect())
}

/// Traffic out of, into and past a pod, in processes.
fn busy(scene: &OneNetwork, pod: &Pod) -> Result<[Vec<Process>; 2]> {
    let serve = |pod: &Pod| -> Result<Process> {
        let server = pod.peer(&["echo", &format!("[::]:{PORT}")])?;
        server
            .output()
            .wait_from(0, SOON, |line| line.get("listening").is_some())?;
        Ok(server)
    };
    let churn = |from: &Pod, to: &Pod| -> Result<Process> {
        let churn = from.peer(&["churn", &to.at(PORT).to_string(), "--parallel", "4", "--pause-ms", "2"])?;
        churn
            .output()
            .wait_from(0, SOON, |line| line.get("churning").is_some())?;
        Ok(churn)
    };
    let hold = |from: &Pod, to: &Pod| -> Result<Process> {
        let hold = from.peer(&["hold", &to.at6(PORT).to_string(), "--count", "50"])?;
        hold.output().wait_from(0, SOON, |line| line["held"] == 50)?;
        Ok(hold)
    };
    let mut inside = vec![serve(pod)?];
    let mut around = vec![serve(&scene.server)?];
    inside.extend([churn(pod, &scene.server)?, hold(pod, &scene.server)?]);
    around.extend([churn(&scene.server, pod)?, hold(&scene.server, pod)?]);
    around.extend([churn(&scene.outside, pod)?, hold(&scene.outside, pod)?]);
    Ok([inside, around])
}

#[test]
fn a_namespace_deleted_while_busy_is_gone_within_two_seconds_with_its_pins() -> Result {
    let scene = OneNetwork::start("gone")?;
    let [node, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let (pins_before, links_before) = (pins(&node.pins()), links(node)?);
    let pod = node.pod("short").start()?;
    scene.lab.publish()?;
    pod.enrol()?;
    assert!(pins(&node.pins()).len() > pins_before.len(), "an enrolled pod has pins");
    assert!(links(node)?.len() > links_before.len());
    let [inside, _around] = busy(&scene, &pod)?;
    drop(inside);
    pod.delete()?;
    within(PROMISED, "the namespace and its pins are gone", || {
        (links(node).ok()? == links_before && pins(&node.pins()) == pins_before).then_some(())
    })?;
    assert!(!agent.status()?.pods.contains_key(&pod.uid()));
    // The neighbours do not notice.
    let _echo = scene.neighbour.echo(PORT)?;
    isthmus_tests::roundtrip(&mut scene.client.connect(scene.neighbour.at(PORT))?, b"hello")
}

#[test]
fn many_pods_that_come_and_go_leave_nothing_behind() -> Result {
    let scene = OneNetwork::start("gone")?;
    let [node, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let pods = (0..20)
        .map(|n| node.pod(&format!("short{n}")).start())
        .collect::<Result<Vec<_>>>()?;
    scene.lab.publish()?;
    let (pins_before, files_before) = (pins(&node.pins()), open_files(agent.status()?.worker_pid));
    for pod in &pods {
        pod.enrol()?;
    }
    for pod in &pods {
        pod.delete()?;
    }
    within(SOON, "all of them are forgotten", || {
        let held = agent.status().ok()?.pods.len();
        let files = open_files(agent.status().ok()?.worker_pid);
        (held == 2 && pins(&node.pins()) == pins_before && files <= files_before + 2).then_some(())
    })
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}

#[test]
fn a_deleted_namespace_in_which_a_process_lives_on_stays_guarded_until_it_ends() -> Result {
    let scene = OneNetwork::start("gone")?;
    let [node, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let (pins_before, links_before) = (pins(&node.pins()), links(node)?);
    let pod = node.pod("stubborn").start()?;
    scene.lab.publish()?;
    pod.enrol()?;
    let echo = scene.server.echo(PORT)?;
    let [v4, v6] = [scene.server.at(PORT), scene.server.at6(PORT)];
    let mut stubborn = pod.python(
        STUBBORN,
        &[&v4.ip().to_string(), &v6.ip().to_string(), &PORT.to_string()],
    )?;
    stubborn.output().wait_from(0, SOON, |line| line == "ready")?;
    // The control: as long as the pod has its name it is served.
    stubborn.tell("connect")?;
    stubborn.output().wait_from(0, SOON, |line| line == "4 served")?;
    stubborn.output().wait_from(0, SOON, |line| line == "6 served")?;
    let peers = [echo.peer()?.ip(), echo.peer()?.ip()];
    assert!(peers.contains(&pod.ip()) && peers.contains(&pod.ip6()), "{peers:?}");
    pod.delete()?;
    within(SOON, "the agent notices", || {
        agent
            .status()
            .ok()?
            .pods
            .get(&pod.uid())
            .is_some_and(|pod| pod.state == "lingering")
            .then_some(())
    })?;
    let capture = Capture::start(node.netns())?;
    capture.listen_for(b"fence-of-stubborn");
    let mark = stubborn.output().mark();
    stubborn.tell("connect")?;
    for family in ["4", "6"] {
        let answer = stubborn.output().wait_from(mark, Duration::from_secs(10), |line| {
            line.as_str().is_some_and(|line| line.starts_with(family))
        })?;
        assert_ne!(answer, format!("{family} served"));
    }
    stubborn.tell("fence")?;
    stubborn.output().wait_from(mark, SOON, |line| line == "fenced")?;
    capture.wait_for(b"fence-of-stubborn", SOON)?;
    assert_eq!(capture.syns_to(v4.ip(), PORT), []);
    assert_eq!(capture.syns_to(v6.ip(), PORT), []);
    echo.must_not_accept(Duration::from_millis(50))?;
    stubborn.kill();
    within(
        PROMISED,
        "the namespace and its pins are gone with its last process",
        || (links(node).ok()? == links_before && pins(&node.pins()) == pins_before).then_some(()),
    )?;
    assert!(!agent.status()?.pods.contains_key(&pod.uid()));
    Ok(())
}

const STUBBORN: &str = r#"
import socket, sys
v4, v6, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready")
for line in sys.stdin:
    if line.strip() == "fence":
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"fence-of-stubborn", (v4, 9))
        print("fenced")
        continue
    for name, family, ip in (("4", socket.AF_INET, v4), ("6", socket.AF_INET6, v6)):
        s = socket.socket(family)
        s.settimeout(2)
        try:
            s.connect((ip, port)); s.sendall(b"hi"); print(name, "served" if s.recv(2) == b"hi" else "closed")
        except OSError as e:
            print(name, "failed", e)
"#;
