//! Connections that live for one byte.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use isthmus_tests::histogram::Histogram;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    Answer, Close, PATIENCE, Span,
    window::{Place, Window},
};

/// So many different errors of each loop are told.
const ERRORS: usize = 3;

/// A server and the ports it listens on.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) to: SocketAddr,
    pub(crate) ports: u16,
}

/// What a loop has seen.
#[derive(Default)]
struct Seen {
    /// Connections that ended in the window.
    within: Histogram,
    /// Good connections in each second since the load began.
    per_second: Vec<u64>,
    /// Connections of all the time that failed.
    failed: u64,
    errors: Vec<String>,
}

/// Loops until the window ends.
pub(crate) fn run(target: Target, parallel: usize, close: Close, span: Span) -> Answer<Value> {
    let window = Window::starting_now(span)?;
    let loops: Vec<_> = (0..parallel)
        .map(|index| thread::spawn(move || repeat(target, index, close, window)))
        .collect();
    window.watch();
    let mut all = Seen::default();
    for each in loops {
        all.add(&each.join().map_err(|_| "a loop panicked")?);
    }
    let us = |share| all.within.quantile(share).as_secs_f64() * 1e6;
    Ok(json!({
        "done": all.within.total(),
        "seconds": window.seconds(),
        "p50_us": us(0.5),
        "p99_us": us(0.99),
        "p999_us": us(0.999),
        "per_second": all.per_second,
        "failed": all.failed,
        "errors": all.errors,
    }))
}

fn repeat(target: Target, index: usize, close: Close, window: Window) -> Seen {
    let mut seen = Seen::default();
    let started = Instant::now();
    for port in (0..target.ports.max(1)).cycle().skip(index) {
        let to = SocketAddr::new(target.to.ip(), target.to.port() + port);
        let begin = Instant::now();
        let ended = once(to, close);
        let end = Instant::now();
        match ended {
            Ok(()) => seen.count(end - begin, end - started, window.place(end)),
            Err(error) => seen.fail(&error.to_string()),
        }
        if window.place(end) == Place::After {
            break;
        }
    }
    seen
}

fn once(to: SocketAddr, close: Close) -> Answer<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // The kernel bounds a blocking connect by this one.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket
        .connect(&to.into())
        .map_err(|error| format!("connecting: {error}"))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&[7]).map_err(|error| format!("sending: {error}"))?;
    let mut byte = [0];
    stream
        .read_exact(&mut byte)
        .map_err(|error| format!("waiting for the echo: {error}"))?;
    if close == Close::Rst {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

impl Seen {
    fn count(&mut self, took: Duration, since: Duration, place: Place) {
        if place == Place::Within {
            self.within.record(took);
        }
        let second = usize::try_from(since.as_secs()).unwrap_or_default();
        if self.per_second.len() <= second {
            self.per_second.resize(second + 1, 0);
        }
        if let Some(count) = self.per_second.get_mut(second) {
            *count += 1;
        }
    }

    fn fail(&mut self, error: &str) {
        self.failed += 1;
        if self.errors.len() < ERRORS && !self.errors.iter().any(|known| known == error) {
            self.errors.push(error.to_owned());
        }
    }

    fn add(&mut self, other: &Self) {
        self.within.merge(&other.within);
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (count, more) in self.per_second.iter_mut().zip(&other.per_second) {
            *count += more;
        }
        self.failed += other.failed;
        for error in &other.errors {
            if !self.errors.contains(error) {
                self.errors.push(error.clone());
            }
        }
    }
}
