//! Resident memory of processes, and waiting until it stands still.

use std::{
    fs,
    time::{Duration, Instant},
};

use isthmus_tests::{Because as _, Result, within};

/// How often is looked.
const STEP: Duration = Duration::from_millis(250);
/// Memory that does not change by more than this share has settled.
const STILL: f64 = 0.01;
/// How long is waited for that.
const PATIENCE: Duration = Duration::from_secs(45);

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// `VmRSS`: all of its pages that are in memory, also those of its binary.
    pub(crate) rss: u64,
    /// `RssAnon`: what only it holds and nothing could read again from a file.
    pub(crate) anonymous: u64,
    /// `VmHWM`: the most that `VmRSS` ever was.
    pub(crate) peak: u64,
    /// `Pss`: as `VmRSS`, with pages that several processes share divided among them.
    pub(crate) share: u64,
}

impl Resident {
    /// Of a process now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).because(format!("reading {path}"))
        };
        let status = read("status")?;
        let field = |text: &str, name: &str| kilobytes(text, name).because(format!("looking for {name} of {pid}"));
        Ok(Self {
            rss: field(&status, "VmRSS")?,
            anonymous: field(&status, "RssAnon")?,
            peak: field(&status, "VmHWM")?,
            share: field(&read("smaps_rollup")?, "Pss")?,
        })
    }

    /// Of these processes, once all their memory together stood still for `still`. The second answer is whether it did
    /// before patience ended.
    pub(crate) fn settled<const N: usize>(pids: [u32; N], still: Duration) -> Result<([Self; N], bool)> {
        let mut seen = Seen::default();
        let settled = within(PATIENCE + still, "resident memory stands still", || {
            if !seen.is_due() {
                return None;
            }
            let all = pids.iter().map(|pid| Self::of(*pid)).collect::<Result<Vec<_>>>();
            match all {
                Ok(all) => seen.add(all.iter().map(|one| one.rss).sum(), still).then_some(Ok(())),
                Err(failure) => Some(Err(failure)),
            }
        });
        let is_still = match settled {
            Ok(ended) => ended.map(|()| true)?,
            Err(_) => false,
        };
        let mut all = [Self::default(); N];
        for (place, pid) in all.iter_mut().zip(pids) {
            *place = Self::of(pid)?;
        }
        Ok((all, is_still))
    }
}

/// The last looks, oldest first.
#[derive(Default)]
struct Seen(Vec<(Instant, u64)>);

impl Seen {
    fn is_due(&self) -> bool {
        self.0.last().is_none_or(|(at, _)| at.elapsed() >= STEP)
    }

    /// Answers whether everything of the last `still` is alike.
    fn add(&mut self, bytes: u64, still: Duration) -> bool {
        let now = Instant::now();
        self.0.push((now, bytes));
        let begin = self.0.iter().rposition(|(at, _)| now - *at >= still);
        let Some(begin) = begin else { return false };
        self.0.drain(..begin);
        let sizes = || self.0.iter().map(|(_, bytes)| *bytes as f64);
        let (low, high) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max));
        high - low <= high * STILL
    }
}

/// A field in kB of `/proc/PID/status` or `smaps_rollup`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number = line.trim().strip_suffix("kB")?.trim_end();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmHWM:\t    300 kB\nVmRSS:\t    200 kB\nRssAnon:\t 100 kB\nThreads:\t3\n";
        assert_eq!(kilobytes(status, "VmRSS"), Some(200 << 10));
        assert_eq!(kilobytes(status, "Vm"), None);
        assert_eq!(kilobytes(status, "Threads"), None);
    }

    #[test]
    fn we_ourselves_are_in_memory() {
        let own = Resident::of(std::process::id()).unwrap();
        assert!(
            own.rss > 0 && own.peak >= own.anonymous && own.share <= own.rss + (1 << 20),
            "{own:?}"
        );
    }

    #[test]
    fn memory_has_settled_when_it_was_alike_for_long_enough() {
        let mut seen = Seen::default();
        let still = Duration::from_secs(2);
        let earlier = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        seen.0 = vec![(earlier(3), 500), (earlier(1), 1000)];
        assert!(!seen.add(1001, still), "it grew within the time");
        seen.0 = vec![(earlier(5), 500), (earlier(3), 1000), (earlier(1), 1002)];
        assert!(seen.add(1001, still));
        seen.0 = vec![(earlier(1), 1000)];
        assert!(!seen.add(1000, still), "not looked at for long enough");
    }
}
