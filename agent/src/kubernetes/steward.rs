//! The task that makes pods what they should be: looks, decides, acts, and looks again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use isthmus_wire::{PodStatus, PodTrouble, Response};
use tokio::{
    sync::{Notify, watch},
    task::{JoinSet, spawn_blocking},
    time::{sleep_until, timeout},
};

use super::{
    api::{ApiServer, CallError},
    counters::{Counters, Done},
    course::PodCourse,
    eligibility::{Intent, Terms},
    first_pods::{FirstPods, Standing, is_settled},
    pod::Pod,
    processes::{Found, NotFound, Processes},
    reconcile::{Action, Holding, next},
    store::Store,
};
use crate::pods::{Pods, ask::Depth};

/// How often all is compared although nobody said that something changed.
const AUDIT: Duration = Duration::from_secs(15);
/// Longest wait for the registry's answer.
const ASK: Duration = Duration::from_secs(30);
/// Annotations and events that are written at the same time.
const AT_ONCE: usize = 8;
/// Events that may be written at once, and how long until one more may be.
const EVENTS: (u32, Duration) = (20, Duration::from_secs(5));
/// Steps for one pod before others have their turn.
const STEPS: usize = 3;

/// Works through the pods of a node.
pub(super) struct Steward {
    pub(super) store: Store,
    pub(super) api: ApiServer,
    pub(super) pods: Pods,
    pub(super) counters: Arc<Counters>,
    /// Where processes are found.
    pub(super) proc: PathBuf,
    /// The node's own network namespace.
    pub(super) node_netns: PathBuf,
    /// Somebody asks for a look.
    pub(super) nudge: Arc<Notify>,
    /// Who is told of trouble.
    pub(super) told: watch::Sender<Vec<PodTrouble>>,
    /// Who is told how far the first pods have come.
    pub(super) stands: watch::Sender<Standing>,
}

/// What is remembered between looks.
#[derive(Default)]
struct Memory {
    courses: HashMap<String, PodCourse>,
    first: FirstPods,
    writing: JoinSet<Wrote>,
    events: Events,
}

/// What became of a call.
struct Wrote {
    /// The pod's UID; none for an event.
    uid: Option<String>,
    outcome: Result<Option<Pod>, CallError>,
}

/// Events that may still be written.
struct Events {
    left: u32,
    refilled: Instant,
}

