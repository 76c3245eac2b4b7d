use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::World;

#[tokio::test]
async fn many_megabytes_pass_both_ways_unchanged() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (near, far) = client.connect(&server).await;
    let pump = |stream: tokio::net::TcpStream, seed: u8| async move {
        let (mut reader, mut writer) = stream.into_split();
        let sent: Vec<u8> = (0..30_000_000_u32).map(|n| (n % 251) as u8 ^ seed).collect();
        let write = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        write.await.unwrap();
        got
    };
    let (back, forth) = tokio::join!(pump(near, 1), pump(far, 2));
    let expected = |seed: u8| (0..30_000_000_u32).map(|n| (n % 251) as u8 ^ seed).collect::<Vec<_>>();
    assert!(forth == expected(1) && back == expected(2));
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
