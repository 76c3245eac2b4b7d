use crate::mesh::fixture::{ip, key, on, service, workload};
use crate::mesh::service::{HealthPolicy, Visibility};
use crate::mesh::workload::{Health, NetworkMode, Protocol};
use crate::mesh::{Builder, Draft, Snapshot};

fn built(fill: impl FnOnce(&mut Builder)) -> Snapshot {
    let mut builder = Builder::new();
    fill(&mut builder);
    builder.build()
}

#[test]
fn an_address_is_a_pods_then_a_tunnelled_ones_then_the_firsts() {
    let plain = Draft {
        addresses: vec![ip("10.0.0.1")],
        ..workload("a")
    };
    let tunnelled = Draft {
        protocol: Protocol::Hbone,
        uid: "b".into(),
        ..plain.clone()
    };
    let pod = Draft {
        uid: "Kubernetes//Pod/demo/c".into(),
        ..plain.clone()
    };
    let at = |workloads: &[&Draft]| {
        let snapshot = built(|builder| {
            workloads
                .iter()
                .for_each(|workload| builder.add_workload((*workload).clone()));
        });
        snapshot.workload_at("net1", ip("10.0.0.1")).unwrap().uid().to_string()
    };
    assert_eq!(at(&[&plain, &tunnelled, &pod]), "Kubernetes//Pod/demo/c");
    assert_eq!(at(&[&tunnelled, &plain]), "b");
    let later = Draft {
        uid: "z".into(),
        ..plain.clone()
    };
    assert_eq!(at(&[&later, &plain]), plain.uid.to_string());
}

#[test]
fn a_node_address_is_nobodys() {
    let host = Draft {
        addresses: vec![ip("10.0.0.1")],
        network_mode: NetworkMode::HostNetwork,
        ..workload("a")
    };
    let snapshot = built(|builder| builder.add_workload(host));
    assert!(snapshot.workload_at("net1", ip("10.0.0.1")).is_none());
    assert!(snapshot.workload_elsewhere("net2", ip("10.0.0.1")).is_none());
}

#[test]
fn the_same_address_in_two_networks_is_two_workloads() {
    let here = Draft {
        addresses: vec![ip("10.0.0.1")],
        ..workload("a")
    };
    let there = Draft {
        uid: "there".into(),
        network: "net2".into(),
        ..here.clone()
    };
    let snapshot = built(|builder| {
        builder.add_workload(here);
        builder.add_workload(there);
    });
    assert_eq!(
        snapshot.workload_at("net2", ip("10.0.0.1")).unwrap().uid(),
        "there".into()
    );
    assert_eq!(snapshot.workload_at("net1", ip("::ffff:10.0.0.1")).unwrap().name(), "a");
    assert!(snapshot.workload_at("", ip("10.0.0.1")).is_none());
    assert_eq!(
        snapshot.workload_elsewhere("net1", ip("10.0.0.1")).unwrap().uid(),
        "there".into()
    );
}

#[test]
fn a_vip_is_the_clients_namespaces_then_canonical_then_the_firsts() {
    let first = service("a", "x.a", &["net1/10.1.0.1"], &[(80, 80)]);
    let mut canonical = service("b", "x.b", &["net1/10.1.0.1"], &[(80, 80)]);
    canonical.canonical = true;
    let own = service("c", "x.c", &["net1/10.1.0.1"], &[(80, 80)]);
    let mut hidden = service("0", "x.0", &["net1/10.1.0.1"], &[(80, 80)]);
    hidden.visibility = Visibility::Namespace;
    hidden.canonical = true;
    let snapshot = built(|builder| {
        [first, canonical, own, hidden]
            .into_iter()
            .for_each(|service| builder.add_service(service));
    });
    let seen = |namespace| {
        snapshot
            .service_at("net1", ip("10.1.0.1"), namespace)
            .unwrap()
            .key
            .to_string()
    };
    assert_eq!(seen("c"), "c/x.c");
    assert_eq!(seen("0"), "0/x.0");
    assert_eq!(seen("elsewhere"), "b/x.b");
    assert!(snapshot.service_at("net2", ip("10.1.0.1"), "c").is_none());
}

