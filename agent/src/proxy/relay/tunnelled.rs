use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::{
    LegError,
    chunks::Chunks,
    pump::{Sink, Source},
};
use crate::hbone::{RecvHalf, SendHalf, StreamError};

/// The receiving direction of a stream.
pub(crate) struct StreamSource<'a>(pub(crate) &'a mut RecvHalf);

/// The sending direction of a stream.
pub(crate) struct StreamSink<'a> {
    send: &'a mut SendHalf,
    reserved: bool,
    finished: bool,
}

impl Source for StreamSource<'_> {
    /// Frames are taken as they come and packed, because unread small ones cost the tunnel's budget in h2 far more
    /// than their bytes. The stream's window bounds what can wait here: it opens only as the sink takes bytes.
    const HOLD: usize = usize::MAX;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        Poll::Ready(Ok(()))
    }

    fn appetite(&self) -> usize {
        usize::MAX
    }

    fn poll_pull(&mut self, cx: &mut Context<'_>, _: usize) -> Poll<Result<Option<Bytes>, LegError>> {
        self.0.poll_data(cx).map(Option::transpose).map_err(LegError::Stream)
    }

    fn taken(&mut self, count: usize) {
        self.0.release(count);
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<LegError> {
        // The other direction sends on this stream and notices.
        Poll::Pending
    }
}

impl<'a> StreamSink<'a> {
    pub(crate) fn new(send: &'a mut SendHalf) -> Self {
        Self {
            send,
            reserved: false,
            finished: false,
        }
    }
}

impl StreamSink<'_> {
    /// Whether `failed` only means that the peer takes no more. Sending says no more than that the stream is closed.
    fn is_unwanted(&mut self, cx: &mut Context<'_>, failed: &StreamError) -> bool {
        matches!(failed, StreamError::Unwanted)
            || matches!(self.send.poll_reset(cx), Poll::Ready(StreamError::Unwanted))
    }
}

impl Sink for StreamSink<'_> {
    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<Option<usize>, LegError>> {
        self.reserved = true;
        match ready!(self.send.poll_room(cx, want)) {
            Ok(room) => Poll::Ready(Ok(Some(room))),
            Err(error) if self.is_unwanted(cx, &error) => Poll::Ready(Ok(None)),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, queue: &mut Chunks) -> Poll<Result<usize, LegError>> {
        let mut count = 0;
        while let Some(chunk) = queue.pop() {
            count += chunk.len();
            match self.send.send(chunk, false) {
                Err(error) if !self.is_unwanted(cx, &error) => return Poll::Ready(Err(error.into())),
                _ => {}
            }
        }
        Poll::Ready(Ok(count))
    }

    fn rest(&mut self) {
        if self.reserved {
            self.reserved = false;
            self.send.settle();
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        if !self.finished {
            self.finished = true;
            match self.send.send(Bytes::new(), true) {
                Err(error) if !self.is_unwanted(cx, &error) => return Poll::Ready(Err(error.into())),
                _ => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        match ready!(self.send.poll_reset(cx)) {
            StreamError::Unwanted => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }
}
