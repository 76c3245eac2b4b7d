use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::*;
use crate::admin::{
    Format, State,
    cpu_profile::CpuProfiles,
    dump::{Dump, Writer},
    local::LocalSite,
    logging::Logging,
    metrics::MetricsSite,
    readiness::{Part, Readiness, ReadinessSite},
};

/// More than the kernel takes of a connection whose other end reads nothing.
const LARGE: usize = 32 << 20;

async fn start<S: Site>(site: S, most: usize) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(serve(listener, Arc::new(site), most));
    (address, served.abort_handle())
}

/// Sends a request as it stands; answers the status and everything that came.
async fn ask_raw(to: SocketAddr, request: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tcp.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    (status, text)
}

async fn ask(to: SocketAddr, what: &str) -> (u16, String) {
    ask_raw(to, &format!("{what} HTTP/1.1\r\nhost: x\r\n\r\n")).await
}

struct Silent;

impl Logging for Silent {
    fn current(&self) -> String {
        "info".to_owned()
    }

    fn set(&self, _filter: &str) -> Result<(), String> {
        Ok(())
    }

    fn reset(&self) {}
}

fn local(state: State) -> LocalSite {
    LocalSite {
        state,
        dump: Dump::default(),
        logging: Arc::new(Silent),
        profiles: CpuProfiles::new(),
    }
}

fn metrics(text: impl Fn(Format) -> String + Send + Sync + 'static) -> MetricsSite {
    MetricsSite::new(Arc::new(text))
}

#[tokio::test]
async fn readiness_is_200_or_500_with_what_is_pending() {
    let readiness = Readiness::default();
    readiness.pend(Part::Proxy);
    readiness.pend(Part::Mesh);
    let (to, _served) = start(ReadinessSite(readiness.clone()), 4).await;
    let (status, text) = ask(to, "GET /healthz/ready").await;
    assert_eq!(status, 500);
    assert!(
        text.ends_with("\r\n\r\nnot ready, waiting for: proxy, state manager\n"),
        "{text}"
    );
    readiness.done(Part::Proxy);
    readiness.done(Part::Mesh);
    let (status, text) = ask(to, "GET /healthz/ready").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("\r\n\r\nready\n"), "{text}");
}

#[tokio::test]
async fn paths_that_are_not_there_and_methods_that_do_not_fit_are_refused_with_what_there_is() {
    let (to, _served) = start(local(State::default()), 4).await;
    let (status, text) = ask(to, "GET /certs").await;
    assert_eq!(status, 404);
    for path in ["/state", "/config_dump", "/logging", "/debug/pprof/profile"] {
        assert!(text.contains(path), "{text}");
    }
    let (status, text) = ask(to, "GET /logging").await;
    assert_eq!(status, 405);
    assert!(text.contains("allow: POST\r\n"), "{text}");
    let (status, text) = ask(to, "DELETE /debug/pprof/heap/profiling").await;
    assert_eq!(status, 405);
    assert!(text.contains("allow: GET, POST\r\n"), "{text}");
    let (status, text) = ask(to, "POST /quitquitquit").await;
    assert_eq!(status, 403);
    assert!(text.contains("SIGTERM"), "{text}");
    let (status, text) = ask(to, "GET /quitquitquit").await;
    assert_eq!(status, 405, "{text}");
    let (status, text) = ask(to, "GET /").await;
    assert_eq!(status, 200);
    assert!(text.contains("/state"), "{text}");
    let (status, text) = ask(to, "HEAD /").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("\r\n\r\n"), "{text}");
    assert_eq!(ask(to, "POST /logging?level=%zz").await.0, 400);
}

