//! Every way a connection of an enrolled pod can go, in IPv4 and IPv6.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use isthmus_tests::{
    Agent, Because as _, Capture, Netns, Pod, Result, log::field, pod::connect_from, roundtrip, scene::OneNetwork,
};
use socket2::{Domain, Socket, Type};

const PORT: u16 = 8080;

/// Both addresses of a pod's first pair, with the tests' port.
fn both(pod: &Pod) -> [SocketAddr; 2] {
    [pod.at(PORT), pod.at6(PORT)]
}

/// Connects, says something, and checks what both applications see of each other.
fn check_ends(client: &Pod, to: SocketAddr, echo: &isthmus_tests::Echo) -> Result<TcpStream> {
    let mut stream = client.connect(to)?;
    roundtrip(&mut stream, b"hello")?;
    assert_eq!(stream.peer_addr()?, to, "the client sees what it asked for");
    assert_eq!(
        echo.peer()?.ip(),
        stream.local_addr()?.ip(),
        "the server sees the client"
    );
    Ok(stream)
}

/// The newest inbound access-log line names the client's certificate.
fn carried_by_hbone(agent: &Agent, mark: usize, client: &Pod) -> Result {
    let line = agent.wait_access(mark, "inbound", |line| field(line, "src.identity") == client.identity())?;
    assert_eq!(
        field(&line, "dst.identity").is_empty(),
        field(&line, "dst.workload").is_empty(),
        "{line}"
    );
    Ok(())
}

#[test]
fn between_nodes_a_tunnel_carries_and_both_ends_see_each_other() -> Result {
    let scene = OneNetwork::start("paths")?;
    let [node1, _] = &scene.nodes;
    let [_, agent] = &scene.agents;
    let capture = Capture::start(node1.netns())?;
    capture.listen_for(b"fence");
    let echo = scene.server.echo(PORT)?;
    for to in both(&scene.server) {
        let mark = agent.log().mark();
        drop(check_ends(&scene.client, to, &echo)?);
        carried_by_hbone(agent, mark, &scene.client)?;
    }
    scene.client.fence(scene.server.ip(), b"fence")?;
    capture.wait_for(b"fence", Duration::from_secs(5))?;
    for ip in [scene.server.ip(), scene.server.ip6()] {
        assert!(!capture.syns_to(ip, 15008).is_empty(), "a tunnel to {ip} was opened");
        assert_eq!(capture.syns_to(ip, PORT), [], "nothing went to {ip} past the tunnel");
    }
    Ok(())
}

#[test]
fn on_one_node_a_tunnel_carries_and_both_ends_see_each_other() -> Result {
    let scene = OneNetwork::start("paths")?;
    let [agent, _] = &scene.agents;
    let echo = scene.neighbour.echo(PORT)?;
    for to in both(&scene.neighbour) {
        let mark = agent.log().mark();
        drop(check_ends(&scene.client, to, &echo)?);
        carried_by_hbone(agent, mark, &scene.client)?;
    }
    Ok(())
}

#[test]
fn plain_destinations_are_reached_with_the_pods_own_address() -> Result {
    let scene = OneNetwork::start("paths")?;
    for server in [&scene.plain, &scene.outside] {
        let echo = server.echo(PORT)?;
        for to in both(server) {
            check_ends(&scene.client, to, &echo)?;
        }
    }
    Ok(())
}

#[test]
fn a_refused_plain_destination_ends_the_connection() -> Result {
    let scene = OneNetwork::start("paths")?;
    for to in both(&scene.plain) {
        // The agent accepts before it dials; what it then learns must end the stream and not hang it.
        let ended = scene
            .client
            .connect(to)
            .and_then(|mut stream| roundtrip(&mut stream, b"hello"));
        let text = ended.unwrap_err().to_string();
        assert!(!text.contains("timed out") && !text.contains("temporarily"), "{text}");
    }
    Ok(())
}

#[test]
fn own_addresses_and_loopback_are_untouched() -> Result {
    let scene = OneNetwork::start("paths")?;
    let [agent, _] = &scene.agents;
    let echo = scene.client.echo(PORT)?;
    let mark = agent.log().mark();
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for ip in scene.client.ips().iter().chain(&loopback) {
        let mut stream = scene.client.connect(SocketAddr::new(*ip, PORT))?;
        roundtrip(&mut stream, b"hello")?;
        assert_eq!(
            echo.peer()?,
            stream.local_addr()?,
            "to {ip}, the very socket of the client is seen"
        );
    }
    // One that is carried comes after them in the log; none of them is before it.
    let far = scene.server.echo(PORT)?;
    drop(check_ends(&scene.client, scene.server.at(PORT), &far)?);
    let line = agent.wait_access(mark, "outbound", |_| true)?;
    assert!(
        field(&line, "dst.addr").contains(&scene.server.ip().to_string()),
        "{line}"
    );
    Ok(())
}

#[test]
fn probes_of_the_node_are_untouched_even_where_mutual_tls_is_required() -> Result {
    let scene = OneNetwork::start("paths")?;
    let [node1, _] = &scene.nodes;
    scene.neighbour.release()?;
    scene.neighbour.enrol_with(Some(true))?;
    let echo = scene.neighbour.echo(PORT)?;
    for to in both(&scene.neighbour) {
        let mut probe = connect_from(node1.netns(), to, Duration::from_secs(5))?;
        roundtrip(&mut probe, b"are you well?")?;
        assert_eq!(echo.peer()?, probe.local_addr()?);
    }
    for to in both(&scene.neighbour) {
        scene.outside.connect_within(to, Duration::from_secs(2)).unwrap_err();
    }
    echo.must_not_accept(Duration::from_millis(100))
}

