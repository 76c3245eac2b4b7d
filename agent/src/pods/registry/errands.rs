//! Work on pods that waits for the kernel, away from the registry's thread.
//!
//! Links, rules, routes and programs of a network namespace are changed under locks that the whole node shares. With many
//! pods at once a request may wait for seconds, which must not be the wait of all others. Whoever asks about a pod that is
//! out on an errand hears when it is back.

use std::{collections::HashMap, io, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use isthmus_wire::{PodStatus, Response};
use tokio::{
    runtime::Builder,
    sync::{Semaphore, oneshot},
    task::{JoinSet, spawn_blocking},
};

use super::{Asker, RegistryError};
use crate::{
    pods::{ask::Ask, enrolled::Enrolled, record::Record},
    redirect::Interior,
};

/// Errands at once for pods that come or go. More would wait for the same locks.
const MOST_PASSING: usize = 8;
/// Errands at once for pods that stay.
const MOST_STAYING: usize = 4;

/// The errands under way: one a pod, at most.
pub(super) struct Errands {
    under_way: HashMap<u32, UnderWay>,
    returning: JoinSet<Return>,
    passing: Arc<Semaphore>,
    staying: Arc<Semaphore>,
}

/// For whom an errand is. Those who stay do not wait for those who come: a new link of theirs may have no guard yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Pods that come or go.
    Passing,
    /// Pods that stay.
    Staying,
}

/// An errand, seen from home.
pub(super) struct UnderWay {
    /// Of which pod.
    pub(super) record: Record,
    /// As status names it.
    state: &'static str,
    /// Links or addresses of the pod may have changed meanwhile.
    pub(super) stirred: bool,
    /// The pod was to be looked after meanwhile.
    pub(super) due: bool,
    /// Asked about the pod meanwhile.
    pub(super) later: Vec<Ask>,
}

/// An errand has ended.
pub(super) struct Return {
    /// Slot of the pod.
    pub(super) slot: u32,
    /// What it came to.
    pub(super) brings: Brings,
}

/// What errands come to.
pub(super) enum Brings {
    /// A pod was to be brought in.
    New(Asker, Result<Box<Enrolled>, RegistryError>),
    /// All is done and said.
    Nothing,
    /// A pod's guard was to be taken off.
    Unguarded(oneshot::Sender<Response>, Result<(), RegistryError>),
    /// Links and addresses of a pod, as the kernel knows them now.
    Followed(Result<Interior, RegistryError>),
    /// It could not be done, or panicked; what it was given is lost.
    Lost,
}

impl Errands {
    pub(super) fn new() -> Self {
        Self {
            under_way: HashMap::new(),
            returning: JoinSet::new(),
            passing: Arc::new(Semaphore::new(MOST_PASSING)),
            staying: Arc::new(Semaphore::new(MOST_STAYING)),
        }
    }

    /// Is the pod in this slot out, or another to be brought there?
    pub(super) fn has(&self, slot: u32) -> bool {
        self.under_way.contains_key(&slot)
    }

    /// The errand of the pod in this slot.
    pub(super) fn of(&mut self, slot: u32) -> Option<&mut UnderWay> {
        self.under_way.get_mut(&slot)
    }

    /// UID of another pod with that namespace.
    pub(super) fn other_in(&self, cookie: u64, uid: &str) -> Option<String> {
        let records = self.under_way.values().map(|under_way| &under_way.record);
        let mut others = records.filter(|record| record.cookie == cookie && record.pod.uid != uid);
        others.next().map(|record| record.pod.uid.clone())
    }

    /// Pods that are out, by UID.
    pub(super) fn statuses(&self) -> impl Iterator<Item = (String, PodStatus)> {
        self.under_way.values().map(|UnderWay { record, state, .. }| {
            let status = PodStatus {
                namespace: record.pod.namespace.clone(),
                name: record.pod.name.clone(),
                state: (*state).to_owned(),
                netns: record.pod.netns.clone(),
                mtls_required: true,
                ..PodStatus::default()
            };
            (record.pod.uid.clone(), status)
        })
    }

    /// Keeps what is asked about a pod that is out; gives back what is not.
    pub(super) fn keep(&mut self, ask: Ask) -> Option<Ask> {
        let mut under_way = self.under_way.values_mut();
        match under_way.find(|one| ask.uid() == Some(&one.record.pod.uid)) {
            Some(one) => {
                one.later.push(ask);
                None
            }
            None => Some(ask),
        }
    }

    /// Does it on another thread, which has a runtime for as long as that takes. `state` is the pod's meanwhile.
    pub(super) fn send(
        &mut self,
        line: Line,
        record: Record,
        state: &'static str,
        errand: impl Future<Output = Brings> + Send + 'static,
    ) {
        let slot = record.slot;
        let seats = match line {
            Line::Passing => &self.passing,
            Line::Staying => &self.staying,
        };
        if seats.is_closed() {
            return;
        }
        let done = AssertUnwindSafe(do_it(slot, Arc::clone(seats), errand)).catch_unwind();
        self.returning.spawn(async move {
            let brings = done.await.unwrap_or(Brings::Lost);
            Return { slot, brings }
        });
        let under_way = UnderWay {
            record,
            state,
            stirred: false,
            due: false,
            later: Vec::new(),
        };
        self.under_way.insert(slot, under_way);
    }

    /// Begins no more. Those that have not begun come to nothing, and who asked for them hears that the agent ends.
    pub(super) fn close(&self) {
        self.passing.close();
        self.staying.close();
    }

    /// Are no more begun?
    pub(super) fn are_closed(&self) -> bool {
        self.passing.is_closed()
    }

