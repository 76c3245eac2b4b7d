//! How long to wait before something is tried again.

use std::time::Duration;

/// Waits that double from the first one to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackOff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl BackOff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// How long to wait after one more failure. `dice` is 0 to 1: agents that lose the API server together should not come
    /// back together.
    pub(super) fn after_failure(&mut self, dice: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.longest).mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut back_off = BackOff::new(Duration::from_millis(500), Duration::from_secs(30));
        let waits: Vec<_> = (0..9).map(|_| back_off.after_failure(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert!((0..100).all(|_| back_off.after_failure(0.0) == Duration::from_secs(15)));
        back_off.reset();
        assert_eq!(back_off.after_failure(0.0), Duration::from_millis(250));
    }
}
