//! How often each duration was seen, in buckets of equal relative width.

use std::time::Duration;

/// Each power of two has so many buckets, so that a quantile is off by less than 0.8 %.
const STEPS: u64 = 64;
/// Longer than 137 s counts as 137 s.
const LONGEST_NS: u64 = (1 << 37) - 1;

/// Counts of durations from a nanosecond to two minutes.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let bucket = bucket_of(nanoseconds(took));
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.total += 1;
        self.longest = self.longest.max(took);
    }

    /// Takes over the counts of another.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest of all, exactly.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The duration that the given share (0 to 1) of all does not exceed; zero when there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share.clamp(0.0, 1.0) * self.total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return Duration::from_nanos(middle_of(bucket)).min(self.longest);
            }
        }
        self.longest
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(LONGEST_NS)
}

/// Below twice [`STEPS`] every nanosecond has its own bucket; from there on the buckets of each power of two are twice
/// as wide as those before.
fn bucket_of(nanoseconds: u64) -> usize {
    let bits = u64::BITS - nanoseconds.leading_zeros();
    let shift = bits.saturating_sub(STEPS.ilog2() + 1);
    usize::try_from(u64::from(shift) * STEPS + (nanoseconds >> shift)).unwrap_or(usize::MAX)
}

fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    let lowest = (bucket - shift * STEPS) << shift;
    lowest + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(Duration::from_nanos(value));
        }
        histogram
    }

    #[test]
    fn every_bucket_begins_where_the_one_before_ended() {
        let mut last = bucket_of(0);
        for nanoseconds in 1..100_000 {
            let bucket = bucket_of(nanoseconds);
            assert!(bucket == last || bucket == last + 1, "{nanoseconds}");
            last = bucket;
        }
        assert!(bucket_of(LONGEST_NS) < 2048);
    }

    #[test]
    fn the_middle_of_a_bucket_is_within_a_hundredth_of_what_fell_into_it() {
        for nanoseconds in (0..60).map(|power| 3_u64.pow(power / 2).min(LONGEST_NS)) {
            let middle = middle_of(bucket_of(nanoseconds));
            assert!(
                middle.abs_diff(nanoseconds) * 100 <= nanoseconds,
                "{nanoseconds} {middle}"
            );
        }
    }

    #[test]
    fn quantiles_of_a_thousand_are_their_ranks() {
        let thousand = of((1..=1000).map(|n| n * 1000));
        for (share, wanted) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0), (0.0, 1000.0)] {
            let found = thousand.quantile(share).as_nanos() as f64;
            assert!((found / wanted - 1.0).abs() < 0.01, "{share}: {found}");
        }
        assert_eq!(thousand.quantile(1.0), Duration::from_millis(1));
        assert_eq!((thousand.total(), thousand.longest()), (1000, Duration::from_millis(1)));
    }

    #[test]
    fn one_rare_slow_trip_is_in_the_last_quantile_only() {
        let mut rare = of(std::iter::repeat_n(10_000, 999));
        rare.merge(&of([5_000_000]));
        assert!(rare.quantile(0.999) < Duration::from_micros(11));
        assert_eq!(rare.quantile(1.0), Duration::from_millis(5));
    }

    #[test]
    fn nothing_counted_is_zero_and_the_endless_is_the_longest_bucket() {
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
        let mut endless = Histogram::default();
        endless.record(Duration::MAX);
        assert!(endless.quantile(0.5) > Duration::from_secs(130));
    }
}
