//! How long to wait before istiod is tried again (wire-facts §1.6).

use std::time::Duration;

/// The first wait, doubled with each further one.
const LEAST: Duration = Duration::from_millis(10);
/// No wait is longer.
const MOST: Duration = Duration::from_secs(15);
/// A stream that lived for as long worked, however it ended. Longer than the longest wait.
const STEADY: Duration = Duration::from_secs(20);
/// A server that ends streams at once again and again is not tried in a busy loop.
const SHORT: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// In which manner.
    pub(super) manner: Manner,
    /// Whether istiod had answered anything on it.
    pub(super) answered: bool,
    /// How long it was open.
    pub(super) lived: Duration,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Without an error, or because istiod closes connections of a certain age.
    Clean,
    /// As streams do end when istiod is restarted or a connection is lost.
    Ordinary,
    /// Something is wrong here, there, or between.
    Failed,
}

/// Waits between tries.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: LEAST }
    }
}

impl BackOff {
    /// How long to wait after a stream ended so. `dice` is 0 to 1: all agents of a mesh lose istiod at the same time, and
    /// should not come back at the same time.
    pub(super) fn after(&mut self, ending: Ending, dice: f64) -> Duration {
        let Ending {
            manner,
            answered,
            lived,
        } = ending;
        if answered && (lived >= STEADY || (manner != Manner::Failed && lived >= SHORT)) {
            self.next = LEAST;
            if manner == Manner::Clean {
                return Duration::ZERO;
            }
        }
        let wait = self.next.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(MOST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Ending = Ending {
        manner: Manner::Failed,
        answered: false,
        lived: Duration::ZERO,
    };

    fn ended(manner: Manner, lived: u64) -> Ending {
        Ending {
            manner,
            answered: true,
            lived: Duration::from_secs(lived),
        }
    }

    fn tired() -> BackOff {
        let mut back_off = BackOff::default();
        assert_eq!((0..20).map(|_| back_off.after(REFUSED, 1.0)).max(), Some(MOST));
        back_off
    }

    #[test]
    fn waits_double_up_to_fifteen_seconds() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..13).map(|_| back_off.after(REFUSED, 1.0).as_millis()).collect();
        assert_eq!(
            waits,
            [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000]
        );
    }

    #[test]
    fn agents_that_fail_together_come_back_one_by_one() {
        let waits = [0.0, 0.5, 1.0].map(|dice| tired().after(REFUSED, dice));
        assert_eq!(waits, [7_500, 11_250, 15_000].map(Duration::from_millis));
    }

    #[test]
    fn a_stream_that_worked_makes_the_next_wait_short() {
        let short = Duration::from_millis(10);
        assert_eq!(tired().after(ended(Manner::Clean, 1800), 1.0), Duration::ZERO);
        assert_eq!(tired().after(ended(Manner::Ordinary, 1), 1.0), short);
        assert_eq!(tired().after(ended(Manner::Failed, 20), 1.0), short);
        assert_eq!(tired().after(ended(Manner::Failed, 19), 1.0), MOST);
    }

    #[test]
    fn a_server_that_ends_streams_at_once_is_not_tried_in_a_busy_loop() {
        for manner in [Manner::Clean, Manner::Ordinary] {
            assert_eq!(tired().after(ended(manner, 0), 1.0), MOST);
            let unanswered = Ending {
                answered: false,
                ..ended(manner, 1800)
            };
            assert_eq!(tired().after(unanswered, 1.0), MOST);
        }
    }
}
