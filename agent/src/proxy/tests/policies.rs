use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{NETWORK, World, fresh_ip, until, workload};
use crate::mesh::{
    Policy, Service, ServiceKey,
    policy::{Action, Clause, Match, Rule, Scope, StringMatch},
    service::Vip,
    workload::Membership,
};

fn policy(action: Action, principal: &str) -> Policy {
    let matches = Match {
        principals: vec![StringMatch::Exact(
            format!("cluster.local/ns/demo/sa/{principal}").into(),
        )],
        ..Match::default()
    };
    Policy {
        name: "test".into(),
        namespace: "demo".into(),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule {
            clauses: vec![Clause { matches: vec![matches] }],
        }],
        dry_run: false,
    }
}

#[tokio::test]
async fn a_denied_identity_gets_401_and_the_application_is_not_dialled() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    world.add_policy(policy(Action::Deny, "client"));
    let (_listener, address) = server.listen().await;
    let mut near = client.dial(address).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let (outbound, inbound) = (world.log.line("outbound").await, world.log.line("inbound").await);
    assert!(outbound["error"].contains("401"), "{}", outbound["error"]);
    assert_eq!(
        (outbound["close"].as_str(), outbound["close.status"].as_str()),
        ("peer-denied", "401")
    );
    let told = ["close", "close.by", "close.phase", "close.policy", "error"].map(|key| inbound[key].as_str());
    let expected = [
        "policy-denied",
        "agent",
        "authorize",
        "demo/test",
        "denied by policy demo/test",
    ];
    assert_eq!(told, expected);
    assert_eq!(outbound["trace_id"], inbound["trace_id"]);
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        let denied = [reporter, "response_flags=\"DENY\"", "source_workload=\"client\""];
        assert_eq!(world.metric("istio_tcp_connections_failed_total", &denied), 1);
        assert_eq!(world.metric("istio_tcp_connections_opened_total", &[reporter]), 1);
        assert_eq!(world.metric("istio_tcp_connections_closed_total", &[reporter]), 1);
    }
    let recent = world.telemetry.recent.list();
    let denial = recent.iter().find(|failure| failure.code == "policy-denied").unwrap();
    assert_eq!(
        (denial.pod.as_str(), denial.direction.as_str()),
        ("demo/server", "inbound")
    );
    assert_eq!(denial.destination, address.to_string());
    assert!(denial.reason.contains("demo/test"), "{}", denial.reason);
    assert!(server.sockets.delivered.lock().unwrap().is_empty());
    // Another identity is not meant.
    let friend = world.pod("friend").await;
    let (_near, _far) = friend.connect(&server).await;
    assert_eq!(
        world.metric("istio_tcp_connections_failed_total", &["source_workload=\"friend\""]),
        0
    );
    assert_eq!(world.telemetry.recent.list().len(), 2);
}

#[tokio::test]
async fn a_new_policy_cuts_the_live_connections_it_denies_and_no_others() {
    let world = World::new();
    let (client, friend) = (world.pod("client").await, world.pod("friend").await);
    let server = world.pod("server").await;
    let (mut near, mut far) = client.connect(&server).await;
    let (mut kept, mut kept_far) = friend.connect(&server).await;
    world.add_policy(policy(Action::Deny, "client"));
    for end in [&mut near, &mut far] {
        assert_eq!(
            end.read(&mut [0; 8]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
    let line = world.log.line("inbound").await;
    assert_eq!(
        (line["close"].as_str(), line["close.policy"].as_str()),
        ("policy-cut", "demo/test")
    );
    let cut = ["reporter=\"destination\"", "response_flags=\"DENY\""];
    assert_eq!(world.metric("istio_tcp_connections_failed_total", &cut), 1);
    kept.write_all(b"x").await.unwrap();
    assert_eq!(kept_far.read(&mut [0; 8]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_policy_that_is_attached_to_the_pod_cuts_its_connections_though_no_policy_changed() {
    let world = World::new();
    let (client, friend) = (world.pod("client").await, world.pod("friend").await);
    let server = world.pod("server").await;
    world.add_policy(Policy {
        scope: Scope::WorkloadSelector,
        ..policy(Action::Deny, "client")
    });
    let (mut near, _far) = client.connect(&server).await;
    let (mut kept, mut kept_far) = friend.connect(&server).await;
    // Changes that are none of its business.
    world.add_workload(workload("other", Some(fresh_ip())));
    world.add_workload(workload("another", Some(fresh_ip())));
    near.write_all(b"x").await.unwrap();
    world.add_workload(crate::mesh::Draft {
        authorization_policies: vec!["demo/test".into()],
        ..workload("server", Some(server.ip))
    });
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(world.log.line("inbound").await["close.policy"], "demo/test");
    kept.write_all(b"x").await.unwrap();
    assert_eq!(kept_far.read(&mut [0; 8]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_pod_that_the_mesh_forgets_keeps_its_connections_and_its_policies() {
    let world = World::new();
    let (client, friend) = (world.pod("client").await, world.pod("friend").await);
    let server = world.pod("server").await;
    let (mut near, mut far) = client.connect(&server).await;
    let (mut kept, mut kept_far) = friend.connect(&server).await;
    world.change(|mesh| {
        mesh.remove_workload("Kubernetes//Pod/demo/server");
    });
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    world.add_policy(policy(Action::Deny, "client"));
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(world.log.line("inbound").await["close"], "policy-cut");
    kept.write_all(b"x").await.unwrap();
    assert_eq!(kept_far.read(&mut [0; 8]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_pods_own_service_leads_back_to_it_under_its_own_policy() {
    let world = World::new();
    let server = world.pod("server").await;
    let (listener, address) = server.listen().await;
    let vip = fresh_ip();
    let key = ServiceKey {
        namespace: "demo".into(),
        hostname: "own.demo.svc.cluster.local".into(),
    };
    let mut service = Service::new("demo", "own", "own.demo.svc.cluster.local");
    service.vips = vec![Vip {
        network: NETWORK.into(),
        range: vip.into(),
    }];
    service.ports = [(80, address.port())].into_iter().collect();
    let mut member = workload("server", Some(server.ip));
    member.services = vec![Membership {
        service: key.into(),
        ports: [(80, address.port())].into_iter().collect(),
    }];
    world.add_workload(member);
    world.add_service(service);

    let mut near = server.dial((vip, 80).into()).await;
    let (mut far, _) = listener.accept().await.unwrap();
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 1);
    assert_eq!(server.dialled(), [address]);
    assert_eq!(server.proxy.tunnels(), 0);

    world.add_policy(policy(Action::Deny, "server"));
    for end in [&mut near, &mut far] {
        assert_eq!(
            end.read(&mut [0; 8]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
    until("the connection gone", || server.proxy.open_connections() == 0).await;
    let mut near = server.dial((vip, 80).into()).await;
    assert_eq!(
        near.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(server.dialled(), [address], "a denied connection was dialled");
}
