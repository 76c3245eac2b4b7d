//! Ending in order: graceful first, by force after a deadline.
//!
//! One [`DrainTrigger`] tells any number of [`Drain`]s. Serving code stops taking new work when the drain has
//! [started](Drain::started), lets open work finish, and breaks off what is left when it is [forced](Drain::forced).

use std::{future::pending, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The waiting end. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<Phase>);

/// The telling end. Dropping it tells nothing: whoever loses it can no longer drain, but stops nobody.
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<Phase>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { until: Instant },
    Forced,
}

/// A trigger and its first listener.
#[must_use]
pub fn drain() -> (DrainTrigger, Drain) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (DrainTrigger(sender), Drain(receiver))
}

impl DrainTrigger {
    /// Starts draining; after `deadline` it is forced by itself. A second start may shorten the deadline, never
    /// lengthen it.
    pub fn start(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.0.send_if_modified(|phase| match phase {
            Phase::Serving => {
                *phase = Phase::Draining { until };
                true
            }
            Phase::Draining { until: earlier } if until < *earlier => {
                *earlier = until;
                true
            }
            Phase::Draining { .. } | Phase::Forced => false,
        });
    }

    /// Ends everything now.
    pub fn force(&self) {
        self.0.send_replace(Phase::Forced);
    }

    /// Another listener.
    #[must_use]
    pub fn listen(&self) -> Drain {
        Drain(self.0.subscribe())
    }
}

impl Drain {
    /// Whether draining has started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.borrow() != Phase::Serving
    }

    /// Resolves when draining has started, at once if it has already.
    pub async fn started(&self) {
        let mut phase = self.0.clone();
        if phase.wait_for(|phase| *phase != Phase::Serving).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Resolves when what is open must be broken off.
    pub async fn forced(&self) {
        let mut phase = self.0.clone();
        loop {
            let now = *phase.borrow_and_update();
            let changed = async {
                if phase.changed().await.is_err() {
                    pending::<()>().await;
                }
            };
            match now {
                Phase::Forced => return,
                Phase::Serving => changed.await,
                Phase::Draining { until } => tokio::select! {
                    () = sleep_until(until) => return,
                    () = changed => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_pending(future: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::from_secs(3600), future).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_happens_before_it_is_triggered_and_a_lost_trigger_is_no_signal() {
        let (trigger, drain) = drain();
        assert!(is_pending(drain.started()).await);
        drop(trigger);
        assert!(is_pending(drain.started()).await);
        assert!(is_pending(drain.forced()).await);
        assert!(!drain.is_started());
    }

    #[tokio::test(start_paused = true)]
    async fn a_started_drain_is_forced_at_its_deadline_even_if_the_trigger_is_lost() {
        let (trigger, drain) = drain();
        let late = trigger.listen();
        let began = Instant::now();
        trigger.start(Duration::from_secs(5));
        drop(trigger);
        drain.started().await;
        late.started().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        drain.forced().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn force_comes_at_once_and_a_second_start_only_shortens() {
        let (trigger, drain) = drain();
        let began = Instant::now();
        trigger.start(Duration::from_secs(100));
        trigger.start(Duration::from_secs(200));
        trigger.start(Duration::from_secs(10));
        drain.forced().await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        let (trigger, drain) = super::drain();
        trigger.start(Duration::from_secs(100));
        trigger.force();
        trigger.start(Duration::from_secs(1));
        drain.forced().await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }
}
