//! A connection that may be made slow, or be cut in the middle of what is sent.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// No connection is to be cut.
pub(super) const NEVER: u64 = u64::MAX;

/// How a connection writes.
pub(super) struct Line<S> {
    inner: S,
    /// Bytes at a time and the pause after them.
    pace: Option<(usize, Duration)>,
    pause: Pin<Box<Sleep>>,
    /// So many bytes more may be written on all connections together; then the one that writes is cut.
    left: Arc<AtomicU64>,
    is_cut: bool,
}

impl<S> Line<S> {
    pub(super) fn new(inner: S, pace: Option<(usize, Duration)>, left: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            pace,
            pause: Box::pin(sleep(Duration::ZERO)),
            left,
            is_cut: false,
        }
    }

    /// How many of `wanted` bytes may be written; `None` when the connection is cut here.
    fn allowed(&mut self, wanted: usize) -> Option<usize> {
        if self.is_cut {
            return None;
        }
        let most = self.pace.map_or(wanted, |(bytes, _)| wanted.min(bytes.max(1)));
        match self.left.load(Ordering::Relaxed) {
            NEVER => Some(most),
            0 => {
                // Others go on.
                self.left.store(NEVER, Ordering::Relaxed);
                self.is_cut = true;
                None
            }
            left => Some(usize::try_from(left).map_or(most, |left| most.min(left))),
        }
    }

    fn count(&self, written: usize) {
        let less = |left: u64| (left != NEVER).then(|| left.saturating_sub(written as u64));
        // Unchanged when nothing is to be cut.
        let _unchanged = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.pace.is_some() {
            ready!(self.pause.as_mut().poll(cx));
        }
        let Some(most) = self.allowed(bytes.len()) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let part = bytes.get(..most).unwrap_or_default();
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, part))?;
        self.count(written);
        if let Some((_, pause)) = self.pace {
            self.pause.set(sleep(pause));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
