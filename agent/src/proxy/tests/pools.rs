use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::world::{World, fresh_ip, until, workload};

#[tokio::test]
async fn the_streams_of_one_pod_share_a_tunnel_and_another_pods_do_not() {
    let world = World::new();
    let (client, other) = (world.pod("client").await, world.pod("other").await);
    let server = world.pod("server").await;
    let (listener, address) = server.listen().await;
    let mut open = Vec::new();
    // All at once: the first dial is shared as well.
    for _ in 0..50 {
        open.push(client.dial(address).await);
    }
    for _ in 0..50 {
        let (mut far, _) = listener.accept().await.unwrap();
        tokio::spawn(async move { tokio::io::copy(&mut far.split().0, &mut tokio::io::sink()).await });
    }
    assert_eq!(client.dialled().len(), 1);
    assert_eq!(server.proxy.tunnels(), 1);
    let _theirs = other.dial(address).await;
    listener.accept().await.unwrap();
    assert_eq!(other.dialled().len(), 1);
    assert_eq!(server.proxy.tunnels(), 2);
}

#[tokio::test]
async fn both_ends_list_a_tunnel_with_its_peer_and_count_its_streams_until_it_is_gone() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (listener, address) = server.listen().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let near = client.dial(address).await;
        let (far, _) = listener.accept().await.unwrap();
        open.push((near, far));
    }
    let streams = |proxy: &crate::proxy::PodProxy| -> Vec<usize> {
        proxy.list_tunnels(10).iter().map(|tunnel| tunnel.streams).collect()
    };
    for (one, other, dialled) in [(&client, &server, true), (&server, &client, false)] {
        let listed = one.proxy.list_tunnels(10);
        let [tunnel] = listed.as_slice() else {
            panic!("{listed:?}")
        };
        assert_eq!((tunnel.dialled, tunnel.streams), (dialled, 3));
        assert_eq!(
            Some(tunnel.identity.clone()),
            other.proxy.workload_now().unwrap().identity()
        );
    }
    drop(open);
    until("no stream is left", || {
        streams(&client.proxy) == [0] && streams(&server.proxy) == [0]
    })
    .await;
    client.proxy.abort_all();
    until("no tunnel is left", || {
        streams(&client.proxy).is_empty() && streams(&server.proxy).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_full_tunnel_gets_a_second_and_is_used_again() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (listener, address) = server.listen().await;
    let mut open = Vec::new();
    for _ in 0..101 {
        let near = client.dial(address).await;
        let (far, _) = listener.accept().await.unwrap();
        open.push((near, far));
    }
    assert_eq!(client.dialled().len(), 2, "100 streams to a tunnel");
    drop(open);
    until("all streams ended", || client.proxy.open_connections() == 0).await;
    for _ in 0..101 {
        let near = client.dial(address).await;
        let (far, _) = listener.accept().await.unwrap();
        drop((near, far));
    }
    assert_eq!(
        client.dialled().len(),
        2,
        "no tunnel is lost to the pool by having been full"
    );
}

#[tokio::test]
async fn all_who_wait_for_a_dial_share_its_failure() {
    let world = World::new();
    let client = world.pod("client").await;
    // Accepts and then says nothing that is TLS.
    let ip = fresh_ip();
    world.add_workload(workload("server", Some(ip)));
    let listener = TcpListener::bind((ip, 15008)).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(client.dial((ip, 80).into()).await);
    }
    let (mut peer, _) = listener.accept().await.unwrap();
    until("all of them waiting", || client.proxy.open_connections() == 20).await;
    peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    for mut near in open {
        assert_eq!(
            near.read(&mut [0; 8]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
    assert_eq!(client.dialled().len(), 1);
    // The failure is not kept: the next one dials again.
    let _next = client.dial((ip, 80).into()).await;
    listener.accept().await.unwrap();
    assert_eq!(client.dialled().len(), 2);
}

#[tokio::test]
async fn nobody_dials_for_an_application_that_has_gone() {
    let world = World::new();
    let client = world.pod("client").await;
    let ip = fresh_ip();
    world.add_workload(workload("server", Some(ip)));
    let listener = TcpListener::bind((ip, 15008)).await.unwrap();
    let near = client.dial((ip, 80).into()).await;
    let (mut peer, _) = listener.accept().await.unwrap();
    // The hello of the handshake that is never answered.
    let mut hello = [0; 4096];
    assert!(peer.read(&mut hello).await.unwrap() > 0);
    near.set_zero_linger().unwrap();
    drop(near);
    let end = tokio::time::timeout(Duration::from_secs(5), async {
        while peer.read(&mut hello).await.is_ok_and(|count| count > 0) {}
    });
    end.await.expect("the dial goes on");
    assert_eq!(world.log.line("outbound").await["close"], "client-gave-up");
}

#[tokio::test]
async fn a_tunnel_that_was_lost_is_replaced() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (near, far) = client.connect(&server).await;
    drop((near, far));
    let ip = server.ip;
    server.proxy.abort_all();
    server.inbound.await.unwrap();
    server.outbound.await.unwrap();
    until("the tunnel gone", || client.proxy.tunnels() == 0).await;
    let again = world.unknown_pod("server", ip, "net1").await;
    let (mut near, mut far) = client.connect(&again).await;
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    assert_eq!(client.dialled().len(), 2);
}

#[tokio::test]
async fn an_unused_tunnel_is_kept_for_five_minutes() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (near, far) = client.connect(&server).await;
    until("the stream open", || client.proxy.open_connections() == 1).await;
    drop((near, far));
    until("the stream ended", || {
        client.proxy.open_connections() + server.proxy.open_connections() == 0
    })
    .await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(295)).await;
    assert_eq!((client.proxy.tunnels(), server.proxy.tunnels()), (1, 1));
    tokio::time::sleep(Duration::from_secs(10)).await;
    tokio::time::resume();
    until("the tunnel closed", || {
        client.proxy.tunnels() + server.proxy.tunnels() == 0
    })
    .await;
}

#[tokio::test]
async fn how_full_a_tunnel_gets_and_how_long_it_is_kept_can_be_chosen() {
    let mut world = World::new();
    world.tuning.pool.streams = 2;
    world.tuning.pool.idle = Duration::from_secs(30);
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (listener, address) = server.listen().await;
    let mut open = Vec::new();
    for tunnels in [1, 1, 2] {
        let near = client.dial(address).await;
        let (far, _) = listener.accept().await.unwrap();
        open.push((near, far));
        assert_eq!(client.dialled().len(), tunnels);
    }
    drop(open);
    until("all streams ended", || {
        client.proxy.open_connections() + server.proxy.open_connections() == 0
    })
    .await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(client.proxy.tunnels(), 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    tokio::time::resume();
    until("the tunnels closed", || client.proxy.tunnels() == 0).await;
}
