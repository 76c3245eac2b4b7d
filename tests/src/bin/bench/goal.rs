//! What we want of a figure. A goal that is missed is shown and is never an exit code: timings are no assertions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A bound for our side's value, or for its ratio to raw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Goal {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// In the figure's unit.
    ValueAtMost(f64),
}

impl Goal {
    /// `None` when what it asks for was not found.
    pub(crate) fn is_reached(self, value: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::RatioAtLeast(bound) => ratio.map(|ratio| ratio >= bound),
            Self::RatioAtMost(bound) => ratio.map(|ratio| ratio <= bound),
            Self::ValueAtMost(bound) => value.map(|value| value <= bound),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtLeast(bound) => write!(f, "≥ {bound} × raw"),
            Self::RatioAtMost(bound) => write!(f, "≤ {bound} × raw"),
            Self::ValueAtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Goal::{RatioAtLeast, RatioAtMost, ValueAtMost};

    #[test]
    fn a_goal_looks_at_what_it_bounds_and_at_nothing_else() {
        assert_eq!(RatioAtLeast(0.5).is_reached(Some(0.1), Some(0.5)), Some(true));
        assert_eq!(RatioAtLeast(0.5).is_reached(Some(9.0), Some(0.49)), Some(false));
        assert_eq!(RatioAtMost(1.3).is_reached(Some(9.0), Some(1.2)), Some(true));
        assert_eq!(RatioAtMost(1.3).is_reached(None, Some(1.4)), Some(false));
        assert_eq!(ValueAtMost(15.0).is_reached(Some(15.1), Some(0.1)), Some(false));
        assert_eq!(ValueAtMost(15.0).is_reached(Some(14.0), None), Some(true));
    }

    #[test]
    fn of_what_was_not_found_nothing_is_said() {
        assert_eq!(RatioAtLeast(0.5).is_reached(Some(1.0), None), None);
        assert_eq!(ValueAtMost(1.0).is_reached(None, Some(1.0)), None);
    }
}