    /// Waits for the next that ends; nothing when none is under way.
    pub(super) async fn next(&mut self) -> Option<Return> {
        self.returning.join_next().await?.ok()
    }

    /// It is back.
    pub(super) fn end(&mut self, slot: u32) -> Option<UnderWay> {
        self.under_way.remove(&slot)
    }
}

async fn do_it(slot: u32, seats: Arc<Semaphore>, errand: impl Future<Output = Brings> + Send + 'static) -> Brings {
    let Ok(_seat) = seats.acquire_owned().await else {
        return Brings::Nothing;
    };
    let work = move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok::<_, io::Error>(runtime.block_on(errand))
    };
    let done = spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.unwrap_or_else(|error| {
        tracing::error!(slot, %error, "what the kernel was to be told about a pod is lost");
        Brings::Lost
    })
}

#[cfg(test)]
mod tests {
    use isthmus_wire::Enrol;

    use super::*;
    use crate::pods::ask::Depth;

    fn record(slot: u32, uid: &str) -> Record {
        Record {
            slot,
            cookie: u64::from(slot) + 100,
            generation: "g".to_owned(),
            released: false,
            pod: Enrol {
                uid: uid.to_owned(),
                namespace: "demo".to_owned(),
                name: uid.to_owned(),
                service_account: None,
                netns: format!("/run/netns/{uid}").into(),
                mtls_required: None,
                reroute_interfaces: Vec::new(),
                capture: Box::default(),
            },
        }
    }

    fn find(uid: &str) -> Ask {
        Ask::Find(uid.to_owned(), "/n".into(), oneshot::channel().0)
    }

    /// An errand that ends when it is told to, and tells that it has begun.
    fn held(began: &Arc<Semaphore>, go: &Arc<Semaphore>) -> impl Future<Output = Brings> + use<> {
        let (began, go) = (Arc::clone(began), Arc::clone(go));
        async move {
            began.add_permits(1);
            go.acquire().await.unwrap().forget();
            Brings::Nothing
        }
    }

    /// Every seat of those that come and go is taken, and so many more wait for one.
    async fn crowd(more: usize) -> (Errands, Arc<Semaphore>, Arc<Semaphore>) {
        let mut errands = Errands::new();
        let (began, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        for slot in (1..).take(MOST_PASSING + more) {
            errands.send(
                Line::Passing,
                record(slot, &slot.to_string()),
                "entering",
                held(&began, &go),
            );
        }
        let seated = began.acquire_many(u32::try_from(MOST_PASSING).unwrap()).await;
        seated.unwrap().forget();
        (errands, began, go)
    }

    #[tokio::test]
    async fn what_is_asked_about_a_pod_that_is_out_waits_and_nothing_else() {
        let mut errands = Errands::new();
        let (began, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        errands.send(Line::Passing, record(3, "a"), "entering", held(&began, &go));
        assert!(errands.has(3) && !errands.has(4));
        assert!(errands.keep(find("a")).is_none());
        assert!(errands.keep(find("b")).is_some());
        assert!(errands.keep(Ask::Survey(Depth::Known, oneshot::channel().0)).is_some());
        assert_eq!(errands.other_in(103, "b").as_deref(), Some("a"));
        assert_eq!(errands.other_in(103, "a"), None);
        assert_eq!(errands.other_in(104, "b"), None);
        let (uid, status) = errands.statuses().next().unwrap();
        assert_eq!((uid.as_str(), status.state.as_str()), ("a", "entering"));

        go.add_permits(1);
        let back = errands.next().await.unwrap();
        assert!(matches!(
            back,
            Return {
                slot: 3,
                brings: Brings::Nothing
            }
        ));
        let kept = errands.end(3).unwrap().later;
        assert_eq!(kept.iter().map(Ask::uid).collect::<Vec<_>>(), [Some("a")]);
        assert!(!errands.has(3) && errands.keep(find("a")).is_some());
        assert!(errands.next().await.is_none(), "none is under way");
    }

    #[tokio::test]
    async fn one_that_waits_for_the_kernel_holds_up_no_other_until_all_seats_are_taken() {
        let (mut errands, began, go) = crowd(1).await;
        assert_eq!(began.available_permits(), 0, "the last has no seat yet");
        // Nor does it keep one from those that stay.
        errands.send(Line::Staying, record(99, "stays"), "enrolled", async {
            Brings::Nothing
        });
        assert_eq!(errands.next().await.unwrap().slot, 99);
        go.add_permits(1);
        errands.next().await.unwrap();
        began.acquire().await.unwrap().forget();
        go.add_permits(MOST_PASSING);
        for _ in 0..MOST_PASSING {
            errands.next().await.unwrap();
        }
    }

    #[tokio::test]
    async fn when_no_more_are_begun_those_under_way_end_and_the_others_come_to_nothing() {
        let (mut errands, began, go) = crowd(2).await;
        errands.close();
        for _ in 0..2 {
            assert!(matches!(errands.next().await.unwrap().brings, Brings::Nothing));
        }
        go.add_permits(MOST_PASSING);
        for _ in 0..MOST_PASSING {
            errands.next().await.unwrap();
        }
        assert_eq!(began.available_permits(), 0, "neither of the two has begun");
        errands.send(Line::Staying, record(99, "a"), "enrolled", held(&began, &go));
        assert!(!errands.has(99) && errands.next().await.is_none());
    }

    #[tokio::test]
    async fn one_that_panics_is_told_of() {
        let mut errands = Errands::new();
        errands.send(Line::Passing, record(3, "a"), "entering", async {
            panic!("as a test wants it")
        });
        let back = errands.next().await.unwrap();
        assert!(matches!(
            back,
            Return {
                slot: 3,
                brings: Brings::Lost
            }
        ));
    }
}