#[test]
fn a_range_is_ranked_by_namespace_then_length_then_canonical() {
    let wide = service("a", "wide.a", &["net1/10.0.0.0/8"], &[]);
    let narrow = service("b", "narrow.b", &["net1/10.1.0.0/16"], &[]);
    let mut canonical = service("c", "canonical.c", &["net1/10.1.0.0/16"], &[]);
    canonical.canonical = true;
    let exact = service("d", "exact.d", &["net1/10.1.0.1/32"], &[]);
    let snapshot = built(|builder| {
        [wide, narrow, canonical, exact]
            .into_iter()
            .for_each(|service| builder.add_service(service));
    });
    let seen = |address, namespace| {
        snapshot
            .service_at("net1", ip(address), namespace)
            .map(|service| service.key.to_string())
    };
    assert_eq!(seen("10.1.0.2", "a").as_deref(), Some("a/wide.a"));
    assert_eq!(seen("10.1.0.2", "b").as_deref(), Some("b/narrow.b"));
    assert_eq!(seen("10.1.0.2", "z").as_deref(), Some("c/canonical.c"));
    assert_eq!(seen("10.9.0.2", "z").as_deref(), Some("a/wide.a"));
    assert_eq!(seen("10.1.0.1", "a").as_deref(), Some("d/exact.d"));
    assert_eq!(seen("11.0.0.1", "a"), None);
}

#[test]
fn endpoints_are_healthy_unless_the_service_takes_all() {
    let member = |uid: &str, status| Draft {
        status,
        services: vec![on("demo/echo.demo", &[(80, 8080)]), on("demo/all.demo", &[])],
        uid: uid.into(),
        ..workload("w")
    };
    let mut all = service("demo", "all.demo", &[], &[(80, 80)]);
    all.load_balancing.health = HealthPolicy::AllowAll;
    let snapshot = built(|builder| {
        builder.add_service(service("demo", "echo.demo", &[], &[(80, 80)]));
        builder.add_service(all);
        builder.add_workload(member("well", Health::Healthy));
        builder.add_workload(member("ill", Health::Unhealthy));
    });
    let uids = |name| -> Vec<_> {
        snapshot
            .endpoints(&key(name))
            .map(|endpoint| endpoint.workload.uid().to_string())
            .collect()
    };
    assert_eq!(uids("demo/echo.demo"), ["well"]);
    assert_eq!(uids("demo/all.demo"), ["ill", "well"]);
    assert!(uids("demo/none.demo").is_empty());
}

#[test]
fn a_pod_is_found_by_name_and_account() {
    let entry = Draft {
        service_account: "one".into(),
        uid: "a".into(),
        ..workload("echo")
    };
    let pod = Draft {
        uid: "Kubernetes//Pod/demo/echo".into(),
        ..entry.clone()
    };
    let gateway = Draft {
        uid: "NetworkGateway/net1/10.0.0.9/15008".into(),
        ..workload("gateway")
    };
    let snapshot = built(|builder| {
        [entry, pod, gateway]
            .into_iter()
            .for_each(|workload| builder.add_workload(workload));
    });
    let found = |account| {
        snapshot
            .workload_of_pod("demo", "echo", account)
            .map(|found| found.uid().to_string())
    };
    assert_eq!(found(Some("one")).as_deref(), Some("Kubernetes//Pod/demo/echo"));
    assert_eq!(found(None).as_deref(), Some("Kubernetes//Pod/demo/echo"));
    assert_eq!(found(Some("two")), None);
    assert!(snapshot.workload_of_pod("demo", "gateway", None).is_none());
    assert!(snapshot.workload_of_pod("other", "echo", None).is_none());
}

#[test]
fn what_is_removed_is_gone_from_every_index() {
    let mut builder = Builder::new();
    builder.add_workload(Draft {
        addresses: vec![ip("10.0.0.1")],
        ..workload("a")
    });
    builder.add_service(service("demo", "echo.demo", &["net1/10.1.0.1"], &[(80, 80)]));
    assert_eq!(builder.build().sizes(), [1, 1, 0]);
    assert!(builder.remove_workload("uid-a"));
    assert!(!builder.remove_workload("uid-a"));
    assert!(builder.remove_service(&key("demo/echo.demo")));
    let snapshot = builder.build();
    assert_eq!(snapshot.sizes(), [0, 0, 0]);
    assert!(snapshot.workload_at("net1", ip("10.0.0.1")).is_none());
    assert!(snapshot.service_at("net1", ip("10.1.0.1"), "demo").is_none());
    assert_eq!(snapshot.services_of_hostname("echo.demo").count(), 0);
}

#[test]
fn pods_of_one_name_are_told_by_network() {
    let here = Draft {
        uid: "net1//Pod/demo/echo".into(),
        ..workload("echo")
    };
    let there = Draft {
        uid: "net2//Pod/demo/echo".into(),
        network: "net2".into(),
        ..here.clone()
    };
    let snapshot = built(|builder| {
        builder.add_workload(here);
        builder.add_workload(there);
    });
    let found = |network| {
        snapshot
            .workload_of_pod_in(network, "demo", "echo", Some("echo"))
            .map(|pod| pod.uid().to_string())
    };
    assert_eq!(found("net1").as_deref(), Some("net1//Pod/demo/echo"));
    assert_eq!(found("net2").as_deref(), Some("net2//Pod/demo/echo"));
    assert_eq!(found("net3"), None);
}
