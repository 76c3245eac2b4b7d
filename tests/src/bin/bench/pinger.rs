//! A ping-pong that runs while something else happens, and tells trips before, during and after it apart.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use isthmus_tests::{Because as _, Failure, Result, histogram::Histogram};

use crate::report::{Better, Figure};

/// Parts of the run.
const PARTS: usize = 2;
/// Ends the run.
const OVER: usize = PARTS;

/// One connection in a blocking thread of the bench; it takes processor time from whatever else the bench does.
pub(crate) struct Pinger {
    part: Arc<AtomicUsize>,
    thread: JoinHandle<std::io::Result<[Histogram; PARTS]>>,
}

impl Pinger {
    /// Begins with the first part.
    pub(crate) fn start(mut stream: TcpStream) -> Self {
        let part = Arc::new(AtomicUsize::new(0));
        let now = Arc::clone(&part);
        let thread = thread::spawn(move || {
            let mut seen: [Histogram; PARTS] = Default::default();
            loop {
                let sent = Instant::now();
                stream.write_all(&[7])?;
                stream.read_exact(&mut [0])?;
                let Some(seen) = seen.get_mut(now.load(Ordering::Relaxed)) else {
                    break;
                };
                seen.record(sent.elapsed());
            }
            Ok(seen)
        });
        Self { part, thread }
    }

    /// What comes from now on is of the second part.
    pub(crate) fn begin(&self) {
        self.part.store(1, Ordering::Relaxed);
    }

    /// Ends it; answers p50, p99 and the longest trip of both parts.
    pub(crate) fn end(self) -> Result<Vec<Figure>> {
        self.part.store(OVER, Ordering::Relaxed);
        let ended = self.thread.join().map_err(|_| Failure::new("the ping-pong panicked"))?;
        let seen = ended.because("the ping-pong broke")?;
        let mut figures = Vec::new();
        for (name, seen) in ["before", "meanwhile"].into_iter().zip(&seen) {
            if seen.total() == 0 {
                return Err(Failure::new(format!("no trip of the ping-pong ended {name}")));
            }
            for (figure, took) in [
                ("p50", seen.quantile(0.5)),
                ("p99", seen.quantile(0.99)),
                ("longest", seen.longest()),
            ] {
                let value = vec![took.as_secs_f64() * 1e6];
                figures.push(Figure::ours(
                    &format!("ping {figure}, {name}"),
                    "µs",
                    Better::Lower,
                    value,
                ));
            }
        }
        Ok(figures)
    }
}
