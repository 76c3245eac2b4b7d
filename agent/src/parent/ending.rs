use std::{
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

/// How long after its drain deadline a worker may still take to end. It needs half a second for the last resets.
pub(super) const MARGIN: Duration = Duration::from_secs(2);

/// Exit code when the worker did not end in time and was killed.
pub(super) const OVERDUE: u8 = 3;

/// Exit code when a second signal cut the drain short.
pub(crate) const CUT_SHORT: u8 = 4;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nobody asked for it.
    Serving,
    /// The worker was told, and has until then.
    Draining { until: Instant },
    /// The same, because a successor serves. Nobody has asked this process to end.
    HandedOver { until: Instant },
    /// The worker was killed because of a second signal.
    CutShort,
    /// The worker was killed because it took too long.
    Overdue,
}

impl Ending {
    /// A signal asks to end; what to send to the worker. The first one drains, the second one insists. A worker that
    /// drains for a successor goes on with that.
    pub(super) fn asked(&mut self, now: Instant, drain_deadline: Duration) -> Option<Signal> {
        match *self {
            Self::Serving => {
                *self = Self::Draining {
                    until: now + drain_deadline + MARGIN,
                };
                Some(Signal::SIGTERM)
            }
            Self::HandedOver { until } => {
                *self = Self::Draining { until };
                None
            }
            Self::Draining { .. } | Self::CutShort => {
                *self = Self::CutShort;
                Some(Signal::SIGKILL)
            }
            Self::Overdue => Some(Signal::SIGKILL),
        }
    }

    /// A successor takes over.
    pub(super) fn hand_over(&mut self, now: Instant, drain_deadline: Duration) {
        *self = Self::HandedOver {
            until: now + drain_deadline + MARGIN,
        };
    }

    /// How long the worker may still take; nothing where it may take for ever.
    pub(super) fn left(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Draining { until } | Self::HandedOver { until } => Some(until.saturating_duration_since(now)),
            Self::Serving | Self::CutShort | Self::Overdue => None,
        }
    }

    /// Time has passed; whether the worker must be killed.
    pub(super) fn is_overdue(&mut self, now: Instant) -> bool {
        let overdue = self.left(now).is_some_and(|left| left.is_zero());
        if overdue {
            *self = Self::Overdue;
        }
        overdue
    }

    /// The exit code that tells of the worker's end.
    pub(super) fn code(self, status: ExitStatus) -> u8 {
        match self {
            // It had not come to serve yet, and so had nothing to drain.
            Self::Draining { .. } if status.signal() == Some(Signal::SIGTERM as i32) => 0,
            Self::CutShort if status.signal().is_some() => CUT_SHORT,
            Self::Overdue if status.signal().is_some() => OVERDUE,
            _ => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn killed_by(signal: Signal) -> ExitStatus {
        ExitStatus::from_raw(signal as i32)
    }

    #[test]
    fn the_first_signal_drains_and_the_second_kills() {
        let now = Instant::now();
        let mut ending = Ending::Serving;
        assert_eq!(ending.left(now), None);
        assert_eq!(ending.asked(now, DEADLINE), Some(Signal::SIGTERM));
        assert_eq!(ending.left(now), Some(DEADLINE + MARGIN));
        assert_eq!(ending.asked(now, DEADLINE), Some(Signal::SIGKILL));
        assert_eq!(ending.code(killed_by(Signal::SIGKILL)), CUT_SHORT);
        // It was ending by itself at that moment.
        assert_eq!(ending.code(exited(0)), 0);
    }

    #[test]
    fn a_signal_after_a_handover_changes_nothing_and_a_second_one_kills() {
        let now = Instant::now();
        let mut ending = Ending::Serving;
        ending.hand_over(now, DEADLINE);
        let later = now + Duration::from_secs(1);
        assert_eq!(ending.asked(later, DEADLINE), None);
        assert_eq!(ending.left(now), Some(DEADLINE + MARGIN), "it began with the handover");
        assert_eq!(ending.asked(later, DEADLINE), Some(Signal::SIGKILL));
    }

    #[test]
    fn a_worker_is_killed_when_deadline_and_margin_have_passed_and_not_before() {
        let now = Instant::now();
        let mut ending = Ending::Serving;
        assert!(
            !ending.is_overdue(now + Duration::from_secs(3600)),
            "nobody asked it to end"
        );
        ending.asked(now, DEADLINE);
        let late = now + DEADLINE + MARGIN;
        assert!(!ending.is_overdue(late - Duration::from_millis(1)));
        assert!(ending.is_overdue(late));
        assert!(!ending.is_overdue(late), "it is killed once");
        assert_eq!(ending.code(killed_by(Signal::SIGKILL)), OVERDUE);
        assert_eq!(ending.asked(late, DEADLINE), Some(Signal::SIGKILL));
    }

    #[test]
    fn the_code_is_the_workers_unless_it_was_killed() {
        let now = Instant::now();
        let mut draining = Ending::Serving;
        draining.asked(now, DEADLINE);
        assert_eq!(draining.code(exited(0)), 0);
        assert_eq!(draining.code(exited(2)), 2);
        assert_eq!(draining.code(killed_by(Signal::SIGTERM)), 0);
        assert_eq!(draining.code(killed_by(Signal::SIGSEGV)), 1);
        assert_eq!(Ending::Serving.code(killed_by(Signal::SIGTERM)), 1);
    }
}
