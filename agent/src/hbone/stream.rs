use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::turn::{self, Turn};

/// Most bytes [`StreamIo`] puts into one DATA frame.
const FRAME_BYTES: usize = 256 << 10;

/// One open CONNECT: bytes both ways. Dropped before both ends are done, it is reset (CANCEL).
#[derive(Debug)]
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

/// The direction towards the peer.
#[derive(Debug)]
pub struct SendHalf {
    send: SendStream<Bytes>,
    role: Role,
    turn: Turn,
}

/// The direction from the peer.
#[derive(Debug)]
pub struct RecvHalf {
    recv: RecvStream,
    role: Role,
}

/// Which end of the stream this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It sent the CONNECT.
    Client,
    /// It answered.
    Server,
}

/// Why a stream ended otherwise than by END_STREAM.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The peer sent RST_STREAM.
    #[error("stream reset by the peer: {0}")]
    Reset(Reason),
    /// The tunnel below it went away, or the peer broke the protocol.
    #[error("the tunnel was lost: {0}")]
    Lost(#[source] h2::Error),
    /// The server has said all, and takes no more: RST_STREAM with NO_ERROR (RFC 9113 §8.1). Only a client sees it.
    #[error("the peer has finished and takes no more")]
    Unwanted,
    /// We ended it ourselves.
    #[error("the stream is closed")]
    Closed,
}

impl StreamError {
    fn new(error: h2::Error, role: Role) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => Self::reset(reason, role),
            _ => Self::Lost(error),
        }
    }

    fn reset(reason: Reason, role: Role) -> Self {
        if reason == Reason::NO_ERROR && role == Role::Client {
            return Self::Unwanted;
        }
        Self::Reset(reason)
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
            StreamError::Lost(_) | StreamError::Unwanted | StreamError::Closed => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

impl Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, role: Role) -> Self {
        Self {
            send: SendHalf {
                send,
                role,
                turn: Turn::default(),
            },
            recv: RecvHalf { recv, role },
        }
    }

    /// Both directions, to be used side by side.
    pub fn split(&mut self) -> (&mut SendHalf, &mut RecvHalf) {
        (&mut self.send, &mut self.recv)
    }

    /// Sends RST_STREAM; what was queued is dropped.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send.send_reset(reason);
    }

    /// The stream as a byte stream, for the inner TLS of double HBONE.
    #[must_use]
    pub fn into_io(self) -> StreamIo {
        StreamIo {
            stream: self,
            unread: Bytes::new(),
            ended: false,
            lingers: false,
        }
    }
}

impl SendHalf {
    /// Asks for room for `want` bytes; ready with how many may be sent now, at least one.
    ///
    /// Room that was given and is not used keeps other streams of the tunnel from sending: call [`SendHalf::settle`]
    /// after the last [`SendHalf::send`].
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, StreamError>> {
        ready!(self.turn.poll(cx));
        self.send.reserve_capacity(want);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(StreamError::new(error, self.role))),
                None => return Poll::Ready(Err(self.end(cx))),
            }
        }
    }

    /// Gives back room that was asked for and not used.
    pub fn settle(&mut self) {
        self.send.reserve_capacity(0);
    }

    /// Queues bytes for the peer; `end` closes our direction after them.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn send(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        turn::queued(bytes.len());
        self.send
            .send_data(bytes, end)
            .map_err(|error| StreamError::new(error, self.role))
    }

    /// Ready when the peer has reset the stream or the tunnel is lost, also while there is nothing to send.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(StreamError::reset(reason, self.role)),
            Err(error) => Poll::Ready(StreamError::new(error, self.role)),
        }
    }

    fn end(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.poll_reset(cx) {
            Poll::Ready(error) => error,
            Poll::Pending => StreamError::Closed,
        }
    }
}

impl RecvHalf {
    /// Next bytes of the peer, `None` after END_STREAM. They count against the window until [`RecvHalf::release`].
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        match ready!(self.recv.poll_data(cx)).map(|data| data.map_err(|error| StreamError::new(error, self.role))) {
            // h2 forgets, when the reset comes, that the end had come before.
            Some(Err(StreamError::Unwanted)) => Poll::Ready(None),
            data => Poll::Ready(data),
        }
    }

    /// Lets the peer send `count` bytes more.
    pub fn release(&mut self, count: usize) {
        // It fails only for more than was received, which the caller's own counting excludes.
        drop(self.recv.flow_control().release_capacity(count));
    }

    /// Bytes received and not released.
    #[cfg(test)]
    pub(crate) fn unread(&mut self) -> usize {
        self.recv.flow_control().used_capacity()
    }
}

/// A [`Stream`] read and written as bytes.
#[derive(Debug)]
pub struct StreamIo {
    stream: Stream,
    unread: Bytes,
    ended: bool,
    lingers: bool,
}

impl StreamIo {
    /// Its shutdown is ready only when the peer has ended too. Dropped before that, the stream would be reset, and a
    /// gateway that sees a reset may give up what it has not passed on yet. What still comes is thrown away.
    #[must_use]
    pub fn lingering(self) -> Self {
        Self { lingers: true, ..self }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.stream.recv.poll_data(cx)) {
                Some(Ok(bytes)) => this.unread = bytes,
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let mut count = 0;
        loop {
            let piece = this.unread.split_to(this.unread.len().min(out.remaining()));
            out.put_slice(&piece);
            count += piece.len();
            if !this.unread.is_empty() || out.remaining() == 0 {
                break;
            }
            // Frames may be much smaller than what is asked for; an end or error shows at the next call.
            match this.stream.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => this.unread = bytes,
                _ => break,
            }
        }
        this.stream.recv.release(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let want = total.min(FRAME_BYTES);
        let room = ready!(this.stream.send.poll_room(cx, want))?.min(want);
        let mut frame = BytesMut::with_capacity(room);
        for slice in slices {
            let left = room - frame.len();
            frame.extend_from_slice(slice.get(..left.min(slice.len())).unwrap_or_default());
        }
        this.stream.send.send(frame.freeze(), false)?;
        this.stream.send.settle();
        Poll::Ready(Ok(room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ended {
            this.ended = true;
            this.stream.send.send(Bytes::new(), true)?;
        }
        while this.lingers
            && let Some(Ok(late)) = ready!(this.stream.recv.poll_data(cx))
        {
            this.stream.recv.release(late.len());
        }
        Poll::Ready(Ok(()))
    }
}
