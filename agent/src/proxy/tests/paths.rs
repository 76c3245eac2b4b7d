use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream},
};

use super::world::{NETWORK, Pod, World, exchange, fresh_ip, id, pattern, until, workload};
use crate::{
    hbone::{Baggage, ConnectRequest, ReadAhead, Settings, client, client::OpenError},
    mesh::workload::Protocol,
    telemetry::spans,
};

/// Sends a tunnel's CONNECT by hand, as a peer of another make would.
async fn ask(world: &World, account: &str, peer: SocketAddr, server: &str, authority: &str) -> Result<(), OpenError> {
    baggage(world, account, peer, server, authority).await.map(drop)
}

/// The same; what the destination says of itself.
async fn baggage(
    world: &World,
    account: &str,
    peer: SocketAddr,
    server: &str,
    authority: &str,
) -> Result<Option<Baggage>, OpenError> {
    let certificate = world.certificates.get(&id(account)).await.unwrap();
    let tcp = TcpStream::connect(peer).await.unwrap();
    let (tunnel, driver) = client::handshake(
        ReadAhead::new(tcp),
        &certificate,
        [id(server)].into(),
        Settings::default(),
    )
    .await
    .unwrap();
    tokio::spawn(driver);
    let request = ConnectRequest {
        authority: authority.parse().unwrap(),
        baggage: None,
        forwarded: None,
        traceparent: None,
        from_network: None,
    };
    tunnel.open(&request).await.map(|opened| opened.baggage)
}

/// A connection over which a byte has passed, so that both agents are relaying.
async fn talking(client: &Pod, server: &Pod) -> (TcpStream, TcpStream) {
    let (mut near, mut far) = client.connect(server).await;
    far.write_all(b"!").await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();
    (near, far)
}

fn status(error: &OpenError) -> u16 {
    match error {
        OpenError::Refused { status } => status.as_u16(),
        other => panic!("no answer: {other}"),
    }
}

#[tokio::test]
async fn a_connection_crosses_two_proxies_and_both_logs_say_who_talked() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    // The other direction still lives after the first was closed.
    far.write_all(b"a longer answer").await.unwrap();
    far.shutdown().await.unwrap();
    text.clear();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "a longer answer");

    let outbound = world.log.line("outbound").await;
    let inbound = world.log.line("inbound").await;
    for line in [&outbound, &inbound] {
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["src.identity"], id("client").to_string());
        assert_eq!(line["dst.identity"], id("server").to_string());
        assert_eq!(
            (line["src.workload"].as_str(), line["dst.workload"].as_str()),
            ("client", "server")
        );
        assert_eq!(line["dst.addr"], far.local_addr().unwrap().to_string());
        assert_eq!(line["dst.hbone_addr"], format!("{}:15008", server.ip));
        assert_eq!(
            (line["close"].as_str(), line["close.by"].as_str()),
            ("finished", "client")
        );
        assert!(!line.contains_key("error") && !line.contains_key("close.hint"));
    }
    // One trace leads through both agents.
    assert_eq!(outbound["trace_id"], inbound["trace_id"]);
    assert_eq!(outbound["trace_id"].len(), 32);
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        let common = [
            reporter,
            "source_workload=\"client\"",
            "destination_workload=\"server\"",
            "source_principal=\"spiffe://cluster.local/ns/demo/sa/client\"",
            "destination_principal=\"spiffe://cluster.local/ns/demo/sa/server\"",
            "connection_security_policy=\"mutual_tls\"",
            "response_flags=\"-\"",
        ];
        for (name, expected) in [
            ("connections_opened", 1),
            ("connections_closed", 1),
            ("received_bytes", 8),
            ("sent_bytes", 15),
        ] {
            assert_eq!(
                world.metric(&format!("istio_tcp_{name}_total"), &common),
                expected,
                "{name} {reporter}"
            );
        }
        assert_eq!(world.metric("istio_tcp_sockets_open", &[reporter]), 0);
        assert_eq!(
            world.metric("isthmus_connections_ended_total", &[reporter, "reason=\"finished\""]),
            1
        );
    }
    assert_eq!(world.metric("istio_tcp_connections_failed_total", &[]), 0);
    assert!(world.telemetry.recent.list().is_empty());
    assert_eq!(
        (outbound["bytes_sent"].as_str(), outbound["bytes_recv"].as_str()),
        ("8", "15")
    );
    assert_eq!(
        (inbound["bytes_sent"].as_str(), inbound["bytes_recv"].as_str()),
        ("15", "8")
    );
    // The application is dialled as the client, its port included.
    let delivered = server.sockets.delivered.lock().unwrap().clone();
    assert_eq!(delivered, [(near.local_addr().unwrap(), far.local_addr().unwrap())]);
    until("both tables empty", || {
        client.proxy.open_connections() + server.proxy.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn the_server_may_close_first() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    far.write_all(b"banner").await.unwrap();
    far.shutdown().await.unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    near.write_all(b"thanks").await.unwrap();
    near.shutdown().await.unwrap();
    text.clear();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "thanks");
    let line = world.log.line("outbound").await;
    assert_eq!(
        (line["close"].as_str(), line["close.by"].as_str()),
        ("finished", "server")
    );
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (near, mut far) = talking(&client, &server).await;
    near.set_zero_linger().unwrap();
    drop(near);
    let error = far.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let line = world.log.line("outbound").await;
    assert_eq!(line["level"], "ERROR");
    let told = ["close", "close.by", "close.phase", "close.errno"].map(|key| line[key].as_str());
    assert_eq!(told, ["reset", "client", "relay", "ECONNRESET"]);
    let line = world.log.line("inbound").await;
    let told = ["close", "close.by", "close.stream"].map(|key| line[key].as_str());
    assert_eq!(told, ["stream-reset", "client", "INTERNAL_ERROR"]);

    let (mut near, far) = client.connect(&server).await;
    far.set_zero_linger().unwrap();
    drop(far);
    let error = near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_after_the_applications_own_end_is_noticed() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    near.set_zero_linger().unwrap();
    drop(near);
    tokio::time::timeout(Duration::from_secs(5), far.ready(Interest::ERROR))
        .await
        .expect("nobody told the server")
        .unwrap();
    // Linux reports a reset after the end of input as EPIPE.
    assert_eq!(far.take_error().unwrap().unwrap().kind(), io::ErrorKind::BrokenPipe);
    let line = world.log.line("outbound").await;
    assert_eq!((line["close"].as_str(), line["close.by"].as_str()), ("reset", "client"));
}

