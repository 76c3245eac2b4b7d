use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors kept free for everything that is not a connection: listeners, netns handles, maps, files, logs.
const RESERVE: usize = 256;

/// How many descriptors connections may use together. Taken before a connection is served, so that what was accepted
/// can also be dialled onwards: half-served connections help nobody.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    from: Arc<Shared>,
    count: usize,
}

impl Descriptors {
    /// The one budget of this process: what its RLIMIT_NOFILE, as it is when first asked for, leaves for connections.
    #[must_use]
    pub fn of_process() -> Self {
        static PROCESS: LazyLock<Descriptors> = LazyLock::new(Descriptors::from_limit);
        PROCESS.clone()
    }

    fn from_limit() -> Self {
        // The call cannot fail for this resource; a guess below every usual limit is safe if it does.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self::new(limit.saturating_sub(RESERVE.min(limit / 4)))
    }

    /// A budget of `limit` descriptors.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit,
            used: AtomicUsize::new(0),
        }))
    }

    /// Most descriptors that may be taken together.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Descriptors taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Takes `count`, or nothing when that many are not left.
    pub(crate) fn take(&self, count: usize) -> Option<Lease> {
        let add = |used: usize| used.checked_add(count).filter(|sum| *sum <= self.0.limit);
        self.0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some(Lease {
            from: Arc::clone(&self.0),
            count,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.from.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_than_there_is_and_what_is_dropped_comes_back() {
        let budget = Descriptors::new(5);
        let first = budget.take(3).unwrap();
        assert!(budget.take(3).is_none());
        let second = budget.take(2).unwrap();
        assert!(budget.take(1).is_none());
        assert_eq!(budget.used(), 5);
        drop(first);
        assert!(budget.take(3).is_some());
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_process_has_a_budget_below_its_limit() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let budget = Descriptors::of_process();
        assert!(budget.limit() > 0);
        assert!((budget.limit() as u64) < soft);
    }
}
