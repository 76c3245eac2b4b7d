//! Picking among equals from one number, so that a decision with the same number is the same decision.

/// A row of draws that follows from one seed. Uniform enough to spread load; no use for secrets.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// Draws that follow from `entropy`.
    pub fn new(entropy: u64) -> Self {
        Self(entropy)
    }

    /// The next 64 bits (SplitMix64, as published by Steele, Lea and Flood).
    pub fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 up to, not including, `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next_bits()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// One of the items, with a chance proportional to its weight. None when all weights are 0 or there are no items.
    pub fn weighted<T>(&mut self, items: impl Iterator<Item = T> + Clone, weight: impl Fn(&T) -> u32) -> Option<T> {
        let total: u64 = items.clone().map(|item| u64::from(weight(&item))).sum();
        if total == 0 {
            return None;
        }
        let mut left = self.below(total);
        for item in items {
            let share = u64::from(weight(&item));
            if left < share {
                return Some(item);
            }
            left -= share;
        }
        None
    }

    /// A number in (0, 1].
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what a double holds exactly; one is added so that 0 never comes out.
        let bits = (self.next_bits() >> 11) + 1;
        #[expect(clippy::cast_precision_loss, reason = "at most 2^53, which a double holds exactly")]
        let value = bits as f64;
        value / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_and_zero_is_never_drawn() {
        let items = [("a", 1), ("never", 0), ("b", 3)];
        let mut seen = std::collections::BTreeMap::new();
        for entropy in 0..8_000 {
            let (name, _) = Draw::new(entropy)
                .weighted(items.into_iter(), |(_, weight)| *weight)
                .unwrap();
            *seen.entry(name).or_insert(0_u32) += 1;
        }
        assert!(!seen.contains_key("never"));
        assert!((1_800..2_200).contains(&seen["a"]), "{seen:?}");
        assert!((5_800..6_200).contains(&seen["b"]), "{seen:?}");
    }

    #[test]
    fn nothing_comes_from_nothing() {
        let none: [(&str, u32); 0] = [];
        assert!(Draw::new(7).weighted(none.into_iter(), |(_, weight)| *weight).is_none());
        assert!(
            Draw::new(7)
                .weighted([("a", 0)].into_iter(), |(_, weight)| *weight)
                .is_none()
        );
        assert_eq!(Draw::new(7).below(0), 0);
    }

    #[test]
    fn unit_stays_in_its_bounds() {
        let mut draw = Draw::new(1);
        assert!((0..10_000).map(|_| draw.unit()).all(|unit| unit > 0.0 && unit <= 1.0));
    }
}
