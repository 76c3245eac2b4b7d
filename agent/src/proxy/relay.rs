//! Carrying bytes between two open legs until both directions are done.
//!
//! Each direction is a [`Pump`] from a [`Source`](pump::Source) to a [`Sink`](pump::Sink); the connection's one task
//! polls both. FIN and END_STREAM are each other's translation, as are RST and RST_STREAM. What is not finished is
//! reset when its leg is dropped, so that an end which is no end never looks like one.

mod chunks;
mod pump;
mod splice;
mod tcp;
mod tunnelled;

use std::{future::poll_fn, io, task::Poll};

use h2::Reason;
use thiserror::Error;

use self::{
    pump::{Fault, Pump},
    splice::Direction,
    tcp::{TcpSink, TcpSource},
    tunnelled::{StreamSink, StreamSource},
};
use super::{descriptors::Descriptors, leg::Leg};
use crate::{
    hbone::{Stream, StreamError},
    telemetry::Meter,
};

/// Bytes carried, also when the connection is cut.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// From the near to the far leg.
    pub(crate) forth: u64,
    /// From the far to the near leg.
    pub(crate) back: u64,
    /// Told as they pass, so that long connections show while they run.
    meter: Option<Meter>,
}

impl Tally {
    pub(crate) fn metered(meter: Option<Meter>) -> Self {
        Self {
            meter,
            ..Self::default()
        }
    }

    /// So many bytes have passed by now.
    fn now(&mut self, forth: u64, back: u64) {
        if (forth, back) == (self.forth, self.back) {
            return;
        }
        if let Some(meter) = &self.meter {
            meter.add(forth.saturating_sub(self.forth), back.saturating_sub(self.back));
        }
        (self.forth, self.back) = (forth, back);
    }
}

/// One of the two legs of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one given first: always TCP.
    Near,
    /// The other.
    Far,
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Both directions were closed in order.
    Finished {
        /// The side that closed its direction first.
        first: Side,
    },
    /// A leg broke.
    Broken {
        /// Which.
        side: Side,
        /// How.
        error: LegError,
    },
}

/// How a leg broke.
#[derive(Debug, Error)]
pub(crate) enum LegError {
    /// The TCP connection of an application was reset or failed.
    #[error("{}", socket_text(.0))]
    Tcp(#[source] io::Error),
    /// The stream or its tunnel ended.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

fn socket_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "connection reset by the application".into(),
        io::ErrorKind::BrokenPipe => "the application has closed its connection and takes no more".into(),
        io::ErrorKind::TimedOut => "the application's host no longer answers".into(),
        _ => format!("the application's socket failed: {error}"),
    }
}

/// Relays an application's TCP connection through a stream.
pub(crate) async fn tunnelled(mut leg: Leg, mut stream: Stream, tally: &mut Tally) -> Ended {
    let ended = {
        let (reader, writer) = leg.tcp().split();
        let (send, recv) = stream.split();
        let mut forth = Pump::new(TcpSource::new(reader), StreamSink::new(send));
        let mut back = Pump::new(StreamSource(recv), TcpSink::new(writer));
        let mut progress = Progress::default();
        poll_fn(|cx| {
            let ended = progress.note(forth.poll(cx), back.poll(cx));
            tally.now(forth.moved(), back.moved());
            ended
        })
        .await
    };
    match &ended {
        Ended::Finished { .. } => leg.finish(),
        Ended::Broken { side: Side::Near, .. } => stream.reset(APPLICATION_BROKE),
        Ended::Broken { side: Side::Far, .. } => stream.reset(Reason::CANCEL),
    }
    ended
}

/// Relays between two TCP connections; through a pipe inside the kernel once enough was carried.
pub(crate) async fn plain(mut near: Leg, mut far: Leg, descriptors: &Descriptors, tally: &mut Tally) -> Ended {
    let ended = {
        let (near_reader, near_writer) = near.tcp().split();
        let (far_reader, far_writer) = far.tcp().split();
        let mut forth = Direction::new(TcpSource::new(near_reader), TcpSink::new(far_writer), descriptors);
        let mut back = Direction::new(TcpSource::new(far_reader), TcpSink::new(near_writer), descriptors);
        let mut progress = Progress::default();
        poll_fn(|cx| {
            let ended = progress.note(forth.poll(cx), back.poll(cx));
            tally.now(forth.moved(), back.moved());
            ended
        })
        .await
    };
    if let Ended::Finished { .. } = ended {
        near.finish();
        far.finish();
    }
    ended
}

/// What a peer is told when the application's connection broke. RFC 9113 §8.5 names CONNECT_ERROR for it, but Envoy
/// (1.40) ends its own application's connection cleanly on that one, and resets it on any other.
pub(super) const APPLICATION_BROKE: Reason = Reason::INTERNAL_ERROR;

/// Which directions are done.
#[derive(Default)]
struct Progress {
    forth: bool,
    back: bool,
    first: Option<Side>,
}

impl Progress {
    fn note(&mut self, forth: Poll<Result<(), Fault>>, back: Poll<Result<(), Fault>>) -> Poll<Ended> {
        match forth {
            Poll::Ready(Ok(())) => {
                self.forth = true;
                self.first.get_or_insert(Side::Near);
            }
            // The peer takes no more. Whether it has said all, the other direction tells: a stream may be reset right after
            // its END_STREAM, and what came before that is still to be delivered.
            Poll::Ready(Err(Fault::Sink(LegError::Stream(StreamError::Reset(_))))) if !self.back => {
                self.forth = true;
                self.first.get_or_insert(Side::Far);
            }
            Poll::Ready(Err(Fault::Source(error))) => {
                return Poll::Ready(Ended::Broken {
                    side: Side::Near,
                    error,
                });
            }
            Poll::Ready(Err(Fault::Sink(error))) => return Poll::Ready(Ended::Broken { side: Side::Far, error }),
            Poll::Pending => {}
        }
        match back {
            Poll::Ready(Ok(())) => {
                self.back = true;
                self.first.get_or_insert(Side::Far);
            }
            Poll::Ready(Err(Fault::Source(error))) => return Poll::Ready(Ended::Broken { side: Side::Far, error }),
            Poll::Ready(Err(Fault::Sink(error))) => {
                return Poll::Ready(Ended::Broken {
                    side: Side::Near,
                    error,
                });
            }
            Poll::Pending => {}
        }
        match self.first {
            Some(first) if self.forth && self.back => Poll::Ready(Ended::Finished { first }),
            _ => Poll::Pending,
        }
    }
}
