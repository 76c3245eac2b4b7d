use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mesh::fixture::{gateway_at, gateway_of, ip, on, service, workload};
use crate::mesh::service::{HealthPolicy, IpFamilies};
use crate::mesh::workload::Health;
use crate::mesh::{Builder, Draft};

fn echo(name: &str, addresses: &[&str]) -> Draft {
    Draft {
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        protocol: Protocol::Hbone,
        services: vec![on("demo/echo.demo", &[(80, 8080)])],
        ..workload(name)
    }
}

fn world(workloads: Vec<Draft>) -> Builder {
    let mut builder = Builder::new();
    builder.add_service(service("demo", "echo.demo", &["net1/10.1.0.1"], &[(80, 8080)]));
    workloads
        .into_iter()
        .for_each(|workload| builder.add_workload(workload));
    builder
}

fn asked(builder: &Builder, authority: &str, entropy: u64) -> Result<Vec<String>, Refusal> {
    let found = endpoints(&builder.build(), "net1", &authority.parse().unwrap(), entropy);
    found.map(|peers| peers.iter().map(ToString::to_string).collect())
}

fn refused(builder: &Builder, authority: &str) -> Refusal {
    asked(builder, authority, 1).unwrap_err()
}

#[test]
fn a_service_here_is_reached_at_15008_of_its_endpoints() {
    let builder = world(vec![echo("a", &["10.0.0.2"]), echo("b", &["fd00::3"])]);
    let mut found = asked(&builder, "echo.demo:80", 1).unwrap();
    found.sort();
    assert_eq!(found, ["10.0.0.2:15008", "[fd00::3]:15008"]);
    assert_eq!(asked(&builder, "ECHO.DEMO:80", 1), asked(&builder, "echo.demo:80", 1));
}

#[test]
fn streams_spread_by_capacity_and_every_endpoint_is_in_every_order() {
    let heavy = Draft {
        capacity: 4,
        ..echo("heavy", &["10.0.0.2"])
    };
    let builder = world(vec![heavy, echo("light", &["10.0.0.3"])]);
    let mut first: BTreeMap<String, u32> = BTreeMap::new();
    for entropy in 0..1000 {
        let order = asked(&builder, "echo.demo:80", entropy).unwrap();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 2);
        *first.entry(order[0].clone()).or_default() += 1;
    }
    assert!((750..850).contains(&first["10.0.0.2:15008"]), "{first:?}");
}

#[test]
fn what_is_no_service_here_is_404() {
    let builder = world(vec![echo("a", &["10.0.0.2"])]);
    for authority in [
        "10.0.0.2:8080",
        "10.1.0.1:80",
        "[fd00::1]:80",
        "other.demo:80",
        "echo.demo:81",
        "demo:80",
    ] {
        assert_eq!(refused(&builder, authority).status(), 404, "{authority}");
    }
    assert!(matches!(
        refused(&builder, "10.0.0.2:80"),
        Refusal::AddressAtGateway { .. }
    ));
    // An endpoint's own port number is not the service's.
    assert!(matches!(
        refused(&builder, "echo.demo:8080"),
        Refusal::UnknownService { .. }
    ));
}

#[test]
fn a_name_of_two_namespaces_needs_one_canonical_service() {
    let twin = |namespace: &str, canonical| {
        let mut twin = service(namespace, "x.global", &[], &[(80, 80)]);
        twin.canonical = canonical;
        twin
    };
    let endpoint = |namespace: &str, address: &str| Draft {
        services: vec![on(&format!("{namespace}/x.global"), &[])],
        ..echo(namespace, &[address])
    };
    let with = |a, b| {
        let mut builder = world(vec![endpoint("a", "10.0.0.2"), endpoint("b", "10.0.0.3")]);
        builder.add_service(twin("a", a));
        builder.add_service(twin("b", b));
        asked(&builder, "x.global:80", 1)
    };
    assert_eq!(with(false, true).unwrap(), ["10.0.0.3:15008"]);
    for both in [false, true] {
        let refusal = with(both, both).unwrap_err();
        assert_eq!(refusal.status(), 404);
        assert!(refusal.to_string().contains("a, b"), "{refusal}");
    }
}

