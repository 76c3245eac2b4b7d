//! Guests inside a pod: a network namespace (or a virtual machine) behind one of its interfaces.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{
    Netns, Result, capture::Capture, log::field, netns::ip, pod::connect_from, roundtrip, scene::OneNetwork,
};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

/// A namespace behind `guest0` of the pod, which routes everything through it.
fn guest(scene: &OneNetwork) -> Result<Netns> {
    let guest = Netns::create(&format!("{}guest", scene.lab.name()), false)?;
    let pod = scene.client.netns().name();
    ip(
        &[],
        &format!(
            "link add guest0 netns {pod} type veth peer name eth0 netns {}\n",
            guest.name()
        ),
    )?;
    scene
        .client
        .netns()
        .ip("addr add 192.168.73.1/24 dev guest0\naddr add fd00:73::1/64 dev guest0 nodad\nlink set guest0 up\n")?;
    guest.ip(
        "addr add 192.168.73.2/24 dev eth0\naddr add fd00:73::2/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 192.168.73.1\nroute add ::/0 via fd00:73::1\n",
    )?;
    Ok(guest)
}

fn targets(scene: &OneNetwork) -> [SocketAddr; 2] {
    [scene.server.at(PORT), scene.server.at6(PORT)]
}

/// What a guest sends arrives as the pod's own.
fn is_carried_for(scene: &OneNetwork, guest: &Netns, to: SocketAddr) -> Result {
    let mark = scene.agents[1].log().mark();
    let mut stream = connect_from(guest, to, SOON)?;
    roundtrip(&mut stream, b"from a guest")?;
    drop(stream);
    scene.agents[1].wait_access(mark, "inbound", |line| {
        field(line, "src.identity") == scene.client.identity()
    })?;
    Ok(())
}

#[test]
fn what_guests_behind_a_named_interface_send_is_the_pods_own_traffic() -> Result {
    let scene = OneNetwork::not_enrolled("guests", &Default::default())?;
    let guest = guest(&scene)?;
    let _echo = scene.server.echo(PORT)?;
    scene.server.enrol()?;
    scene.client.enrol_with_guests(&["guest0"])?;
    let capture = Capture::start(scene.nodes[0].netns())?;
    for to in targets(&scene) {
        is_carried_for(&scene, &guest, to)?;
        assert_eq!(capture.syns_to(to.ip(), PORT), [], "in clear to {to}");
    }
    Ok(())
}

#[test]
fn guests_behind_an_interface_that_was_not_named_reach_nobody_in_clear() -> Result {
    let scene = OneNetwork::not_enrolled("guests", &Default::default())?;
    let guest = guest(&scene)?;
    scene.client.netns().route_packets()?;
    let echo = scene.server.echo(PORT)?;
    scene.server.enrol()?;
    scene.client.enrol()?;
    let capture = Capture::start(scene.nodes[0].netns())?;
    capture.listen_for(b"fence");
    for to in targets(&scene) {
        assert!(connect_from(&guest, to, Duration::from_millis(500)).is_err());
        scene.client.fence(scene.server.ip(), b"fence")?;
        capture.wait_for(b"fence", SOON)?;
        assert_eq!(capture.syns_to(to.ip(), PORT), [], "in clear to {to}");
    }
    echo.must_not_accept(Duration::from_millis(50))
}

#[test]
fn interfaces_are_named_and_no_longer_named_while_the_pod_runs() -> Result {
    let scene = OneNetwork::not_enrolled("guests", &Default::default())?;
    let guest = guest(&scene)?;
    let _echo = scene.server.echo(PORT)?;
    scene.server.enrol()?;
    scene.client.enrol()?;
    let mut own = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut own, b"the pod's own")?;
    let rules = || -> Result<usize> {
        let [v4, v6] = [&["-4", "rule"][..], &["-6", "rule"][..]].map(|what| scene.client.netns().ip_output(what));
        Ok(format!("{}{}", v4?, v6?).matches("iif guest0").count())
    };
    assert_eq!(rules()?, 0);
    for to in targets(&scene) {
        scene.client.enrol_with_guests(&["guest0"])?;
        assert_eq!(rules()?, 2, "one of each family");
        is_carried_for(&scene, &guest, to)?;
        scene.client.enrol()?;
        assert_eq!(rules()?, 0);
        assert!(connect_from(&guest, to, Duration::from_millis(500)).is_err());
        roundtrip(&mut own, b"as it was")?;
    }
    let status = scene.client.status()?;
    assert_eq!(status.map(|pod| pod.reroute_interfaces.len()), Some(0));
    Ok(())
}

#[test]
fn a_pod_in_a_sandbox_with_its_own_network_stack_is_refused_and_nothing_is_left() -> Result {
    let scene = OneNetwork::not_enrolled("guests", &Default::default())?;
    let pod = &scene.client;
    pod.netns().ip("link add tap0_kata type veth peer name inner\n")?;
    let refused = pod.enrol().unwrap_err().to_string();
    assert!(
        refused.contains("tap0_kata") && refused.contains("retriable: false"),
        "{refused}"
    );
    assert!(pod.status()?.is_none());
    assert!(!pod.netns().ip_output(&["rule"])?.contains("fwmark"));
    // Not because of anything else.
    pod.netns().ip("link del tap0_kata\n")?;
    pod.enrol()
}
