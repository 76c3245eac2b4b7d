//! Processor time: that of our processes, and that of the whole machine.

use std::{fs, time::Duration};

use isthmus_tests::{Because as _, Result};

/// Unit of times in `/proc`: `USER_HZ`, which Linux fixes at 100 a second (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Processor time used until some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// User and kernel time of these processes, all threads.
    pub(crate) ours: Duration,
    /// Everything but idling, of everybody.
    pub(crate) machine: Duration,
}

impl Used {
    /// Until now.
    pub(crate) fn by(pids: &[u32]) -> Result<Self> {
        let mut ours = Duration::ZERO;
        for pid in pids {
            let path = format!("/proc/{pid}/stat");
            let stat = fs::read_to_string(&path).because(format!("reading {path}"))?;
            ours += of_process(&stat).because(format!("understanding {path}"))?;
        }
        let stat = fs::read_to_string("/proc/stat").because("reading /proc/stat")?;
        let machine = of_machine(&stat).because("understanding /proc/stat")?;
        Ok(Self { ours, machine })
    }

    /// What was used since `earlier`, in seconds: ours and the machine's.
    pub(crate) fn since(&self, earlier: &Self) -> [f64; 2] {
        [
            self.ours.saturating_sub(earlier.ours).as_secs_f64(),
            self.machine.saturating_sub(earlier.machine).as_secs_f64(),
        ]
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second is a name in parentheses that may hold anything.
fn of_process(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(ticks(fields.next()?)? + ticks(fields.next()?)?)
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq; what follows is counted in these or
/// not ours.
fn of_machine(stat: &str) -> Option<Duration> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut next = || ticks(fields.next()?);
    let [user, nice, system] = [next()?, next()?, next()?];
    let [_idle, _iowait, irq, softirq] = [next()?, next()?, next()?, next()?];
    Some(user + nice + system + irq + softirq)
}

fn ticks(field: &str) -> Option<Duration> {
    TICK.checked_mul(field.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_be_called_anything() {
        let stat = "17 (a) b) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 5 1 1";
        assert_eq!(of_process(stat), Some(Duration::from_secs(3)));
        assert_eq!(of_process("17 (a) S 1"), None);
        assert_eq!(of_process(""), None);
    }

    #[test]
    fn the_machine_does_not_work_while_it_idles() {
        let stat = "cpu  100 10 200 5000 300 20 70 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(of_machine(stat), Some(Duration::from_secs(4)));
        assert_eq!(of_machine("intr 5"), None);
    }

    #[test]
    fn work_takes_time_and_a_process_that_is_gone_is_told() {
        let begin = Used::by(&[std::process::id()]).unwrap();
        let spent = || Used::by(&[std::process::id()]).unwrap().since(&begin);
        // Ends as soon as the kernel has counted a tick of it.
        while spent().iter().any(|seconds| *seconds <= 0.0) {}
        assert!(Used::by(&[u32::MAX]).is_err());
    }
}
