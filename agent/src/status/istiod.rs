//! What status tells of the way to istiod.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use isthmus_wire::{IstiodState, IstiodStatus, OnDemandStatus, ReceivedStatus, RejectedResource};
use tokio::{sync::watch, task::AbortHandle};

use crate::xds::{Received, State, Told};

/// Follows what the client of istiod says of itself.
pub(super) struct Istiod {
    told: watch::Receiver<Told>,
    out_of_sync: Arc<Mutex<Option<Instant>>>,
    follower: AbortHandle,
}

impl Istiod {
    /// Follows from now on; call it on the runtime of the control thread.
    pub(super) fn new(told: watch::Receiver<Told>) -> Self {
        let synced = told.borrow().state == State::Synced;
        let out_of_sync = Arc::new(Mutex::new((!synced).then(Instant::now)));
        let following = follow(told.clone(), Arc::clone(&out_of_sync));
        Self {
            told,
            out_of_sync,
            follower: tokio::spawn(following).abort_handle(),
        }
    }

    pub(super) fn status(&self) -> IstiodStatus {
        let out_of_sync = *self.out_of_sync.lock().unwrap_or_else(PoisonError::into_inner);
        told(&self.told.borrow(), out_of_sync, Moment::now())
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Notes since when all is not as istiod told it. A stream that ends and is opened again counts from its end.
async fn follow(mut told: watch::Receiver<Told>, out_of_sync: Arc<Mutex<Option<Instant>>>) {
    loop {
        let synced = told.borrow_and_update().state == State::Synced;
        {
            let mut since = out_of_sync.lock().unwrap_or_else(PoisonError::into_inner);
            *since = if synced {
                None
            } else {
                since.or_else(|| Some(Instant::now()))
            };
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// The two clocks at one moment.
#[derive(Clone, Copy)]
struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Whole seconds since then; 0 where the clock was set back since.
    fn since(self, then: SystemTime) -> u64 {
        self.wall.duration_since(then).unwrap_or(Duration::ZERO).as_secs()
    }
}

fn told(told: &Told, out_of_sync: Option<Instant>, now: Moment) -> IstiodStatus {
    let (state, retry) = match told.state {
        State::Connecting => (IstiodState::Connecting, None),
        State::Syncing => (IstiodState::Syncing, None),
        State::Synced => (IstiodState::Synced, None),
        State::Waiting { until } => (IstiodState::Waiting, Some(until.saturating_duration_since(now.steady))),
    };
    IstiodStatus {
        address: told.address.clone(),
        state,
        since_seconds: now.since(told.since),
        out_of_sync_seconds: out_of_sync.map(|since| now.steady.saturating_duration_since(since).as_secs()),
        connected_seconds: told.connected_since.map(|since| now.since(since)),
        retry_seconds: retry.map(|left| left.as_secs()),
        last_error: told.last_error.clone(),
        reconnects: told.reconnects,
        addresses: received(&told.addresses, now),
        authorizations: received(&told.authorizations, now),
        stored_mesh_age_seconds: told.resumed_from_disk.map(|written| now.since(written)),
        on_demand: told.on_demand.map(|on_demand| OnDemandStatus {
            names: on_demand.names,
            absent: on_demand.absent,
            waiting: on_demand.waiting,
        }),
    }
}

fn received(received: &Received, now: Moment) -> ReceivedStatus {
    let rejected = received.rejected.iter().map(|rejected| RejectedResource {
        name: rejected.name.clone(),
        reason: rejected.reason.clone(),
    });
    ReceivedStatus {
        age_seconds: received.received.map(|at| now.since(at)),
        responses: received.responses,
        rejected: rejected.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{OnDemand, Rejected};

    fn ago(now: Moment, seconds: u64) -> SystemTime {
        now.wall - Duration::from_secs(seconds)
    }

    #[test]
    fn everything_the_client_tells_is_told_with_ages() {
        let now = Moment::now();
        let mut client = Told::new("https://istiod:15012".to_owned());
        client.state = State::Waiting {
            until: now.steady + Duration::from_secs(7),
        };
        client.since = ago(now, 3);
        client.last_error = Some("connection refused".to_owned());
        client.reconnects = 4;
        client.resumed_from_disk = Some(ago(now, 600));
        client.on_demand = Some(OnDemand {
            names: 3,
            absent: 2,
            waiting: 1,
        });
        client.addresses.received = Some(ago(now, 20));
        client.addresses.responses = 9;
        client.addresses.rejected = vec![Rejected {
            name: "a".to_owned(),
            reason: "addresses[0]: 5 bytes".to_owned(),
        }];
        let wanted = IstiodStatus {
            address: "https://istiod:15012".to_owned(),
            state: IstiodState::Waiting,
            since_seconds: 3,
            out_of_sync_seconds: Some(60),
            connected_seconds: None,
            retry_seconds: Some(7),
            last_error: Some("connection refused".to_owned()),
            reconnects: 4,
            addresses: ReceivedStatus {
                age_seconds: Some(20),
                responses: 9,
                rejected: vec![RejectedResource {
                    name: "a".to_owned(),
                    reason: "addresses[0]: 5 bytes".to_owned(),
                }],
            },
            authorizations: ReceivedStatus::default(),
            stored_mesh_age_seconds: Some(600),
            on_demand: Some(OnDemandStatus {
                names: 3,
                absent: 2,
                waiting: 1,
            }),
        };
        let later = Moment {
            steady: now.steady + Duration::from_secs(60),
            ..now
        };
        let mut status = told(&client, Some(now.steady), later);
        assert_eq!(status.retry_seconds.take(), Some(0), "the next try was due");
        assert_eq!(told(&client, None, now).out_of_sync_seconds, None);
        let retry_seconds = told(&client, None, now).retry_seconds;
        assert_eq!(
            IstiodStatus {
                retry_seconds,
                ..status
            },
            wanted
        );
    }

    #[tokio::test]
    async fn being_out_of_sync_counts_from_the_end_of_being_in_sync_whatever_is_tried_since() {
        let (tell, told) = watch::channel(Told::new("https://istiod:15012".to_owned()));
        let istiod = Istiod::new(told);
        let since = || *istiod.out_of_sync.lock().unwrap();
        let becomes = async |wanted: fn(Option<Instant>) -> bool| {
            while !wanted(since()) {
                tokio::task::yield_now().await;
            }
        };
        let began = since();
        assert!(began.is_some(), "nothing was synced yet");
        tell.send_modify(|told| told.turn(State::Syncing));
        tokio::task::yield_now().await;
        assert_eq!(since(), began);
        tell.send_modify(|told| told.turn(State::Synced));
        becomes(|since| since.is_none()).await;
        tell.send_modify(|told| told.turn(State::Connecting));
        becomes(|since| since.is_some()).await;
    }
}