#[tokio::test]
async fn a_tunnel_that_dies_is_a_reset_and_not_an_end() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    far.write_all(b"half of ").await.unwrap();
    let mut half = [0; 8];
    near.read_exact(&mut half).await.unwrap();
    server.proxy.abort_all();
    for end in [&mut near, &mut far] {
        let error = end.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    // Listeners end with their pod.
    server.inbound.await.unwrap();
    server.outbound.await.unwrap();
    until("no connection left", || {
        server.proxy.open_connections() + server.proxy.tunnels() == 0
    })
    .await;
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_a_503_and_a_reset() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (listener, address) = server.listen().await;
    drop(listener);
    let mut near = client.dial(address).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let line = world.log.line("outbound").await;
    assert!(line["error"].contains("503"), "{}", line["error"]);
    assert_eq!(
        (line["close"].as_str(), line["close.status"].as_str()),
        ("peer-refused", "503")
    );
    let line = world.log.line("inbound").await;
    assert_eq!(
        (line["close"].as_str(), line["close.errno"].as_str()),
        ("connect-refused", "ECONNREFUSED")
    );
    assert!(line["close.hint"].contains("listens"), "{}", line["close.hint"]);
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        let refused = [
            reporter,
            "response_flags=\"CONNECT\"",
            "destination_workload=\"server\"",
        ];
        assert_eq!(world.metric("istio_tcp_connections_failed_total", &refused), 1);
        assert_eq!(world.metric("istio_tcp_connections_opened_total", &[reporter]), 1);
    }
    let peer = (server.ip, 15008).into();
    let refused = ask(&world, "client", peer, "server", &address.to_string())
        .await
        .unwrap_err();
    assert_eq!(status(&refused), 503);
}

#[tokio::test]
async fn what_is_not_the_pods_is_a_400_and_nobody_is_dialled() {
    let world = World::new();
    let (_client, server) = (world.pod("client").await, world.pod("server").await);
    let peer = (server.ip, 15008).into();
    let elsewhere = format!("{}:80", fresh_ip());
    for (authority, expected) in [(elsewhere.as_str(), 400), ("nobody.demo.svc.cluster.local:80", 503)] {
        let refused = ask(&world, "client", peer, "server", authority).await.unwrap_err();
        assert_eq!(status(&refused), expected, "{authority}");
    }
    let own_port = format!("{}:15008", server.ip);
    assert_eq!(
        status(&ask(&world, "client", peer, "server", &own_port).await.unwrap_err()),
        503
    );
    assert!(server.sockets.delivered.lock().unwrap().is_empty());
    assert!(server.dialled().is_empty());
}

