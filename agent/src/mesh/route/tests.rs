use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mesh::fixture::{gateway_at, gateway_of, id, ip, on, service, socket, workload};
use crate::mesh::service::{HealthPolicy, IpFamilies, Scope, Visibility, WeightedWaypoint};
use crate::mesh::workload::{ApplicationTunnel, Health, Locality, NetworkMode, TunnelProtocol};
use crate::mesh::{Builder, Draft};

const ECHO: &str = "demo/echo.demo";

/// A mesh in the making, and the pod `curl` of net1 that calls out of it.
struct World {
    builder: Builder,
    source: Draft,
}

impl World {
    fn new() -> Self {
        let source = Draft {
            addresses: vec![ip("10.0.0.1"), ip("fd00::1")],
            protocol: Protocol::Hbone,
            ..workload("curl")
        };
        let mut builder = Builder::new();
        builder.add_workload(source.clone());
        Self { builder, source }
    }

    fn workload(mut self, workload: Draft) -> Self {
        self.builder.add_workload(workload);
        self
    }

    fn service(mut self, service: Service) -> Self {
        self.builder.add_service(service);
        self
    }

    fn gateway(mut self, network: &str, gateway: GatewayAddress) -> Self {
        self.builder.add_gateway(&network.into(), gateway);
        self
    }

    fn source(mut self, source: Draft) -> Self {
        self.builder.add_workload(source.clone());
        self.source = source;
        self
    }

    fn to(&self, destination: &str) -> Route {
        self.with(destination, 1)
    }

    fn with(&self, destination: &str, entropy: u64) -> Route {
        let flow = Flow {
            source: &self.source.clone().into(),
            destination: socket(destination),
            entropy,
            experience: Experience::default(),
        };
        decide(&self.builder.build(), &flow)
    }

    fn denied(&self, destination: &str) -> Deny {
        match self.to(destination) {
            Route::Deny(why) => why,
            other => panic!("{destination}: {other:?}"),
        }
    }

    /// How often each target is chosen in 1000 connections.
    fn shares(&self, destination: &str) -> BTreeMap<String, u32> {
        let snapshot = self.builder.build();
        let source = self.source.clone().into();
        let mut shares = BTreeMap::new();
        for entropy in 0..1000 {
            let flow = Flow {
                source: &source,
                destination: socket(destination),
                entropy,
                experience: Experience::default(),
            };
            *shares.entry(brief(&decide(&snapshot, &flow))).or_default() += 1;
        }
        shares
    }

    fn targets(&self, destination: &str) -> BTreeSet<String> {
        self.shares(destination).into_keys().collect()
    }
}

/// A route in one line.
fn brief(route: &Route) -> String {
    let ids = |ids: &[SpiffeId]| {
        let short: Vec<_> = ids
            .iter()
            .map(|id| id.as_str().replace("spiffe://cluster.local/ns/", ""))
            .collect();
        short.join(" ")
    };
    match route {
        Route::Local { to, .. } => format!("local {to}"),
        Route::Plain { to, .. } => format!("plain {to}"),
        Route::Hbone {
            peer,
            authority,
            expected,
            ..
        } => format!("hbone {peer} for {authority} by {}", ids(expected)),
        Route::DoubleHbone {
            gateway,
            gateway_expected,
            authority,
            expected,
            ..
        } => {
            let (outer, inner) = (ids(gateway_expected), ids(expected));
            format!("double {gateway} by {outer} for {authority} by {inner}")
        }
        Route::Deny(why) => format!("deny {why}"),
    }
}

/// An endpoint of echo: port 80 is 8080 there.
fn echo(name: &str, addresses: &[&str]) -> Draft {
    Draft {
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        protocol: Protocol::Hbone,
        services: vec![on(ECHO, &[(80, 8080)])],
        ..workload(name)
    }
}

fn echo_service() -> Service {
    service(
        "demo",
        "echo.demo",
        &["net1/10.1.0.1", "net1/fd01::1", "net2/10.2.0.1"],
        &[(80, 8080)],
    )
}

/// What istiod sends for the endpoints of another network.
fn split_horizon(network: &str, gateway: Option<GatewayAddress>) -> Draft {
    Draft {
        uid: format!("{network}/SplitHorizonWorkload/istio-system/gateway/{ECHO}").into(),
        network: network.into(),
        network_gateway: gateway,
        service_account: "default".into(),
        ..echo("split", &[])
    }
}

fn network_gateway(network: &str, address: &str) -> Draft {
    Draft {
        uid: format!("NetworkGateway/{network}/{address}/0").into(),
        network: network.into(),
        namespace: "istio-system".into(),
        addresses: vec![ip(address)],
        ..workload("gateway")
    }
}

fn with_names(mut service: Service, names: &[&str]) -> Service {
    service.subject_alt_names = names.iter().map(|name| id(name)).collect();
    service
}

// === pod addresses ===

#[test]
fn an_unknown_address_is_passed_through() {
    let world = World::new();
    for to in [
        "93.184.216.34:443",
        "[2001:db8::1]:443",
        "127.0.0.1:80",
        "10.0.0.77:15008",
    ] {
        let Route::Plain {
            to: dialled,
            workload,
            service,
        } = world.to(to)
        else {
            panic!("{to}");
        };
        assert_eq!(dialled, socket(to));
        assert!(workload.is_none() && service.is_none());
    }
    assert_eq!(
        brief(&world.to("[::ffff:93.184.216.34]:443")),
        "plain 93.184.216.34:443"
    );
}

#[test]
fn own_listeners_are_refused_on_loopback_only() {
    let world = World::new();
    for to in [
        "127.0.0.1:15001",
        "127.9.9.9:15006",
        "[::1]:15008",
        "[::ffff:127.0.0.1]:15001",
    ] {
        assert!(matches!(world.denied(to), Deny::SelfCall { .. }), "{to}");
    }
    assert_eq!(brief(&world.to("127.0.0.1:15002")), "plain 127.0.0.1:15002");
    assert_eq!(brief(&world.to("10.9.0.1:15001")), "plain 10.9.0.1:15001");
}

#[test]
fn a_pod_address_is_tunnelled_or_plain_as_the_pod_wants() {
    let world = World::new()
        .workload(echo("echo", &["10.0.0.2", "fd00::2"]))
        .workload(Draft {
            protocol: Protocol::Tcp,
            ..echo("plain", &["10.0.0.3", "fd00::3"])
        });
    let tunnelled = "hbone 10.0.0.2:15008 for 10.0.0.2:9000 by demo/sa/echo";
    assert_eq!(brief(&world.to("10.0.0.2:9000")), tunnelled);
    assert_eq!(brief(&world.to("[::ffff:10.0.0.2]:9000")), tunnelled);
    let v6 = "hbone [fd00::2]:15008 for [fd00::2]:9000 by demo/sa/echo";
    assert_eq!(brief(&world.to("[fd00::2]:9000")), v6);
    assert_eq!(brief(&world.to("10.0.0.3:9000")), "plain 10.0.0.3:9000");
    assert_eq!(brief(&world.to("[fd00::3]:9000")), "plain [fd00::3]:9000");
    let Route::Plain { workload, .. } = world.to("10.0.0.3:9000") else {
        panic!()
    };
    assert_eq!(workload.unwrap().name(), "plain");
}