#[test]
fn plaintext_from_outside_is_admitted_untouched_and_counted() -> Result {
    let scene = OneNetwork::start("paths")?;
    let [_, agent] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    for to in both(&scene.server) {
        let mut stream = scene.outside.connect(to)?;
        roundtrip(&mut stream, b"hello")?;
        assert_eq!(echo.peer()?, stream.local_addr()?);
    }
    isthmus_tests::within(Duration::from_secs(5), "both connections are counted", || {
        let counted = agent.status().ok()?.pods.get(&scene.server.uid())?.plaintext;
        (counted.opened == 2 && counted.closed == 2 && counted.received_bytes >= 10).then_some(())
    })
}

#[test]
fn plaintext_from_outside_is_refused_where_mutual_tls_is_required() -> Result {
    let scene = OneNetwork::start("paths")?;
    scene.server.release()?;
    scene.server.enrol_with(Some(true))?;
    let echo = scene.server.echo(PORT)?;
    for to in both(&scene.server) {
        let text = scene
            .outside
            .connect_within(to, Duration::from_secs(3))
            .unwrap_err()
            .to_string();
        assert!(text.contains("refused") || text.contains("timed out"), "{text}");
    }
    echo.must_not_accept(Duration::from_millis(100))?;
    check_ends(&scene.client, scene.server.at(PORT), &echo)?;
    Ok(())
}

#[test]
fn services_are_reached_at_their_address_and_see_the_client() -> Result {
    let scene = OneNetwork::start("paths")?;
    let (v4, v6) = (scene.network.vip(1), scene.network.vip6(1));
    scene
        .lab
        .service("far")
        .vip("net1", v4)
        .vip("net1", v6)
        .port(80, PORT)
        .endpoint(&scene.server)
        .add();
    scene.lab.publish()?;
    let [_, agent] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    for ip in [v4, v6] {
        let mark = agent.log().mark();
        drop(check_ends(&scene.client, SocketAddr::new(ip, 80), &echo)?);
        carried_by_hbone(agent, mark, &scene.client)?;
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result {
    let scene = OneNetwork::start("paths")?;
    let (v4, v6) = (scene.network.vip(2), scene.network.vip6(2));
    scene
        .lab
        .service("own")
        .vip("net1", v4)
        .vip("net1", v6)
        .port(80, PORT)
        .endpoint(&scene.client)
        .add();
    scene.lab.publish()?;
    let echo = scene.client.echo(PORT)?;
    for ip in [v4, v6] {
        let mut stream = scene.client.connect(SocketAddr::new(ip, 80))?;
        roundtrip(&mut stream, b"hello myself")?;
        assert_eq!(stream.peer_addr()?.ip(), ip);
        assert!(
            scene.client.ips().contains(&echo.peer()?.ip()),
            "it sees one of its own addresses"
        );
    }
    Ok(())
}

#[test]
fn a_pod_of_two_addresses_keeps_the_one_it_chose_and_is_served_on_both() -> Result {
    let scene = OneNetwork::start("paths")?;
    let [_, agent] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    for from in scene.client.ips() {
        for to in scene.server.ips().iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            let mark = agent.log().mark();
            let mut stream = connect_bound(scene.client.netns(), *from, SocketAddr::new(*to, PORT))?;
            roundtrip(&mut stream, b"hello")?;
            assert_eq!((stream.peer_addr()?.ip(), echo.peer()?.ip()), (*to, *from));
            drop(stream);
            carried_by_hbone(agent, mark, &scene.client)?;
        }
    }
    Ok(())
}

fn connect_bound(netns: &Netns, from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    netns.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket
            .connect_timeout(&to.into(), Duration::from_secs(5))
            .because(format!("from {from} to {to}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(socket.into())
    })?
}

#[test]
fn connects_to_the_agents_own_listeners_are_refused() -> Result {
    let scene = OneNetwork::start("paths")?;
    let listeners = listening_ports(&scene.server)?;
    assert!(!listeners.is_empty(), "the agent listens inside the pod");
    for port in listeners {
        for ip in scene.server.ips() {
            let at = SocketAddr::new(*ip, port);
            for (pod, name) in [(&scene.server, "itself"), (&scene.outside, "outside")] {
                let ended = pod.connect_within(at, Duration::from_millis(400));
                assert!(ended.is_err(), "{name} reached the agent's listener at {at}");
            }
            // Over a tunnel: the client's agent accepts, the server's refuses the stream.
            let ended = scene
                .client
                .connect(at)
                .and_then(|mut stream| roundtrip(&mut stream, b"hello"));
            assert!(ended.is_err(), "a peer reached the agent's listener at {at}");
        }
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let ended = scene
                .server
                .connect_within(SocketAddr::new(ip, port), Duration::from_millis(400));
            assert!(ended.is_err(), "the pod reached the agent's listener at {ip}:{port}");
        }
    }
    Ok(())
}

/// Ports on which anything listens in a pod (state 0A of proc_pid_net(5)).
fn listening_ports(pod: &Pod) -> Result<Vec<u16>> {
    let tables = pod.netns().enter(|| {
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default())
    })?;
    let mut ports = Vec::new();
    for line in tables.iter().flat_map(|table| table.lines()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [_, local, _, "0A", ..] = fields.as_slice()
            && let Some((_, port)) = local.rsplit_once(':')
        {
            ports.push(u16::from_str_radix(port, 16)?);
        }
    }
    Ok(ports)
}
