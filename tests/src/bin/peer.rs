//! Load for the lab: an ordinary program with ordinary sockets, which knows nothing of any agent.
//!
//! Every subcommand but the servers ends with one line of JSON on standard output. Those that run until told end when
//! their standard input is closed.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, stdin},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

const BUFFER: usize = 256 << 10;
const FRESH: Duration = Duration::from_secs(20);

type Answer<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "Ordinary load for the lab")]
enum Load {
    /// Sends back what it receives, until it is killed.
    Echo { listen: SocketAddr },
    /// Counts what it receives; answers a client's half-close with the count as 8 bytes, most significant first.
    Sink { listen: SocketAddr },
    /// Bounces one byte off an echo server, one at a time.
    Ping {
        to: SocketAddr,
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Sent once at the beginning.
        #[arg(long, default_value = "")]
        mark: String,
    },
    /// Sends to a sink and checks its count.
    Upload {
        to: SocketAddr,
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Ends earlier, with so much.
        #[arg(long)]
        megabytes: Option<u64>,
        /// Repeated all along.
        #[arg(long, default_value = "isthmus")]
        mark: String,
    },
    /// Opens connections to an echo server and holds them. Each line on standard input has a byte bounced off all of
    /// them and is answered with a line of JSON.
    Hold {
        to: SocketAddr,
        #[arg(long)]
        count: usize,
        /// Source address, with a random source port.
        #[arg(long)]
        from: Option<IpAddr>,
    },
    /// Connects to an echo server, bounces a byte and closes, again and again.
    Churn {
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// Until standard input is closed when not given.
        #[arg(long)]
        seconds: Option<f64>,
        #[arg(long)]
        from: Option<IpAddr>,
        /// Of each loop, after each connection. A client that closes first keeps its port for a minute.
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let report = match Load::parse() {
        Load::Echo { listen } => serve(listen, echo).await,
        Load::Sink { listen } => serve(listen, sink).await,
        Load::Ping { to, seconds, mark } => ping(to, Duration::from_secs_f64(seconds), &mark).await,
        Load::Upload {
            to,
            seconds,
            megabytes,
            mark,
        } => {
            let most = megabytes.map_or(u64::MAX, |megabytes| megabytes << 20);
            upload(to, Duration::from_secs_f64(seconds), most, &mark).await
        }
        Load::Hold { to, count, from } => hold(to, count, from).await,
        Load::Churn {
            to,
            parallel,
            seconds,
            from,
            pause_ms,
        } => churn(to, from, parallel, seconds, Duration::from_millis(pause_ms)).await,
    };
    match report {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve<F: Future<Output = io::Result<()>> + 'static>(
    listen: SocketAddr,
    one: impl Fn(TcpStream) -> F,
) -> Answer<Value> {
    let socket = if listen.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(16384)?;
    println!("{}", json!({ "listening": listen }));
    accept(&listener, one).await
}

async fn accept<F: Future<Output = io::Result<()>> + 'static>(
    listener: &TcpListener,
    one: impl Fn(TcpStream) -> F,
) -> Answer<Value> {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                let served = one(stream);
                tokio::task::spawn_local(async move {
                    // A client that resets its connection is an ordinary client.
                    let _reset = served.await;
                });
            }
        })
        .await
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(256);
    loop {
        buffer.clear();
        if stream.read_buf(&mut buffer).await? == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer).await?;
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut count = 0_u64;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            stream.write_all(&count.to_be_bytes()).await?;
            return stream.shutdown().await;
        }
        count += length as u64;
    }
}

