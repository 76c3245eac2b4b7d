//! A healthy agent has no problems; each of these breaks one thing and sees that very line, and no other.

use std::collections::BTreeMap;

use isthmus_wire::{CertificateStatus, Descriptors, WorkerEnd};

use super::*;

fn healthy() -> Status {
    let pod = PodStatus {
        namespace: "demo".to_owned(),
        name: "client".to_owned(),
        state: "enrolled".to_owned(),
        addresses: vec!["10.1.1.11".parse().unwrap()],
        identity: Some("spiffe://cluster.local/ns/demo/sa/client".to_owned()),
        certificate: Some(CertificateStatus {
            not_after: Some("2026-11-22T09:00:00Z".to_owned()),
            remaining_seconds: Some(80_000),
            ..CertificateStatus::default()
        }),
        mtls_because: MtlsBecause::Policies,
        verdicts: verdicts_of(&[(Verdict::OutRedirected, 9), (Verdict::PassPlaintext, 3)]),
        ..PodStatus::default()
    };
    Status {
        node: "node1".to_owned(),
        network: "net1".to_owned(),
        uptime_seconds: 120,
        mesh: GOOD.to_owned(),
        mesh_age_seconds: Some(60),
        mesh_since_seconds: 60,
        descriptors: Descriptors { used: 80, limit: 100 },
        verdicts: verdicts_of(&[
            (Verdict::OutRedirected, 9),
            (Verdict::PassProbe, 4),
            (Verdict::DropPlaintext, 2),
        ]),
        pods: BTreeMap::from([("uid-1".to_owned(), pod)]),
        ..Status::default()
    }
}

fn verdicts_of(counts: &[(Verdict, u64)]) -> BTreeMap<String, u64> {
    counts
        .iter()
        .map(|(verdict, count)| (verdict.name().to_owned(), *count))
        .collect()
}