#[test]
fn a_pods_own_address_is_local_and_health_does_not_count_there() {
    let world = World::new().workload(Draft {
        status: Health::Unhealthy,
        ..echo("ill", &["10.0.0.2"])
    });
    assert_eq!(brief(&world.to("10.0.0.1:80")), "local 10.0.0.1:80");
    assert_eq!(
        brief(&world.to("10.0.0.2:80")),
        "hbone 10.0.0.2:15008 for 10.0.0.2:80 by demo/sa/ill"
    );
}

#[test]
fn a_node_address_is_passed_through_but_may_be_an_endpoint() {
    let world = World::new().service(echo_service()).workload(Draft {
        network_mode: NetworkMode::HostNetwork,
        protocol: Protocol::Tcp,
        ..echo("host", &["192.168.0.1"])
    });
    assert_eq!(brief(&world.to("192.168.0.1:80")), "plain 192.168.0.1:80");
    assert_eq!(brief(&world.to("10.1.0.1:80")), "plain 192.168.0.1:8080");
}

#[test]
fn a_tunnel_to_nobody_is_refused() {
    let world = World::new().workload(Draft {
        service_account: "".into(),
        ..echo("echo", &["10.0.0.2"])
    });
    assert!(matches!(world.denied("10.0.0.2:80"), Deny::NoIdentity { .. }));
}

#[test]
fn a_workload_elsewhere_is_not_called_by_its_address() {
    let there = Draft {
        network: "net2".into(),
        ..echo("there", &["10.0.0.9", "fd00::9"])
    };
    let world = World::new()
        .workload(there.clone())
        .workload(network_gateway("net2", "172.18.0.2"))
        .gateway("net2", gateway_at("net2/172.18.0.2"));
    for to in ["10.0.0.9:80", "[fd00::9]:80"] {
        let why = world.denied(to);
        assert!(
            matches!(&why, Deny::OtherNetwork { network, .. } if &**network == "net2"),
            "{why}"
        );
    }
    // The same address in the own network is another place.
    let here = Draft {
        uid: "here".into(),
        network: "net1".into(),
        ..there
    };
    let world = world.workload(here);
    assert!(brief(&world.to("10.0.0.9:80")).starts_with("hbone 10.0.0.9:15008"));
    // A gateway is there to be reached.
    assert_eq!(brief(&world.to("172.18.0.2:443")), "plain 172.18.0.2:443");
}

// === workload waypoints ===

fn waypoint_pod(network: &str) -> Draft {
    Draft {
        addresses: vec![ip("10.0.0.50"), ip("fd00::50")],
        network: network.into(),
        protocol: Protocol::Hbone,
        services: vec![on("demo/waypoint.demo", &[(15008, 15008)])],
        ..workload("waypoint")
    }
}

fn waypoint_service() -> Service {
    service("demo", "waypoint.demo", &["net1/10.1.0.50"], &[(15008, 15008)])
}

#[test]
fn a_workloads_waypoint_stands_before_its_address() {
    let via_name = Draft {
        waypoint: Some(gateway_of("demo/waypoint.demo")),
        ..echo("echo", &["10.0.0.2", "fd00::2"])
    };
    let via_address = Draft {
        waypoint: Some(gateway_at("net1/10.0.0.50")),
        ..via_name.clone()
    };
    let via_vip = Draft {
        waypoint: Some(gateway_at("net1/10.1.0.50")),
        ..via_name.clone()
    };
    for workload in [via_name, via_address, via_vip] {
        let world = World::new()
            .workload(workload)
            .workload(waypoint_pod("net1"))
            .service(waypoint_service());
        let v4 = "hbone 10.0.0.50:15008 for 10.0.0.2:80 by demo/sa/waypoint";
        assert_eq!(brief(&world.to("10.0.0.2:80")), v4);
        let v6 = "hbone [fd00::50]:15008 for [fd00::2]:80 by demo/sa/waypoint";
        assert_eq!(brief(&world.to("[fd00::2]:80")), v6);
        // The waypoint itself goes on to the workload.
        let world = world.source(waypoint_pod("net1"));
        assert_eq!(
            brief(&world.to("10.0.0.2:80")),
            "hbone 10.0.0.2:15008 for 10.0.0.2:80 by demo/sa/echo"
        );
    }
}

#[test]
fn a_workloads_waypoint_is_never_bypassed() {
    let behind = Draft {
        waypoint: Some(gateway_of("demo/waypoint.demo")),
        ..echo("echo", &["10.0.0.2"])
    };
    let plain = Draft {
        protocol: Protocol::Tcp,
        ..behind.clone()
    };
    for workload in [behind, plain] {
        let world = World::new().workload(workload);
        assert!(matches!(world.denied("10.0.0.2:80"), Deny::UnknownWaypoint { .. }));
        let world = world.service(waypoint_service());
        assert!(matches!(world.denied("10.0.0.2:80"), Deny::NoWaypoint { .. }));
        let world = world
            .service(with_names(waypoint_service(), &["demo/waypoint"]))
            .workload(waypoint_pod("net2"))
            .gateway("net2", gateway_at("net2/172.18.0.2"))
            .workload(network_gateway("net2", "172.18.0.2"));
        assert!(matches!(world.denied("10.0.0.2:80"), Deny::WaypointElsewhere { .. }));
    }
}

// === services ===

#[test]
fn a_service_goes_to_its_endpoints_as_they_want() {
    let world = World::new()
        .service(echo_service())
        .workload(echo("echo", &["10.0.0.2", "fd00::2"]));
    assert_eq!(
        brief(&world.to("10.1.0.1:80")),
        "hbone 10.0.0.2:15008 for 10.0.0.2:8080 by demo/sa/echo"
    );
    let v6 = "hbone [fd00::2]:15008 for [fd00::2]:8080 by demo/sa/echo";
    assert_eq!(brief(&world.to("[fd01::1]:80")), v6);
    let Route::Hbone { workload, service, .. } = world.to("10.1.0.1:80") else {
        panic!()
    };
    assert_eq!(workload.name(), "echo");
    assert_eq!(service.unwrap().key.to_string(), ECHO);

    let world = world.workload(Draft {
        protocol: Protocol::Tcp,
        ..echo("echo", &["10.0.0.2", "fd00::2"])
    });
    assert_eq!(brief(&world.to("10.1.0.1:80")), "plain 10.0.0.2:8080");
    assert_eq!(brief(&world.to("[fd01::1]:80")), "plain [fd00::2]:8080");
}

