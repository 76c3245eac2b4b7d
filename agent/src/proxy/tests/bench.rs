//! Figures rather than promises: `cargo test --release -p isthmus --lib bench -- --ignored --nocapture`.
//!
//! Two proxies on a thread each and blocking applications, all on one machine: what a change of the relay, the buffers
//! or the windows does shows here first.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::world::{NETWORK, Pod, World, fresh_ip, serve_pod, workload};

/// What the agent runs with; another allocator costs a quarter more for bulk.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const RELAY: &str = "relay";

const TIME: Duration = Duration::from_secs(3);

/// Runs a pod on a thread of its own, for ever.
fn serve(name: &'static str, ip: std::net::IpAddr, world: &World) -> Pod {
    let telemetry = std::sync::Arc::clone(&world.telemetry);
    let parts = (world.mesh.clone(), world.certificates.clone(), world.tuning, telemetry);
    let (sender, receiver) = std::sync::mpsc::channel();
    let relay = thread::Builder::new().name(RELAY.to_owned());
    let relay = relay.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            sender.send(serve_pod(name, ip, NETWORK, parts).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    drop(relay.unwrap());
    receiver.recv().unwrap()
}

/// CPU time of all relays so far. Unlike the rates it hardly depends on what else the machine does.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let relays = tasks.filter_map(|task| {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        (name.trim() == RELAY).then(|| times.split(' ').next().unwrap().parse::<u64>().unwrap())
    });
    Duration::from_nanos(relays.sum())
}

struct Pair {
    _world: World,
    client: Pod,
    server: Pod,
}

fn pair() -> Pair {
    let world = World::new();
    let (near, far) = (fresh_ip(), fresh_ip());
    world.add_workload(workload("client", Some(near)));
    world.add_workload(workload("server", Some(far)));
    let (client, server) = (serve("client", near, &world), serve("server", far, &world));
    Pair {
        _world: world,
        client,
        server,
    }
}

impl Pair {
    /// Starts an application on the server's side; gives its address.
    fn application(&self, serve: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
        let listener = TcpListener::bind((self.server.ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, serve) = (stream.unwrap(), serve.clone());
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || serve(stream));
            }
        });
        address
    }

    fn dial(&self, to: SocketAddr) -> TcpStream {
        self.client.dial_blocking(to)
    }
}

#[test]
#[ignore = "measures"]
fn bulk() {
    for streams in [1, 8] {
        let pair = pair();
        let moved = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&moved);
        let sink = pair.application(move |mut stream| {
            let mut buffer = vec![0; 1 << 18];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                counter.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..streams)
            .map(|_| {
                let (mut stream, stop) = (pair.dial(sink), Arc::clone(&stop));
                thread::spawn(move || {
                    let buffer = vec![0; 1 << 18];
                    while !stop.load(Ordering::Relaxed) {
                        stream.write_all(&buffer).unwrap();
                    }
                })
            })
            .collect();
        thread::park_timeout(Duration::from_secs(1));
        let (before, cpu_before, began) = (moved.load(Ordering::Relaxed), cpu(), Instant::now());
        thread::park_timeout(TIME);
        let bytes = moved.load(Ordering::Relaxed) - before;
        let cost = (cpu() - cpu_before).as_secs_f64() / (bytes as f64 * 1e-9);
        let rate = bytes as f64 * 8e-9 / began.elapsed().as_secs_f64();
        println!("bulk, {streams} streams: {rate:.2} Gb/s, {cost:.3} CPU-s per GB for both relays");
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    }
}

#[test]
#[ignore = "measures"]
fn ping_pong() {
    let pair = pair();
    let echo = pair.application(|mut stream| {
        let mut byte = [0; 1];
        while stream
            .read_exact(&mut byte)
            .and_then(|()| stream.write_all(&byte))
            .is_ok()
        {}
    });
    let mut stream = pair.dial(echo);
    stream.set_nodelay(true).unwrap();
    let mut byte = [7; 1];
    let mut times = Vec::new();
    let (cpu_before, began) = (cpu(), Instant::now());
    while began.elapsed() < TIME {
        let sent = Instant::now();
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
        times.push(sent.elapsed());
    }
    let cost = (cpu() - cpu_before) / u32::try_from(times.len()).unwrap();
    times.sort();
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("ping-pong: p50 {half:?}, p99 {most:?}, {cost:?} CPU each for both relays");
}

#[test]
#[ignore = "measures"]
fn churn() {
    let pair = pair();
    let answer = pair.application(|mut stream| {
        let mut byte = [0; 1];
        stream
            .read_exact(&mut byte)
            .and_then(|()| stream.write_all(&byte))
            .unwrap();
    });
    for (name, plain) in [("tunnelled", false), ("plain", true)] {
        if plain {
            let mut open = workload("server", Some(pair.server.ip));
            open.protocol = crate::mesh::workload::Protocol::Tcp;
            pair._world.add_workload(open);
        }
        let (mut count, cpu_before, began) = (0_u32, cpu(), Instant::now());
        while began.elapsed() < TIME {
            let mut stream = pair.dial(answer);
            let mut byte = [7; 1];
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
            count += 1;
        }
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        println!(
            "churn, one after another, {name}: {rate:.0}/s, {:?} CPU each",
            (cpu() - cpu_before) / count
        );
    }
}