async fn connect(to: SocketAddr, from: Option<IpAddr>) -> Answer<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = timeout(FRESH, socket.connect(to))
        .await
        .map_err(|_| format!("connecting to {to}: timed out"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn bounce(stream: &mut TcpStream) -> Answer<()> {
    let mut byte = [7];
    stream.write_all(&byte).await?;
    timeout(FRESH, stream.read_exact(&mut byte))
        .await
        .map_err(|_| "no echo: timed out")??;
    Ok(())
}

async fn ping(to: SocketAddr, span: Duration, mark: &str) -> Answer<Value> {
    let mut stream = connect(to, None).await?;
    stream.write_all(mark.as_bytes()).await?;
    let mut back = vec![0; mark.len()];
    timeout(FRESH, stream.read_exact(&mut back))
        .await
        .map_err(|_| "no echo: timed out")??;
    let begin = Instant::now();
    let mut trips = Vec::new();
    while begin.elapsed() < span {
        let sent = Instant::now();
        bounce(&mut stream).await?;
        trips.push(sent.elapsed());
    }
    let seconds = begin.elapsed().as_secs_f64();
    trips.sort_unstable();
    let at = |share: usize| {
        trips
            .get(trips.len() * share / 100)
            .map_or(0.0, |trip| trip.as_secs_f64() * 1e6)
    };
    Ok(json!({ "trips": trips.len(), "seconds": seconds, "p50_us": at(50), "p99_us": at(99) }))
}

async fn upload(to: SocketAddr, span: Duration, most: u64, mark: &str) -> Answer<Value> {
    let mut stream = connect(to, None).await?;
    let chunk: Vec<u8> = mark.bytes().cycle().take(BUFFER).collect();
    let begin = Instant::now();
    let mut sent = 0_u64;
    while begin.elapsed() < span && sent < most {
        stream.write_all(&chunk).await?;
        sent += chunk.len() as u64;
    }
    stream.shutdown().await?;
    let counted = timeout(FRESH, stream.read_u64())
        .await
        .map_err(|_| "no count: timed out")??;
    if counted != sent {
        return Err(format!("{sent} bytes were sent and {counted} arrived").into());
    }
    Ok(json!({ "bytes": sent, "seconds": begin.elapsed().as_secs_f64() }))
}

async fn hold(to: SocketAddr, count: usize, from: Option<IpAddr>) -> Answer<Value> {
    let mut held = Vec::with_capacity(count);
    let mut longest = Duration::ZERO;
    while held.len() < count {
        let wave = (count - held.len()).min(64);
        let mut opening = JoinSet::new();
        for _ in 0..wave {
            opening.spawn(async move {
                let begin = Instant::now();
                let mut stream = connect(to, from).await.map_err(|error| error.to_string())?;
                bounce(&mut stream).await.map_err(|error| error.to_string())?;
                Ok::<_, String>((stream, begin.elapsed()))
            });
        }
        while let Some(opened) = opening.join_next().await {
            let (stream, took) = opened?.map_err(|error| format!("connection {}: {error}", held.len() + 1))?;
            longest = longest.max(took);
            held.push(stream);
        }
    }
    println!(
        "{}",
        json!({ "held": held.len(), "longest_ms": longest.as_secs_f64() * 1e3 })
    );
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", json!({ "alive": alive(&mut held).await }));
    }
    Ok(json!({ "alive": alive(&mut held).await }))
}

async fn alive(held: &mut [TcpStream]) -> usize {
    let mut alive = 0;
    for stream in held {
        alive += usize::from(bounce(stream).await.is_ok());
    }
    alive
}

/// What the loops of [`churn`] have seen.
#[derive(Default)]
struct Seen {
    done: u64,
    /// The connection did not come about.
    unconnected: u64,
    /// It did, and did not carry its byte there and back.
    broken: u64,
    longest: Duration,
    errors: Vec<String>,
}

/// Turns that went well of which a loop tells before it ends.
const MANY: u64 = 10;

/// Why one turn of a loop failed.
enum Broken {
    Connect(String),
    Bounce(String),
}

impl Seen {
    fn count(&mut self, took: Duration, ended: Result<(), Broken>) {
        self.longest = self.longest.max(took);
        let error = match ended {
            Ok(()) => {
                self.done += 1;
                if self.done == MANY {
                    println!("{}", json!({ "well": MANY }));
                }
                return;
            }
            Err(Broken::Connect(error)) => {
                self.unconnected += 1;
                error
            }
            Err(Broken::Bounce(error)) => {
                self.broken += 1;
                error
            }
        };
        if self.errors.len() < 5 {
            self.errors.push(error);
        }
    }
}

async fn churn(
    to: SocketAddr,
    from: Option<IpAddr>,
    parallel: usize,
    seconds: Option<f64>,
    pause: Duration,
) -> Answer<Value> {
    let (stop, stopped) = watch::channel(false);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut loops = JoinSet::new();
    for _ in 0..parallel {
        let (seen, stopped) = (Arc::clone(&seen), stopped.clone());
        loops.spawn(async move {
            while !*stopped.borrow() {
                let begin = Instant::now();
                let ended = once(to, from).await;
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .count(begin.elapsed(), ended);
                tokio::time::sleep(pause).await;
            }
        });
    }
    println!("{}", json!({ "churning": to }));
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
        None => {
            let mut ignored = Vec::new();
            stdin().read_to_end(&mut ignored).await?;
        }
    }
    stop.send(true)?;
    while loops.join_next().await.is_some() {}
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(json!({
        "done": seen.done,
        "unconnected": seen.unconnected,
        "broken": seen.broken,
        "longest_ms": seen.longest.as_secs_f64() * 1e3,
        "errors": seen.errors,
    }))
}

async fn once(to: SocketAddr, from: Option<IpAddr>) -> Result<(), Broken> {
    let mut stream = connect(to, from)
        .await
        .map_err(|error| Broken::Connect(format!("connect: {error}")))?;
    bounce(&mut stream)
        .await
        .map_err(|error| Broken::Bounce(format!("bounce: {error}")))
}
