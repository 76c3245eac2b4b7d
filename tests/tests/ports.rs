//! What pods' owners leave outside of the mesh: ports, ranges and plaintext from outside; and that nothing beside it is.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use aya::maps::{LpmTrie, Map, MapData};
use isthmus_tests::{
    Agent, Because as _, Capture, Node, Pod, Result, agent::AgentOptions, log::field, roundtrip, scene::OneNetwork,
    within,
};
use isthmus_wire::Capture as Said;

const PORT: u16 = 8080;
/// The port beside it.
const BESIDE: u16 = 8081;
const SOON: Duration = Duration::from_secs(5);
const BRIEFLY: Duration = Duration::from_millis(300);

/// Nobody is enrolled but `server`, which takes plaintext.
fn scene(title: &str) -> Result<OneNetwork> {
    let scene = OneNetwork::not_enrolled(title, &AgentOptions::default())?;
    scene.server.enrol()?;
    Ok(scene)
}

fn counted(agent: &Agent, verdict: &str) -> Result<u64> {
    Ok(agent.status()?.verdicts.get(verdict).copied().unwrap_or_default())
}

/// Whether a new connection opens in clear on its node's links. It carries in any case.
fn in_clear(client: &Pod, to: SocketAddr) -> Result<(bool, TcpStream)> {
    let capture = Capture::start(client.node()?.netns())?;
    capture.listen_for(b"fence");
    let mut stream = client.connect(to)?;
    roundtrip(&mut stream, b"hello").because(format!("speaking to {to}"))?;
    client.fence(to.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    Ok((!capture.syns_to(to.ip().to_canonical(), to.port()).is_empty(), stream))
}

#[track_caller]
fn leaves(client: &Pod, to: SocketAddr, wanted: bool) -> Result {
    let (clear, _stream) = in_clear(client, to)?;
    assert_eq!(clear, wanted, "in clear to {to}");
    Ok(())
}

fn range(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

fn ranges<const N: usize>(ips: [IpAddr; N]) -> std::collections::BTreeSet<ipnet::IpNet> {
    ips.into_iter().filter_map(|ip| range(ip).parse().ok()).collect()
}

/// How much the kernel holds of what annotations say, all pods of the node together.
fn kernel_rules(node: &Node) -> Result<usize> {
    let mut count = 0;
    for generation in std::fs::read_dir(node.pins())? {
        let map = MapData::from_pin(generation?.path().join("map_CAPTURE"))?;
        let map: LpmTrie<MapData, [u8; 24], u32> = Map::LpmTrie(map).try_into()?;
        count += map.keys().filter_map(std::result::Result::ok).count();
    }
    Ok(count)
}

#[test]
fn excluded_ports_leave_in_clear_and_the_ports_beside_them_do_not() -> Result {
    let scene = scene("ports out")?;
    let [agent, _] = &scene.agents;
    let _echo = [scene.server.echo(PORT)?, scene.server.echo(BESIDE)?];
    let excluding = Said {
        exclude_outbound_ports: [PORT].into(),
        ..Said::default()
    };
    scene.client.enrol_capturing(&excluding)?;
    assert_eq!(scene.client.status()?.because("it is enrolled")?.capture, excluding);
    let mut open = Vec::new();
    for (number, ip) in (1..).zip([scene.server.ip(), scene.server.ip6()]) {
        let (clear, stream) = in_clear(&scene.client, SocketAddr::new(ip, PORT))?;
        assert!(clear, "to {ip}");
        assert_eq!(counted(agent, "connect_not_captured")?, number);
        open.push(stream);
        let mark = scene.agents[1].log().mark();
        let (clear, stream) = in_clear(&scene.client, SocketAddr::new(ip, BESIDE))?;
        assert!(!clear, "beside it, to {ip}");
        drop(stream);
        scene.agents[1].wait_access(mark, "inbound", |line| {
            field(line, "src.identity") == scene.client.identity()
        })?;
        assert_eq!(counted(agent, "connect_not_captured")?, number);
    }
    assert_eq!(counted(agent, "guard_dropped_syn")?, 0);

    open.push(scene.client.connect(scene.server.at(BESIDE))?);

    // It is said otherwise: what is open stays as it is.
    scene.client.enrol_capturing(&Said {
        exclude_outbound_ports: [BESIDE].into(),
        ..Said::default()
    })?;
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        leaves(&scene.client, to, false)?;
    }
    for to in [scene.server.at(BESIDE), scene.server.at6(BESIDE)] {
        leaves(&scene.client, to, true)?;
    }
    scene.client.enrol_capturing(&Said::default())?;
    for port in [PORT, BESIDE] {
        leaves(&scene.client, scene.server.at(port), false)?;
        leaves(&scene.client, scene.server.at6(port), false)?;
    }
    for stream in &mut open {
        roundtrip(stream, b"as it was")?;
    }
    // Its neighbour never said anything.
    scene.neighbour.enrol()?;
    leaves(&scene.neighbour, scene.server.at(PORT), false)
}

#[test]
fn excluded_ranges_leave_in_clear_and_the_addresses_beside_them_do_not() -> Result {
    let scene = scene("ports ranges")?;
    let _echo = scene.server.echo(PORT)?;
    let [first4, first6, second4, second6] = scene.server.ips().try_into()?;
    scene.client.enrol_capturing(&Said {
        exclude_outbound_ranges: ranges([first4, first6]),
        ..Said::default()
    })?;
    let at = |ip| SocketAddr::new(ip, PORT);
    let mapped = match first4 {
        IpAddr::V4(v4) => at(v4.to_ipv6_mapped().into()),
        IpAddr::V6(_) => at(first4),
    };
    for to in [at(first4), at(first6), mapped] {
        leaves(&scene.client, to, true)?;
    }
    for to in [at(second4), at(second6)] {
        leaves(&scene.client, to, false)?;
    }
    // All of one family is not all of the other.
    scene.client.enrol_capturing(&Said {
        exclude_outbound_ranges: ["::/0".parse()?].into(),
        ..Said::default()
    })?;
    for (ip, wanted) in [(first4, false), (first6, true), (second4, false), (second6, true)] {
        leaves(&scene.client, at(ip), wanted)?;
    }
    Ok(())
}

#[test]
fn where_some_is_included_only_that_is_captured() -> Result {
    let scene = scene("ports included")?;
    let _echo = [scene.server.echo(PORT)?, scene.server.echo(BESIDE)?];
    let [first4, first6, second4, second6] = scene.server.ips().try_into()?;
    scene.client.enrol_capturing(&Said {
        include_outbound_ranges: Some(ranges([first4, second6])),
        include_outbound_ports: [BESIDE].into(),
        ..Said::default()
    })?;
    for (ip, port, wanted) in [
        (first4, PORT, false),
        (second4, PORT, true),
        (first6, PORT, true),
        (second6, PORT, false),
        (second4, BESIDE, false),
        (first6, BESIDE, false),
    ] {
        leaves(&scene.client, SocketAddr::new(ip, port), wanted)?;
    }
    // None at all: then only what comes in is the mesh's.
    scene.client.enrol_capturing(&Said {
        include_outbound_ranges: Some([].into()),
        ..Said::default()
    })?;
    for ip in [first4, first6] {
        leaves(&scene.client, SocketAddr::new(ip, PORT), true)?;
    }
    let _echo = scene.client.echo(PORT)?;
    leaves(&scene.server, scene.client.at(PORT), false)?;
    scene
        .outside
        .connect_within(scene.client.at(PORT), BRIEFLY)
        .unwrap_err();
    Ok(())
}

/// Plaintext from outside the mesh meets the application itself.
#[track_caller]
fn is_delivered(scene: &OneNetwork, to: SocketAddr, echo: &isthmus_tests::Echo) -> Result<TcpStream> {
    let mut stream = scene.outside.connect(to)?;
    roundtrip(&mut stream, b"from outside").because(format!("speaking to {to}"))?;
    assert_eq!(echo.peer()?, stream.local_addr()?, "at {to}");
    Ok(stream)
}

#[track_caller]
fn is_refused(scene: &OneNetwork, to: SocketAddr) {
    let tried = scene.outside.connect_within(to, BRIEFLY);
    assert!(tried.is_err(), "{to} took plaintext");
}

/// A peer of the mesh still comes through a tunnel, with its identity.
#[track_caller]
fn is_reached_through_a_tunnel(scene: &OneNetwork, to: SocketAddr, echo: &isthmus_tests::Echo) -> Result {
    let mark = scene.agents[1].log().mark();
    leaves(&scene.client, to, false)?;
    let peer = echo.peer()?.ip();
    assert!(scene.client.ips().contains(&peer), "{peer} is no address of the client");
    scene.agents[1].wait_access(mark, "inbound", |line| {
        field(line, "src.identity") == scene.client.identity()
    })?;
    Ok(())
}

#[test]
fn excluded_inbound_ports_are_the_applications_and_the_ports_beside_them_are_not() -> Result {
    let scene = scene("ports in")?;
    let [_, agent] = &scene.agents;
    scene.client.enrol()?;
    let (echo, beside) = (scene.server.echo(PORT)?, scene.server.echo(BESIDE)?);
    scene.server.enrol_capturing(&Said {
        exclude_inbound_ports: [PORT].into(),
        ..Said::default()
    })?;
    let mut open = Vec::new();
    for (number, to) in (1..).zip([scene.server.at(PORT), scene.server.at6(PORT)]) {
        open.push(is_delivered(&scene, to, &echo)?);
        assert_eq!(counted(agent, "syn_passed_not_captured")?, number);
        is_reached_through_a_tunnel(&scene, to, &echo)?;
        assert_eq!(counted(agent, "syn_passed_not_captured")?, number);
    }
    for to in [scene.server.at(BESIDE), scene.server.at6(BESIDE)] {
        is_refused(&scene, to);
        is_reached_through_a_tunnel(&scene, to, &beside)?;
    }
    // Port 15008 is the mesh's, whatever is said: no plaintext comes to an application there.
    scene.server.enrol_capturing(&Said {
        exclude_inbound_ports: [PORT, 15008].into(),
        ..Said::default()
    })?;
    is_reached_through_a_tunnel(&scene, scene.server.at(PORT), &echo)?;

    scene.server.enrol_capturing(&Said::default())?;
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        is_refused(&scene, to);
    }
    for stream in &mut open {
        roundtrip(stream, b"as it was")?;
    }
    Ok(())
}

