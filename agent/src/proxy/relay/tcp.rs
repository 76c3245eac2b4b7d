use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{
    LegError,
    chunks::Chunks,
    pump::{Sink, Source},
};

/// Read sizes, and the bytes after which the next one is used. Ten thousand quiet connections must not hold large
/// buffers, and one that moves megabytes should make few system calls.
const SIZES: [(u64, usize); 3] = [(4 << 20, 256 << 10), (128 << 10, 64 << 10), (0, 8 << 10)];

/// Most slices given to one writev(2).
const SLICES: usize = 64;

/// The reading direction of a TCP connection.
pub(crate) struct TcpSource<'a> {
    reader: Option<ReadHalf<'a>>,
    buffer: BytesMut,
    size: usize,
    taken: u64,
    /// After the end of input: resolves when the connection is reset.
    broken: Option<Pin<Box<dyn Future<Output = io::Error> + Send + 'a>>>,
}

/// The writing direction of a TCP connection.
pub(crate) struct TcpSink<'a> {
    writer: WriteHalf<'a>,
}

impl<'a> TcpSource<'a> {
    pub(crate) fn new(reader: ReadHalf<'a>) -> Self {
        let size = SIZES.last().map_or(0, |(_, size)| *size);
        Self {
            reader: Some(reader),
            buffer: BytesMut::new(),
            size,
            taken: 0,
            broken: None,
        }
    }

    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        self.reader.as_ref().map(AsRef::as_ref)
    }

    /// The input has ended.
    pub(super) fn end(&mut self) {
        self.buffer = BytesMut::new();
        if let Some(reader) = self.reader.take() {
            self.broken = Some(Box::pin(reset_of(reader)));
        }
    }
}

/// Resolves when the connection breaks. A connection whose peer has said all it will is otherwise noticed only by
/// writing to it, which may never come.
async fn reset_of(reader: ReadHalf<'_>) -> io::Error {
    let waited = reader.ready(Interest::ERROR).await;
    let tcp: &TcpStream = reader.as_ref();
    match waited.and_then(|_| tcp.take_error()) {
        // Linux reports a reset after the end of input as EPIPE.
        Ok(Some(error)) if error.kind() == io::ErrorKind::BrokenPipe => io::ErrorKind::ConnectionReset.into(),
        Ok(error) => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

impl Source for TcpSource<'_> {
    const HOLD: usize = 1;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        let Some(tcp) = self.tcp() else {
            return Poll::Ready(Ok(()));
        };
        let polled = tcp.poll_read_ready(cx).map_err(LegError::Tcp);
        if polled.is_pending() {
            self.buffer = BytesMut::new();
        }
        polled
    }

    fn appetite(&self) -> usize {
        self.size
    }

    fn poll_pull(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<Option<Bytes>, LegError>> {
        let Some(reader) = &mut self.reader else {
            return Poll::Ready(Ok(None));
        };
        let at_most = room.min(self.size);
        if self.buffer.capacity() < at_most.min(self.size / 4) {
            self.buffer.reserve(self.size);
        }
        let count = {
            let mut limited = (&mut self.buffer).limit(at_most);
            let mut read = std::pin::pin!(reader.read_buf(&mut limited));
            ready!(read.as_mut().poll(cx)).map_err(LegError::Tcp)?
        };
        if count == 0 {
            self.end();
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(self.buffer.split().freeze())))
    }

    fn taken(&mut self, count: usize) {
        self.taken += count as u64;
        let step = SIZES.iter().find(|(after, _)| self.taken >= *after);
        self.size = step.map_or(self.size, |(_, size)| *size);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<LegError> {
        match &mut self.broken {
            Some(broken) => broken.as_mut().poll(cx).map(LegError::Tcp),
            None => Poll::Pending,
        }
    }
}

impl<'a> TcpSink<'a> {
    pub(crate) fn new(writer: WriteHalf<'a>) -> Self {
        Self { writer }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.writer.as_ref()
    }
}

impl Sink for TcpSink<'_> {
    fn poll_room(&mut self, _: &mut Context<'_>, _: usize) -> Poll<Result<Option<usize>, LegError>> {
        Poll::Ready(Ok(Some(usize::MAX)))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, queue: &mut Chunks) -> Poll<Result<usize, LegError>> {
        let mut slices = [io::IoSlice::new(&[]); SLICES];
        let filled = queue.slices(&mut slices);
        let slices = slices.get(..filled).unwrap_or_default();
        let count = ready!(Pin::new(&mut self.writer).poll_write_vectored(cx, slices)).map_err(LegError::Tcp)?;
        queue.advance(count);
        Poll::Ready(Ok(count))
    }

    fn rest(&mut self) {}

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        Pin::new(&mut self.writer).poll_shutdown(cx).map_err(LegError::Tcp)
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        // The other direction reads from this connection and notices.
        Poll::Pending
    }
}
