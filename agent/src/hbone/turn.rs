//! Taking turns between the streams of a thread, which fill tunnels, and the tunnels, which empty themselves.
//!
//! Eight streams that each queue what their applications have to say would leave megabytes to be written, long gone from
//! the processor's cache. So a stream that finds much queued by its thread lets others run once before it adds to it. It
//! waits for nothing: a tunnel that cannot write holds its streams by their windows.

use std::{
    cell::Cell,
    task::{Context, Poll},
};

/// Bytes queued by one thread above which its streams let the tunnels go first.
const ENOUGH_BYTES: usize = 256 << 10;

thread_local! {
    static QUEUED: Cell<usize> = const { Cell::new(0) };
}

/// A stream's place in the round.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    stood_back: bool,
}

impl Turn {
    /// Ready when the stream may queue more; pending at most once in a row.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.stood_back && QUEUED.get() >= ENOUGH_BYTES {
            self.stood_back = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.stood_back = false;
        Poll::Ready(())
    }
}

/// A stream has queued bytes.
pub(crate) fn queued(count: usize) {
    QUEUED.set(QUEUED.get().saturating_add(count));
}

/// A tunnel has written what it could.
pub(crate) fn written() {
    QUEUED.set(0);
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_stream_stands_back_once_when_much_is_queued_and_not_at_all_when_it_was_written() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut one, mut other) = (Turn::default(), Turn::default());
        written();
        queued(ENOUGH_BYTES - 1);
        assert!(one.poll(&mut cx).is_ready());
        queued(1);
        assert!(one.poll(&mut cx).is_pending());
        assert!(other.poll(&mut cx).is_pending());
        assert!(one.poll(&mut cx).is_ready(), "it waits for nobody");
        assert!(one.poll(&mut cx).is_pending());
        written();
        assert!(one.poll(&mut cx).is_ready() && other.poll(&mut cx).is_ready());
    }
}
