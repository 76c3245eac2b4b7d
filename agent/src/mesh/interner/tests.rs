use super::*;
use crate::mesh::Builder;
use crate::mesh::fixture::{gateway_at, key, on, service, workload};

fn pod(name: &str) -> Draft {
    Draft {
        uid: format!("Kubernetes//Pod/demo/{name}").into(),
        name: name.into(),
        services: vec![on("demo/echo.demo", &[(80, 8080)])],
        waypoint: Some(gateway_at("net1/10.0.0.9")),
        ..workload("echo")
    }
}

#[test]
fn equal_things_are_one_allocation_and_others_are_not() {
    let mut interner = Interner::default();
    let one = interner.workload(pod("a"));
    let twin = interner.workload(pod("b"));
    assert!(Arc::ptr_eq(&one.kin, &twin.kin));
    assert!(Arc::ptr_eq(&one.services, &twin.services));
    assert!(Arc::ptr_eq(&one.locality, &twin.locality));
    let cousin = interner.workload(Draft {
        service_account: "other".into(),
        services: vec![on("demo/echo.demo", &[(80, 9090)])],
        ..pod("c")
    });
    assert!(!Arc::ptr_eq(&one.kin, &cousin.kin));
    assert_eq!(&*cousin.service_account, "other");
    assert!(Arc::ptr_eq(&one.namespace, &cousin.namespace));
    assert!(Arc::ptr_eq(&one.services[0].service, &cousin.services[0].service));
    assert!(!Arc::ptr_eq(&one.services[0].ports.0, &cousin.services[0].ports.0));

    let echo = interner.service(service("demo", "echo.demo", &["net1/10.1.0.1"], &[(80, 8080)]));
    assert!(Arc::ptr_eq(&echo.key.hostname, &one.services[0].service.hostname));
    assert!(Arc::ptr_eq(&echo.key.namespace, &one.namespace));
    assert!(Arc::ptr_eq(&echo.vips[0].network, &one.network));
    assert!(Arc::ptr_eq(&echo.ports.0, &one.services[0].ports.0));
}

#[test]
fn texts_are_the_same_from_one_snapshot_to_the_next() {
    let mut builder = Builder::new();
    builder.add_workload(pod("a"));
    let first = builder.build().workload("Kubernetes//Pod/demo/a").unwrap();
    builder.add_workload(pod("b"));
    let second = builder.build().workload("Kubernetes//Pod/demo/b").unwrap();
    assert!(Arc::ptr_eq(&first.kin, &second.kin));
}

#[test]
fn what_nobody_holds_is_let_go_of() {
    let mut interner = Interner::default();
    let kept = interner.workload(pod("a"));
    drop(interner.workload(Draft {
        namespace: "gone".into(),
        services: vec![on("gone/gone.gone", &[(1, 1)])],
        ..pod("b")
    }));
    let before = interner.len();
    interner.forget_unheld();
    assert!(interner.len() < before);
    assert!(!interner.texts.0.contains("gone"));
    assert!(!interner.keys.0.contains(&key("gone/gone.gone")));
    assert!(interner.texts.0.contains("demo"));
    assert!(
        Arc::ptr_eq(&interner.workload(pod("c")).kin, &kept.kin),
        "what is held stays"
    );
}

#[test]
fn what_comes_and_goes_for_ever_takes_no_more_room() {
    let mut builder = Builder::new();
    builder.add_workload(pod("stays"));
    for round in 0..20_000 {
        let name = format!("pod-{round}");
        builder.add_workload(Draft {
            service_account: format!("account-{round}").into(),
            ..pod(&name)
        });
        assert!(builder.remove_workload(&format!("Kubernetes//Pod/demo/{name}")));
    }
    assert!(builder.interned() <= FEWEST + 2, "{}", builder.interned());
    assert_eq!(builder.build().sizes(), [1, 0, 0]);
}