#[test]
fn a_services_names_are_expected_besides_the_endpoints() {
    let world = World::new()
        .service(with_names(echo_service(), &["demo/other", "demo/echo"]))
        .workload(echo("echo", &["10.0.0.2"]));
    let both = "hbone 10.0.0.2:15008 for 10.0.0.2:8080 by demo/sa/echo demo/sa/other";
    assert_eq!(brief(&world.to("10.1.0.1:80")), both);
}

#[test]
fn a_pods_own_service_may_be_itself() {
    let curl = Draft {
        services: vec![on(ECHO, &[])],
        ..World::new().source
    };
    let world = World::new().service(echo_service()).source(curl);
    assert_eq!(brief(&world.to("10.1.0.1:80")), "local 10.0.0.1:8080");
    assert_eq!(brief(&world.to("[fd01::1]:80")), "local [fd00::1]:8080");
}

#[test]
fn a_service_without_usable_endpoint_is_refused_not_passed() {
    let reason = |world: World, to: &str| match world.denied(to) {
        Deny::NoHealthyUpstream { reason, .. } => reason,
        other => panic!("{other}"),
    };
    let with = |workload| World::new().service(echo_service()).workload(workload);
    let vip = "10.1.0.1:80";
    assert_eq!(
        reason(World::new().service(echo_service()), vip),
        NoUpstream::NoEndpoint
    );
    let ill = Draft {
        status: Health::Unhealthy,
        ..echo("ill", &["10.0.0.2"])
    };
    assert_eq!(reason(with(ill), vip), NoUpstream::NoEndpoint);
    assert_eq!(
        reason(with(echo("echo", &["10.0.0.2"])), "10.1.0.1:81"),
        NoUpstream::NoPort
    );
    assert_eq!(reason(with(echo("echo", &[])), vip), NoUpstream::NoAddress);
    let idle = Draft {
        capacity: 0,
        ..echo("idle", &["10.0.0.2"])
    };
    assert_eq!(reason(with(idle), vip), NoUpstream::NoCapacity);
    let mut v6_only = echo_service();
    v6_only.ip_families = IpFamilies::V6;
    let world = World::new().service(v6_only).workload(echo("echo", &["10.0.0.2"]));
    assert_eq!(reason(world, vip), NoUpstream::NoAddress);
}

#[test]
fn an_unhealthy_endpoint_is_used_where_the_service_says_so() {
    let mut all = echo_service();
    all.load_balancing.health = HealthPolicy::AllowAll;
    let ill = Draft {
        status: Health::Unhealthy,
        ..echo("ill", &["10.0.0.2"])
    };
    let world = World::new().service(all).workload(ill);
    assert!(brief(&world.to("10.1.0.1:80")).starts_with("hbone 10.0.0.2:15008"));
}

#[test]
fn the_port_is_the_endpoints_then_the_services_then_the_tunnels() {
    let to = |service_ports: &[(u16, u16)], own: &[(u16, u16)], tunnel: Option<u16>| {
        let mut echo_service = echo_service();
        echo_service.ports = service_ports.iter().copied().collect();
        let world = World::new().service(echo_service).workload(Draft {
            protocol: Protocol::Tcp,
            services: vec![on(ECHO, own)],
            application_tunnel: tunnel.map(|port| ApplicationTunnel {
                protocol: TunnelProtocol::None,
                port: Some(port),
            }),
            ..echo("echo", &["10.0.0.2"])
        });
        world.to("10.1.0.1:80")
    };
    assert_eq!(brief(&to(&[(80, 8080)], &[(80, 9090)], None)), "plain 10.0.0.2:9090");
    assert_eq!(brief(&to(&[(80, 8080)], &[], None)), "plain 10.0.0.2:8080");
    assert_eq!(brief(&to(&[(80, 0)], &[(80, 9090)], None)), "plain 10.0.0.2:9090");
    assert!(matches!(
        to(&[(80, 0)], &[], None),
        Route::Deny(Deny::NoHealthyUpstream { .. })
    ));
    assert_eq!(brief(&to(&[], &[], Some(15088))), "plain 10.0.0.2:80");
    assert!(matches!(
        to(&[], &[], None),
        Route::Deny(Deny::NoHealthyUpstream { .. })
    ));
}

#[test]
fn the_address_is_of_a_family_the_service_uses_preferably_that_asked_for() {
    let to = |families, addresses: &[&str], vip: &str| {
        let mut service = echo_service();
        service.ip_families = families;
        let plain = Draft {
            protocol: Protocol::Tcp,
            ..echo("echo", addresses)
        };
        brief(&World::new().service(service).workload(plain).to(vip))
    };
    let both = &["10.0.0.2", "fd00::2"];
    assert_eq!(to(IpFamilies::Automatic, both, "[fd01::1]:80"), "plain [fd00::2]:8080");
    assert_eq!(to(IpFamilies::Dual, both, "10.1.0.1:80"), "plain 10.0.0.2:8080");
    assert_eq!(to(IpFamilies::V4, both, "[fd01::1]:80"), "plain 10.0.0.2:8080");
    assert_eq!(to(IpFamilies::V6, both, "10.1.0.1:80"), "plain [fd00::2]:8080");
    assert_eq!(
        to(IpFamilies::Dual, &["10.0.0.2"], "[fd01::1]:80"),
        "plain 10.0.0.2:8080"
    );
}

#[test]
fn the_address_asked_for_is_kept_where_the_endpoint_has_it() {
    // A service whose VIP is one of its endpoint's own addresses, the second one.
    let own = service("demo", "echo.demo", &["net1/10.0.0.3"], &[(80, 8080)]);
    let plain = Draft {
        protocol: Protocol::Tcp,
        ..echo("echo", &["10.0.0.2", "10.0.0.3"])
    };
    let world = World::new().service(own).workload(plain);
    assert_eq!(brief(&world.to("10.0.0.3:80")), "plain 10.0.0.3:8080");
}

#[test]
fn capacity_is_a_weight() {
    let world = World::new()
        .service(echo_service())
        .workload(Draft {
            capacity: 3,
            protocol: Protocol::Tcp,
            ..echo("a", &["10.0.0.2"])
        })
        .workload(Draft {
            protocol: Protocol::Tcp,
            ..echo("b", &["10.0.0.3"])
        });
    let shares = world.shares("10.1.0.1:80");
    assert!((700..800).contains(&shares["plain 10.0.0.2:8080"]), "{shares:?}");
    assert!((200..300).contains(&shares["plain 10.0.0.3:8080"]), "{shares:?}");
    assert_eq!(
        brief(&world.with("10.1.0.1:80", 5)),
        brief(&world.with("10.1.0.1:80", 5))
    );
}

#[test]
fn a_hidden_service_is_seen_in_its_namespace_only() {
    let mut hidden = service("other", "hidden.other", &["net1/10.1.0.9"], &[(80, 80)]);
    hidden.visibility = Visibility::Namespace;
    let world = World::new().service(hidden);
    assert_eq!(brief(&world.to("10.1.0.9:80")), "plain 10.1.0.9:80");
    let neighbour = Draft {
        namespace: "other".into(),
        ..World::new().source
    };
    let world = world.source(neighbour);
    assert!(matches!(world.denied("10.1.0.9:80"), Deny::NoHealthyUpstream { .. }));
}

