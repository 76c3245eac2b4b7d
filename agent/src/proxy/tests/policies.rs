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
    assert_eq!(inbound["close"], "agent authorize: denied by policy demo/test");
    assert!(server.sockets.delivered.lock().unwrap().is_empty());
    // Another identity is not meant.
    let friend = world.pod("friend").await;
    let (_near, _far) = friend.connect(&server).await;
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
    assert_eq!(
        world.log.line("inbound").await["close"],
        "agent relay: denied by policy demo/test"
    );
    kept.write_all(b"x").await.unwrap();
    assert_eq!(kept_far.read(&mut [0; 8]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_pod_that_left_the_mesh_loses_its_connections() {
    let world = World::new();
    let (client, server) = (world.pod("client").await, world.pod("server").await);
    let (_near, mut far) = client.connect(&server).await;
    world.change(|mesh| {
        mesh.remove_workload("Kubernetes//Pod/demo/server");
    });
    assert_eq!(
        far.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        world.log.line("inbound").await["close"],
        "agent relay: the mesh no longer knows this pod"
    );
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