#[test]
fn where_inbound_is_bypassed_plaintext_is_the_applications_and_tunnels_are_served() -> Result {
    let scene = scene("ports bypass")?;
    scene.client.enrol()?;
    let (echo, beside) = (scene.server.echo(PORT)?, scene.server.echo(BESIDE)?);
    scene.server.enrol_capturing(&Said::default())?;
    is_refused(&scene, scene.server.at(PORT));
    scene.server.enrol_capturing(&Said {
        bypass_inbound: true,
        ..Said::default()
    })?;
    for (to, beside_it) in [
        (scene.server.at(PORT), scene.server.at(BESIDE)),
        (scene.server.at6(PORT), scene.server.at6(BESIDE)),
    ] {
        is_delivered(&scene, to, &echo)?;
        is_delivered(&scene, beside_it, &beside)?;
        is_reached_through_a_tunnel(&scene, to, &echo)?;
    }
    // What it connects to is captured as ever.
    let _echo = scene.client.echo(PORT)?;
    leaves(&scene.server, scene.client.at(PORT), false)?;

    // Only a port.
    scene.server.enrol_capturing(&Said {
        include_inbound_ports: Some([PORT].into()),
        ..Said::default()
    })?;
    for (to, beside_it) in [
        (scene.server.at(PORT), scene.server.at(BESIDE)),
        (scene.server.at6(PORT), scene.server.at6(BESIDE)),
    ] {
        is_refused(&scene, to);
        is_delivered(&scene, beside_it, &beside)?;
        is_reached_through_a_tunnel(&scene, to, &echo)?;
    }
    Ok(())
}

