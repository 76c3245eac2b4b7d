use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{
    Baggage, ConnectRequest, ReadAhead, Settings, Stream, StreamError,
    client::{self, OpenError},
    server::{self, Incoming},
};
use crate::identity::{Certificate, CertificateSource, SpiffeId, embedded_ca::EmbeddedCa};

pub(crate) struct Ends {
    client: client::Tunnel,
    server: server::Tunnel<DuplexStream>,
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

async fn certificate(account: &str) -> (Arc<Certificate>, EmbeddedCa, TemporaryDirectory) {
    let directory = TemporaryDirectory::new();
    let ca = EmbeddedCa::create(&directory.0).unwrap();
    (ca.issue(id(account)).await.unwrap(), ca, directory)
}

/// A directory of its own below the system's, removed at the end.
struct TemporaryDirectory(std::path::PathBuf);

impl TemporaryDirectory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("isthmus-hbone-{:032x}", rand::random::<u128>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(crate) async fn ends() -> Ends {
    ends_with(Settings::default()).await
}

/// `servers` are the settings of the accepting end.
async fn ends_with(servers: Settings) -> Ends {
    let (ours, ca, _directory) = certificate("client").await;
    let theirs = ca.issue(id("server")).await.unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (client, server) = tokio::join!(
        client::handshake(ReadAhead::new(near), &ours, [id("server")].into(), Settings::default(),),
        server::handshake(ReadAhead::new(far), &theirs, servers),
    );
    let (client, driver) = client.unwrap();
    tokio::spawn(driver);
    let server = server.unwrap();
    assert_eq!((client.peer(), server.peer()), (&id("server"), &id("client")));
    Ends { client, server }
}

fn request() -> ConnectRequest {
    ConnectRequest {
        authority: "10.0.0.1:80".parse().unwrap(),
        baggage: None,
        forwarded: None,
        traceparent: None,
        from_network: None,
    }
}

/// Drives the server side and hands out what comes in.
fn drive(mut server: server::Tunnel<DuplexStream>) -> tokio::sync::mpsc::UnboundedReceiver<Incoming> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(incoming)) = server.next().await {
            drop(sender.send(incoming));
        }
    });
    receiver
}

pub(crate) async fn stream_pair(ends: Ends) -> (Stream, Stream, client::Tunnel) {
    let mut incoming = drive(ends.server);
    let request = request();
    let (opened, accepted) = tokio::join!(ends.client.open(&request), async {
        incoming.recv().await.unwrap().accept(None).unwrap()
    });
    (opened.unwrap().stream, accepted, ends.client)
}

async fn read(stream: &mut Stream) -> Option<Result<Bytes, StreamError>> {
    let (_, recv) = stream.split();
    let data = poll_fn(|cx| recv.poll_data(cx)).await;
    if let Some(Ok(bytes)) = &data {
        recv.release(bytes.len());
    }
    data
}

#[tokio::test]
async fn a_peer_may_have_as_much_in_flight_as_the_settings_say() {
    let small = Settings {
        stream_window_bytes: 100_000,
        ..Settings::default()
    };
    for (settings, window) in [(small, 100_000), (Settings::default(), 4 << 20)] {
        let (mut near, _far, _tunnel) = stream_pair(ends_with(settings).await).await;
        let (mut sent, mut stuck) = (0, false);
        while !stuck {
            let more = tokio::time::timeout(
                Duration::from_millis(200),
                poll_fn(|cx| near.split().0.poll_room(cx, 64 << 10)),
            );
            match more.await {
                Ok(room) => {
                    let room = room.unwrap().min(64 << 10);
                    near.split().0.send(Bytes::from(vec![0; room]), false).unwrap();
                    sent += room;
                }
                Err(_) => stuck = true,
            }
        }
        assert_eq!(sent, window, "{settings:?}");
    }
}

