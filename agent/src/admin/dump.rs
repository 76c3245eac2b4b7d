//! Answers too large to be held: written piece by piece on a thread of their own, as fast as their reader takes them.

use std::{
    io::{self, BufWriter, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::reply::{self, Piece, Reply};

/// How large pieces are.
const PIECE_BYTES: usize = 64 << 10;
/// How many wait for the reader. That and one being filled is what an answer takes in memory.
const PIECES: usize = 2;
/// How many are written at a time. Each keeps alive what it writes of, such as a mesh that has since changed.
const AT_A_TIME: usize = 2;
/// How long collecting what is to be written may take.
const COLLECTING: Duration = Duration::from_secs(10);

/// Writes what was collected; may take long, and fails as soon as nobody reads.
pub type Writer = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// Collects what is to be written.
pub type Collector = Arc<dyn Fn() -> BoxFuture<'static, Writer> + Send + Sync>;

/// All that the agent holds, which is there later than the port that tells it. Clones share it.
#[derive(Clone)]
pub struct Dump {
    collector: Arc<OnceLock<Collector>>,
    permits: Arc<Semaphore>,
}

impl Default for Dump {
    fn default() -> Self {
        Self {
            collector: Arc::default(),
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }
}

impl Dump {
    /// From now on this is what is dumped; only the first one counts.
    pub fn collected_by(&self, collector: Collector) {
        if self.collector.set(collector).is_err() {
            tracing::error!("the dump has a collector already");
        }
    }

    /// The answer, in JSON.
    pub(super) async fn answer(&self) -> Reply {
        let Some(collector) = self.collector.get() else {
            let text = "the agent is starting; /healthz/ready of its readiness port tells what it waits for\n";
            return reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let text = format!("{AT_A_TIME} dumps are being read; try again when one is done\n");
            return reply::text(StatusCode::TOO_MANY_REQUESTS, text);
        };
        let Ok(writer) = timeout(COLLECTING, collector()).await else {
            let within = COLLECTING.as_secs();
            let text = format!("the agent did not tell what it holds within {within} s; see its log\n");
            return reply::text(StatusCode::GATEWAY_TIMEOUT, text);
        };
        let (pieces, received) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || write(writer, pieces, permit));
        reply::written("application/json", received)
    }
}

fn write(writer: Writer, pieces: mpsc::Sender<Piece>, _permit: OwnedSemaphorePermit) {
    let mut out = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
    let written = writer(&mut out).and_then(|()| out.flush());
    match written {
        Ok(()) => out.get_ref().end(),
        Err(error) => tracing::debug!(%error, "a dump was not read to its end"),
    }
}

/// Gives what is written to the reader, waiting for it.
struct Pieces(mpsc::Sender<Piece>);

impl Pieces {
    fn end(&self) {
        // Whoever read it may have gone after the last byte.
        drop(self.0.blocking_send(Piece::End));
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Piece::Bytes(Bytes::copy_from_slice(bytes));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more");
        self.0.blocking_send(piece).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
