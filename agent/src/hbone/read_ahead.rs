use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A read this long goes straight to the caller's buffer.
const DIRECT_BYTES: usize = 64 << 10;

/// Buffer sizes. rustls asks for 4 KiB at a time; without a buffer each of its questions is a system call.
const SMALL_BYTES: usize = 16 << 10;
const LARGE_BYTES: usize = 256 << 10;

/// After so many bytes the task that reads lets others run: what was read is still in the processor's cache when it is
/// written on, and one busy tunnel does not keep the rest of its thread waiting.
const TURN_BYTES: usize = 256 << 10;

/// Reads more from a socket than was asked for, and notes that something was read.
#[derive(Debug)]
pub struct ReadAhead<Io> {
    io: Io,
    buffer: BytesMut,
    size: usize,
    activity: Activity,
    /// Bytes read in this turn.
    turn: usize,
    /// The last write found the socket full.
    full: bool,
}

/// Counts signs of life: reads that brought something, and writes to a socket that had been full, which the peer must
/// have acknowledged. A tunnel with either needs no PING.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity(Arc<AtomicU64>);

impl<Io> ReadAhead<Io> {
    /// Wraps a socket.
    pub fn new(io: Io) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            size: SMALL_BYTES,
            activity: Activity::default(),
            turn: 0,
            full: false,
        }
    }

    /// Wraps what is cheap to read from in small pieces: nothing is buffered.
    pub fn passing(io: Io) -> Self {
        Self {
            size: 0,
            ..Self::new(io)
        }
    }

    pub(crate) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// The wrapped socket.
    pub fn get_ref(&self) -> &Io {
        &self.io
    }
}

impl Activity {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for ReadAhead<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            if this.turn >= TURN_BYTES {
                this.turn = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.size == 0 || out.remaining() >= DIRECT_BYTES {
                let before = out.filled().len();
                if Pin::new(&mut this.io).poll_read(cx, out)?.is_pending() {
                    this.turn = 0;
                    return Poll::Pending;
                }
                let count = out.filled().len() - before;
                if count > 0 {
                    this.activity.note();
                }
                this.turn += count;
                return Poll::Ready(Ok(()));
            }
            ready!(this.fill(cx))?;
        }
        let count = this.buffer.len().min(out.remaining());
        if let Some(bytes) = this.buffer.get(..count) {
            out.put_slice(bytes);
        }
        this.buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + Unpin> ReadAhead<Io> {
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.buffer.clear();
        self.buffer.reserve(self.size);
        let polled = tokio_read(&mut self.io, cx, &mut self.buffer, self.size);
        let count = match polled {
            Poll::Ready(Ok(count)) => count,
            other => {
                // Nothing to hold for a tunnel at rest.
                self.buffer = BytesMut::new();
                self.turn = 0;
                return other.map_ok(|_| ());
            }
        };
        if count > 0 {
            self.activity.note();
        }
        self.turn += count;
        if count == self.size {
            self.size = (self.size * 4).min(LARGE_BYTES);
        } else if count < self.size / 16 {
            self.size = (self.size / 4).max(SMALL_BYTES);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io> ReadAhead<Io> {
    fn note_write(&mut self, polled: &Poll<io::Result<usize>>) {
        if polled.is_pending() {
            self.full = true;
        } else if std::mem::take(&mut self.full) {
            self.activity.note();
        }
    }
}

/// Reads at most `limit` bytes behind what `buffer` holds, without zeroing its spare room first.
fn tokio_read<Io: AsyncRead + Unpin>(
    io: &mut Io,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    use bytes::BufMut as _;
    use tokio::io::AsyncReadExt as _;

    let mut limited = buffer.limit(limit);
    let read = io.read_buf(&mut limited);
    let mut read = std::pin::pin!(read);
    read.as_mut().poll(cx)
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for ReadAhead<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.note_write(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.note_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_once_in_order_whatever_the_read_sizes() {
        let (mut writer, reader) = tokio::io::duplex(100_000);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        tokio::spawn(async move { writer.write_all(&sent).await.unwrap() });
        let mut ahead = ReadAhead::new(reader);
        let activity = ahead.activity();
        let mut got = Vec::new();
        let mut sizes = [1, 5, 4096, 16_389, 100_000].into_iter().cycle();
        while got.len() < expected.len() {
            let mut piece = vec![0; sizes.next().unwrap()];
            let count = ahead.read(&mut piece).await.unwrap();
            assert!(count > 0);
            got.extend_from_slice(&piece[..count]);
        }
        assert_eq!(got, expected);
        assert!(activity.count() > 0);
    }
}
