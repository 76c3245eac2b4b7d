//! Pods and nodes that istio-cni had before: its rules go without a moment in clear, and nobody else's do.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use isthmus_tests::{
    Because as _, Capture, Pod, Result,
    agent::AgentOptions,
    istio_cni::{By, ruleset},
    log::{field, message},
    roundtrip,
    scene::OneNetwork,
    within,
};
use nix::sys::signal::Signal;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);
const ZTUNNEL: &str = include_str!("takeover/ztunnel.py");

/// What somebody else has in the pod: rules in the same tables, a table of its own, rules and routes by mark.
const STRANGERS: &str = include_str!("takeover/strangers.nft");

fn strangers(pod: &Pod) -> Result {
    pod.netns().output("nft", &["-f", "-"], STRANGERS)?;
    pod.netns().ip("route add local default dev lo table 7\n\
         rule add fwmark 0x111/0xffffffff priority 100 table 7\n\
         rule add fwmark 0x539/0xfff priority 101 table 7\n")
}

/// Rules, and rules and routes by mark, as they are now.
fn inside(pod: &Pod) -> Result<String> {
    let mut text = ruleset(pod.netns())?;
    for family in ["-4", "-6"] {
        text += &pod.netns().ip_output(&[family, "rule"])?;
        let routes = pod.netns().ip_output(&[family, "route", "show", "table", "all"])?;
        text.extend(routes.lines().filter(|line| line.contains("table 100")));
    }
    Ok(text)
}

/// What is ours is not to be compared.
fn without_ours(text: &str) -> String {
    let others = text.lines().filter(|line| !line.contains("0x4953"));
    others.map(|line| format!("{line}\n")).collect()
}

fn leftover(pod: &Pod) -> Result<Option<String>> {
    Ok(pod.status()?.because("the pod is enrolled")?.leftover)
}

/// A connection in both directions works.
fn talks(client: &Pod, to: SocketAddr) -> Result {
    let mut stream = client.connect(to)?;
    roundtrip(&mut stream, b"hello")
}

