//! The load of the bench: ordinary sockets, plain threads, and nothing that knows of any agent.
//!
//! Clients print `{"measuring":true}` as they begin to measure, `{"measured":true}` as they end, and at last one line of
//! JSON with what they saw meanwhile. Everything ends when its standard input is closed, so that nothing outlives the
//! bench.

use std::{error::Error, io::stdin, net::SocketAddr, process::ExitCode, thread, time::Duration};

use clap::{Args, Parser, ValueEnum};
use serde_json::{Value, json};

mod churn;
mod echo;
mod ping;
mod sink;
mod upload;
mod window;

/// What a subcommand answers: its report.
type Answer<T = Value> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long a connect, a read or a write may take before the run has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
#[command(about = "Ordinary load for the bench")]
enum Load {
    /// Counts what it receives, a thread for each connection; says hello with one byte, and answers a client's half-close
    /// with the count as 8 bytes, most significant first.
    Sink { listen: SocketAddr },
    /// Sends back what it receives, one thread for all connections.
    Echo {
        listen: SocketAddr,
        /// Listens on so many ports, beginning with the one given.
        #[arg(long, default_value_t = 1)]
        ports: u16,
        /// A blocking thread for each connection instead.
        #[arg(long)]
        threads: bool,
    },
    /// Sends to a sink as fast as it goes, a thread for each stream, and checks the sink's count.
    Upload {
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Sends so long; measured is until all of it has arrived.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Bounces one byte off an echo server on each of some connections: blocking for one, in one thread for more.
    Ping {
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[command(flatten)]
        span: Span,
    },
    /// Connects to an echo server, bounces a byte and closes, again and again.
    Churn {
        to: SocketAddr,
        /// Takes so many ports of the server in turn, beginning with the one given.
        #[arg(long, default_value_t = 1)]
        ports: u16,
        #[arg(long, default_value_t = 32)]
        parallel: usize,
        #[arg(long, value_enum)]
        close: Close,
        #[command(flatten)]
        span: Span,
    },
}

/// When is measured.
#[derive(Args, Clone, Copy)]
struct Span {
    /// Seconds of load before the window.
    #[arg(long, default_value_t = 0.3)]
    warm: f64,
    /// Seconds of the window.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// How a client ends its connection.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Close {
    /// `SO_LINGER` of zero, then close.
    Rst,
    /// close; the client is the first to close.
    Fin,
}

fn main() -> ExitCode {
    let load = Load::parse();
    thread::spawn(end_with_input);
    let report = match load {
        Load::Sink { listen } => sink::serve(listen),
        Load::Echo {
            listen, threads: true, ..
        } => echo::serve_with_threads(listen),
        Load::Echo { listen, ports, .. } => echo::serve(listen, ports),
        Load::Upload { to, streams, seconds } => upload::run(to, streams, seconds),
        Load::Ping {
            to,
            connections: 1,
            span,
        } => ping::one(to, span),
        Load::Ping { to, connections, span } => ping::many(to, connections, span),
        Load::Churn {
            to,
            ports,
            parallel,
            close,
            span,
        } => churn::run(churn::Target { to, ports }, parallel, close, span),
    };
    match report {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Who started us holds the other end of standard input; it closes when that process dies, however it dies.
fn end_with_input() {
    for _ignored in stdin().lines().map_while(Result::ok) {}
    std::process::exit(3);
}

/// The line that whoever started a server waits for.
fn listening(at: SocketAddr) {
    println!("{}", json!({ "listening": at }));
}
