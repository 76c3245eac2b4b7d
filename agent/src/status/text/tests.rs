use std::collections::BTreeMap;

use isthmus_wire::{CertificateStatus, Descriptors, Failure, Tunnel};

use super::*;

fn pod(name: &str) -> PodStatus {
    PodStatus {
        namespace: "demo".to_owned(),
        name: name.to_owned(),
        state: "enrolled".to_owned(),
        addresses: vec!["10.1.1.11".parse().unwrap(), "fd00::11".parse().unwrap()],
        identity: Some(format!("spiffe://cluster.local/ns/demo/sa/{name}")),
        certificate: Some(CertificateStatus {
            remaining_seconds: Some(7500),
            ..CertificateStatus::default()
        }),
        connections_in: 1,
        connections_out: 22,
        tunnels_in: 3,
        tunnels_out: 4,
        ..PodStatus::default()
    }
}

fn status(pods: &[PodStatus]) -> Status {
    Status {
        node: "node1".to_owned(),
        network: "net1".to_owned(),
        version: "0.1.0".to_owned(),
        uptime_seconds: 3725,
        worker_pid: 77,
        mesh: "ok".to_owned(),
        mesh_age_seconds: Some(5),
        mesh_size: [3, 2, 1],
        descriptors: Descriptors { used: 5, limit: 1000 },
        resident_bytes: 12 << 20,
        pods: pods.iter().map(|pod| (pod.name.clone(), pod.clone())).collect(),
        ..Status::default()
    }
}

#[test]
fn an_empty_agent_says_of_everything_that_there_is_nothing() {
    let shown = text(&status(&[]));
    assert_eq!(
        shown,
        "NODE   node1 on net1\n\
         AGENT  isthmus 0.1.0, worker 77 up 1h02m, never started again\n\
         READY  yes\n\
         MESH   ok: 3 workloads, 2 services, 1 policies, taken 5s ago\n\
         LOAD   0 connections, 0 tunnels, 5 of 1000 descriptors, 12.0 MiB of memory\n\
         \n\
         no pods are enrolled\n\
         \n\
         no tunnels are open\n\
         \n\
         the eBPF programs have decided nothing yet\n\
         \n\
         no connection has failed\n"
    );
}

#[test]
fn the_cni_plugin_has_a_line_where_it_is_looked_after() {
    let mut held = status(&[]);
    assert!(!text(&held).contains("\nCNI "), "{}", text(&held));
    held.cni = Some(CniStatus {
        mode: "own".to_owned(),
        platform: Some("k3s".to_owned()),
        configuration: Some("/etc/cni/net.d/00-isthmus.conflist".into()),
        primary: Some("10-flannel\u{1b}.conflist".to_owned()),
        ..CniStatus::default()
    });
    let shown = text(&held);
    let line = shown.lines().find(|line| line.starts_with("CNI")).unwrap();
    assert!(
        line.starts_with("CNI    own: /etc/cni/net.d/00-isthmus.conflist, made from 10-flannel")
            && line.ends_with("(k3s)"),
        "{line}"
    );
    assert!(
        !line.contains('\u{1b}'),
        "names of others' files are not for the terminal to interpret"
    );
    held.cni = Some(CniStatus {
        mode: "chained".to_owned(),
        ..CniStatus::default()
    });
    assert!(text(&held).contains("\nCNI    chained: not configured\n"));
}

#[test]
fn everything_that_is_there_is_shown_in_a_line_of_its_own() {
    let mut held = status(&[pod("client"), pod("server-with-a-long-name")]);
    held.open_tunnels.push(Tunnel {
        pod: "demo/client".to_owned(),
        direction: Direction::Outbound,
        peer: "10.1.2.11:15008".parse().unwrap(),
        peer_identity: "spiffe://cluster.local/ns/demo/sa/server".to_owned(),
        streams: 12,
        age_seconds: 90,
    });
    held.tunnels_not_listed = 8;
    held.verdicts = BTreeMap::from([("connect_redirected".to_owned(), 41)]);
    held.failures.push(Failure {
        time: "2026-11-21T09:00:00Z".to_owned(),
        pod: "demo/client".to_owned(),
        source: "10.1.1.11:40000".to_owned(),
        destination: "10.1.2.11:8080".to_owned(),
        direction: Direction::Outbound,
        code: "policy-denied".to_owned(),
        reason: "denied by policy\u{1b}[31m demo/deny".to_owned(),
    });
    let shown = text(&held);
    let row = |begin: &str| {
        let found = shown.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        row("demo/client  "),
        "demo/client enrolled admitted good for 2h05m 1 22 3 4 spiffe://cluster.local/ns/demo/sa/client 10.1.1.11,fd00::11"
    );
    assert!(row("demo/server-with-a-long-name").contains("sa/server-with-a-long-name"));
    assert_eq!(
        shown.lines().filter(|line| line.contains("10.1.2.11:15008")).count(),
        1,
        "{shown}"
    );
    assert!(
        shown.contains("outbound   10.1.2.11:15008       12  1m30s  spiffe://"),
        "{shown}"
    );
    assert!(shown.contains("and 8 more"), "{shown}");
    assert_eq!(row("connect_redirected"), "connect_redirected 41");
    assert!(row("2026-11-21T09:00:00Z").contains("policy-denied denied by policy\u{fffd}[31m demo/deny"));
    assert!(!shown.contains('\u{1b}'));
    assert!(!shown.contains("PROBLEMS"), "{shown}");
}

#[test]
fn problems_come_first() {
    let mut held = status(&[]);
    held.mesh = "/m.yaml: broken".to_owned();
    let shown = text(&held);
    assert!(shown.starts_with("PROBLEMS\n- the mesh is not taken"), "{shown}");
}

#[test]
fn json_carries_the_status_and_its_problems() {
    let mut held = status(&[pod("client")]);
    held.mesh = "broken".to_owned();
    for on_one_line in [true, false] {
        let shown = json(&held, on_one_line).unwrap();
        assert_eq!(shown.lines().count() == 1, on_one_line);
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["problems"].as_array().map(Vec::len), Some(1));
        assert_eq!(serde_json::from_value::<Status>(value).unwrap(), held);
    }
}

#[test]
fn ages_have_two_units_at_most() {
    for (seconds, shown) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (90_061, "1d01h"),
    ] {
        assert_eq!(age(seconds), shown);
    }
}

#[test]
fn of_a_pod_whose_inbound_is_bypassed_no_policy_is_told() {
    let mut bypassing = pod("client");
    bypassing.mtls_required = true;
    assert!(text(&status(&[bypassing.clone()])).contains("refused:unknown"));
    bypassing.capture.bypass_inbound = true;
    let shown = text(&status(&[bypassing]));
    assert!(shown.contains("not captured") && !shown.contains("refused"), "{shown}");
    assert!(shown.contains("OUTSIDE OF THE MESH"), "{shown}");
}