impl Steward {
    /// Works for ever.
    pub(super) async fn work(self) {
        let mut memory = Memory::default();
        let mut changes = self.store.changes();
        loop {
            changes.mark_unchanged();
            let due = self.look(&mut memory).await;
            let at = due
                .unwrap_or_else(|| Instant::now() + AUDIT)
                .min(Instant::now() + AUDIT);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = self.nudge.notified() => {}
                Some(wrote) = memory.writing.join_next() => if let Ok(wrote) = wrote {
                    self.take(&mut memory, wrote);
                },
                () = sleep_until(at.into()) => {}
            }
        }
    }

    /// Looks at all pods once; answers when something is due again.
    async fn look(&self, memory: &mut Memory) -> Option<Instant> {
        let intents = self.store.intents()?;
        memory.keep_only(&intents);
        let mut held = self.pods.survey(Depth::Known).await.pods;
        let mut processes = None;
        for (pod, intent) in &intents {
            let course = memory
                .courses
                .entry(pod.object_uid.clone())
                .or_insert_with(|| PodCourse::new(intent, &pod.ips));
            course.follow(intent, &pod.ips);
            let remarks: Vec<String> = course.remarks().iter().map(ToString::to_string).collect();
            if !remarks.is_empty() {
                tracing::warn!(
                    pod = pod.title(),
                    remarks = remarks.join("; "),
                    "annotations of a pod are not honoured"
                );
                memory.tell(&self.api, pod, "AnnotationNotHonoured", &remarks.join("; "));
            }
            for _ in 0..STEPS {
                if !self.step((pod, intent), &mut held, &mut processes, memory).await {
                    break;
                }
            }
            let left = held.get(&pod.uid).and_then(|held| held.leftover.as_deref());
            let course = memory.courses.get_mut(&pod.object_uid);
            if let Some(news) = course.and_then(|course| course.news_of_leftover(Instant::now(), left)) {
                memory.tell(&self.api, pod, "RulesOfIstioCni", &news);
            }
        }
        self.tell(memory, &intents);
        self.tell_standing(memory, &intents, &held);
        let dues = memory.courses.values().filter_map(PodCourse::due);
        dues.chain(memory.first.due()).min()
    }

    fn tell_standing(&self, memory: &mut Memory, intents: &[(Pod, Intent)], held: &BTreeMap<String, PodStatus>) {
        let now = Instant::now();
        let unsettled = intents.iter().filter(|(pod, intent)| {
            let course = memory.courses.get(&pod.object_uid);
            let course = course.map(|course| course.enrolling(now)).unwrap_or_default();
            !is_settled(pod, intent, &Holding::of(held.get(&pod.uid)), course)
        });
        let unsettled: BTreeSet<String> = unsettled.map(|(pod, _)| pod.object_uid.clone()).collect();
        let given_up = memory.first.look(unsettled, now);
        for (pod, _) in intents.iter().filter(|(pod, _)| given_up.contains(&pod.object_uid)) {
            tracing::warn!(
                pod = pod.title(),
                "a pod that runs is not in the mesh; readiness waits no longer for it, and it is tried on"
            );
        }
        let standing = memory.first.standing();
        self.stands
            .send_if_modified(|told| std::mem::replace(told, standing) != standing);
    }

    /// Does the next thing about a pod; answers whether there may be one more.
    async fn step(
        &self,
        (pod, intent): (&Pod, &Intent),
        held: &mut BTreeMap<String, PodStatus>,
        processes: &mut Option<Arc<Processes>>,
        memory: &mut Memory,
    ) -> bool {
        let Some(course) = memory.courses.get_mut(&pod.object_uid) else {
            return false;
        };
        let now = Instant::now();
        let holding = Holding::of(held.get(&pod.uid));
        match next(pod, intent, &holding, course.enrolling(now)) {
            None => false,
            Some(Action::Enrol(terms, netns)) => {
                let enrolled = self.enrol(pod, &terms, netns, processes).await;
                self.counters.acted(Done::Enrol, enrolled.is_ok());
                match enrolled {
                    Ok(()) => course.enrolled(),
                    Err(NotEnrolled { why, retriable }) => {
                        tracing::warn!(
                            pod = pod.title(),
                            uid = pod.uid,
                            why,
                            retriable,
                            "a pod was not enrolled"
                        );
                        if course.not_enrolled(now, why.clone(), retriable) {
                            memory.tell(&self.api, pod, "NotEnrolled", &why);
                        }
                    }
                }
                *held = self.pods.survey(Depth::Known).await.pods;
                true
            }
            Some(Action::Release) => {
                let released = timeout(ASK, self.pods.release(pod.uid.clone())).await;
                let done = matches!(released, Ok(Response::Done));
                self.counters.acted(Done::Release, done);
                if let Intent::Leave(because) = intent {
                    tracing::info!(pod = pod.title(), %because, done, "a pod is let go");
                }
                *held = self.pods.survey(Depth::Known).await.pods;
                done
            }
            Some(Action::Annotate(redirection)) => {
                if course.may_write(now) && memory.writing.len() < AT_ONCE {
                    course.is_writing = true;
                    self.annotate(memory, pod, redirection);
                }
                false
            }
        }
    }

    async fn enrol(
        &self,
        pod: &Pod,
        terms: &Terms,
        netns: Option<PathBuf>,
        processes: &mut Option<Arc<Processes>>,
    ) -> Result<(), NotEnrolled> {
        let found = match netns {
            Some(_) => None,
            None => Some(self.find(pod, processes).await?),
        };
        let path = netns.or_else(|| found.as_ref().map(|found| found.path.clone()));
        let asked = self.pods.enrol(terms.enrol(path.unwrap_or_default()));
        match timeout(ASK, asked).await {
            Ok(Response::Done) => {}
            Ok(Response::Refused { reason, retriable }) => return Err(NotEnrolled { why: reason, retriable }),
            Ok(Response::Status(_)) => return Err(NotEnrolled::retriable("the registry answered something else")),
            Err(_) => return Err(NotEnrolled::retriable("the registry did not answer in time")),
        }
        if found.is_some_and(|found| !found.is_at_its_path()) {
            // Better without the mesh than with another pod's identity.
            let released = timeout(ASK, self.pods.release(pod.uid.clone())).await;
            tracing::error!(
                pod = pod.title(),
                ?released,
                "its process ended while it was enrolled; it is released"
            );
            return Err(NotEnrolled::retriable("its process ended while it was enrolled"));
        }
        Ok(())
    }

    async fn find(&self, pod: &Pod, processes: &mut Option<Arc<Processes>>) -> Result<Found, NotEnrolled> {
        let ended = |_| NotEnrolled::retriable("the look at its processes was broken off");
        let walked = match processes {
            Some(walked) => Arc::clone(walked),
            None => {
                let (proc, node) = (self.proc.clone(), self.node_netns.clone());
                let walk = move || Processes::walk(&proc, &node);
                let walked = spawn_blocking(walk).await.map_err(ended)?;
                let unread = |error| NotEnrolled::retriable(format!("{} cannot be read: {error}", self.proc.display()));
                Arc::clone(processes.insert(Arc::new(walked.map_err(unread)?)))
            }
        };
        let (uid, ips) = (pod.uid.clone(), pod.ips.clone());
        let found = spawn_blocking(move || walked.netns_of(&uid, &ips))
            .await
            .map_err(ended)?;
        found.map_err(|why: NotFound| NotEnrolled::retriable(why.to_string()))
    }

    fn annotate(&self, memory: &mut Memory, pod: &Pod, redirection: Option<&'static str>) {
        let (api, store, pod) = (self.api.clone(), self.store.clone(), pod.clone());
        memory.writing.spawn(async move {
            let written = api.annotate(&pod, redirection).await;
            Wrote {
                outcome: written.map(|object| Pod::of(object, store.rules())),
                uid: Some(pod.object_uid),
            }
        });
    }

    /// Takes the answer to a call.
    fn take(&self, memory: &mut Memory, wrote: Wrote) {
        let Some(uid) = wrote.uid else {
            if let Err(error) = wrote.outcome {
                tracing::warn!(
                    error = crate::pods::registry::chain(&error),
                    "an event about a pod was not written"
                );
            }
            return;
        };
        self.counters.acted(Done::Annotate, wrote.outcome.is_ok());
        let Some(course) = memory.courses.get_mut(&uid) else {
            return;
        };
        course.is_writing = false;
        match wrote.outcome {
            Ok(pod) => {
                course.written();
                if let Some(pod) = pod {
                    self.store.amend(pod);
                }
            }
            // The watch will tell that it is gone.
            Err(error @ (CallError::Absent | CallError::Another)) => {
                course.not_written(Instant::now(), error.to_string());
            }
            Err(error) => {
                let why = crate::pods::registry::chain(&error);
                tracing::warn!(uid, why, "the annotation of a pod was not written");
                course.not_written(Instant::now(), why);
            }
        }
    }

    fn tell(&self, memory: &Memory, intents: &[(Pod, Intent)]) {
        let now = Instant::now();
        let of_pod = |(pod, _): &(Pod, Intent)| {
            let title = pod.title();
            let course = memory.courses.get(&pod.object_uid)?;
            let troubles = course.troubles(now).into_iter();
            Some(troubles.map(move |(what, retry_seconds)| PodTrouble {
                pod: title.clone(),
                what,
                retry_seconds,
            }))
        };
        let troubles = intents.iter().filter_map(of_pod).flatten();
        let mut troubles: Vec<_> = troubles.take(isthmus_wire::MOST_TROUBLES).collect();
        troubles.sort_by(|one, other| one.pod.cmp(&other.pod));
        self.told.send_replace(troubles);
    }
}

