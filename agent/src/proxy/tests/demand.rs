use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::world::{NETWORK, World, fresh_ip, until, workload};
use crate::mesh::{
    Draft, GatewayAddress, GatewayDestination, HBONE_PORT, ServiceKey, Unanswered,
    demand::{Asks, Need},
};

/// Names that were missing, question by question.
type Missing = Arc<Mutex<Vec<Vec<String>>>>;

/// Answers each question after `told` was called with each name that is missing; what is only mentioned is passed over.
fn answer(mut asks: Asks, told: impl Fn(&str) -> Result<(), Unanswered> + Send + 'static) -> Missing {
    let missing = Missing::default();
    let seen = Arc::clone(&missing);
    tokio::spawn(async move {
        loop {
            let ask = asks.next().await;
            let names = ask.wants.iter().filter(|want| want.need == Need::Missing);
            let names: Vec<String> = names.map(|want| want.name.clone()).collect();
            let outcome = names.iter().try_for_each(|name| told(name));
            let Some(answer) = ask.answer else { continue };
            seen.lock().unwrap().push(names);
            // Who asked may have gone.
            let _gone = answer.send(outcome);
        }
    });
    missing
}

#[tokio::test]
async fn the_first_connection_waits_until_the_destination_was_told_of_and_goes_through() {
    let (world, asks) = World::on_demand();
    let world = Arc::new(world);
    let client = world.pod("client").await;
    let ip = fresh_ip();
    let server = world.unknown_pod("server", ip, NETWORK).await;
    let name = format!("{NETWORK}/{ip}");
    let (telling, wanted) = (Arc::clone(&world), name.clone());
    let missing = answer(asks, move |name| {
        if *name == wanted {
            telling.add_workload(workload("server", Some(ip)));
        }
        Ok(())
    });
    let (mut near, mut far) = client.connect(&server).await;
    far.write_all(b"!").await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();
    assert_eq!(*missing.lock().unwrap(), [vec![name]]);
    assert_eq!(client.dialled(), [(ip, HBONE_PORT).into()], "nothing went in clear");
    drop((near, far));
    let _again = client.connect(&server).await;
    assert_eq!(missing.lock().unwrap().len(), 1, "what is known is not asked for");
}

#[tokio::test]
async fn what_is_not_in_the_mesh_is_reached_in_clear_when_that_was_said() {
    let (world, asks) = World::on_demand();
    let client = world.pod("client").await;
    let missing = answer(asks, |_| Ok(()));
    let outside = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let address = outside.local_addr().unwrap();
    let mut near = client.dial(address).await;
    let (mut far, _) = outside.accept().await.unwrap();
    far.write_all(b"!").await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();
    assert_eq!(*missing.lock().unwrap(), [vec![format!("{NETWORK}/{}", address.ip())]]);
}

#[tokio::test]
async fn without_an_answer_nobody_is_dialled_and_the_log_says_why() {
    for unanswered in [Unanswered::Away, Unanswered::Silent] {
        let (world, asks) = World::on_demand();
        let client = world.pod("client").await;
        answer(asks, move |_| Err(unanswered));
        let outside = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
        let mut near = client.dial(outside.local_addr().unwrap()).await;
        assert!(near.read(&mut [0]).await.is_err(), "it is reset");
        let line = world.log.line("outbound").await;
        assert_eq!(line["close"], "mesh-silent", "{line:?}");
        assert!(line["error"].contains(&unanswered.to_string()), "{line:?}");
        assert!(client.dialled().is_empty());
    }
}

#[tokio::test]
async fn a_waypoint_that_is_not_known_is_asked_for_and_missed_when_it_does_not_exist() {
    let (world, asks) = World::on_demand();
    let client = world.pod("client").await;
    let server = world.pod("server").await;
    let key = ServiceKey {
        namespace: "demo".into(),
        hostname: "waypoint.demo.svc".into(),
    };
    world.add_workload(Draft {
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Hostname(key.clone()),
            hbone_port: HBONE_PORT,
        }),
        ..workload("server", Some(server.ip))
    });
    let missing = answer(asks, |_| Ok(()));
    let (_listener, address) = server.listen().await;
    let mut near = client.dial(address).await;
    assert!(near.read(&mut [0]).await.is_err(), "it is reset");
    let line = world.log.line("outbound").await;
    assert_eq!(line["close"], "no-waypoint", "{line:?}");
    let missing = missing.lock().unwrap();
    let (waypoint, address) = (key.to_string(), format!("{NETWORK}/{}", server.ip));
    // Before it is given up all of it is asked for anew: what led nowhere may have grown old.
    let expected = [vec![waypoint.clone()], vec![address, waypoint.clone()], vec![waypoint]];
    assert_eq!(*missing, expected);
}

#[tokio::test]
async fn a_pod_that_nobody_told_of_is_asked_for_by_its_address() {
    let (world, mut asks) = World::on_demand();
    let ip = fresh_ip();
    let client = world.unknown_pod("client", ip, NETWORK).await;
    let outside = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let _near = client.dial(outside.local_addr().unwrap()).await;
    let ask = asks.next().await;
    assert!(ask.answer.is_none());
    assert_eq!(ask.wants.len(), 1);
    assert_eq!(
        (ask.wants[0].name.as_str(), ask.wants[0].need),
        (format!("{NETWORK}/{ip}").as_str(), Need::Own)
    );
    world.add_workload(workload("client", Some(ip)));
    let missing = answer(asks, |_| Ok(()));
    until("the destination was asked for", || !missing.lock().unwrap().is_empty()).await;
}
