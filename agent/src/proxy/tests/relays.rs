use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::world::{World, exchange, pattern};
use crate::{
    hbone::{
        StreamError,
        tests::{ends, stream_pair},
    },
    proxy::{
        SocketOptions,
        accept::Accepted,
        connections::Connections,
        descriptors::Descriptors,
        leg::Leg,
        relay::{self, Ended, Side, Tally},
    },
};

#[tokio::test]
async fn many_megabytes_pass_both_ways_unchanged() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (near, far) = client.connect(&server).await;
    let (back, forth) = tokio::join!(
        exchange(near, pattern(30_000_000, 1)),
        exchange(far, pattern(30_000_000, 2))
    );
    assert!(forth == pattern(30_000_000, 1) && back == pattern(30_000_000, 2));
}

#[tokio::test]
async fn thousands_of_one_byte_writes_to_an_application_that_does_not_read_arrive() {
    const COUNT: usize = 20_000;
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut near, mut far) = client.connect(&server).await;
    for n in 0..COUNT {
        near.write_all(&[(n % 251) as u8]).await.unwrap();
        // Lets each byte become a frame of its own.
        tokio::task::yield_now().await;
    }
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), COUNT);
    assert!(got.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8));
}

#[tokio::test]
async fn an_application_that_does_not_read_does_not_stop_its_neighbour() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (mut stalled, _unread) = client.connect(&server).await;
    // Until nothing moves any more: socket buffers, windows and queues of this stream are full.
    let chunk = vec![0; 1 << 20];
    let mut moved = 0_usize;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), stalled.write(&chunk)).await {
        moved += written.unwrap();
    }
    assert!(moved > 4 << 20, "{moved}");
    assert_eq!(client.proxy.tunnels(), 1);
    let (mut near, mut far) = client.connect(&server).await;
    assert_eq!(client.proxy.tunnels(), 1, "both share one tunnel");
    let write = tokio::spawn(async move {
        near.write_all(&vec![1; 40 << 20]).await.unwrap();
        near.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 40 << 20);
    write.await.unwrap();
}

#[tokio::test]
async fn idle_streams_hold_no_window_that_others_need() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let mut idle = Vec::new();
    for _ in 0..60 {
        let (mut near, mut far) = client.connect(&server).await;
        // Each has moved enough to use large buffers.
        let write = tokio::spawn(async move {
            near.write_all(&vec![0; 5 << 20]).await.unwrap();
            near
        });
        let mut sink = vec![0; 5 << 20];
        far.read_exact(&mut sink).await.unwrap();
        idle.push((write.await.unwrap(), far));
    }
    let (mut near, mut far) = client.connect(&server).await;
    let write = tokio::spawn(async move { near.write_all(&vec![1; 20 << 20]).await.map(|()| near) });
    let mut got = vec![0; 20 << 20];
    tokio::time::timeout(Duration::from_secs(20), far.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    write.await.unwrap().unwrap();
}

/// A leg and the application's end of it.
async fn leg() -> (Leg, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    (Leg::dialled(tcp, &SocketOptions::default()).unwrap(), application)
}

#[tokio::test]
async fn a_server_that_has_said_all_and_takes_no_more_is_no_error() {
    let (stream, mut far, _tunnel) = stream_pair(ends().await).await;
    let (leg, mut application) = leg().await;
    let relay = tokio::spawn(async move {
        let mut tally = Tally::default();
        (relay::tunnelled(leg, stream, &mut tally).await, tally)
    });
    far.split().0.send("answer".into(), true).unwrap();
    let mut text = String::new();
    application.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    far.reset(h2::Reason::NO_ERROR);
    let (ended, tally) = relay.await.unwrap();
    assert!(matches!(ended, Ended::Finished { first: Side::Far }), "{ended:?}");
    assert_eq!(tally.back, 6);
}

#[tokio::test]
async fn the_same_reset_before_the_end_was_sent_by_a_client_is_one() {
    let (mut near, stream, _tunnel) = stream_pair(ends().await).await;
    let (leg, mut application) = leg().await;
    let relay = tokio::spawn(async move { relay::tunnelled(leg, stream, &mut Tally::default()).await });
    near.split().0.send("half".into(), false).unwrap();
    let mut text = [0; 4];
    application.read_exact(&mut text).await.unwrap();
    near.reset(h2::Reason::NO_ERROR);
    let error = application.read(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(relay.await.unwrap(), Ended::Broken { side: Side::Far, .. }));
}

#[tokio::test]
async fn what_was_said_before_a_reset_that_follows_the_end_still_arrives() {
    let (mut near, mut stream, _tunnel) = stream_pair(ends().await).await;
    let (leg, mut application) = leg().await;
    near.split().0.send("last words".into(), true).unwrap();
    while stream.split().1.unread() == 0 {
        tokio::task::yield_now().await;
    }
    drop(near);
    let reset = std::future::poll_fn(|cx| stream.split().0.poll_reset(cx)).await;
    assert!(matches!(reset, StreamError::Reset(h2::Reason::CANCEL)), "{reset}");
    let relay = tokio::spawn(async move { relay::tunnelled(leg, stream, &mut Tally::default()).await });
    let mut text = String::new();
    application.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last words");
    assert!(matches!(relay.await.unwrap(), Ended::Finished { first: Side::Far }));
}

#[tokio::test]
async fn a_connections_task_is_small() {
    let world = World::new();
    let pod = world.pod("client").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, from) = listener.accept().await.unwrap();
    let lease = Descriptors::new(2).take(2).unwrap();
    let task = std::sync::Arc::clone(&pod.proxy)
        .outbound_connection(Accepted { tcp, from, lease }, Connections::new().enter(None));
    // Ten thousand of them are not to cost more than their buffers.
    let size = std::mem::size_of_val(&task);
    assert!(size < 4096, "{size} bytes");
}
