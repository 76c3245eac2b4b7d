use std::{collections::HashMap, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::world::{NETWORK, Pod, World, fresh_ip, id, until, workload};
use crate::{
    dns::{Answer, DnsError, Names, Resolve},
    mesh::{
        Draft, GatewayAddress, GatewayDestination, NetworkAddress, Policy, Service, ServiceKey,
        policy::{Action, Clause, Match, Rule, Scope, StringMatch},
        service::Vip,
        workload::{Membership, Protocol},
    },
};

const HOST: &str = "echo.demo.svc.cluster.local";

fn key() -> ServiceKey {
    ServiceKey {
        namespace: "demo".into(),
        hostname: HOST.into(),
    }
}

/// An endpoint of the service, whose port 80 is `target` there.
fn endpoint(draft: Draft, target: u16) -> Draft {
    Draft {
        services: vec![Membership {
            service: key().into(),
            ports: [(80, target)].into_iter().collect(),
        }],
        ..draft
    }
}

/// The service with an address of its own, which is given.
fn add_service(world: &World) -> SocketAddr {
    let vip = SocketAddr::new(fresh_ip(), 80);
    let mut service = Service::new("demo", "echo", HOST);
    service.ports = [(80, 0)].into_iter().collect();
    service.subject_alt_names = [id("server")].into();
    service.vips = vec![Vip {
        network: NETWORK.into(),
        range: vip.ip().into(),
    }];
    world.add_service(service);
    vip
}

/// Echoes one byte to everybody who comes.
fn echo(listener: TcpListener) {
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut byte = [0];
                tcp.read_exact(&mut byte).await.unwrap();
                tcp.write_all(&byte).await.unwrap();
            });
        }
    });
}

async fn must_answer(client: &Pod, to: SocketAddr) {
    let mut stream = client.dial(to).await;
    answers(&mut stream).await.unwrap();
}

