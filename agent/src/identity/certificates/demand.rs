//! Who wants an identity's certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

/// How callers reach a keeper.
pub(super) struct Demand {
    born: Instant,
    /// Milliseconds from `born` to the last time somebody asked.
    asked: AtomicU64,
    /// Connections that wait for the answer.
    waiting: AtomicUsize,
    /// Pods and gateways that have the identity. Changed under the lock of the cache's map only.
    pub(super) wanted: AtomicUsize,
    /// Rung when somebody begins to wait.
    hurry: Notify,
    /// Rung when it is worth asking before the next attempt is due: the certificate turns out to be unusable because the
    /// clock was set or stood still, or the CA may have learned of the identity.
    pub(super) wake: Notify,
}

/// A connection waits as long as this lives.
pub(super) struct Waiting(Arc<Demand>);

impl Demand {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            asked: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            hurry: Notify::new(),
            wake: Notify::new(),
        }
    }

    /// Somebody asks.
    pub(super) fn note(&self) {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.asked.store(millis, Ordering::Relaxed);
    }

    /// When somebody asked last.
    pub(super) fn asked(&self) -> Instant {
        self.born + std::time::Duration::from_millis(self.asked.load(Ordering::Relaxed))
    }

    /// A pod or gateway has the identity.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > 0
    }

    /// A connection waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Until a connection waits that did not before.
    pub(super) async fn awaited(&self) {
        self.hurry.notified().await;
    }

    pub(super) fn wait(self: Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.hurry.notify_one();
        Waiting(self)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
