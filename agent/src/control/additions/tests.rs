use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::*;
use crate::{
    identity::{Certificate, CertificateSource, IssueError, embedded_ca::EmbeddedCa},
    pods::ask::{Ask, NotAdded},
};

/// Signs from the given attempt on; refuses before.
struct Ca {
    ca: EmbeddedCa,
    refusals: AtomicUsize,
}

impl CertificateSource for Ca {
    fn issue(&self, id: SpiffeId) -> BoxFuture<'static, Result<Arc<Certificate>, IssueError>> {
        let left = self.refusals.load(Ordering::SeqCst);
        if left > 0 {
            self.refusals.store(left - 1, Ordering::SeqCst);
            return Box::pin(async { Err(IssueError::Authority("no such pod".into())) });
        }
        self.ca.issue(id)
    }
}

/// Answers by a list, then lets everybody in.
#[derive(Default)]
struct Script(Mutex<VecDeque<Result<Admitted, NotAdmitted>>>);

impl Admission for Script {
    fn admit(&self, pod: NewPod) -> BoxFuture<'static, Result<Admitted, NotAdmitted>> {
        match self.0.lock().unwrap().pop_front() {
            Some(scripted) => Box::pin(std::future::ready(scripted)),
            None => super::super::admission::Everybody.admit(pod),
        }
    }
}

struct Never;

impl Admission for Never {
    fn admit(&self, _: NewPod) -> BoxFuture<'static, Result<Admitted, NotAdmitted>> {
        Box::pin(std::future::pending())
    }
}

/// Notes what the registry is asked, and answers as told.
#[derive(Clone, Default)]
struct Registry {
    asked: Arc<Mutex<Vec<String>>>,
    found: Arc<Mutex<Found>>,
    /// How long an addition waits for its place behind others.
    queue: Arc<Mutex<Duration>>,
}

impl Registry {
    fn start(&self, mut asks: mpsc::Receiver<Ask>, added: Result<Added, NotAdded>) {
        let registry = self.clone();
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                let note = |text: String| registry.asked.lock().unwrap().push(text);
                match ask {
                    Ask::Add(pod, answer) => {
                        note(format!("add {} {}", pod.uid, pod.netns.display()));
                        let queue = *registry.queue.lock().unwrap();
                        sleep(queue).await;
                        answer.send(added.clone()).unwrap();
                    }
                    Ask::Delete(uid, netns, answer) => {
                        note(format!("delete {uid} {}", netns.display()));
                        answer.send(Response::Done).unwrap();
                    }
                    Ask::Find(_, _, answer) => answer.send(registry.found.lock().unwrap().clone()).unwrap(),
                    _ => panic!("asked something else"),
                }
            }
        });
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn pod(netns: &str) -> NewPod {
    NewPod {
        uid: "u".into(),
        namespace: "shop".into(),
        name: "cart".into(),
        netns: netns.into(),
    }
}

fn added(is_new: bool) -> Result<Added, NotAdded> {
    Ok(Added {
        is_new,
        identity: Some(SpiffeId::new("cluster.local", "shop", "cart").unwrap()),
    })
}

fn additions(refusals: usize, admission: impl Admission, added: Result<Added, NotAdded>) -> (Additions, Registry) {
    let (pods, asks) = Pods::scripted();
    let registry = Registry::default();
    registry.start(asks, added);
    let ca = Ca {
        ca: EmbeddedCa::throwaway(),
        refusals: AtomicUsize::new(refusals),
    };
    let additions = Additions::new(pods, Certificates::new(Arc::new(ca)), Arc::new(admission));
    (additions, registry)
}