#[tokio::test]
async fn thousands_of_unread_one_byte_frames_do_not_end_the_tunnel() {
    // More than h2 stands by itself.
    const COUNT: usize = 100_000;
    let (mut near, mut far, tunnel) = stream_pair(ends().await).await;
    for n in 0..COUNT {
        near.split()
            .0
            .send(Bytes::from(vec![(n % 251) as u8]), n + 1 == COUNT)
            .unwrap();
    }
    // Nothing is read before all of it waits in the server's HTTP/2 layer.
    while far.split().1.unread() < COUNT {
        assert!(
            tunnel.clone().is_usable(),
            "the tunnel ended with {} frames unread",
            far.split().1.unread()
        );
        tokio::task::yield_now().await;
    }
    let mut got = 0;
    while let Some(bytes) = read(&mut far).await {
        for byte in bytes.unwrap() {
            assert_eq!(byte, (got % 251) as u8);
            got += 1;
        }
    }
    assert_eq!(got, COUNT);
    assert!(tunnel.clone().is_usable());
}

#[tokio::test]
async fn a_large_payload_leaves_in_one_frame() {
    const SIZE: usize = 256 << 10;
    let (mut near, mut far, _tunnel) = stream_pair(ends().await).await;
    // The peer's settings have arrived once it has answered; the room for that much as well.
    let room = poll_fn(|cx| near.split().0.poll_room(cx, SIZE)).await.unwrap();
    assert_eq!(room, SIZE);
    near.split().0.send(Bytes::from(vec![7; SIZE]), true).unwrap();
    assert_eq!(read(&mut far).await.unwrap().unwrap().len(), SIZE);
    assert!(read(&mut far).await.is_none());
}

#[tokio::test]
async fn an_unread_stream_does_not_stop_another_on_the_same_tunnel() {
    let ends = ends().await;
    let mut incoming = drive(ends.server);
    let request = request();
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let (opened, accepted) = tokio::join!(ends.client.open(&request), async {
            incoming.recv().await.unwrap().accept(None).unwrap()
        });
        pairs.push((opened.unwrap().stream, accepted));
    }
    let (mut live, mut live_far) = pairs.pop().unwrap();
    let (mut stalled, _stalled_far) = pairs.pop().unwrap();
    // Fills the stalled stream's window to the last byte.
    let mut sent = 0;
    while sent < 4 << 20 {
        let room = poll_fn(|cx| stalled.split().0.poll_room(cx, 1 << 18))
            .await
            .unwrap()
            .min(1 << 18);
        stalled.split().0.send(Bytes::from(vec![0; room]), false).unwrap();
        sent += room;
    }
    let full = tokio::time::timeout(
        Duration::from_millis(100),
        poll_fn(|cx| stalled.split().0.poll_room(cx, 1)),
    )
    .await;
    assert!(full.is_err(), "the window should be full");
    // Several windows' worth still pass on the other.
    let writer = tokio::spawn(async move {
        for _ in 0..64 {
            let mut left = 1 << 18;
            while left > 0 {
                let room = poll_fn(|cx| live.split().0.poll_room(cx, left))
                    .await
                    .unwrap()
                    .min(left);
                live.split().0.send(Bytes::from(vec![1; room]), false).unwrap();
                left -= room;
            }
        }
        live.split().0.send(Bytes::new(), true).unwrap();
        live
    });
    let mut got = 0;
    while let Some(bytes) = read(&mut live_far).await {
        got += bytes.unwrap().len();
    }
    assert_eq!(got, 64 << 18);
    writer.await.unwrap();
}

#[tokio::test]
async fn answers_reach_the_client() {
    let ends = ends().await;
    let mut incoming = drive(ends.server);
    let request = request();
    let (refused, ()) = tokio::join!(ends.client.open(&request), async {
        incoming.recv().await.unwrap().refuse(StatusCode::UNAUTHORIZED);
    });
    let refused = refused.unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Refused {
                status: StatusCode::UNAUTHORIZED
            }
        ),
        "{refused}"
    );
    assert!(!refused.unprocessed());

    let (reset, ()) = tokio::join!(ends.client.open(&request), async {
        incoming.recv().await.unwrap().reset(Reason::REFUSED_STREAM);
    });
    assert!(reset.unwrap_err().unprocessed());

    let baggage = Baggage {
        namespace: Some("demo".into()),
        ..Baggage::default()
    };
    let (opened, _stream) = tokio::join!(ends.client.open(&request), async {
        incoming.recv().await.unwrap().accept(Some(&baggage)).unwrap()
    });
    assert_eq!(opened.unwrap().baggage, Some(baggage.clone()));
}

