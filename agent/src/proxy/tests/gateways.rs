use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::world::{NETWORK, Pod, World, fresh_ip, id, until, workload};
use crate::{
    drain::DrainTrigger,
    mesh::{
        GatewayAddress, GatewayDestination, NetworkAddress, Service, ServiceKey, service::Vip, workload::Membership,
    },
    proxy::Gateway,
};

const HOST: &str = "echo.demo.svc.cluster.local";
const FAR: &str = "net2";

/// A client in net1, a service whose only endpoint is a pod of net2, and the gateway to it.
///
/// One mesh serves both sides here, so each side's view of the service is another object: the split-horizon workload
/// is what the client's side sees, the pod what the gateway sees.
struct TwoNetworks {
    near: World,
    far: World,
    client: Pod,
    server: Pod,
    gateway: Arc<Gateway>,
    gateway_at: SocketAddr,
    trigger: DrainTrigger,
    vip: SocketAddr,
    listener: TcpListener,
}

async fn two_networks() -> TwoNetworks {
    let near = World::new();
    let far = near.beside();
    let key = ServiceKey {
        namespace: "demo".into(),
        hostname: HOST.into(),
    };
    let client = near.pod("client").await;
    let server_ip = fresh_ip();
    let server = far.unknown_pod("server", server_ip, FAR).await;
    let (listener, application) = server.listen().await;
    let ports = || [(80, application.port())].into_iter().collect();

    let mut pod = workload("server", Some(server_ip));
    pod.network = FAR.into();
    pod.services = vec![Membership {
        service: key.clone().into(),
        ports: ports(),
    }];
    far.add_workload(pod);
    let vip = SocketAddr::new(fresh_ip(), 80);
    let mut service = Service::new("demo", "echo", HOST);
    service.ports = ports();
    service.vips = vec![Vip {
        network: NETWORK.into(),
        range: vip.ip().into(),
    }];
    service.subject_alt_names = [id("server")].into();
    far.add_service(service.clone());
    let (gateway_at, gateway, trigger) = far.gateway("gateway", FAR).await;

    let mut host = workload("gateway", Some(gateway_at.ip()));
    host.network = FAR.into();
    host.protocol = crate::mesh::workload::Protocol::Tcp;
    host.uid = format!("NetworkGateway/net2/{}/0", gateway_at.ip()).into();
    near.add_workload(host);
    let mut split = workload("split", None);
    split.uid = "net2/SplitHorizonWorkload/demo/gateway/x/demo/echo".into();
    split.network = FAR.into();
    split.network_gateway = Some(GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: FAR.into(),
            ip: gateway_at.ip(),
        }),
        hbone_port: 15008,
    });
    split.services = vec![Membership {
        service: key.into(),
        ports: ports(),
    }];
    near.add_workload(split);
    near.add_service(service);
    TwoNetworks {
        near,
        far,
        client,
        server,
        gateway,
        gateway_at,
        trigger,
        vip,
        listener,
    }
}

#[tokio::test]
async fn double_hbone_ends_at_the_pod_with_the_clients_identity() {
    let world = two_networks().await;
    let mut near = world.client.dial(world.vip).await;
    let (mut far, _) = world.listener.accept().await.unwrap();
    let sent = vec![7; 5 << 20];
    let write = {
        let sent = sent.clone();
        tokio::spawn(async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            answer
        })
    };
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got == sent);
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(write.await.unwrap(), "answer");
    assert_eq!(world.client.dialled(), [world.gateway_at]);

    let outbound = world.near.log.line("outbound").await;
    assert_eq!(outbound["dst.identity"], id("server").to_string());
    assert_eq!(outbound["dst.hbone_addr"], world.gateway_at.to_string());
    assert_eq!(outbound["dst.service"], HOST);
    let find = |what: &dyn Fn(&str) -> bool| {
        let lines = world.near.log.lines();
        lines
            .into_iter()
            .find(|line| line["direction"] == "inbound" && what(&line["dst.addr"]))
    };
    until("three lines", || world.near.log.lines().len() == 3).await;
    let at_pod = find(&|address| !address.ends_with(":15008")).unwrap();
    assert_eq!(at_pod["src.identity"], id("client").to_string());
    let at_gateway = find(&|address| address.ends_with(":15008")).unwrap();
    assert_eq!(at_gateway["src.identity"], id("client").to_string());
    assert_eq!(at_gateway["dst.service"], HOST);
    until("nothing left open", || {
        world.gateway.open_connections() + world.server.proxy.open_connections() == 0
    })
    .await;
    assert_eq!(
        world.client.proxy.tunnels(),
        1,
        "the outer tunnel is kept, the inner one is not"
    );
}

