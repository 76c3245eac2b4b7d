//! How long and how often rows are run.

use serde::{Deserialize, Serialize};

/// So many times the length of another run is that of a churn, of which the last sixth is reported.
const CHURN_TIMES: f64 = 40.0;

/// How long and how often each row is run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// Rounds of a row; in each round every side has one run. The median of the rounds is reported.
    pub(crate) rounds: usize,
    /// Window of each run of bulk and ping-pong.
    pub(crate) seconds: f64,
    /// Connects and closes so long, the plain relay a third of it.
    pub(crate) churn_seconds: f64,
    /// The end of the churn, which is reported.
    pub(crate) churn_window_seconds: f64,
    /// Pods in the last figure of enrolment.
    pub(crate) pods: usize,
    /// Resident memory has settled when it did not change in so long.
    pub(crate) settled_seconds: f64,
    /// Workloads that a scripted istiod tells of.
    #[serde(default)]
    pub(crate) workloads: usize,
    /// So long it updates them.
    #[serde(default)]
    pub(crate) updates_seconds: f64,
}

impl Pace {
    /// What is reported to others.
    pub(crate) const FULL: Self = Self {
        rounds: 3,
        seconds: 1.5,
        churn_seconds: 60.0,
        churn_window_seconds: 10.0,
        pods: 500,
        settled_seconds: 5.0,
        workloads: 100_000,
        updates_seconds: 30.0,
    };
    /// Shows that every row works.
    pub(crate) const QUICK: Self = Self {
        rounds: 1,
        seconds: 0.5,
        churn_seconds: 3.0,
        churn_window_seconds: 2.0,
        pods: 100,
        settled_seconds: 2.0,
        workloads: 5_000,
        updates_seconds: 3.0,
    };

    /// With other lengths of runs.
    #[must_use]
    pub(crate) fn with_seconds(self, seconds: f64) -> Self {
        Self {
            seconds,
            churn_seconds: seconds * CHURN_TIMES,
            churn_window_seconds: seconds * CHURN_TIMES / 6.0,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn the_full_pace_at_its_own_length_is_the_full_pace() {
        assert_eq!(Pace::FULL.with_seconds(Pace::FULL.seconds), Pace::FULL);
    }
}