/// Whether anything of connections to the server's port was to be seen on the node's links.
fn in_clear(capture: &Capture, client: &Pod, server: &Pod) -> Result<bool> {
    client.fence(server.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    Ok(!capture.syns_to(server.ip(), PORT).is_empty() || !capture.syns_to(server.ip6(), PORT).is_empty())
}

fn taken_over(title: &str, by: By) -> Result {
    let scene = OneNetwork::not_enrolled(title, &AgentOptions::default())?;
    let (client, server) = (&scene.client, &scene.server);
    strangers(client)?;
    strangers(server)?;
    let before = [inside(client)?, inside(server)?];
    by.capture(client.netns())?;
    by.capture(server.netns())?;
    assert!(!before.contains(&inside(client)?));
    let _echo = server.echo(PORT)?;
    // ztunnel is gone: what it captured is refused, and does not leave in clear.
    for to in [server.at(PORT), server.at6(PORT)] {
        assert!(client.connect(to).is_err(), "{to} should be captured by nobody");
    }
    let capture = Capture::start(client.node()?.netns())?;
    capture.listen_for(b"fence");
    let [near, far] = &scene.agents;
    let (mark, far_mark) = (near.log().mark(), far.log().mark());
    server.enrol()?;
    client.enrol()?;
    near.wait_log(mark, |line| {
        message(line).contains("what istio-cni left in the pod is removed") && field(line, "pod") == "demo/client"
    })?;
    for (pod, before) in [client, server].into_iter().zip(&before) {
        assert_eq!(&without_ours(&inside(pod)?), before, "{}", pod.name());
        assert_eq!(leftover(pod)?, None);
    }
    for to in [server.at(PORT), server.at6(PORT)] {
        talks(client, to)?;
    }
    assert!(!in_clear(&capture, client, server)?);
    far.wait_access(far_mark, "inbound", |line| {
        field(line, "src.identity") == client.identity()
    })?;
    Ok(())
}

#[test]
fn rules_of_iptables_go_and_those_of_others_in_the_same_tables_stay() -> Result {
    taken_over("takeover-iptables", By::Iptables)
}

#[test]
fn its_own_tables_go_and_those_of_others_stay() -> Result {
    taken_over("takeover-native", By::Nftables)
}

#[test]
fn rules_of_a_sidecar_are_let_be() -> Result {
    let scene = OneNetwork::not_enrolled("takeover-sidecar", &AgentOptions::default())?;
    let client = &scene.client;
    let sidecar = "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n\
                   -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
    client.netns().output("iptables-nft-restore", &["--noflush"], sidecar)?;
    let before = inside(client)?;
    client.enrol()?;
    assert_eq!(without_ours(&inside(client)?), before);
    assert_eq!(leftover(client)?, None);
    Ok(())
}

#[test]
fn rules_of_iptables_legacy_are_told_with_the_command_that_removes_them() -> Result {
    let scene = OneNetwork::not_enrolled("takeover-legacy", &AgentOptions::default())?;
    let (client, server) = (&scene.client, &scene.server);
    let saved = |pod: &Pod| pod.netns().output("iptables-legacy-save", &[], "");
    By::Legacy.capture(client.netns())?;
    client.netns().output(
        "iptables-legacy",
        &["-A", "OUTPUT", "-t", "nat", "-d", "192.0.2.1", "-j", "ACCEPT"],
        "",
    )?;
    let _echo = server.echo(PORT)?;
    server.enrol()?;
    let capture = Capture::start(client.node()?.netns())?;
    capture.listen_for(b"fence");
    client.enrol()?;
    let told = leftover(client)?.because("it is told")?;
    assert!(told.contains("iptables-legacy"), "{told}");
    assert!(saved(client)?.contains("ISTIO_OUTPUT"), "the agent cannot change them");
    // Closed until then, not in clear.
    let answered = client
        .connect(server.at(PORT))
        .and_then(|mut stream| roundtrip(&mut stream, b"hello"));
    assert!(answered.is_err());
    assert!(!in_clear(&capture, client, server)?);
    // What it says to run is what helps.
    let command = told.split("run: ").nth(1).because("a command")?;
    client.node()?.netns().output("sh", &["-c", command], "")?;
    within(SOON, "the agent sees that they are gone", || {
        leftover(client).ok()?.is_none().then_some(())
    })?;
    let left = saved(client)?;
    assert!(!left.contains("ISTIO_") && left.contains("192.0.2.1"), "{left}");
    within(SOON, "the pod talks", || talks(client, server.at(PORT)).ok())?;
    talks(client, server.at6(PORT))?;
    assert!(!in_clear(&capture, client, server)?);
    Ok(())
}

#[test]
fn as_long_as_ztunnel_has_connections_in_the_pod_they_go_on_and_new_ones_are_ours() -> Result {
    let scene = OneNetwork::not_enrolled("takeover-alive", &AgentOptions::default())?;
    let (client, server) = (&scene.client, &scene.server);
    let before = inside(client)?;
    By::Nftables.capture(client.netns())?;
    let ztunnel = client.python(ZTUNNEL, &[])?;
    ztunnel
        .output()
        .wait_from(0, SOON, |line| line.get("ready").is_some())?;
    let _echo = server.echo(PORT)?;
    let mut old = client.connect(server.at(PORT))?;
    roundtrip(&mut old, b"through ztunnel")?;
    let captured = || {
        ztunnel
            .output()
            .all_from(0, |line| line.get("captured").is_some())
            .len()
    };
    assert_eq!(captured(), 1);

    server.enrol()?;
    client.enrol()?;
    let told = leftover(client)?.because("it is told")?;
    assert!(told.contains("ztunnel still has sockets"), "{told}");
    roundtrip(&mut old, b"still through ztunnel")?;
    let capture = Capture::start(client.node()?.netns())?;
    capture.listen_for(b"fence");
    capture.listen_for(b"late words");
    talks(client, server.at(PORT))?;
    assert_eq!(captured(), 1, "a new connection is none of ztunnel's");
    assert!(!in_clear(&capture, client, server)?);

    // It ends, and leaves the application with half a connection.
    ztunnel.signal(Signal::SIGKILL)?;
    within(SOON, "the rest is gone", || {
        leftover(client).ok()?.is_none().then_some(())
    })?;
    assert_eq!(without_ours(&inside(client)?), before);
    // It was ended, so that its words do not leave.
    assert!(old.write_all(b"late words").is_err());
    client.fence(server.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    assert!(!capture.saw(b"late words"));
    talks(client, server.at(PORT))?;
    Ok(())
}