#[test]
fn an_endpoint_with_a_dns_name_only_needs_dns() {
    let world = World::new().service(echo_service()).workload(Draft {
        protocol: Protocol::Tcp,
        hostname: "example.com".into(),
        ..echo("external", &[])
    });
    let why = world.denied("10.1.0.1:80");
    assert!(
        matches!(&why, Deny::NeedsDns { hostname, .. } if &**hostname == "example.com"),
        "{why}"
    );
}

#[test]
fn passthrough_keeps_the_address_but_not_the_clear() {
    let mut wide = service("demo", "wide.demo", &["net1/10.0.0.0/8", "net1/10.1.0.1"], &[]);
    wide.load_balancing.mode = Mode::Passthrough;
    let world = World::new()
        .service(wide)
        .workload(echo("echo", &["10.0.0.2"]))
        .workload(echo("at-vip", &["10.1.0.1"]))
        .workload(Draft {
            network: "net2".into(),
            ..echo("there", &["10.0.0.9"])
        });
    assert_eq!(brief(&world.to("10.5.5.5:1234")), "plain 10.5.5.5:1234");
    let Route::Plain { service, .. } = world.to("10.5.5.5:1234") else {
        panic!()
    };
    assert!(service.is_some());
    assert!(brief(&world.to("10.0.0.2:80")).starts_with("hbone 10.0.0.2:15008"));
    assert!(brief(&world.to("10.1.0.1:80")).starts_with("hbone 10.1.0.1:15008"));
    assert!(matches!(world.denied("10.0.0.9:80"), Deny::OtherNetwork { .. }));
}

// === localities ===

fn placed(name: &str, address: &str, network: &str, zone: &str, node: &str) -> Draft {
    Draft {
        locality: Locality {
            region: "r".into(),
            zone: zone.into(),
            subzone: "".into(),
            node: node.into(),
        },
        network: network.into(),
        protocol: Protocol::Tcp,
        ..echo(name, &[address])
    }
}

fn balanced(mode: Mode, preferences: &[Scope]) -> Service {
    let mut service = with_names(echo_service(), &["demo/echo"]);
    service.load_balancing.mode = mode;
    service.load_balancing.preferences = preferences.to_vec();
    service
}

fn in_zones(service: Service) -> World {
    let source = Draft {
        locality: Locality {
            region: "r".into(),
            zone: "z1".into(),
            subzone: "".into(),
            node: "n1".into(),
        },
        ..World::new().source
    };
    World::new().source(source).service(service)
}

#[test]
fn standard_ignores_where_endpoints_are() {
    let world = in_zones(balanced(Mode::Standard, &[Scope::Zone]))
        .workload(placed("near", "10.0.0.2", "net1", "z1", "n1"))
        .workload(placed("far", "10.0.0.3", "net1", "z2", "n2"));
    assert_eq!(world.targets("10.1.0.1:80").len(), 2);
}

#[test]
fn failover_takes_the_nearest_and_then_others() {
    let service = || balanced(Mode::Failover, &[Scope::Region, Scope::Zone, Scope::Node]);
    let far = placed("far", "10.0.0.3", "net1", "z2", "n1");
    let near = placed("near", "10.0.0.2", "net1", "z1", "n2");
    let world = in_zones(service()).workload(near).workload(far.clone());
    // The same node in another zone does not count: the count ends at the zone.
    assert_eq!(world.targets("10.1.0.1:80"), ["plain 10.0.0.2:8080".to_owned()].into());
    let world = in_zones(service()).workload(far);
    assert_eq!(world.targets("10.1.0.1:80"), ["plain 10.0.0.3:8080".to_owned()].into());
}

#[test]
fn strict_takes_no_others() {
    let service = || balanced(Mode::Strict, &[Scope::Node]);
    let here = placed("here", "10.0.0.2", "net1", "z1", "n1");
    let there = placed("there", "10.0.0.3", "net1", "z1", "n2");
    let world = in_zones(service()).workload(here).workload(there.clone());
    assert_eq!(world.targets("10.1.0.1:80"), ["plain 10.0.0.2:8080".to_owned()].into());
    let world = in_zones(service()).workload(there);
    let why = world.denied("10.1.0.1:80");
    assert!(
        matches!(
            why,
            Deny::NoHealthyUpstream {
                reason: NoUpstream::NoLocality,
                ..
            }
        ),
        "{why}"
    );
}

#[test]
fn nothing_elsewhere_outranks_the_own_network_when_it_comes_first() {
    let gateway = || gateway_at("net2/172.18.0.2");
    let with = |preferences: &[Scope]| {
        in_zones(balanced(Mode::Failover, preferences))
            .workload(placed("here", "10.0.0.2", "net1", "z9", "n9"))
            .workload(placed("there", "10.0.0.9", "net2", "z1", "n1"))
            .workload(network_gateway("net2", "172.18.0.2"))
            .gateway("net2", gateway())
    };
    let first = with(&[Scope::Network, Scope::Region, Scope::Zone]);
    assert_eq!(first.targets("10.1.0.1:80"), ["plain 10.0.0.2:8080".to_owned()].into());
    // Only here does the zone decide.
    let last = with(&[Scope::Region, Scope::Zone, Scope::Network]);
    assert!(brief(&last.to("10.1.0.1:80")).starts_with("double 172.18.0.2:15008"));
}

#[test]
fn strict_counts_before_the_networks_bonus() {
    // In the own network and the region, but not the zone: two of three, though the bonus makes it more.
    let world = in_zones(balanced(Mode::Strict, &[Scope::Network, Scope::Region, Scope::Zone]))
        .workload(placed("here", "10.0.0.2", "net1", "z9", "n9"));
    assert!(matches!(world.denied("10.1.0.1:80"), Deny::NoHealthyUpstream { .. }));
}

// === service waypoints ===

fn behind_waypoint() -> Service {
    let mut service = echo_service();
    service.waypoint = Some(gateway_of("demo/waypoint.demo"));
    service
}

#[test]
fn a_services_waypoint_gets_its_traffic_for_the_original_address() {
    let world = World::new()
        .service(behind_waypoint())
        .service(with_names(waypoint_service(), &["demo/waypoint-alt"]))
        .workload(waypoint_pod("net1"))
        .workload(echo("echo", &["10.0.0.2"]));
    let v4 = "hbone 10.0.0.50:15008 for 10.1.0.1:80 by demo/sa/waypoint demo/sa/waypoint-alt";
    assert_eq!(brief(&world.to("10.1.0.1:80")), v4);
    let v6 = "hbone [fd00::50]:15008 for [fd01::1]:80 by demo/sa/waypoint demo/sa/waypoint-alt";
    assert_eq!(brief(&world.to("[fd01::1]:80")), v6);
    let Route::Hbone { workload, service, .. } = world.to("10.1.0.1:80") else {
        panic!()
    };
    assert_eq!(workload.name(), "waypoint");
    assert_eq!(service.unwrap().key.to_string(), ECHO);
}