#[test]
fn an_excluded_destination_rewritten_to_a_captured_one_does_not_get_past_the_guard() -> Result {
    let scene = scene("ports rewritten")?;
    let [node1, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let [first4, _, second4, _]: [IpAddr; 4] = scene.server.ips().try_into()?;
    scene.client.enrol_capturing(&Said {
        exclude_outbound_ranges: ranges([first4]),
        ..Said::default()
    })?;
    leaves(&scene.client, SocketAddr::new(first4, PORT), true)?;
    scene.client.netns().output(
        "nft",
        &["table inet trick { chain out { type nat hook output priority -100; }; }"],
        "",
    )?;
    scene.client.netns().output(
        "nft",
        &[&format!(
            "add rule inet trick out ip daddr {first4} dnat ip to {second4}"
        )],
        "",
    )?;
    let capture = Capture::start(node1.netns())?;
    capture.listen_for(b"fence");
    let dropped = counted(agent, "guard_dropped_syn")?;
    let tried = scene.client.connect_within(SocketAddr::new(first4, PORT), BRIEFLY);
    tried.unwrap_err();
    assert!(counted(agent, "guard_dropped_syn")? > dropped);
    scene.client.fence(second4, b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    assert_eq!(capture.syns_to(second4, PORT), []);
    Ok(())
}

#[test]
fn the_kernel_holds_what_is_said_across_restarts_and_nothing_of_who_is_gone() -> Result {
    let scene = scene("ports held")?;
    let [node1, _] = &scene.nodes;
    let [agent, _] = &scene.agents;
    let _echo = [scene.server.echo(PORT)?, scene.server.echo(BESIDE)?];
    scene.client.enrol()?;
    assert_eq!(kernel_rules(node1)?, 0, "who says nothing takes no room");
    let said = Said {
        exclude_inbound_ports: [PORT].into(),
        exclude_outbound_ports: [PORT].into(),
        exclude_outbound_ranges: ranges([scene.outside.ip(), scene.outside.ip6()]),
        ..Said::default()
    };
    scene.client.enrol_capturing(&said)?;
    scene.neighbour.enrol_capturing(&said)?;
    assert_eq!(kernel_rules(node1)?, 8);
    scene.neighbour.enrol_capturing(&Said {
        exclude_outbound_ports: [BESIDE].into(),
        ..Said::default()
    })?;
    assert_eq!(kernel_rules(node1)?, 5);

    agent.kill()?;
    agent.restart()?;
    assert_eq!(kernel_rules(node1)?, 5);
    assert_eq!(scene.client.status()?.because("it is taken up")?.capture, said);
    leaves(&scene.client, scene.server.at(PORT), true)?;
    leaves(&scene.client, scene.server.at(BESIDE), false)?;
    leaves(&scene.neighbour, scene.server.at(PORT), false)?;

    scene.client.release()?;
    within(SOON, "the pod is let go", || {
        scene.client.status().ok()?.is_none().then_some(())
    })?;
    assert_eq!(kernel_rules(node1)?, 1);
    // What no record tells of goes with the next agent.
    agent.kill()?;
    for record in std::fs::read_dir(node1.run_dir().join("pods"))? {
        std::fs::remove_file(record?.path())?;
    }
    agent.restart()?;
    assert_eq!(kernel_rules(node1)?, 0);
    Ok(())
}

#[test]
fn more_than_there_is_room_for_is_refused_and_nothing_changes() -> Result {
    let scene = scene("ports many")?;
    let [node1, _] = &scene.nodes;
    let said = Said {
        exclude_outbound_ports: [PORT].into(),
        ..Said::default()
    };
    scene.client.enrol_capturing(&said)?;
    let many = Said {
        exclude_outbound_ports: (1..=65).collect(),
        ..Said::default()
    };
    let refused = scene.client.enrol_capturing(&many).unwrap_err().to_string();
    assert!(
        refused.contains("65") && refused.contains("retriable: false"),
        "{refused}"
    );
    assert_eq!(scene.client.status()?.because("it is enrolled")?.capture, said);
    assert_eq!(kernel_rules(node1)?, 1);
    Ok(())
}
