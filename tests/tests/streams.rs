//! A tunnelled connection behaves as the TCP connection it stands for.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use isthmus_tests::{
    Because as _, Pod, Result, must_be_reset, roundtrip,
    scene::{OneNetwork, TwoNetworks},
    within,
};
use socket2::SockRef;

const PORT: u16 = 8080;
const BOUND: Duration = Duration::from_secs(15);

/// Both ends of a fresh connection from `client` to `to`, which one of the pods in `servers` will accept.
fn ends(client: &Pod, servers: &[&Pod], to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let mut listeners = Vec::new();
    for server in servers {
        let listener = server.netns().enter(|| TcpListener::bind(("::", PORT)))??;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    let near = client.connect(to)?;
    let (far, _) = within(BOUND, "one of the servers accepts", || {
        listeners.iter().find_map(|listener| listener.accept().ok())
    })?;
    far.set_nonblocking(false)?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        stream.set_nodelay(true)?;
    }
    Ok((near, far))
}

/// Runs a promise across nodes and across networks.
fn on_both_paths(promise: impl Fn(TcpStream, TcpStream) -> Result) -> Result {
    let scene = OneNetwork::start("streams")?;
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        let (near, far) = ends(&scene.client, &[&scene.server], to)?;
        promise(near, far).because(format!("across nodes to {to}"))?;
    }
    drop(scene);
    let scene = TwoNetworks::start("streams")?;
    let (near, far) = ends(&scene.client, &[&scene.server, &scene.twin], scene.at(PORT))?;
    promise(near, far).because("across networks")
}

fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

#[test]
fn half_close_is_carried_in_both_directions() -> Result {
    on_both_paths(|mut near, mut far| {
        near.write_all(b"question")?;
        near.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut far)?, b"question");
        far.write_all(b"a late answer")?;
        far.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut near)?, b"a late answer");
        Ok(())
    })?;
    on_both_paths(|mut near, mut far| {
        far.write_all(b"greeting")?;
        far.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut near)?, b"greeting");
        near.write_all(b"and a late question")?;
        near.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut far)?, b"and a late question");
        Ok(())
    })
}

#[test]
fn a_reset_is_carried_in_both_directions() -> Result {
    let reset = |mut breaks: TcpStream, mut sees: TcpStream| -> Result {
        breaks.write_all(b"x")?;
        sees.read_exact(&mut [0])?;
        SockRef::from(&breaks).set_linger(Some(Duration::ZERO))?;
        drop(breaks);
        must_be_reset(&sees);
        Ok(())
    };
    on_both_paths(reset)?;
    on_both_paths(|near, far| reset(far, near))
}

#[test]
fn a_close_with_unread_data_is_not_taken_for_a_clean_end() -> Result {
    on_both_paths(|mut near, mut far| {
        near.write_all(b"never read")?;
        far.write_all(b"x")?;
        near.read_exact(&mut [0])?;
        within(BOUND, "the far side has unread data", || {
            far.peek(&mut [0]).ok().filter(|length| *length > 0)
        })?;
        drop(far);
        must_be_reset(&near);
        Ok(())
    })
}

#[test]
fn thousands_of_unread_one_byte_writes_end_nothing_and_arrive_in_order() -> Result {
    const WRITES: usize = 30_000;
    on_both_paths(|mut near, mut far| {
        let bytes: Vec<u8> = (0..WRITES).map(|n| (n % 251) as u8).collect();
        for byte in &bytes {
            near.write_all(std::slice::from_ref(byte))?;
        }
        near.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut far)?.len(), WRITES);
        Ok(())
    })
}

#[test]
fn a_stream_that_nobody_reads_does_not_hold_up_its_neighbours() -> Result {
    let scene = OneNetwork::start("streams")?;
    let (mut stuck, unread) = ends(&scene.client, &[&scene.server], scene.server.at(PORT))?;
    stuck.set_nonblocking(true)?;
    let chunk = vec![0; 64 << 10];
    let mut sent = 0;
    // Until nothing more is taken for a while: every buffer on the way is full.
    within(Duration::from_secs(20), "the way is full", || {
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            match stuck.write(&chunk) {
                Ok(length) => {
                    sent += length;
                    return None;
                }
                Err(_) => std::thread::yield_now(),
            }
        }
        Some(())
    })?;
    assert!(sent > chunk.len(), "{sent}");
    let _echo = scene.server.echo(PORT + 1)?;
    for _ in 0..20 {
        roundtrip(&mut scene.client.connect(scene.server.at(PORT + 1))?, &[7; 100_000])?;
    }
    drop(unread);
    Ok(())
}

#[test]
fn a_long_upload_arrives_whole_in_both_families_and_across_networks() -> Result {
    let upload = |client: &Pod, to: SocketAddr| -> Result {
        let report = client.measure(Duration::from_secs(30), &["upload", &to.to_string(), "--seconds", "2"])?;
        assert!(report["bytes"].as_u64() > Some(20 << 20), "{report}");
        Ok(())
    };
    let scene = OneNetwork::start("streams")?;
    let _sink = scene.server.peer(&["sink", "[::]:9000"])?;
    within(BOUND, "the sink listens", || {
        scene.server.connect(scene.server.at(9000)).ok()
    })?;
    upload(&scene.client, scene.server.at(9000))?;
    upload(&scene.client, scene.server.at6(9000))?;
    drop(scene);
    let scene = TwoNetworks::start("streams")?;
    let _sinks = [
        scene.server.peer(&["sink", "[::]:9000"])?,
        scene.twin.peer(&["sink", "[::]:9000"])?,
    ];
    for pod in [&scene.server, &scene.twin] {
        within(BOUND, "the sink listens", || pod.connect(pod.at(9000)).ok())?;
    }
    upload(&scene.client, scene.at(9000))
}
