use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::{LegError, chunks::Chunks};
use crate::shards::vigil::note_work;

/// Where one direction's bytes come from.
pub(crate) trait Source {
    /// Bytes that may wait here for the sink before no more are pulled. A stream's window bounds it better than we.
    const HOLD: usize;

    /// Ready when [`Source::poll_pull`] would bring bytes, the end or an error.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>>;

    /// How many bytes the next pull could bring.
    fn appetite(&self) -> usize;

    /// The next bytes, at most `room`; `None` at the end.
    fn poll_pull(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<Option<Bytes>, LegError>>;

    /// The sink took `count` bytes.
    fn taken(&mut self, count: usize);

    /// Ready when the leg broke after the source had ended.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<LegError>;
}

/// Where one direction's bytes go.
pub(crate) trait Sink {
    /// Ready with how many bytes can be taken, when that is not zero; with `None` when no more are wanted, ever.
    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<Option<usize>, LegError>>;

    /// Takes bytes from the front of `queue`; says how many.
    fn poll_write(&mut self, cx: &mut Context<'_>, queue: &mut Chunks) -> Poll<Result<usize, LegError>>;

    /// No bytes are at hand: gives back what was reserved for them.
    fn rest(&mut self);

    /// Closes this direction.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>>;

    /// Ready when the leg broke, though nothing is being written; `Ok` when it only wants no more bytes.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>>;
}

/// One direction.
pub(crate) struct Pump<S, K> {
    source: S,
    sink: K,
    queue: Chunks,
    moved: u64,
    stage: Stage,
}

/// The end of a direction at which something broke.
#[derive(Debug)]
pub(crate) enum Fault {
    Source(LegError),
    Sink(LegError),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Moving,
    /// The source has ended; the queue is still to be written.
    Ending,
    Done,
}

/// What an attempt to pull came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Pulled,
    SourceWaits,
    /// The source may have more; what the sink was asked for stays asked for.
    RoomWaits,
}

impl<S: Source, K: Sink> Pump<S, K> {
    pub(crate) fn new(source: S, sink: K) -> Self {
        Self {
            source,
            sink,
            queue: Chunks::default(),
            moved: 0,
            stage: Stage::Moving,
        }
    }

    /// Bytes the sink has taken.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Moves what can be moved. Ready when this direction is done; polled again after that, it watches for faults.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let mut fill = Fill::Pulled;
            while self.stage == Stage::Moving && self.queue.len() < S::HOLD && fill == Fill::Pulled {
                fill = self.fill(cx)?;
            }
            if !self.queue.is_empty() {
                let count = ready!(self.sink.poll_write(cx, &mut self.queue)).map_err(Fault::Sink)?;
                self.moved += count as u64;
                note_work();
                self.source.taken(count);
                if !self.queue.is_empty() || fill == Fill::Pulled {
                    continue;
                }
            }
            match (self.stage, fill) {
                // A waker is registered with whichever waits.
                (Stage::Moving, Fill::SourceWaits) => {
                    self.sink.rest();
                    return self.watch_sink(cx);
                }
                (Stage::Moving, Fill::RoomWaits) => return self.watch_sink(cx),
                (Stage::Moving, Fill::Pulled) => {}
                (Stage::Ending, _) => {
                    ready!(self.sink.poll_finish(cx)).map_err(Fault::Sink)?;
                    self.stage = Stage::Done;
                }
                (Stage::Done, _) => return self.watch_both(cx),
            }
        }
    }

    /// Pulls once, if the source has something and the sink room for it.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<Fill, Fault> {
        let Poll::Ready(ready) = self.source.poll_ready(cx) else {
            return Ok(Fill::SourceWaits);
        };
        ready.map_err(Fault::Source)?;
        let Poll::Ready(room) = self.sink.poll_room(cx, self.source.appetite()) else {
            return Ok(Fill::RoomWaits);
        };
        let Some(room) = room.map_err(Fault::Sink)? else {
            self.stage = Stage::Done;
            return Ok(Fill::Pulled);
        };
        let Poll::Ready(pulled) = self.source.poll_pull(cx, room) else {
            return Ok(Fill::SourceWaits);
        };
        match pulled.map_err(Fault::Source)? {
            Some(bytes) => self.queue.push(bytes),
            None => {
                self.sink.rest();
                self.stage = Stage::Ending;
            }
        }
        Ok(Fill::Pulled)
    }

    fn watch_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if let Poll::Ready(error) = self.source.poll_broken(cx) {
            return Poll::Ready(Err(Fault::Source(error)));
        }
        if let Poll::Ready(Err(error)) = self.sink.poll_broken(cx) {
            return Poll::Ready(Err(Fault::Sink(error)));
        }
        Poll::Ready(Ok(()))
    }

    fn watch_sink(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match ready!(self.sink.poll_broken(cx)) {
            Ok(()) => {
                self.stage = Stage::Done;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Fault::Sink(error))),
        }
    }

    /// Both ends, while nothing is queued and neither has ended: for a faster way of moving.
    pub(super) fn idle_ends(&mut self) -> Option<(&mut S, &mut K)> {
        (self.stage == Stage::Moving && self.queue.is_empty()).then_some((&mut self.source, &mut self.sink))
    }
}
