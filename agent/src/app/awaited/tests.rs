use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::task::{JoinSet, yield_now};

use super::*;
use crate::identity::Certificate;

fn waiting_for(parts: &[Part]) -> Readiness {
    let readiness = Readiness::default();
    parts.iter().for_each(|part| readiness.pend(*part));
    readiness
}

async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn lists_come_before_the_pods_that_are_in_them() {
    let readiness = waiting_for(&[Part::Lists, Part::Enrolment]);
    let (tell, standing) = watch::channel(Standing::Unlisted);
    let mut awaited = JoinSet::new();
    awaited.spawn(enrolment(readiness.clone(), standing));
    settle().await;
    assert_eq!(readiness.pending(), ["pods and namespaces", "enrolment"]);
    tell.send_replace(Standing::Enrolling(2));
    settle().await;
    assert_eq!(readiness.pending(), ["enrolment"]);
    tell.send_replace(Standing::Settled);
    readiness.reached().await;
}

fn called(called: bool) -> CniStatus {
    CniStatus {
        called,
        ..CniStatus::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_passed_by_for_long_ends_readiness_and_a_moment_of_it_does_not() {
    let readiness = waiting_for(&[Part::Plugin]);
    let (tell, status) = watch::channel(called(false));
    let mut awaited = JoinSet::new();
    awaited.spawn(plugin(readiness.clone(), status));
    sleep(PASSED_BY * 2).await;
    assert_eq!(readiness.pending(), ["CNI plugin"], "it was never called");
    tell.send_replace(called(true));
    readiness.reached().await;

    tell.send_replace(called(false));
    sleep(PASSED_BY / 2).await;
    tell.send_replace(called(true));
    sleep(PASSED_BY * 2).await;
    assert!(readiness.pending().is_empty(), "it was put back in time");

    tell.send_replace(called(false));
    sleep(PASSED_BY / 2).await;
    assert!(readiness.pending().is_empty());
    sleep(PASSED_BY).await;
    assert_eq!(readiness.pending(), ["CNI plugin"]);
    tell.send_replace(called(true));
    readiness.reached().await;
}

/// An agent that ends lets go of the plugin, and is not unready for that.
#[tokio::test(start_paused = true)]
async fn who_no_longer_looks_after_the_plugin_changes_nothing() {
    let readiness = waiting_for(&[Part::Plugin]);
    let (tell, status) = watch::channel(called(true));
    let following = tokio::spawn(plugin(readiness.clone(), status));
    readiness.reached().await;
    drop(tell);
    following.await.unwrap();
    assert!(readiness.pending().is_empty());
}

/// A CA that answers the first questions with errors, and then with a certificate that cannot be used.
#[derive(Clone)]
struct Ca {
    failures: usize,
    asked: Arc<AtomicUsize>,
}

impl CertificateSource for Ca {
    fn issue(&self, _: SpiffeId) -> BoxFuture<'static, Result<Arc<Certificate>, IssueError>> {
        let before = self.asked.fetch_add(1, Ordering::SeqCst);
        let failures = self.failures;
        Box::pin(async move {
            match before {
                0 => pending().await,
                _ if before < failures => Err(IssueError::Authority("refused".into())),
                _ => Err(IssueError::Expired(Duration::from_secs(1))),
            }
        })
    }
}

fn ca(failures: usize) -> Ca {
    Ca {
        failures,
        asked: Arc::default(),
    }
}

fn own() -> SpiffeId {
    SpiffeId::new("cluster.local", "istio-system", "ztunnel").unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_ca_is_asked_until_it_gives_something_with_waits_that_grow() {
    let (ca, began) = (ca(9), tokio::time::Instant::now());
    until_given(&ca, &own(), || false).await;
    assert_eq!(ca.asked.load(Ordering::SeqCst), 10);
    let waits = [1, 2, 4, 8, 16, 30, 30, 30, 30];
    let all = Duration::from_secs(waits.iter().sum::<u64>());
    assert_eq!(began.elapsed().as_secs(), (ANSWER + all).as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_a_pod_is_proof_enough() {
    let asked = ca(0);
    until_given(&asked, &own(), || true).await;
    assert_eq!(asked.asked.load(Ordering::SeqCst), 0);
    let refusing = ca(usize::MAX);
    let began = tokio::time::Instant::now();
    until_given(&refusing, &own(), || began.elapsed() > Duration::from_secs(60)).await;
}