async fn answers(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

async fn must_be_reset(client: &Pod, to: SocketAddr) {
    let mut stream = client.dial(to).await;
    let error = stream.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// A client, a server that echoes, and an address with which the service leads to it.
async fn served(world: &World) -> (Pod, Pod, SocketAddr) {
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (listener, at) = server.listen().await;
    echo(listener);
    world.add_workload(endpoint(workload("server", Some(server.ip)), at.port()));
    let vip = add_service(world);
    (client, server, vip)
}

fn attempts(world: &World) -> Vec<u32> {
    let lines = world.log.lines().into_iter();
    let outbound = lines.filter(|line| line["direction"] == "outbound");
    outbound
        .map(|line| line.get("attempts").map_or(1, |count| count.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn endpoints_without_agent_are_passed_over_and_no_connection_fails() {
    let world = World::new();
    let (client, _server, vip) = served(&world).await;
    for dead in ["dead1", "dead2"] {
        world.add_workload(endpoint(workload(dead, Some(fresh_ip())), 80));
    }
    for _ in 0..20 {
        must_answer(&client, vip).await;
    }
    until("every line", || attempts(&world).len() == 20).await;
    let attempts = attempts(&world);
    assert!(attempts.iter().all(|count| *count <= 3), "{attempts:?}");
    let tried = attempts.iter().filter(|count| **count > 1).count();
    assert!(
        (1..=4).contains(&tried),
        "each is tried once, then remembered: {attempts:?}"
    );
    assert_eq!(world.metric("istio_tcp_connections_failed_total", &[]), 0);
    let opened = world.metric("istio_tcp_connections_opened_total", &["reporter=\"source\""]);
    assert_eq!(opened, 20, "one connection, however many attempts");
    for line in world.log.lines().iter().filter(|line| line["direction"] == "outbound") {
        assert_eq!(line["dst.workload"], "server");
        assert_eq!(line["close"], "finished");
    }
}

#[tokio::test]
async fn an_endpoint_whose_application_does_not_listen_is_passed_over() {
    let world = World::new();
    let (client, _server, vip) = served(&world).await;
    let idle = world.pod("idle").await;
    let (closed, at) = idle.listen().await;
    drop(closed);
    world.add_workload(endpoint(workload("idle", Some(idle.ip)), at.port()));
    for _ in 0..12 {
        must_answer(&client, vip).await;
    }
    until("every line", || attempts(&world).len() == 12).await;
    assert!(attempts(&world).contains(&2));
    assert!(!idle.sockets.delivered.lock().unwrap().is_empty(), "it was asked");
}

#[tokio::test]
async fn somebody_else_at_an_endpoints_address_is_passed_over() {
    let world = World::new();
    let (client, _server, vip) = served(&world).await;
    let other = world.pod("other").await;
    let (listener, at) = other.listen().await;
    let mut moved = endpoint(workload("moved", Some(other.ip)), at.port());
    moved.service_account = "somebody".into();
    world.add_workload(moved);
    for _ in 0..12 {
        must_answer(&client, vip).await;
    }
    until("every line", || attempts(&world).len() == 12).await;
    assert!(attempts(&world).contains(&2));
    assert_eq!(other.proxy.open_connections(), 0);
    drop(listener);
}

#[tokio::test]
async fn when_all_are_down_the_application_is_told_soon_with_the_last_reason() {
    let world = World::new();
    let client = world.pod("client").await;
    for dead in ["dead1", "dead2", "dead3", "dead4", "dead5", "dead6"] {
        world.add_workload(endpoint(workload(dead, Some(fresh_ip())), 80));
    }
    let vip = add_service(&world);
    must_be_reset(&client, vip).await;
    let line = world.log.line("outbound").await;
    let told = ["close", "close.by", "close.phase", "attempts"].map(|key| line[key].as_str());
    assert_eq!(told, ["hbone-refused", "peer", "connect", "4"]);
    assert_eq!(client.dialled().len(), 4);
    assert_eq!(line["dst.hbone_addr"], client.dialled()[3].to_string(), "the last one");
    assert_eq!(world.metric("istio_tcp_connections_failed_total", &[]), 1);
}

#[tokio::test]
async fn after_a_tunnel_was_tried_nothing_goes_in_clear() {
    let world = World::new();
    let client = world.pod("client").await;
    let at = SocketAddr::new(fresh_ip(), 80);
    let plain = TcpListener::bind(at).await.unwrap();
    world.add_workload(Draft {
        protocol: Protocol::Tcp,
        // So that the tunnel is chosen first in almost every case.
        capacity: 1,
        ..endpoint(workload("plain", Some(at.ip())), 80)
    });
    world.add_workload(Draft {
        capacity: 1_000_000,
        ..endpoint(workload("dead", Some(fresh_ip())), 80)
    });
    let vip = add_service(&world);
    for _ in 0..5 {
        must_be_reset(&client, vip).await;
    }
    let accepted = tokio::time::timeout(Duration::from_millis(100), plain.accept()).await;
    assert!(
        accepted.is_err(),
        "neither this connection nor one that remembers it went in clear"
    );
}

#[tokio::test]
async fn what_policy_refuses_is_not_tried_elsewhere() {
    let world = World::new();
    let (client, server, vip) = served(&world).await;
    let twin = world.pod("twin").await;
    world.add_workload(endpoint(workload("twin", Some(twin.ip)), 80));
    let matches = Match {
        principals: vec![StringMatch::Exact("cluster.local/ns/demo/sa/client".into())],
        ..Match::default()
    };
    world.add_policy(Policy {
        name: "test".into(),
        namespace: "demo".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![Rule {
            clauses: vec![Clause { matches: vec![matches] }],
        }],
        dry_run: false,
    });
    must_be_reset(&client, vip).await;
    let line = world.log.line("outbound").await;
    assert_eq!(line["close"], "peer-denied");
    assert!(!line.contains_key("attempts"));
    assert_eq!(client.dialled().len(), 1);
    assert!(server.sockets.delivered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_address_has_no_other_way() {
    let world = World::new();
    let client = world.pod("client").await;
    let dead = fresh_ip();
    world.add_workload(workload("dead", Some(dead)));
    must_be_reset(&client, SocketAddr::new(dead, 80)).await;
    let line = world.log.line("outbound").await;
    assert_eq!(line["close"], "hbone-refused");
    assert!(!line.contains_key("attempts"));
    assert_eq!(client.dialled().len(), 1);
}

/// A DNS of this test's own.
struct Zone(HashMap<&'static str, Vec<std::net::IpAddr>>);

impl Resolve for Zone {
    fn resolve(&self, host: Arc<str>) -> Pin<Box<dyn Future<Output = Result<Answer, DnsError>> + Send>> {
        let addresses = self.0.get(&*host).cloned();
        Box::pin(async move {
            let addresses = addresses.ok_or(DnsError::NoAddress { host })?;
            Ok(Answer {
                addresses,
                valid: Duration::from_secs(60),
            })
        })
    }
}

fn named(name: &str, hostname: &str, port: u16) -> Draft {
    Draft {
        protocol: Protocol::Tcp,
        hostname: hostname.into(),
        ..endpoint(workload(name, None), port)
    }
}

#[tokio::test]
async fn an_endpoint_known_by_name_is_resolved_and_each_of_its_addresses_tried() {
    let mut world = World::new();
    let good = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let at = good.local_addr().unwrap();
    world.names = Names::new(Zone(HashMap::from([("db.example.com", vec![fresh_ip(), at.ip()])])));
    let client = world.pod("client").await;
    echo(good);
    world.add_workload(named("db", "db.example.com", at.port()));
    world.add_workload(named("gone", "gone.example.com", at.port()));
    let vip = add_service(&world);
    for _ in 0..10 {
        must_answer(&client, vip).await;
    }
    let line = world.log.line("outbound").await;
    assert_eq!(
        (line["dst.workload"].as_str(), line["dst.addr"].as_str()),
        ("db", &*at.to_string())
    );
}

#[tokio::test]
async fn a_name_without_address_is_a_reason_of_its_own() {
    let mut world = World::new();
    world.names = Names::new(Zone(HashMap::new()));
    let client = world.pod("client").await;
    world.add_workload(named("gone", "gone.example.com", 80));
    let vip = add_service(&world);
    must_be_reset(&client, vip).await;
    let line = world.log.lines().remove(0);
    assert_eq!(line["close"], "dns-failed");
    assert!(line["error"].contains("gone.example.com"), "{}", line["error"]);
    assert_eq!(client.dialled(), []);
}

/// A client whose service has endpoints behind gateways only, of which two are announced.
struct TwoGateways {
    near: World,
    far: World,
    client: Pod,
    _server: Pod,
    vip: SocketAddr,
}

async fn two_gateways(alive: usize) -> TwoGateways {
    let near = World::new();
    let far = near.beside();
    let client = near.pod("client").await;
    let ip = fresh_ip();
    let server = far.unknown_pod("server", ip, "net2").await;
    let (listener, at) = server.listen().await;
    echo(listener);
    far.add_workload(Draft {
        network: "net2".into(),
        ..endpoint(workload("server", Some(ip)), at.port())
    });
    add_service(&far);
    let mut gateways = Vec::new();
    for n in 0..2 {
        let at = if n < alive {
            let (at, _, trigger) = far.gateway("gateway", "net2").await;
            // A gateway lives as long as nobody drains it.
            std::mem::forget(trigger);
            at.ip()
        } else {
            fresh_ip()
        };
        near.add_workload(Draft {
            network: "net2".into(),
            protocol: Protocol::Tcp,
            uid: format!("NetworkGateway/net2/{at}/0").into(),
            ..workload("gateway", Some(at))
        });
        gateways.push(at);
    }
    let mut split = endpoint(workload("split", None), 80);
    split.uid = "net2/SplitHorizonWorkload/demo/gateway/x/demo/echo".into();
    split.network = "net2".into();
    // istiod names one of them; the last one here, which is the one that may be down.
    split.network_gateway = Some(GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "net2".into(),
            ip: gateways[1],
        }),
        hbone_port: 15008,
    });
    near.add_workload(split);
    let vip = add_service(&near);
    TwoGateways {
        near,
        far,
        client,
        _server: server,
        vip,
    }
}

#[tokio::test]
async fn both_gateways_are_used_although_one_is_named() {
    let world = two_gateways(2).await;
    for _ in 0..16 {
        must_answer(&world.client, world.vip).await;
    }
    let mut dialled = world.client.dialled();
    dialled.sort_unstable();
    dialled.dedup();
    assert_eq!(dialled.len(), 2, "{dialled:?}");
}

#[tokio::test]
async fn a_gateway_that_is_down_is_skipped_and_then_left_alone_for_a_while() {
    let world = two_gateways(1).await;
    for _ in 0..16 {
        must_answer(&world.client, world.vip).await;
    }
    until("every line", || attempts(&world.near).len() == 16).await;
    let attempts = attempts(&world.near);
    let tried = attempts.iter().filter(|count| **count > 1).count();
    assert!((1..=4).contains(&tried), "{attempts:?}");
}

#[tokio::test]
async fn without_any_gateway_the_application_is_told_soon_and_a_local_endpoint_takes_over() {
    let world = two_gateways(0).await;
    must_be_reset(&world.client, world.vip).await;
    let line = world.near.log.line("outbound").await;
    assert_eq!(
        (line["close"].as_str(), line["attempts"].as_str()),
        ("hbone-refused", "2")
    );
    let local = world.near.pod("server").await;
    let (listener, at) = local.listen().await;
    echo(listener);
    world
        .near
        .add_workload(endpoint(workload("server", Some(local.ip)), at.port()));
    for _ in 0..8 {
        must_answer(&world.client, world.vip).await;
    }
}

#[tokio::test]
async fn a_gateway_waits_for_a_service_its_own_mesh_is_told_of_later() {
    let world = two_gateways(1).await;
    let server = world.far.mesh.current().service_named("demo", HOST).unwrap();
    world.far.change(|mesh| {
        mesh.remove_service(&key());
    });
    let mut stream = world.client.dial(world.vip).await;
    stream.write_all(b"x").await.unwrap();
    until("a gateway is dialled", || !world.client.dialled().is_empty()).await;
    world.far.change(|mesh| mesh.add_service(Service::clone(&server)));
    stream.read_exact(&mut [0]).await.unwrap();
}