#[tokio::test]
async fn a_reset_crosses_both_tunnels() {
    let world = two_networks().await;
    let near = world.client.dial(world.vip).await;
    let (mut far, _) = world.listener.accept().await.unwrap();
    near.set_zero_linger().unwrap();
    drop(near);
    assert_eq!(
        far.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let mut near = world.client.dial(world.vip).await;
    let (far, _) = world.listener.accept().await.unwrap();
    far.set_zero_linger().unwrap();
    drop(far);
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn the_inner_tunnel_must_end_at_one_of_the_services_identities() {
    let world = two_networks().await;
    world.near.change(|mesh| {
        let mut service = Service::new("demo", "echo", HOST);
        service.ports = [(80, 80)].into_iter().collect();
        service.vips = vec![Vip {
            network: NETWORK.into(),
            range: world.vip.ip().into(),
        }];
        service.subject_alt_names = [id("somebody-else")].into();
        mesh.add_service(service);
    });
    let mut near = world.client.dial(world.vip).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert!(world.server.sockets.delivered.lock().unwrap().is_empty());
    let line = world.near.log.line("outbound").await;
    let told = ["close", "close.by", "close.phase"].map(|key| line[key].as_str());
    assert_eq!(told, ["tls-wrong-identity", "peer", "handshake"]);
    let failed = "istio_tcp_connections_failed_total";
    assert_eq!(world.near.metric(failed, &["response_flags=\"TLS_FAILURE\""]), 1);
    assert_eq!(line["attempts"], "2", "the gateway might have chosen somebody else");
    // What the pod's agent has to say is about TLS; the gateway's own streams went well.
    assert_eq!(world.far.metric(failed, &["response_flags=\"CONNECT\""]), 0);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_passed_over() {
    let world = two_networks().await;
    // A second pod of the service, where nobody listens on 15008.
    let key = ServiceKey {
        namespace: "demo".into(),
        hostname: HOST.into(),
    };
    let mut dead = workload("dead", Some(fresh_ip()));
    dead.network = FAR.into();
    dead.services = vec![Membership {
        service: key.into(),
        ports: [(80, 80)].into_iter().collect(),
    }];
    world.far.add_workload(dead);
    for _ in 0..12 {
        let mut near = world.client.dial(world.vip).await;
        let (mut far, _) = world.listener.accept().await.unwrap();
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_gateway_refuses_what_it_does_not_serve_and_dials_nobody() {
    let world = two_networks().await;
    world.far.change(|mesh| {
        mesh.remove_workload("Kubernetes//Pod/demo/server");
    });
    let mut near = world.client.dial(world.vip).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let line = world.near.log.line("outbound").await;
    assert!(line["error"].contains("503"), "{}", line["error"]);
    assert_eq!(world.server.proxy.tunnels(), 0);
}

#[tokio::test]
async fn a_drained_gateway_lets_streams_finish_and_is_forced_at_its_deadline() {
    let world = two_networks().await;
    let mut near = world.client.dial(world.vip).await;
    let (mut far, _) = world.listener.accept().await.unwrap();
    world.trigger.start(Duration::from_secs(3600));
    until("the listener gone", || {
        std::net::TcpStream::connect(world.gateway_at).is_err()
    })
    .await;
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    world.trigger.force();
    for end in [&mut near, &mut far] {
        assert_eq!(
            end.read(&mut [0; 8]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
    until("its tunnels gone", || world.gateway.tunnels() == 0).await;
}