#[test]
fn service_traffic_passes_no_workload_waypoint() {
    let world = World::new().service(echo_service()).workload(Draft {
        waypoint: Some(gateway_of("demo/waypoint.demo")),
        ..echo("echo", &["10.0.0.2"])
    });
    assert!(brief(&world.to("10.1.0.1:80")).starts_with("hbone 10.0.0.2:15008"));
}

#[test]
fn a_services_waypoint_is_never_bypassed() {
    let mut passthrough = behind_waypoint();
    passthrough.load_balancing.mode = Mode::Passthrough;
    for service in [behind_waypoint(), passthrough] {
        let world = World::new().service(service).workload(echo("echo", &["10.0.0.2"]));
        let why = world.denied("10.1.0.1:80");
        assert!(matches!(why, Deny::UnknownWaypoint { .. }), "{why}");
        assert!(why.to_string().contains("demo/waypoint.demo"), "{why}");
        let world = world.service(waypoint_service());
        assert!(matches!(world.denied("10.1.0.1:80"), Deny::NoWaypoint { .. }));
    }
}

#[test]
fn weighted_waypoints_share_and_rule() {
    let mut service = echo_service();
    service.waypoint = Some(gateway_of("demo/nowhere.demo"));
    let share = |address: &str, weight| WeightedWaypoint {
        waypoint: gateway_at(address),
        weight,
    };
    service.weighted_waypoints = vec![share("net1/10.0.0.50", 9), share("net1/10.0.0.51", 1)];
    let other = Draft {
        addresses: vec![ip("10.0.0.51")],
        protocol: Protocol::Hbone,
        ..workload("other")
    };
    let world = World::new()
        .service(service.clone())
        .workload(waypoint_pod("net1"))
        .workload(other);
    let shares = world.shares("10.1.0.1:80");
    assert_eq!(shares.len(), 2, "{shares:?}");
    let other = shares["hbone 10.0.0.51:15008 for 10.1.0.1:80 by demo/sa/other"];
    assert!((60..140).contains(&other), "{shares:?}");
    for share in &mut service.weighted_waypoints {
        share.weight = 0;
    }
    let world = world.service(service);
    assert!(matches!(world.denied("10.1.0.1:80"), Deny::UnknownWaypoint { .. }));
}

#[test]
fn a_waypoint_with_an_application_tunnel_needs_no_port_in_its_service() {
    let mut portless = waypoint_service();
    portless.ports = [(80, 80)].into_iter().collect();
    let pod = Draft {
        services: vec![on("demo/waypoint.demo", &[])],
        ..waypoint_pod("net1")
    };
    let world = World::new()
        .service(behind_waypoint())
        .service(portless)
        .workload(pod.clone());
    assert!(matches!(world.denied("10.1.0.1:80"), Deny::NoWaypoint { .. }));
    let world = world.workload(Draft {
        application_tunnel: Some(ApplicationTunnel {
            protocol: TunnelProtocol::Proxy,
            port: Some(15088),
        }),
        ..pod
    });
    assert!(brief(&world.to("10.1.0.1:80")).starts_with("hbone 10.0.0.50:15008 for 10.1.0.1:80"));
}

// === other networks ===

#[test]
fn another_network_is_reached_through_its_gateway_for_the_service_by_name() {
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .workload(split_horizon("net2", Some(gateway_at("net2/172.18.0.2"))))
        .workload(network_gateway("net2", "172.18.0.2"));
    let double = "double 172.18.0.2:15008 by istio-system/sa/gateway for echo.demo:80 by demo/sa/echo";
    assert_eq!(brief(&world.to("10.1.0.1:80")), double);
    assert_eq!(brief(&world.to("[fd01::1]:80")), double);
    let Route::DoubleHbone {
        gateway_workload,
        service,
        ..
    } = world.to("10.1.0.1:80")
    else {
        panic!()
    };
    assert!(gateway_workload.unwrap().is_network_gateway());
    assert_eq!(service.key.to_string(), ECHO);
    // The other network's VIP means nothing here.
    assert_eq!(brief(&world.to("10.2.0.1:80")), "plain 10.2.0.1:80");
}

#[test]
fn a_gateways_services_names_are_expected_too() {
    let gateway = Draft {
        services: vec![on("istio-system/gateway.istio-system", &[])],
        ..network_gateway("net2", "172.18.0.2")
    };
    let behind = with_names(
        service("istio-system", "gateway.istio-system", &[], &[(15008, 15008)]),
        &["istio-system/alt"],
    );
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .service(behind)
        .workload(split_horizon("net2", Some(gateway_at("net2/172.18.0.2"))))
        .workload(gateway);
    let outer = "double 172.18.0.2:15008 by istio-system/sa/gateway istio-system/sa/alt for";
    assert!(
        brief(&world.to("10.1.0.1:80")).starts_with(outer),
        "{:?}",
        world.to("10.1.0.1:80")
    );
}

#[test]
fn a_gateway_may_be_a_service_by_vip_or_by_name() {
    let gateway_pod = Draft {
        network: "net2".into(),
        namespace: "istio-system".into(),
        addresses: vec![ip("10.9.0.7")],
        services: vec![on("istio-system/gateway.istio-system", &[])],
        ..workload("gateway")
    };
    let vips = ["net2/172.18.0.9"];
    let gateway_service = service("istio-system", "gateway.istio-system", &vips, &[(15008, 15008)]);
    let world = |gateway| {
        World::new()
            .service(with_names(echo_service(), &["demo/echo"]))
            .service(gateway_service.clone())
            .workload(gateway_pod.clone())
            .workload(split_horizon("net2", Some(gateway)))
            .to("10.1.0.1:80")
    };
    let rest = "by istio-system/sa/gateway for echo.demo:80 by demo/sa/echo";
    assert_eq!(
        brief(&world(gateway_at("net2/172.18.0.9"))),
        format!("double 172.18.0.9:15008 {rest}")
    );
    let by_name = gateway_of("istio-system/gateway.istio-system");
    assert_eq!(brief(&world(by_name)), format!("double 10.9.0.7:15008 {rest}"));
}

#[test]
fn a_gateway_by_workload_host_name() {
    let named = |addresses: &[&str]| {
        let gateway = Draft {
            hostname: "gw.example.com".into(),
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            ..network_gateway("net2", "172.18.0.2")
        };
        World::new()
            .service(with_names(echo_service(), &["demo/echo"]))
            .workload(split_horizon("net2", Some(gateway_of("istio-system/gw.example.com"))))
            .workload(gateway)
    };
    assert!(brief(&named(&["172.18.0.2"]).to("10.1.0.1:80")).starts_with("double 172.18.0.2:15008"));
    assert!(matches!(named(&[]).denied("10.1.0.1:80"), Deny::NeedsDns { .. }));
}