/// Breaks one thing; exactly one problem with these words in it must be seen.
#[track_caller]
fn shows(change: impl FnOnce(&mut Status), words: &[&str]) {
    let mut status = healthy();
    change(&mut status);
    let found = problems(&status);
    let [only] = found.as_slice() else {
        panic!("one problem is wanted: {found:#?}")
    };
    let text = format!("{} -> {}", only.what, only.advice);
    for word in words {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    assert!(!only.advice.is_empty());
}

fn pod(status: &mut Status) -> &mut PodStatus {
    status.pods.get_mut("uid-1").unwrap()
}

#[test]
fn a_healthy_agent_has_none() {
    assert_eq!(problems(&healthy()), []);
    let empty = Status {
        pods: BTreeMap::new(),
        ..healthy()
    };
    assert_eq!(problems(&empty), []);
}

#[test]
fn an_agent_that_is_not_ready_tells_what_it_waits_for() {
    shows(
        |status| status.pending = vec!["proxy".to_owned(), "state manager".to_owned()],
        &["not ready", "proxy, state manager"],
    );
}

#[test]
fn a_broken_mesh_tells_the_error_its_age_and_what_serves_on() {
    shows(
        |status| {
            status.mesh = "/m.yaml:3: unknown field".to_owned();
            status.mesh_since_seconds = 190;
        },
        &[
            "/m.yaml:3: unknown field",
            "3m10s",
            "isthmus mesh check",
            "taken 1m00s ago serves on",
        ],
    );
}

#[test]
fn a_mesh_that_never_was_good_is_told_apart() {
    shows(
        |status| {
            status.mesh = "/m.yaml: No such file".to_owned();
            status.mesh_age_seconds = None;
        },
        &["No such file", "nothing is known of the mesh"],
    );
    shows(
        |status| {
            status.mesh = String::new();
            status.mesh_age_seconds = None;
        },
        &["no mesh was loaded yet"],
    );
}

#[test]
fn a_worker_that_was_started_again_is_news_for_an_hour() {
    shows(
        |status| {
            status.worker_restarts = 2;
            status.worker_ended = Some(WorkerEnd {
                time: "2026-11-21T09:00:00Z".to_owned(),
                how: "signal: 9 (SIGKILL)".to_owned(),
            });
        },
        &["2 times", "2m00s ago", "signal: 9 (SIGKILL)", "2026-11-21T09:00:00Z"],
    );
    shows(|status| status.worker_restarts = 1, &["once"]);
    let later = Status {
        worker_restarts: 2,
        uptime_seconds: 3601,
        ..healthy()
    };
    assert_eq!(problems(&later), []);
}

#[test]
fn descriptors_that_run_out_are_told_above_four_fifths() {
    shows(|status| status.descriptors.used = 81, &["81 of 100", "RLIMIT_NOFILE"]);
}

#[test]
fn a_pod_that_is_not_served_tells_why() {
    shows(
        |status| {
            pod(status).state = "unserved".to_owned();
            pod(status).trouble = Some("loading claim: EPERM".to_owned());
        },
        &["demo/client is not served", "loading claim: EPERM"],
    );
}

#[test]
fn a_pod_whose_namespace_lost_its_path_is_named_with_it() {
    shows(
        |status| {
            pod(status).state = "lingering".to_owned();
            pod(status).netns = "/run/netns/shop".into();
        },
        &["demo/client", "/run/netns/shop"],
    );
}

#[test]
fn a_pod_without_addresses_is_told() {
    shows(
        |status| pod(status).addresses.clear(),
        &["demo/client has no addresses", "gVisor"],
    );
}

#[test]
fn a_pod_which_the_mesh_does_not_know_is_told_with_what_the_mesh_lacks() {
    shows(
        |status| {
            pod(status).identity = None;
            pod(status).mtls_required = true;
            pod(status).mtls_because = MtlsBecause::UnknownToMesh;
            pod(status).verdicts = verdicts_of(&[(Verdict::DropPlaintext, 5)]);
        },
        &[
            "does not know pod demo/client",
            "namespace demo, name client",
            "\"net1\"",
        ],
    );
}

#[test]
fn plaintext_is_a_problem_only_where_policies_refuse_it_and_somebody_tried() {
    let refusing = |status: &mut Status, because: MtlsBecause, dropped: u64| {
        pod(status).mtls_required = true;
        pod(status).mtls_because = because;
        pod(status).verdicts = verdicts_of(&[(Verdict::DropPlaintext, dropped)]);
    };
    shows(
        |status| refusing(status, MtlsBecause::Policies, 7),
        &["7 plaintext SYNs to pod demo/client", "policies"],
    );
    for (because, dropped) in [(MtlsBecause::Enrolment, 7), (MtlsBecause::Policies, 0)] {
        let mut status = healthy();
        refusing(&mut status, because, dropped);
        assert_eq!(problems(&status), [], "{because:?} {dropped}");
    }
}

#[test]
fn a_certificate_that_is_over_or_cannot_be_renewed_is_told() {
    let held = |status: &mut Status, remaining: Option<i64>, failure: Option<&str>| {
        pod(status).certificate = Some(CertificateStatus {
            remaining_seconds: remaining,
            failure: failure.map(str::to_owned),
            ..CertificateStatus::default()
        });
    };
    shows(|status| held(status, Some(-65), None), &["expired 1m05s ago", "clock"]);
    shows(
        |status| held(status, Some(-65), Some("CA away")),
        &["expired 1m05s ago", "CA away"],
    );
    shows(
        |status| held(status, Some(3700), Some("CA away")),
        &["no new certificate", "CA away", "good for 1h01m"],
    );
    shows(
        |status| held(status, None, Some("CA away")),
        &["no new certificate", "tunnels fail"],
    );
}

#[test]
fn each_unwelcome_verdict_is_told_with_its_number_and_name_and_no_other_is() {
    let mut told = 0;
    for verdict in Verdict::ALL {
        let count = |status: &mut Status| {
            status.verdicts.insert(verdict.name().to_owned(), 12_345);
        };
        if UNWELCOME.iter().any(|(unwelcome, ..)| unwelcome == verdict) {
            shows(count, &["12345", verdict.name()]);
            told += 1;
        } else {
            let mut status = healthy();
            count(&mut status);
            assert_eq!(problems(&status), [], "{verdict:?}");
        }
    }
    assert_eq!(told, UNWELCOME.len());
}
