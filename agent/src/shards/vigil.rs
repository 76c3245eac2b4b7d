//! Staying awake for a moment when more work is about to come.
//!
//! Waking a thread on an idle core takes ten times as long as carrying a byte through the agent (an interrupt to a halted
//! processor, in a virtual machine an exit as well). Where requests and answers follow each other within microseconds it
//! is cheaper to look again than to sleep. As in the kernel's halt polling, the length of the last pauses decides: a
//! thread whose pauses are longer than it may watch never watches. While it does, everybody else who wants the core gets
//! it first (`sched_yield`).

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

/// First length of a watch.
const SHORTEST: Duration = Duration::from_micros(12);

/// So many short pauses one after the other make it likely that the next is short as well. Work that comes by chance, ten
/// thousand times a second from everywhere, hardly ever makes as many: there the thread sleeps.
const STREAK: u32 = 8;

thread_local! {
    static WORK: Cell<u64> = const { Cell::new(0) };
    static WATCHER: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// Says that this thread has carried something. Costs a few nanoseconds.
pub fn note_work() {
    WORK.set(WORK.get().wrapping_add(1));
    if let Some(watcher) = WATCHER.take() {
        watcher.wake();
    }
}

/// Keeps the thread awake as long as that pays, at most `longest` at a time; for ever. Zero never watches.
pub(super) async fn keep(longest: Duration) {
    if longest.is_zero() {
        return std::future::pending().await;
    }
    let mut pace = Pace::new(longest, Instant::now());
    let mut seen = WORK.get();
    loop {
        seen = work_after(seen).await;
        pace.worked(Instant::now());
        loop {
            // Lets the runtime look for events, without sleeping.
            tokio::task::yield_now().await;
            let now = Instant::now();
            let work = WORK.get();
            if work != seen {
                seen = work;
                pace.worked(now);
            } else if pace.watches(now) {
                thread::yield_now();
            } else {
                break;
            }
        }
    }
}

/// Waits until more work was done than `seen`.
async fn work_after(seen: u64) -> u64 {
    poll_fn(|cx| {
        let work = WORK.get();
        if work != seen {
            return Poll::Ready(work);
        }
        WATCHER.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await
}

/// How long to watch, from how long the pauses were.
struct Pace {
    longest: Duration,
    window: Duration,
    worked: Instant,
    /// Short pauses one after the other.
    streak: u32,
}

impl Pace {
    fn new(longest: Duration, now: Instant) -> Self {
        Self {
            longest,
            window: Duration::ZERO,
            worked: now,
            streak: 0,
        }
    }

    fn worked(&mut self, now: Instant) {
        let pause = now.duration_since(self.worked);
        self.worked = now;
        if pause > self.longest {
            self.window = Duration::ZERO;
            self.streak = 0;
            return;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak >= STREAK && pause > self.window {
            self.window = (self.window * 2).max(SHORTEST).min(self.longest);
        }
    }

    fn watches(&self, now: Instant) -> bool {
        now.duration_since(self.worked) < self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(100);

    fn after(pauses_us: &[u64]) -> Duration {
        let mut now = Instant::now();
        let mut pace = Pace::new(LONGEST, now);
        for pause in pauses_us {
            now += Duration::from_micros(*pause);
            pace.worked(now);
        }
        pace.window
    }

    #[test]
    fn short_pauses_lengthen_the_watch_until_it_covers_them() {
        assert_eq!(after(&[60; 8]), SHORTEST);
        assert_eq!(after(&[60; 11]), SHORTEST * 8);
        assert_eq!(after(&[60; 20]), SHORTEST * 8);
        assert_eq!(after(&[99; 20]), LONGEST);
        assert_eq!(after(&[5; 20]), SHORTEST);
    }

    #[test]
    fn one_long_pause_ends_it_and_slow_traffic_never_begins_it() {
        let mut pauses = [60; 20];
        pauses[19] = 101;
        assert_eq!(after(&pauses), Duration::ZERO);
        pauses[12] = 101;
        assert_eq!(after(&pauses[..19]), Duration::ZERO, "the streak begins anew");
        assert_eq!(after(&[1000; 20]), Duration::ZERO);
    }

    #[test]
    fn work_that_comes_by_chance_keeps_hardly_anybody_awake() {
        // Ten thousand a second; pauses of an exponential distribution from a fixed sequence.
        let (mut now, mut seed, mut awake) = (Instant::now(), 1_u64, Duration::ZERO);
        let (mut pace, began) = (Pace::new(LONGEST, now), now);
        for _ in 0..100_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let chance = (seed >> 11) as f64 / (1_u64 << 53) as f64;
            let pause = Duration::from_secs_f64(-100e-6 * (1.0 - chance).ln());
            awake += pause.min(pace.window);
            now += pause;
            pace.worked(now);
        }
        let share = awake.as_secs_f64() / now.duration_since(began).as_secs_f64();
        assert!(share < 0.05, "{share}");
    }

    #[test]
    fn a_watch_is_over_when_its_time_has_passed_without_work() {
        let now = Instant::now();
        let mut pace = Pace::new(LONGEST, now);
        assert!(!pace.watches(now), "nothing was done yet");
        let moment = |micros| now + Duration::from_micros(micros);
        (1..=u64::from(STREAK)).for_each(|n| pace.worked(moment(n * 10)));
        assert!(pace.watches(moment(90)));
        assert!(!pace.watches(moment(93)));
    }

    /// Of this thread, in nanoseconds.
    fn processor_time() -> i64 {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
        let time = usage.user_time() + usage.system_time();
        (time.tv_sec() * 1_000_000 + time.tv_usec()) * 1000
    }

    #[tokio::test]
    async fn without_work_it_sleeps() {
        let vigil = tokio::spawn(keep(Duration::from_millis(1)));
        for _ in 0..100 {
            note_work();
            tokio::task::yield_now().await;
        }
        let before = processor_time();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let spent = processor_time() - before;
        assert!(spent < 30_000_000, "{spent} ns of 300 ms");
        vigil.abort();
    }
}
