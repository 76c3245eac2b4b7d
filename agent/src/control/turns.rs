//! One at a time for each pod.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Lock, OwnedMutexGuard};

type Locks = HashMap<String, Arc<Lock<()>>>;

/// Turns by a pod's UID. Clones share them; a UID that nobody holds or waits for is forgotten.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Locks>>);

/// It is this one's turn, or will be; until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    uid: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn.
    pub(super) async fn take(&self, uid: &str) -> Turn {
        // Made before the wait, so that one who gives up is forgotten too.
        let mut turn = Turn {
            turns: self.clone(),
            uid: uid.to_owned(),
            held: None,
        };
        let lock = Arc::clone(self.locks().entry(uid.to_owned()).or_default());
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    fn locks(&self) -> MutexGuard<'_, Locks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut locks = self.turns.locks();
        if locks.get(&self.uid).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_others_do_not() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none());
        drop(turns.take("b").now_or_never().expect("nobody is before it"));
        drop(first);
        drop(second.now_or_never().expect("it is its turn"));
        assert!(turns.locks().is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_is_forgotten() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(turns.locks().is_empty());
    }
}