#[test]
fn only_healthy_tunnelled_endpoints_of_the_own_network_with_an_address_count() {
    let unusable = [
        Draft {
            status: Health::Unhealthy,
            ..echo("ill", &["10.0.0.2"])
        },
        Draft {
            protocol: Protocol::Tcp,
            ..echo("plain", &["10.0.0.2"])
        },
        Draft {
            capacity: 0,
            ..echo("idle", &["10.0.0.2"])
        },
        echo("nowhere", &[]),
    ];
    for workload in unusable {
        let name = workload.name.clone();
        let refusal = refused(&world(vec![workload.clone()]), "echo.demo:80");
        assert!(matches!(refusal, Refusal::NoEndpoint { .. }), "{name}: {refusal}");
        assert_eq!(refusal.status(), 503);
        let builder = world(vec![workload, echo("well", &["10.0.0.9"])]);
        assert_eq!(
            asked(&builder, "echo.demo:80", 1).unwrap(),
            ["10.0.0.9:15008"],
            "{name}"
        );
    }
    assert!(matches!(
        refused(&world(vec![]), "echo.demo:80"),
        Refusal::NoEndpoint { .. }
    ));
}

#[test]
fn endpoints_elsewhere_are_never_given() {
    let there = |name: &str, network: &str| Draft {
        network: network.into(),
        network_gateway: Some(gateway_at("net2/172.18.0.2")),
        ..echo(name, &["10.0.0.5"])
    };
    let refusal = refused(&world(vec![there("a", "net2"), there("b", "net3")]), "echo.demo:80");
    assert!(matches!(refusal, Refusal::OnlyElsewhere { .. }), "{refusal}");
    assert_eq!(refusal.status(), 503);
    assert!(refusal.to_string().contains("\"net2\", \"net3\""), "{refusal}");
    let builder = world(vec![there("a", "net2"), echo("here", &["10.0.0.9"])]);
    for entropy in 0..100 {
        assert_eq!(asked(&builder, "echo.demo:80", entropy).unwrap(), ["10.0.0.9:15008"]);
    }
}

#[test]
fn families_and_health_follow_the_service() {
    let mut v6 = service("demo", "echo.demo", &[], &[(80, 8080)]);
    v6.ip_families = IpFamilies::V6;
    v6.load_balancing.health = HealthPolicy::AllowAll;
    let ill = Draft {
        status: Health::Unhealthy,
        ..echo("ill", &["10.0.0.2", "fd00::2"])
    };
    let mut builder = world(vec![ill]);
    builder.add_service(v6);
    assert_eq!(asked(&builder, "echo.demo:80", 1).unwrap(), ["[fd00::2]:15008"]);
}

#[test]
fn a_services_waypoint_gets_its_streams() {
    let waypoint = |network: &str| Draft {
        addresses: vec![ip("10.0.0.50")],
        network: network.into(),
        protocol: Protocol::Hbone,
        services: vec![on("demo/waypoint.demo", &[(15008, 15009)])],
        ..workload("waypoint")
    };
    let behind = |way| {
        let mut builder = world(vec![echo("a", &["10.0.0.2"])]);
        let mut service = service("demo", "echo.demo", &[], &[(80, 8080)]);
        service.waypoint = Some(way);
        builder.add_service(service);
        builder
    };
    let by_name = || behind(gateway_of("demo/waypoint.demo"));
    let mut builder = by_name();
    assert!(matches!(
        refused(&builder, "echo.demo:80"),
        Refusal::UnknownWaypoint { .. }
    ));
    builder.add_service(service("demo", "waypoint.demo", &["net1/10.1.0.50"], &[(15008, 15008)]));
    assert!(matches!(refused(&builder, "echo.demo:80"), Refusal::NoEndpoint { .. }));
    builder.add_workload(waypoint("net1"));
    assert_eq!(asked(&builder, "echo.demo:80", 1).unwrap(), ["10.0.0.50:15009"]);
    builder.add_workload(waypoint("net2"));
    assert!(matches!(
        refused(&builder, "echo.demo:80"),
        Refusal::OnlyElsewhere { .. }
    ));

    let mut builder = behind(gateway_at("net1/10.0.0.50"));
    builder.add_workload(waypoint("net1"));
    assert_eq!(asked(&builder, "echo.demo:80", 1).unwrap(), ["10.0.0.50:15008"]);
    // A port the service does not have is not the waypoint's either.
    assert_eq!(refused(&builder, "echo.demo:81").status(), 404);
}
