use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::world::{World, until};

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_drained_server_says_goaway_and_lets_open_streams_finish() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (listener, address) = server.listen().await;
    let mut near = client.dial(address).await;
    let (mut far, _) = listener.accept().await.unwrap();
    server.trigger.start(LONG);
    until("the listener gone", || {
        std::net::TcpStream::connect((server.ip, 15008)).is_err()
    })
    .await;
    // The open stream works both ways.
    near.write_all(b"still").await.unwrap();
    let mut text = [0; 5];
    far.read_exact(&mut text).await.unwrap();
    assert!(!server.inbound.is_finished());
    // A new connection finds no tunnel to join and nobody to dial.
    let mut late = client.dial(address).await;
    assert_eq!(
        late.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    near.shutdown().await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    tokio::time::timeout(Duration::from_secs(10), server.inbound)
        .await
        .expect("drained")
        .unwrap();
}

#[tokio::test]
async fn what_outlives_the_deadline_is_reset() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    server.trigger.start(Duration::from_millis(50));
    for end in [&mut near, &mut far] {
        assert_eq!(
            end.read(&mut [0; 8]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
    server.inbound.await.unwrap();
    server.outbound.await.unwrap();
    assert!(world.log.line("inbound").await["close"] == "drain-deadline");
}

#[tokio::test]
async fn a_drained_client_finishes_what_is_open_and_takes_no_more() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    client.trigger.start(LONG);
    until("the listeners gone", || {
        std::net::TcpStream::connect((client.ip, 15008)).is_err()
    })
    .await;
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    assert!(!client.outbound.is_finished());
    drop((near, far));
    tokio::time::timeout(Duration::from_secs(10), client.outbound)
        .await
        .expect("drained")
        .unwrap();
    until("its tunnels closed", || client.proxy.tunnels() == 0).await;
}

#[tokio::test]
async fn a_lost_trigger_ends_nothing() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    drop(server.trigger);
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    assert!(TcpStream::connect((server.ip, 15008)).await.is_ok());
}