#[test]
fn an_unknown_gateway_is_refused() {
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .workload(split_horizon("net2", Some(gateway_at("net2/172.18.0.2"))));
    assert!(matches!(world.denied("10.1.0.1:80"), Deny::UnknownGateway { .. }));
    let nobody = Draft {
        service_account: "".into(),
        ..network_gateway("net2", "172.18.0.2")
    };
    let world = world.workload(nobody);
    assert!(matches!(world.denied("10.1.0.1:80"), Deny::NoIdentity { .. }));
}

#[test]
fn every_gateway_of_a_network_is_used_and_the_dead_ones_are_not() {
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .workload(split_horizon("net2", None))
        .workload(network_gateway("net2", "172.18.0.2"))
        .workload(network_gateway("net2", "172.18.0.3"))
        .gateway("net2", gateway_at("net2/172.18.0.2"))
        .gateway("net2", gateway_at("net2/172.18.0.3"))
        .gateway("net2", gateway_at("net2/172.18.0.4"));
    let shares = world.shares("10.1.0.1:80");
    assert_eq!(shares.len(), 2, "{shares:?}");
    assert!(shares.values().all(|share| (400..600).contains(share)), "{shares:?}");
}

#[test]
fn another_network_without_gateway_or_names_is_refused() {
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .workload(split_horizon("net2", None));
    let why = world.denied("10.1.0.1:80");
    assert!(
        matches!(
            &why,
            Deny::NoHealthyUpstream {
                reason: NoUpstream::NoGateway { .. },
                ..
            }
        ),
        "{why}"
    );
    let world = World::new()
        .service(echo_service())
        .workload(split_horizon("net2", Some(gateway_at("net2/172.18.0.2"))))
        .workload(network_gateway("net2", "172.18.0.2"));
    let why = world.denied("10.1.0.1:80");
    assert!(
        matches!(
            &why,
            Deny::NoHealthyUpstream {
                reason: NoUpstream::NoNames { .. },
                ..
            }
        ),
        "{why}"
    );
}

#[test]
fn an_endpoint_elsewhere_with_an_address_is_still_behind_the_gateway() {
    let there = Draft {
        network: "net2".into(),
        ..echo("there", &["10.0.0.9"])
    };
    for protocol in [Protocol::Tcp, Protocol::Hbone] {
        let there = Draft {
            protocol,
            ..there.clone()
        };
        let world = World::new()
            .service(with_names(echo_service(), &["demo/echo"]))
            .workload(there)
            .workload(network_gateway("net2", "172.18.0.2"))
            .gateway("net2", gateway_at("net2/172.18.0.2"));
        assert!(brief(&world.to("10.1.0.1:80")).starts_with("double 172.18.0.2:15008"));
    }
}

#[test]
fn a_gateway_named_by_a_workload_of_the_own_network_is_ignored() {
    let world = World::new().service(echo_service()).workload(Draft {
        network_gateway: Some(gateway_at("net1/172.18.0.1")),
        ..echo("echo", &["10.0.0.2"])
    });
    assert!(brief(&world.to("10.1.0.1:80")).starts_with("hbone 10.0.0.2:15008"));
    assert!(brief(&world.to("10.0.0.2:80")).starts_with("hbone 10.0.0.2:15008"));
    // And it does not make an endpoint without an address usable.
    let world = World::new().service(echo_service()).workload(Draft {
        network_gateway: Some(gateway_at("net1/172.18.0.1")),
        ..echo("echo", &[])
    });
    assert!(matches!(world.denied("10.1.0.1:80"), Deny::NoHealthyUpstream { .. }));
}

#[test]
fn local_and_remote_share_by_capacity_alone() {
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .workload(echo("here", &["10.0.0.2"]))
        .workload(Draft {
            capacity: 3,
            ..split_horizon("net2", Some(gateway_at("net2/172.18.0.2")))
        })
        .workload(network_gateway("net2", "172.18.0.2"));
    let shares = world.shares("10.1.0.1:80");
    let local: u32 = shares
        .iter()
        .filter(|(to, _)| to.starts_with("hbone"))
        .map(|(_, count)| count)
        .sum();
    assert!((200..300).contains(&local), "{shares:?}");
}

#[test]
fn a_waypoint_elsewhere_is_reached_for_the_service_with_its_own_names() {
    let world = World::new()
        .service(behind_waypoint())
        .service(with_names(waypoint_service(), &["demo/waypoint"]))
        .workload(waypoint_pod("net2"))
        .workload(echo("echo", &["10.0.0.2"]))
        .workload(network_gateway("net2", "172.18.0.2"))
        .gateway("net2", gateway_at("net2/172.18.0.2"));
    let double = "double 172.18.0.2:15008 by istio-system/sa/gateway for echo.demo:80 by demo/sa/waypoint";
    assert_eq!(brief(&world.to("10.1.0.1:80")), double);
}

// === a property ===

/// Whatever the mesh, nobody is sent in clear to an address that belongs to a workload of another network.
#[test]
fn no_clear_traffic_to_another_network() {
    let networks = ["net1", "net2", "net3"];
    let mut plain = 0_u32;
    for seed in 0..4_000 {
        let mut draw = Draw::new(seed);
        let mut flip = |chances: u64| draw.below(chances) == 0;
        let mut builder = Builder::new();
        let mut workloads = Vec::new();
        for index in 0..6_u8 {
            let network = networks[usize::from(flip(2)) + usize::from(flip(3))];
            let address = format!("10.0.0.{}", index % 3 + if flip(2) { 3 } else { 0 });
            let workload = Draft {
                network: network.into(),
                protocol: if flip(2) { Protocol::Hbone } else { Protocol::Tcp },
                waypoint: flip(5).then(|| gateway_at(&format!("{network}/10.0.0.1"))),
                network_gateway: flip(2).then(|| gateway_at("net2/172.18.0.2")),
                services: if flip(2) { vec![on(ECHO, &[])] } else { vec![] },
                ..echo(&format!("w{index}"), &[&address])
            };
            builder.add_workload(workload.clone());
            workloads.push(workload);
        }
        builder.add_workload(network_gateway("net2", "172.18.0.2"));
        let range = if flip(2) { "net1/10.0.0.0/24" } else { "net1/10.1.0.1" };
        let mut echo = service("demo", "echo.demo", &[range], &[(80, 8080)]);
        if flip(2) {
            echo = with_names(echo, &["demo/echo"]);
        }
        if flip(3) {
            echo.load_balancing.mode = Mode::Passthrough;
        }
        if flip(4) {
            echo.waypoint = Some(gateway_at("net2/10.0.0.2"));
        }
        builder.add_service(echo);
        let snapshot = builder.build();
        let listed = |network: &str, ip| {
            workloads
                .iter()
                .any(|workload| &*workload.network == network && workload.addresses.contains(&ip))
        };
        for source in &workloads {
            for to in [
                "10.0.0.0:80",
                "10.0.0.1:80",
                "10.0.0.2:80",
                "10.0.0.3:80",
                "10.0.0.5:80",
                "10.1.0.1:80",
            ] {
                let flow = Flow {
                    source: &source.clone().into(),
                    destination: socket(to),
                    entropy: seed,
                    experience: Experience::default(),
                };
                if let Route::Plain { to, .. } = decide(&snapshot, &flow) {
                    plain += 1;
                    let elsewhere = networks
                        .iter()
                        .any(|other| **other != *source.network && listed(other, to.ip()));
                    assert!(
                        !elsewhere || listed(&source.network, to.ip()),
                        "seed {seed}: {flow:?} went plain to {to}"
                    );
                }
            }
        }
    }
    assert!(plain > 1_000, "the property was hardly tried: {plain}");
}