impl Memory {
    fn keep_only(&mut self, known: &[(Pod, Intent)]) {
        let known: std::collections::HashSet<&str> = known.iter().map(|(pod, _)| pod.object_uid.as_str()).collect();
        self.courses.retain(|uid, _| known.contains(uid.as_str()));
    }

    /// Writes an event, if there is room for one more.
    fn tell(&mut self, api: &ApiServer, pod: &Pod, reason: &'static str, note: &str) {
        if self.writing.len() >= AT_ONCE || !self.events.take(Instant::now()) {
            return;
        }
        let (api, pod, note) = (api.clone(), pod.clone(), note.to_owned());
        self.writing.spawn(async move {
            Wrote {
                uid: None,
                outcome: api.warn(&pod, reason, &note).await.map(|()| None),
            }
        });
    }
}

/// Why a pod was not enrolled.
#[derive(Debug)]
struct NotEnrolled {
    why: String,
    retriable: bool,
}

impl NotEnrolled {
    fn retriable(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            retriable: true,
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            left: EVENTS.0,
            refilled: Instant::now(),
        }
    }
}

impl Events {
    /// Whether one more may be written.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < EVENTS.0 && now.duration_since(self.refilled) >= EVENTS.1 {
            self.left += 1;
            self.refilled += EVENTS.1;
        }
        if self.left == EVENTS.0 {
            self.refilled = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_a_rate() {
        let mut events = Events::default();
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| events.take(now)).count(), 20);
        assert!(!events.take(now + EVENTS.1 / 2));
        assert!(events.take(now + EVENTS.1) && !events.take(now + EVENTS.1));
        let later = now + EVENTS.1 * 1000;
        assert_eq!((0..100).filter(|_| events.take(later)).count(), 20);
    }
}
