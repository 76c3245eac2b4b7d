//! A healthy agent has no problems; each of these breaks one thing and sees that very line, and no other.

use std::collections::BTreeMap;

use isthmus_wire::{
    CertificateStatus, CniStatus, Descriptors, IdentityStatus, IstiodState, IstiodStatus, KubernetesStatus,
    NetworkGateway, PodTrouble, ReceivedStatus, RejectedResource, WorkerEnd,
};

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
fn what_istio_cni_left_in_a_pod_is_told() {
    shows(
        |status| pod(status).leftover = Some("rules that cannot be changed".to_owned()),
        &["pod demo/client: rules that cannot be changed", "looks again"],
    );
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

fn istiod() -> IstiodStatus {
    IstiodStatus {
        address: "https://istiod:15012".to_owned(),
        state: IstiodState::Synced,
        addresses: ReceivedStatus {
            age_seconds: Some(75),
            ..ReceivedStatus::default()
        },
        ..IstiodStatus::default()
    }
}

#[test]
fn istiod_in_sync_is_no_problem_nor_is_a_change_of_streams_whatever_its_last_error_was() {
    for since in [None, Some(29)] {
        let status = Status {
            mesh: "the stream ended".to_owned(),
            istiod: Some(IstiodStatus {
                last_error: Some("the stream ended".to_owned()),
                out_of_sync_seconds: since,
                ..istiod()
            }),
            ..healthy()
        };
        assert_eq!(problems(&status), []);
    }
}

#[test]
fn an_istiod_that_is_not_reached_is_told_with_its_error_and_with_what_serves() {
    let unreached = |stored, received| IstiodStatus {
        state: IstiodState::Waiting,
        out_of_sync_seconds: Some(190),
        last_error: Some("connection refused".to_owned()),
        stored_mesh_age_seconds: stored,
        addresses: ReceivedStatus {
            age_seconds: received,
            ..ReceivedStatus::default()
        },
        ..istiod()
    };
    let words = [
        "https://istiod:15012",
        "not been reached for 3m10s",
        "connection refused",
        "docs/istiod.md",
    ];
    let serving = |stored, received, serving: &str| {
        shows(
            |status| status.istiod = Some(unreached(stored, received)),
            &[&words[..], &[serving]].concat(),
        );
    };
    serving(None, Some(75), "what it told last, 1m15s ago");
    serving(Some(600), Some(75), "what it told last, 1m15s ago");
    serving(Some(600), None, "an earlier agent stored 10m00s ago");
    shows(
        |status| {
            status.istiod = Some(IstiodStatus {
                out_of_sync_seconds: Some(2),
                ..unreached(None, None)
            });
            status.mesh_age_seconds = None;
        },
        &["connection refused", "nothing is known of the mesh", "refused"],
    );
}

fn kubernetes() -> KubernetesStatus {
    KubernetesStatus {
        address: "https://10.96.0.1:443/".to_owned(),
        listed: true,
        pods: 7,
        ..KubernetesStatus::default()
    }
}

#[test]
fn an_api_server_that_is_followed_or_away_for_a_moment_is_no_problem() {
    for since in [None, Some(29)] {
        let status = Status {
            kubernetes: Some(KubernetesStatus {
                out_of_sync_seconds: since,
                ..kubernetes()
            }),
            ..healthy()
        };
        assert_eq!(problems(&status), []);
    }
}

#[test]
fn an_api_server_that_is_away_is_told_with_what_holds_meanwhile() {
    let away = |listed| KubernetesStatus {
        listed,
        out_of_sync_seconds: Some(75),
        last_error: Some("connection refused".to_owned()),
        ..kubernetes()
    };
    let words = [
        "https://10.96.0.1:443/",
        "1m15s",
        "connection refused",
        "docs/kubernetes.md",
    ];
    for (listed, holds) in [(true, "stay as they are"), (false, "those that are enrolled stay")] {
        shows(
            |status| status.kubernetes = Some(away(listed)),
            &[&words[..], &[holds]].concat(),
        );
    }
}

#[test]
fn pods_that_are_not_enrolled_are_told_with_the_reason() {
    let trouble = |retry_seconds| PodTrouble {
        pod: "demo/curl".to_owned(),
        what: "it is not enrolled: no process".to_owned(),
        retry_seconds,
    };
    for (retry, words) in [(Some(20), "again in 20s"), (None, "change the pod")] {
        shows(
            |status| {
                status.kubernetes = Some(KubernetesStatus {
                    troubles: vec![trouble(retry)],
                    ..kubernetes()
                });
            },
            &["demo/curl", "no process", words],
        );
    }
}

#[test]
fn an_istiod_that_does_not_answer_what_it_was_asked_is_told() {
    shows(
        |status| {
            status.istiod = Some(IstiodStatus {
                state: IstiodState::Syncing,
                out_of_sync_seconds: Some(61),
                ..istiod()
            });
        },
        &["not answered everything since 1m01s"],
    );
}

#[test]
fn resources_that_were_not_taken_are_told_with_the_last_ones_name_and_reason() {
    let rejected = |name: &str| RejectedResource {
        name: name.to_owned(),
        reason: "addresses[1]: 5 bytes".to_owned(),
    };
    shows(
        |status| {
            let mut istiod = istiod();
            istiod.authorizations.rejected = vec![rejected("demo/first"), rejected("demo/last")];
            status.istiod = Some(istiod);
        },
        &[
            "2 policies of istiod were not taken",
            "demo/last: addresses[1]: 5 bytes",
        ],
    );
}

#[test]
fn a_certificate_in_its_last_quarter_is_told_apart_when_it_cannot_be_renewed() {
    let day = |remaining: i64| CertificateStatus {
        not_before: Some("2026-11-21T09:00:00Z".to_owned()),
        not_after: Some("2026-11-22T09:00:00Z".to_owned()),
        remaining_seconds: Some(remaining),
        failure: Some("the CA refused".to_owned()),
        ..CertificateStatus::default()
    };
    let quarter = 86_400 / 4;
    shows(
        |status| pod(status).certificate = Some(day(quarter - 1)),
        &[
            "pod demo/client ends in 5h59m",
            "the CA refused",
            "a quarter of its life",
        ],
    );
    shows(
        |status| pod(status).certificate = Some(day(quarter)),
        &["no new certificate for pod demo/client", "good for 6h00m"],
    );
}

#[test]
fn a_certificate_that_no_pod_has_is_told_by_its_identity_and_that_of_a_pod_only_once() {
    let failing = |identity: &str| IdentityStatus {
        identity: identity.to_owned(),
        certificate: CertificateStatus {
            failure: Some("the CA refused".to_owned()),
            ..CertificateStatus::default()
        },
    };
    shows(
        |status| status.certificates = vec![failing("spiffe://cluster.local/ns/istio-system/sa/gateway")],
        &[
            "no new certificate for spiffe://cluster.local/ns/istio-system/sa/gateway",
            "the CA refused",
        ],
    );
    shows(
        |status| {
            let own = failing("spiffe://cluster.local/ns/demo/sa/client");
            pod(status).certificate = Some(own.certificate.clone());
            status.certificates = vec![own];
        },
        &["pod demo/client"],
    );
}

#[test]
fn a_gateway_of_another_network_that_does_not_answer_is_told() {
    let silent = |network: &str| NetworkGateway {
        network: network.to_owned(),
        gateway: format!("{network}/10.99.0.2"),
        unreachable: vec!["10.99.0.2:15008".parse().unwrap()],
        ..NetworkGateway::default()
    };
    shows(
        |status| status.gateways = vec![silent("net2"), silent("net1")],
        &["net2/10.99.0.2", "did not answer"],
    );
}

#[test]
fn a_plugin_that_is_not_as_it_should_be_is_told_and_one_that_is_is_not() {
    let cni = |trouble: Option<&str>| CniStatus {
        mode: "own".to_owned(),
        trouble: trouble.map(str::to_owned),
        ..CniStatus::default()
    };
    let whole = Status {
        cni: Some(cni(None)),
        ..healthy()
    };
    assert_eq!(problems(&whole), []);
    shows(
        |status| status.cni = Some(cni(Some("10-a.conflist cannot be used"))),
        &["the CNI plugin: 10-a.conflist cannot be used", "docs/cni.md"],
    );
}