// === experience ===

impl World {
    fn after(&self, destination: &str, experience: Experience<'_>, entropy: u64) -> Route {
        let flow = Flow {
            source: &self.source.clone().into(),
            destination: socket(destination),
            entropy,
            experience,
        };
        decide(&self.builder.build(), &flow)
    }

    /// Everywhere a hundred connections with this experience go.
    fn targets_after(&self, destination: &str, experience: Experience<'_>) -> BTreeSet<String> {
        (0..100)
            .map(|entropy| brief(&self.after(destination, experience, entropy)))
            .collect()
    }
}

/// Peers that are passed over.
#[derive(Debug)]
struct These(Vec<std::net::SocketAddr>);

impl Shunned for These {
    fn contains(&self, peer: std::net::SocketAddr) -> bool {
        self.0.contains(&peer)
    }
}

fn these(peers: &[&str]) -> These {
    These(peers.iter().map(|peer| socket(peer)).collect())
}

fn failed(at: &str, again: bool, tunnelled: bool) -> Failed {
    Failed {
        at: socket(at),
        again,
        tunnelled,
    }
}

fn set(targets: &[&str]) -> BTreeSet<String> {
    targets.iter().map(|target| (*target).to_owned()).collect()
}

const VIP: &str = "10.1.0.1:80";
const A: &str = "hbone 10.0.0.2:15008 for 10.0.0.2:8080 by demo/sa/a";
const B: &str = "hbone 10.0.0.3:15008 for 10.0.0.3:8080 by demo/sa/b";

fn two_tunnels() -> World {
    World::new()
        .service(echo_service())
        .workload(echo("a", &["10.0.0.2"]))
        .workload(echo("b", &["10.0.0.3"]))
}

#[test]
fn what_this_connection_tried_in_vain_is_not_tried_again() {
    let world = two_tunnels();
    let first = [failed("10.0.0.2:15008", false, true)];
    let after = |failed| Experience {
        failed,
        ..Experience::default()
    };
    assert_eq!(world.targets_after(VIP, after(&first)), set(&[B]));
    let both = [first[0], failed("10.0.0.3:15008", false, true)];
    let Route::Deny(Deny::NoHealthyUpstream { reason, .. }) = world.after(VIP, after(&both), 1) else {
        panic!()
    };
    assert_eq!(reason, NoUpstream::Tried);
}

#[test]
fn whoever_failed_others_is_used_only_where_there_is_nobody_else() {
    let world = two_tunnels();
    // By its end of the tunnel, or by its application.
    for peer in ["10.0.0.2:15008", "10.0.0.2:8080"] {
        let shunned = these(&[peer]);
        let experience = Experience {
            shunned: Some(&shunned),
            ..Experience::default()
        };
        assert_eq!(world.targets_after(VIP, experience), set(&[B]));
    }
    let all = these(&["10.0.0.2:15008", "10.0.0.3:8080"]);
    let experience = Experience {
        shunned: Some(&all),
        ..Experience::default()
    };
    assert_eq!(world.targets_after(VIP, experience), set(&[A, B]));
}

#[test]
fn a_tunnel_is_never_given_up_for_clear_text() {
    let plain = Draft {
        protocol: Protocol::Tcp,
        ..echo("plain", &["10.0.0.9"])
    };
    let world = World::new()
        .service(echo_service())
        .workload(echo("a", &["10.0.0.2"]))
        .workload(plain);
    let after = [failed("10.0.0.2:15008", false, true)];
    let experience = Experience {
        failed: &after,
        ..Experience::default()
    };
    let targets = world.targets_after(VIP, experience);
    assert!(targets.iter().all(|target| target.starts_with("deny")), "{targets:?}");
    // Clear text gets no more than its share when the tunnel is passed over.
    let shunned = these(&["10.0.0.2:15008"]);
    let experience = Experience {
        shunned: Some(&shunned),
        ..Experience::default()
    };
    let shares = (0..1000).filter(|entropy| brief(&world.after(VIP, experience, *entropy)) == A);
    assert!((400..600).contains(&shares.count()));
    // The other way round it may.
    let after = [failed("10.0.0.9:8080", false, false)];
    let experience = Experience {
        failed: &after,
        ..Experience::default()
    };
    assert_eq!(world.targets_after(VIP, experience), set(&[A]));
}

#[test]
fn failover_spills_over_to_the_next_best_and_strict_does_not() {
    let service = |mode| balanced(mode, &[Scope::Network, Scope::Zone]);
    let world = |mode| {
        in_zones(service(mode))
            .workload(placed("near", "10.0.0.2", "net1", "z1", "n1"))
            .workload(placed("far", "10.0.0.3", "net1", "z2", "n2"))
            .workload(split_horizon("net2", Some(gateway_at("net2/172.18.0.2"))))
            .workload(network_gateway("net2", "172.18.0.2"))
    };
    let first = |targets: BTreeSet<String>| {
        let word = |target: &String| target.split(' ').take(2).collect::<Vec<_>>().join(" ");
        targets.iter().map(word).collect::<Vec<_>>()
    };
    let shunned = |peers: &[&str], mode| {
        let shunned = these(peers);
        let experience = Experience {
            shunned: Some(&shunned),
            ..Experience::default()
        };
        first(world(mode).targets_after(VIP, experience))
    };
    assert_eq!(shunned(&[], Mode::Failover), ["plain 10.0.0.2:8080"]);
    assert_eq!(shunned(&["10.0.0.2:8080"], Mode::Failover), ["plain 10.0.0.3:8080"]);
    let local = ["10.0.0.2:8080", "10.0.0.3:8080"];
    assert_eq!(shunned(&local, Mode::Failover), ["double 172.18.0.2:15008"]);
    let all = [local[0], local[1], "172.18.0.2:15008"];
    assert_eq!(
        shunned(&all, Mode::Failover),
        ["plain 10.0.0.2:8080"],
        "istiod's order rules again"
    );
    assert_eq!(shunned(&["10.0.0.2:8080"], Mode::Strict), ["plain 10.0.0.2:8080"]);
}