#[tokio::test]
async fn the_state_is_told_once_there_is_one_and_503_before() {
    let state = State::default();
    let (to, _served) = start(local(state.clone()), 4).await;
    assert_eq!(ask(to, "GET /state").await.0, 503);
    state.told_by(Arc::new(|| Box::pin(async { "{\"node\":\"a\"}".to_owned() })));
    let (status, text) = ask(to, "GET /state").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("content-type: application/json\r\n") && text.ends_with("{\"node\":\"a\"}"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_not_told_in_time_is_given_up() {
    let state = State::default();
    state.told_by(Arc::new(|| Box::pin(std::future::pending())));
    let (to, _served) = start(local(state), 4).await;
    assert_eq!(ask(to, "GET /state").await.0, 504);
}

#[tokio::test]
async fn metrics_are_written_in_the_format_that_is_asked_for() {
    let (to, _served) = start(metrics(|format| format!("{format:?}\n")), 4).await;
    let (status, text) = ask(to, "GET /metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n") && text.ends_with("Text\n"));
    let request = "GET /stats/prometheus HTTP/1.1\r\nhost: x\r\naccept: application/openmetrics-text\r\n\r\n";
    let (status, text) = ask_raw(to, request).await;
    assert_eq!(status, 200);
    assert!(
        text.contains("content-type: application/openmetrics-text;charset=utf-8;version=1.0.0\r\n")
            && text.ends_with("OpenMetrics\n"),
        "{text}"
    );
}

#[tokio::test]
async fn bodies_are_ignored_and_large_ones_refused() {
    let (to, _served) = start(local(State::default()), 4).await;
    let small = "POST /logging HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nabcd";
    assert_eq!(ask_raw(to, small).await.0, 200);
    let size = BODY_BYTES + 1;
    let large = format!(
        "POST /logging HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n{}",
        "a".repeat(size)
    );
    assert_eq!(ask_raw(to, &large).await.0, 413);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_finish_asking_is_cut() {
    let (to, _served) = start(local(State::default()), 4).await;
    for part in [
        "",
        "GET / HTTP/1.1\r\nho",
        "POST /logging HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\na",
    ] {
        let mut tcp = TcpStream::connect(to).await.unwrap();
        tcp.write_all(part.as_bytes()).await.unwrap();
        let began = Instant::now();
        let mut bytes = Vec::new();
        // A reset is an end as well.
        drop(tcp.read_to_end(&mut bytes).await);
        assert!(began.elapsed() <= ASKING + Duration::from_secs(1), "{part:?}");
    }
}

/// Connects, asks and reads nothing.
async fn stuck(to: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    tcp
}

/// Reads to the end, whether that is clean or a reset; answers how much came.
async fn rest(mut tcp: TcpStream) -> usize {
    let (mut buffer, mut sum) = (vec![0; 1 << 16], 0);
    while let Ok(length @ 1..) = tcp.read(&mut buffer).await {
        sum += length;
    }
    sum
}

#[tokio::test]
async fn readers_that_never_read_keep_nobody_out_and_the_oldest_is_cut_for_a_newcomer() {
    let large = Arc::<str>::from("x".repeat(LARGE));
    let held = Arc::clone(&large);
    let (to, _served) = start(metrics(move |_| held.to_string()), 3).await;
    let first = stuck(to).await;
    first.readable().await.unwrap();
    let mut others = Vec::new();
    for _ in 0..2 {
        let other = stuck(to).await;
        other.readable().await.unwrap();
        others.push(other);
    }
    // The port is full; a newcomer is served whole all the same.
    let (status, text) = ask(to, "GET /metrics").await;
    assert_eq!(status, 200);
    assert!(text.len() > LARGE);
    assert!(rest(first).await < LARGE, "the oldest was cut");
    let read = join_all(others.into_iter().map(rest)).await;
    assert!(
        read.iter().all(|length| *length > LARGE),
        "the others were not: {read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_is_given_up_in_time() {
    let (to, _served) = start(metrics(|_| "x".repeat(LARGE)), 3).await;
    let reader = stuck(to).await;
    reader.readable().await.unwrap();
    tokio::time::sleep(READING + Duration::from_secs(1)).await;
    assert!(rest(reader).await < LARGE);
}

#[tokio::test]
async fn a_closed_port_cuts_its_connections() {
    let (to, served) = start(metrics(|_| "x".repeat(LARGE)), 3).await;
    let reader = stuck(to).await;
    reader.readable().await.unwrap();
    served.abort();
    assert!(rest(reader).await < LARGE);
}

fn dumping(
    write: impl Fn(&mut dyn std::io::Write) -> std::io::Result<()> + Clone + Send + Sync + 'static,
) -> LocalSite {
    let dump = Dump::default();
    dump.collected_by(Arc::new(move || {
        let write = write.clone();
        Box::pin(async move { Box::new(write) as Writer })
    }));
    LocalSite {
        dump,
        ..local(State::default())
    }
}

/// The last chunk of a body of chunks, which says that it is whole (RFC 9112 §7.1).
const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

#[tokio::test]
async fn a_dump_is_written_whole_whatever_the_method_and_503_before_there_is_one() {
    let (to, _served) = start(local(State::default()), 4).await;
    assert_eq!(ask(to, "GET /config_dump").await.0, 503);
    let lines = |out: &mut dyn std::io::Write| (0..200_000).try_for_each(|n| writeln!(out, "{n:06}"));
    let (to, _served) = start(dumping(lines), 4).await;
    for method in ["GET", "POST", "DELETE"] {
        let (status, text) = ask(to, &format!("{method} /config_dump")).await;
        assert_eq!(status, 200);
        assert!(text.contains("content-type: application/json\r\n") && text.ends_with(LAST_CHUNK));
        assert!(text.len() > 200_000 * 7 && text.contains("199999\n"), "{}", text.len());
    }
}

#[tokio::test]
async fn a_dump_that_breaks_off_does_not_look_complete() {
    let breaking = |out: &mut dyn std::io::Write| {
        out.write_all(&[b'x'; 1 << 20])?;
        Err(std::io::Error::other("test"))
    };
    let (to, _served) = start(dumping(breaking), 4).await;
    let (status, text) = ask(to, "GET /config_dump").await;
    assert_eq!(status, 200);
    assert!(text.len() > 1 << 19 && !text.ends_with(LAST_CHUNK));
}

#[tokio::test]
async fn two_dumps_are_read_at_a_time_and_a_reader_that_goes_makes_room() {
    let endless = |out: &mut dyn std::io::Write| loop {
        out.write_all(&[b'x'; 1 << 16])?;
    };
    let (to, _served) = start(dumping(endless), 8).await;
    let reading = async || {
        let mut tcp = TcpStream::connect(to).await.unwrap();
        tcp.write_all(b"GET /config_dump HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut head = [0; 12];
        tcp.read_exact(&mut head).await.unwrap();
        (tcp, String::from_utf8_lossy(&head[9..]).into_owned())
    };
    let (first, second) = (reading().await, reading().await);
    assert_eq!([&*first.1, &*second.1], ["200", "200"]);
    assert_eq!(reading().await.1, "429");
    drop(first);
    let room = async { while reading().await.1 != "200" {} };
    timeout(Duration::from_secs(20), room)
        .await
        .expect("there is room again");
}