#[tokio::test]
async fn plain_destinations_are_dialled_as_they_are_and_pumped_both_ways() {
    let world = World::new();
    let client = world.pod("client").await;
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let near = client.dial(address).await;
    let (far, _) = listener.accept().await.unwrap();
    assert_eq!(client.dialled(), [address]);
    // More than the size after which bytes go through a pipe, in both directions at once.
    let (back, forth) = tokio::join!(
        exchange(near, pattern(20_000_000, 1)),
        exchange(far, pattern(20_000_000, 2))
    );
    assert!(forth == pattern(20_000_000, 1) && back == pattern(20_000_000, 2));
    let line = world.log.line("outbound").await;
    assert_eq!(
        (line["bytes_sent"].as_str(), line["bytes_recv"].as_str()),
        ("20000000", "20000000")
    );
    assert!(!line.contains_key("src.identity") && !line.contains_key("dst.identity"));
    let plain = [
        "reporter=\"source\"",
        "connection_security_policy=\"unknown\"",
        "source_principal=\"unknown\"",
    ];
    assert_eq!(world.metric("istio_tcp_received_bytes_total", &plain), 20_000_000);
    assert_eq!(world.metric("istio_tcp_sent_bytes_total", &plain), 20_000_000);
}

#[tokio::test]
async fn a_plain_reset_is_carried_also_after_the_pipe_took_over() {
    let world = World::new();
    let client = world.pod("client").await;
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let mut near = client.dial(listener.local_addr().unwrap()).await;
    let (mut far, _) = listener.accept().await.unwrap();
    let mut sink = vec![0; 1 << 20];
    for _ in 0..4 {
        near.write_all(&sink.clone()).await.unwrap();
        far.read_exact(&mut sink).await.unwrap();
    }
    near.set_zero_linger().unwrap();
    drop(near);
    assert_eq!(
        far.read(&mut sink).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn an_application_that_dials_our_listener_is_reset_and_counted() {
    let world = World::new();
    let client = world.pod("client").await;
    let mut near = client.dial((client.ip, 80).into()).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(client.proxy.self_calls(), 1);
    let line = world.log.line("outbound").await;
    assert_eq!((line["close"].as_str(), line["level"].as_str()), ("self-call", "WARN"));
    assert_eq!(
        world.metric("istio_tcp_connections_failed_total", &["response_flags=\"-\""]),
        1
    );
    assert_eq!(world.metric("istio_tcp_connections_opened_total", &[]), 0);
    assert!(client.dialled().is_empty());
}

#[tokio::test]
async fn a_pods_first_connection_waits_for_the_mesh_to_learn_of_it() {
    let world = World::new();
    let server = world.pod("server").await;
    let (listener, address) = server.listen().await;
    let ip = fresh_ip();
    let client = world.unknown_pod("client", ip, NETWORK).await;
    let mut near = client.dial(address).await;
    until("the connection taken", || client.proxy.open_connections() == 1).await;
    assert!(client.dialled().is_empty());
    world.add_workload(workload("client", Some(ip)));
    let (mut far, _) = listener.accept().await.unwrap();
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_connection_to_a_pod_waits_for_the_mesh_to_learn_of_it() {
    let world = World::new();
    let ip = fresh_ip();
    let server = world.unknown_pod("server", ip, NETWORK).await;
    let (listener, address) = server.listen().await;
    let asked = async {
        let peer = (ip, 15008).into();
        baggage(&world, "client", peer, "server", &address.to_string()).await
    };
    let told = async {
        until("the tunnel begun", || server.proxy.tunnels() == 1).await;
        assert!(server.dialled().is_empty());
        world.add_workload(workload("server", Some(ip)));
    };
    let (asked, ()) = tokio::join!(asked, told);
    asked.unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_the_mesh_never_learns_of_reaches_nobody() {
    let world = World::new();
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let client = world.unknown_pod("client", fresh_ip(), NETWORK).await;
    let mut near = client.dial(listener.local_addr().unwrap()).await;
    let began = tokio::time::Instant::now();
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert!(client.dialled().is_empty());
    let line = world.log.line("outbound").await;
    assert_eq!(
        (line["close"].as_str(), line["close.phase"].as_str()),
        ("pod-unknown", "decide")
    );
}

#[tokio::test]
async fn what_cannot_be_reached_as_the_mesh_demands_is_not_reached_at_all() {
    let world = World::new();
    let client = world.pod("client").await;
    // A workload behind a waypoint that nobody knows, with a listener that would answer in clear.
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut guarded = workload("guarded", Some(address.ip()));
    guarded.protocol = Protocol::Tcp;
    guarded.waypoint = Some(crate::mesh::GatewayAddress {
        destination: crate::mesh::GatewayDestination::Address(crate::mesh::NetworkAddress {
            network: NETWORK.into(),
            ip: fresh_ip(),
        }),
        hbone_port: 15008,
    });
    world.add_workload(guarded);
    let mut near = client.dial(address).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert!(client.dialled().is_empty());
    assert_eq!(world.log.line("outbound").await["close"], "no-waypoint");
}

#[tokio::test]
async fn a_peer_with_another_identity_gets_no_byte() {
    let world = World::new();
    let (client, impostor) = (world.pod("client").await, world.pod("impostor").await);
    let (_listener, address) = impostor.listen().await;
    // The mesh says that somebody else lives there.
    world.change(|mesh| {
        mesh.remove_workload("Kubernetes//Pod/demo/impostor");
        mesh.add_workload(workload("server", Some(impostor.ip)));
        mesh.add_workload(workload("impostor", None));
    });
    let mut near = client.dial(address).await;
    near.write_all(b"secret").await.unwrap();
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert!(impostor.sockets.delivered.lock().unwrap().is_empty());
    let line = world.log.line("outbound").await;
    let told = ["close", "close.by", "close.phase"].map(|key| line[key].as_str());
    assert_eq!(told, ["tls-wrong-identity", "peer", "handshake"]);
    let failed = "istio_tcp_connections_failed_total";
    assert_eq!(
        world.metric(failed, &["reporter=\"source\"", "response_flags=\"TLS_FAILURE\""]),
        1
    );
    assert_eq!(world.metric(failed, &["response_flags=\"CONNECT\""]), 0);
}

#[tokio::test]
async fn a_long_connection_shows_its_bytes_while_it_runs() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = talking(&client, &server).await;
    near.write_all(b"12345").await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    let both = |name: &'static str, expected: u64| {
        let reporters = ["reporter=\"source\"", "reporter=\"destination\""];
        reporters
            .iter()
            .all(|reporter| world.metric(name, &[*reporter]) == expected)
    };
    until("the bytes counted", || {
        both("istio_tcp_received_bytes_total", 5) && both("istio_tcp_sent_bytes_total", 1)
    })
    .await;
    assert!(both("istio_tcp_connections_opened_total", 1));
    assert!(both("istio_tcp_connections_closed_total", 0));
    assert!(both("istio_tcp_sockets_open", 1));
}

#[tokio::test]
async fn a_pod_without_an_agent_points_at_port_15008() {
    let world = World::new();
    let client = world.pod("client").await;
    let ip = fresh_ip();
    world.add_workload(workload("server", Some(ip)));
    let mut near = client.dial((ip, 80).into()).await;
    let error = near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let line = world.log.line("outbound").await;
    let told = ["close", "close.by", "close.phase", "close.errno"].map(|key| line[key].as_str());
    assert_eq!(told, ["hbone-refused", "peer", "connect", "ECONNREFUSED"]);
    assert!(line["close.hint"].contains("15008"), "{}", line["close.hint"]);
    assert_eq!(
        world.metric("istio_tcp_connections_failed_total", &["response_flags=\"CONNECT\""]),
        1
    );
}

#[tokio::test]
async fn the_spans_of_both_agents_are_one_trace() {
    let world = World::new();
    let (endpoint, mut requests) = spans::tests::collector("0").await;
    let spans = spans::start(&endpoint, &[]).unwrap();
    world.telemetry.export_spans(spans.clone());
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (near, far) = client.connect(&server).await;
    tokio::join!(exchange(near, pattern(5, 1)), exchange(far, pattern(9, 2)));
    let line = world.log.line("inbound").await;
    world.log.line("outbound").await;
    // The spans are offered right after the lines.
    until("both spans sent", || spans.exported() == 2).await;
    let mut got = Vec::new();
    while let Ok(request) = requests.try_recv() {
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        got.extend(scopes.flat_map(|scope| scope.spans));
    }
    assert_eq!(got.len(), 2);
    let named = |name: &str| got.iter().find(|span| span.name == name).unwrap();
    let (outbound, inbound) = (named("outbound connection"), named("inbound connection"));
    assert_eq!(outbound.trace_id, inbound.trace_id);
    assert_eq!(inbound.parent_span_id, outbound.span_id);
    assert!(outbound.parent_span_id.is_empty());
    let trace: String = outbound.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line["trace_id"], trace);
    for key in [
        "source.workload",
        "destination.workload",
        "destination.principal",
        "isthmus.close.reason",
    ] {
        assert!(inbound.attributes.iter().any(|pair| pair.key == key), "{key}");
    }
}

#[tokio::test]
async fn peers_are_told_who_the_destination_is_unless_that_is_switched_off() {
    for told in [true, false] {
        let mut world = World::new();
        world.tuning.response_baggage = told;
        let server = world.pod("server").await;
        world.add_workload(workload("client", None));
        let (_listener, address) = server.listen().await;
        let peer = SocketAddr::new(server.ip, 15008);
        let said = baggage(&world, "client", peer, "server", &address.to_string())
            .await
            .unwrap();
        assert_eq!(said.is_some(), told);
    }
}