#[tokio::test]
async fn resets_carry_their_reason_and_an_end_is_an_end() {
    let (mut near, mut far, _tunnel) = stream_pair(ends().await).await;
    near.split().0.send(Bytes::from_static(b"last"), true).unwrap();
    assert_eq!(read(&mut far).await.unwrap().unwrap(), "last");
    assert!(read(&mut far).await.is_none());
    far.reset(Reason::CONNECT_ERROR);
    let error = read(&mut near).await.unwrap().unwrap_err();
    assert!(matches!(error, StreamError::Reset(Reason::CONNECT_ERROR)), "{error}");
}

#[tokio::test]
async fn a_lost_tunnel_fails_its_streams_instead_of_ending_them() {
    let mut ends = ends().await;
    let request = request();
    let (opened, accepted) = tokio::join!(ends.client.open(&request), async {
        let incoming = ends.server.next().await.unwrap().unwrap();
        let stream = incoming.accept(None).unwrap();
        // Lets the answer out.
        drop(tokio::time::timeout(Duration::from_millis(50), ends.server.next()).await);
        stream
    });
    let mut near = opened.unwrap().stream;
    drop(ends.server);
    let error = read(&mut near).await.unwrap().unwrap_err();
    assert!(matches!(error, StreamError::Lost(_)), "{error}");
    assert!(!ends.client.is_usable());
    drop(accepted);
}

#[tokio::test(start_paused = true)]
async fn when_a_certificate_ends_no_stream_begins_any_more_on_the_tunnel() {
    let Ends { mut client, mut server } = ends().await;
    let until = server.until();
    assert!(until > tokio::time::Instant::now());
    let serving = tokio::spawn(async move { server.next().await.map(|next| next.is_some()) });
    tokio::time::sleep_until(until - Duration::from_secs(1)).await;
    assert!(client.is_usable());
    tokio::time::sleep_until(until + Duration::from_secs(2)).await;
    assert!(!client.is_usable());
    assert!(!serving.is_finished(), "who has streams on it keeps them");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_and_an_answering_one_kept() {
    let (ours, ca, _directory) = certificate("client").await;
    let theirs = ca.issue(id("server")).await.unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (client, server) = tokio::join!(
        client::handshake(ReadAhead::new(near), &ours, [id("server")].into(), Settings::default(),),
        server::handshake(ReadAhead::new(far), &theirs, Settings::default()),
    );
    let (mut tunnel, driver) = client.unwrap();
    let driver = tokio::spawn(driver);
    let mut server = server.unwrap();
    let kept = tokio::time::timeout(Duration::from_secs(3600), server.next()).await;
    assert!(kept.is_err(), "an hour of silence broken by PINGs only");
    assert!(tunnel.is_usable());
    // Now nobody drives the server, so nobody answers.
    let began = tokio::time::Instant::now();
    driver.await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(40), "{:?}", began.elapsed());
    assert!(!tunnel.is_usable());
}

#[tokio::test]
async fn a_stream_is_a_byte_stream_for_the_inner_tunnel() {
    let (near, far, _tunnel) = stream_pair(ends().await).await;
    let (mut near, mut far) = (near.into_io(), far.into_io());
    let sent: Vec<u8> = (0..10_000_000_u32).map(|n| (n % 253) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        answer
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    far.write_all(b"thanks").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(writer.await.unwrap(), "thanks");
}

#[tokio::test]
async fn the_shutdown_of_a_lingering_stream_waits_for_the_peers_end() {
    let (near, far, _tunnel) = stream_pair(ends().await).await;
    let (mut near, mut far) = (near.into_io().lingering(), far.into_io());
    near.write_all(b"last words").await.unwrap();
    let closing = tokio::spawn(async move { near.shutdown().await });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    assert!(!closing.is_finished());
    far.write_all(b"nobody reads this").await.unwrap();
    far.shutdown().await.unwrap();
    closing.await.unwrap().unwrap();
}