#[test]
fn all_announced_gateways_share_by_capacity_and_those_in_trouble_are_skipped() {
    let heavy = Draft {
        capacity: 3,
        ..network_gateway("net2", "172.18.0.3")
    };
    let world = World::new()
        .service(with_names(echo_service(), &["demo/echo"]))
        .workload(split_horizon("net2", Some(gateway_at("net2/172.18.0.2"))))
        .workload(network_gateway("net2", "172.18.0.2"))
        .workload(network_gateway("net3", "172.18.0.9"))
        .workload(heavy);
    let rest = "by istio-system/sa/gateway for echo.demo:80 by demo/sa/echo";
    let (one, other) = (
        format!("double 172.18.0.2:15008 {rest}"),
        format!("double 172.18.0.3:15008 {rest}"),
    );
    let shares = world.shares(VIP);
    assert_eq!(shares.len(), 2, "{shares:?}");
    assert!((200..300).contains(&shares[&one]), "{shares:?}");
    let shunned = these(&["172.18.0.3:15008"]);
    let experience = Experience {
        shunned: Some(&shunned),
        ..Experience::default()
    };
    assert_eq!(world.targets_after(VIP, experience), set(&[&one]));
    // What failed behind a gateway may go well behind it the next time, but the other one comes first.
    let behind = [failed("172.18.0.2:15008", true, true)];
    let experience = Experience {
        failed: &behind,
        ..Experience::default()
    };
    assert_eq!(world.targets_after(VIP, experience), set(&[&other]));
    let both = [behind[0], failed("172.18.0.3:15008", false, true)];
    let experience = Experience {
        failed: &both,
        ..Experience::default()
    };
    assert_eq!(world.targets_after(VIP, experience), set(&[&one]));
}

#[test]
fn a_gateway_without_hbone_is_not_used() {
    let portless = GatewayAddress {
        hbone_port: 0,
        ..gateway_at("net2/172.18.0.9")
    };
    let world = |workload: Draft| {
        World::new()
            .service(with_names(echo_service(), &["demo/echo"]))
            .workload(split_horizon("net2", Some(portless.clone())))
            .workload(workload)
    };
    let none = world(echo("unrelated", &["10.0.0.77"]));
    let shares = none.targets(VIP);
    assert!(
        shares.iter().any(|target| target.starts_with("hbone 10.0.0.77")),
        "{shares:?}"
    );
    assert!(shares.iter().all(|target| !target.contains("172.18.0.9")), "{shares:?}");
    let other = world(network_gateway("net2", "172.18.0.2"));
    assert!(
        other
            .targets(VIP)
            .iter()
            .all(|target| target.starts_with("double 172.18.0.2:15008"))
    );
}

#[test]
fn a_name_is_answered_in_the_family_asked_for_and_its_addresses_share() {
    let external = Draft {
        protocol: Protocol::Tcp,
        hostname: "example.com".into(),
        ..echo("external", &[])
    };
    let world = World::new().service(echo_service()).workload(external);
    let names = [Resolved {
        hostname: "example.com".into(),
        addresses: [ip("203.0.113.1"), ip("203.0.113.2"), ip("2001:db8::1")].into(),
    }];
    let knowing = Experience {
        names: &names,
        ..Experience::default()
    };
    let v4 = set(&["plain 203.0.113.1:8080", "plain 203.0.113.2:8080"]);
    assert_eq!(world.targets_after(VIP, knowing), v4);
    assert_eq!(
        world.targets_after("[fd01::1]:80", knowing),
        set(&["plain [2001:db8::1]:8080"])
    );
    let tried = [
        failed("203.0.113.1:8080", false, false),
        failed("203.0.113.2:8080", false, false),
    ];
    let last = Experience {
        failed: &tried,
        ..knowing
    };
    assert_eq!(world.targets_after(VIP, last), set(&["plain [2001:db8::1]:8080"]));
    let nothing = [Resolved {
        hostname: "example.com".into(),
        addresses: [].into(),
    }];
    let unknown = Experience {
        names: &nothing,
        ..Experience::default()
    };
    assert!(matches!(
        world.after(VIP, unknown, 1),
        Route::Deny(Deny::NoHealthyUpstream { .. })
    ));
}

#[test]
fn a_name_that_leads_into_the_mesh_is_not_gone_to_in_clear() {
    let external = Draft {
        protocol: Protocol::Tcp,
        hostname: "example.com".into(),
        ..echo("external", &[])
    };
    let inside = Draft {
        services: vec![],
        ..echo("inside", &["10.0.0.5"])
    };
    let there = Draft {
        network: "net2".into(),
        ..echo("there", &["10.0.0.9"])
    };
    let world = World::new()
        .service(echo_service())
        .workload(external)
        .workload(inside)
        .workload(there);
    let to = |address: &str| {
        let names = [Resolved {
            hostname: "example.com".into(),
            addresses: [ip(address)].into(),
        }];
        let knowing = Experience {
            names: &names,
            ..Experience::default()
        };
        (0..50)
            .map(|entropy| brief(&world.after(VIP, knowing, entropy)))
            .find(|target| !target.contains("in network"))
            .unwrap_or_default()
    };
    assert_eq!(
        to("10.0.0.5"),
        "hbone 10.0.0.5:15008 for 10.0.0.5:8080 by demo/sa/inside"
    );
    assert!(!to("10.0.0.9").starts_with("plain"), "{}", to("10.0.0.9"));
    assert!(!to("10.1.0.1").starts_with("plain"), "{}", to("10.1.0.1"));
}

#[test]
fn shares_are_kept_in_a_large_service_however_they_are_drawn() {
    let mut service = echo_service();
    service.load_balancing.mode = Mode::Failover;
    service.load_balancing.preferences = vec![Scope::Zone];
    for mode in [Mode::Standard, Mode::Failover] {
        service.load_balancing.mode = mode;
        let mut world = World::new().service(service.clone());
        for n in 0..60_u8 {
            world = world.workload(Draft {
                capacity: u32::from(n % 3),
                protocol: Protocol::Tcp,
                status: if n % 5 == 4 { Health::Unhealthy } else { Health::Healthy },
                ..echo(&format!("e{n}"), &[&format!("10.0.1.{n}")])
            });
        }
        let snapshot = world.builder.build();
        let source = world.source.clone().into();
        let mut counts = [0_u32; 60];
        for entropy in 0..64_000 {
            let flow = Flow {
                source: &source,
                destination: socket(VIP),
                entropy,
                experience: Experience::default(),
            };
            let Route::Plain { to, .. } = decide(&snapshot, &flow) else {
                panic!()
            };
            let std::net::IpAddr::V4(ip) = to.ip() else { panic!() };
            counts[usize::from(ip.octets()[3])] += 1;
        }
        // 48 healthy ones with 48 shares: 16 each of 0, 1 and 2.
        for (n, count) in counts.into_iter().enumerate() {
            let share = if n % 5 == 4 { 0 } else { 64_000 * (n as u32 % 3) / 48 };
            let off = count.abs_diff(share);
            assert!(
                off < 6 * (f64::from(share).sqrt() as u32) + 1,
                "{mode:?} e{n}: {count}, not {share}"
            );
        }
    }
}