fn reason(response: Response) -> (String, bool) {
    match response {
        Response::Refused { reason, retriable } => (reason, retriable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_added_when_it_stands_and_is_certified() {
    let (additions, registry) = additions(2, Script::default(), added(true));
    assert_eq!(additions.add(pod("/n1")).await, Response::Done);
    assert_eq!(registry.asked(), ["add u /n1"]);
    let id = SpiffeId::new("cluster.local", "shop", "cart").unwrap();
    assert!(additions.certificates.held(&id).unwrap().certificate.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waited_behind_many_still_has_time_for_its_certificate() {
    let (additions, registry) = additions(2, Script::default(), added(true));
    *registry.queue.lock().unwrap() = PATIENCE + PAUSE;
    assert_eq!(additions.add(pod("/n1")).await, Response::Done);
    assert_eq!(registry.asked(), ["add u /n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_certificate_is_let_go_of_and_the_answer_says_why() {
    let (additions, registry) = additions(usize::MAX, Script::default(), added(true));
    let began = Instant::now();
    let (reason, retriable) = reason(additions.add(pod("/n1")).await);
    assert!(retriable);
    assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 2);
    for says in [
        "spiffe://cluster.local/ns/shop/sa/cart",
        "within 10 s",
        "no such pod",
        "was let go of",
    ] {
        assert!(reason.contains(says), "{reason}");
    }
    assert_eq!(registry.asked(), ["add u /n1", "delete u /n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ran_before_is_not_put_in_clear_for_want_of_a_certificate() {
    let (additions, registry) = additions(usize::MAX, Script::default(), added(false));
    let (reason, retriable) = reason(additions.add(pod("/n1")).await);
    assert!(retriable && reason.contains("stays so"), "{reason}");
    assert_eq!(registry.asked(), ["add u /n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_identity_nobody_knows_yet_does_not_wait() {
    let nobody = Added {
        is_new: true,
        identity: None,
    };
    let (additions, _registry) = additions(usize::MAX, Script::default(), Ok(nobody));
    let began = Instant::now();
    assert_eq!(additions.add(pod("/n1")).await, Response::Done);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_of_the_mesh_starts_without_us_and_who_is_not_admitted_does_not() {
    let not = |retriable| NotAdmitted {
        reason: "gVisor".into(),
        retriable,
    };
    let script = [Ok(Admitted::Leave), Err(not(false)), Err(not(true))];
    let (additions, registry) = additions(0, Script(Mutex::new(script.into())), added(true));
    assert_eq!(additions.add(pod("/n1")).await, Response::Done);
    for retriable in [false, true] {
        assert_eq!(
            reason(additions.add(pod("/n1")).await),
            ("gVisor".to_owned(), retriable)
        );
    }
    assert_eq!(registry.asked(), Vec::<String>::new(), "nothing is brought in");
}

#[tokio::test(start_paused = true)]
async fn an_admission_that_does_not_come_is_refused_in_time() {
    let (additions, registry) = additions(0, Never, added(true));
    let (reason, retriable) = reason(additions.add(pod("/n1")).await);
    assert!(retriable && reason.contains("API server"), "{reason}");
    assert_eq!(registry.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_refuses_is_passed_on() {
    let refused = NotAdded {
        reason: "opening /n1: No such file or directory".into(),
        retriable: true,
    };
    let (additions, _registry) = additions(0, Script::default(), Err(refused.clone()));
    assert_eq!(additions.add(pod("/n1")).await, refused.into());
}

/// The first fails and lets go of what it brought in, before the second brings in its own.
#[tokio::test(start_paused = true)]
async fn two_additions_of_one_pod_take_turns() {
    // As many refusals as the first sees: its keeper asks with growing pauses.
    let (additions, registry) = additions(usize::MAX, Script::default(), added(true));
    let second = additions.clone();
    let (first, second) = tokio::join!(additions.add(pod("/n1")), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.add(pod("/n2")).await
    });
    assert!(reason(first).1 && reason(second).1);
    let asked = registry.asked();
    let pairs: Vec<&[String]> = asked.chunks(2).collect();
    assert_eq!(pairs, [["add u /n1", "delete u /n1"], ["add u /n2", "delete u /n2"]]);
}

#[tokio::test(start_paused = true)]
async fn a_check_wants_enrolled_who_is_to_be() {
    let (additions, registry) = additions(0, Script::default(), added(true));
    let (missing, retriable) = reason(additions.check(pod("/n1")).await);
    assert!(!retriable && missing.contains("does not hold pod u"), "{missing}");
    *registry.found.lock().unwrap() = Found::Otherwise {
        state: "draining",
        netns: "/n0".into(),
    };
    let (other, _) = reason(additions.check(pod("/n1")).await);
    assert!(other.contains("as draining with network namespace /n0"), "{other}");
    *registry.found.lock().unwrap() = Found::Enrolled;
    assert_eq!(additions.check(pod("/n1")).await, Response::Done);
}

#[tokio::test(start_paused = true)]
async fn a_check_finds_nothing_wrong_with_who_is_not_of_the_mesh() {
    let script = [Ok(Admitted::Leave)];
    let (additions, _registry) = additions(0, Script(Mutex::new(script.into())), added(true));
    assert_eq!(additions.check(pod("/n1")).await, Response::Done);
}
