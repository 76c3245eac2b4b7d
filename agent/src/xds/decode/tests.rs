use std::collections::BTreeMap;

use prost::Message as _;

use super::*;
use crate::mesh::policy::{Action, Rule, Scope, StringMatch};
use crate::mesh::service::{HealthPolicy, LoadBalancing, Mode, Scope as Preference, Visibility};
use crate::mesh::workload::{Health, NetworkMode, Protocol, TunnelProtocol};

/// A message with one field changed.
type Change<M> = (&'static str, fn(&mut M));

fn pod() -> proto::Workload {
    proto::Workload {
        uid: "Kubernetes//Pod/demo/echo".into(),
        name: "echo".into(),
        namespace: "demo".into(),
        ..proto::Workload::default()
    }
}

fn echo() -> proto::Service {
    proto::Service {
        name: "echo".into(),
        namespace: "demo".into(),
        hostname: "echo.demo".into(),
        ..proto::Service::default()
    }
}

fn deny() -> security::Authorization {
    security::Authorization {
        name: "deny".into(),
        namespace: "demo".into(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Deny.into(),
        ..security::Authorization::default()
    }
}

fn one_match(conditions: security::Match) -> Vec<security::Rule> {
    let clause = security::Clause {
        matches: vec![conditions],
    };
    let clauses = vec![security::Clause::default(), clause];
    vec![security::Rule { clauses }]
}

fn gateway_at(address: &[u8], port: u32) -> proto::GatewayAddress {
    let address = proto::NetworkAddress {
        network: "net2".into(),
        address: address.to_vec(),
        length: None,
    };
    proto::GatewayAddress {
        destination: Some(proto::gateway_address::Destination::Address(address)),
        hbone_mtls_port: port,
    }
}

fn encoded(r#type: proto::address::Type) -> Vec<u8> {
    proto::Address { r#type: Some(r#type) }.encode_to_vec()
}

fn draft_of(message: proto::Workload) -> Result<Draft, String> {
    match address(&encoded(proto::address::Type::Workload(message))) {
        Ok(Entry::Workload(draft)) => Ok(*draft),
        Ok(Entry::Service(_)) => panic!("a workload came out as a service"),
        Err(mistake) => Err(mistake.to_string()),
    }
}

fn service_of(message: proto::Service) -> Result<Service, String> {
    match address(&encoded(proto::address::Type::Service(message))) {
        Ok(Entry::Service(service)) => Ok(*service),
        Ok(Entry::Workload(_)) => panic!("a service came out as a workload"),
        Err(mistake) => Err(mistake.to_string()),
    }
}

fn policy_of(message: &security::Authorization) -> Result<Policy, String> {
    authorization(&message.encode_to_vec()).map_err(|mistake| mistake.to_string())
}

#[test]
fn what_a_workload_does_not_say_has_its_default() {
    let draft = draft_of(pod()).unwrap();
    let texts = [
        &draft.trust_domain,
        &draft.service_account,
        &draft.cluster_id,
        &draft.network,
    ];
    assert_eq!(
        texts.map(|text| &**text),
        ["cluster.local", "default", "Kubernetes", ""]
    );
    assert_eq!(
        (draft.capacity, draft.protocol, draft.status),
        (1, Protocol::Tcp, Health::Healthy)
    );
    assert_eq!(
        (&*draft.workload_type, draft.network_mode),
        ("deployment", NetworkMode::Standard)
    );
    assert!(draft.application_tunnel.is_none() && draft.addresses.is_empty() && draft.services.is_empty());
}

#[test]
fn a_workload_is_read_field_by_field() {
    let ports = vec![
        proto::Port {
            service_port: 80,
            target_port: 8080,
            app_protocol: 1,
        },
        proto::Port {
            service_port: 443,
            ..proto::Port::default()
        },
    ];
    let draft = draft_of(proto::Workload {
        addresses: vec![
            vec![10, 0, 0, 1],
            "::ffff:10.0.0.2"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
                .to_vec(),
        ],
        tunnel_protocol: proto::TunnelProtocol::Hbone.into(),
        trust_domain: "td".into(),
        service_account: "sa".into(),
        cluster_id: "c2".into(),
        workload_type: proto::WorkloadType::Job.into(),
        status: proto::WorkloadStatus::Unhealthy.into(),
        network_mode: proto::NetworkMode::HostNetwork.into(),
        node: "n1".into(),
        locality: Some(proto::Locality {
            region: "eu".into(),
            zone: "eu-1".into(),
            subzone: "rack".into(),
        }),
        capacity: Some(0),
        application_tunnel: Some(proto::ApplicationTunnel {
            protocol: proto::application_tunnel::Protocol::Proxy.into(),
            port: 15088,
        }),
        network_gateway: Some(gateway_at(&[10, 9, 0, 1], 0)),
        services: BTreeMap::from([
            ("demo/b".to_owned(), proto::PortList { ports }),
            ("demo/a".to_owned(), proto::PortList::default()),
        ]),
        authorization_policies: vec!["demo/strict".into()],
        ..pod()
    })
    .unwrap();
    let addresses: Vec<_> = draft.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        (draft.protocol, draft.status, draft.capacity),
        (Protocol::Hbone, Health::Unhealthy, 0)
    );
    let texts = [
        &draft.trust_domain,
        &draft.service_account,
        &draft.cluster_id,
        &draft.workload_type,
    ];
    assert_eq!(texts.map(|text| &**text), ["td", "sa", "c2", "job"]);
    let place = &draft.locality;
    let place = [&place.region, &place.zone, &place.subzone, &place.node];
    assert_eq!(place.map(|text| &**text), ["eu", "eu-1", "rack", "n1"]);
    let tunnel = draft.application_tunnel.unwrap();
    assert_eq!((tunnel.protocol, tunnel.port), (TunnelProtocol::Proxy, Some(15088)));
    assert_eq!(draft.network_gateway.unwrap().to_string(), "net2/10.9.0.1 port 15008");
    let services: Vec<_> = draft
        .services
        .iter()
        .map(|membership| membership.service.to_string())
        .collect();
    assert_eq!(services, ["demo/a", "demo/b"], "in an order of their own");
    let ports: Vec<_> = draft.services[1].ports.iter().collect();
    assert_eq!(ports, [(80, 8080), (443, 0)]);
    assert_eq!(draft.authorization_policies, ["demo/strict".into()]);
}

#[test]
fn a_workload_that_is_wrong_is_refused_with_the_name_of_the_field() {
    let many = |port: u32| {
        let port = proto::Port {
            service_port: 80,
            target_port: port,
            app_protocol: 0,
        };
        proto::PortList {
            ports: vec![proto::Port::default(), port],
        }
    };
    assert!(
        draft_of(proto::Workload {
            services: BTreeMap::from([("demo/echo".into(), many(65535))]),
            ..pod()
        })
        .is_ok()
    );
    let wrong: [Change<proto::Workload>; 14] = [
        ("uid: missing", |w| w.uid.clear()),
        ("addresses[1]: 5 bytes, must be 4 or 16", |w| {
            w.addresses = vec![vec![1; 4], vec![1; 5]];
        }),
        ("tunnel_protocol: LEGACY_ISTIO_MTLS is spoken by sidecars alone", |w| {
            w.tunnel_protocol = 2;
        }),
        ("tunnel_protocol: 3 is not a value this agent knows", |w| {
            w.tunnel_protocol = 3;
        }),
        ("workload_type: 9 is not a value this agent knows", |w| {
            w.workload_type = 9;
        }),
        ("status: -1 is not a value this agent knows", |w| w.status = -1),
        ("network_mode: 2 is not a value this agent knows", |w| {
            w.network_mode = 2;
        }),
        ("application_tunnel.port: 65536 is no port: at most 65535", |w| {
            w.application_tunnel = Some(proto::ApplicationTunnel {
                protocol: 0,
                port: 65536,
            });
        }),
        ("application_tunnel.protocol: 2 is not a value this agent knows", |w| {
            w.application_tunnel = Some(proto::ApplicationTunnel { protocol: 2, port: 1 });
        }),
        ("waypoint.destination: missing: an address or a hostname", |w| {
            w.waypoint = Some(proto::GatewayAddress::default());
        }),
        ("network_gateway.address.address: 0 bytes, must be 4 or 16", |w| {
            w.network_gateway = Some(gateway_at(&[], 15008));
        }),
        (
            "network_gateway.hbone_mtls_port: 80544 is no port: at most 65535",
            |w| {
                w.network_gateway = Some(gateway_at(&[10, 0, 0, 1], 80544));
            },
        ),
        ("services[\"echo\"]: not of the form NAMESPACE/HOSTNAME", |w| {
            w.services = BTreeMap::from([("echo".to_owned(), proto::PortList::default())]);
        }),
        (
            "services[\"demo/echo\"].ports[0].service_port: 70000 is no port: at most 65535",
            |w| {
                let port = proto::Port {
                    service_port: 70000,
                    ..proto::Port::default()
                };
                w.services = BTreeMap::from([("demo/echo".to_owned(), proto::PortList { ports: vec![port] })]);
            },
        ),
    ];
    for (wanted, change) in wrong {
        let mut message = pod();
        change(&mut message);
        assert_eq!(draft_of(message).unwrap_err(), wanted);
    }
    let message = proto::Workload {
        services: BTreeMap::from([("demo/echo".into(), many(65616))]),
        ..pod()
    };
    let wanted = "services[\"demo/echo\"].ports[1].target_port: 65616 is no port: at most 65535";
    assert_eq!(draft_of(message).unwrap_err(), wanted, "it would be 80 if it were cut");
}

#[test]
fn a_service_is_read_field_by_field() {
    let vip = |address: &[u8], length| proto::NetworkAddress {
        network: "net1".into(),
        address: address.to_vec(),
        length,
    };
    let mapped = "::ffff:10.1.0.0".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let service = service_of(proto::Service {
        addresses: vec![
            vip(&[10, 0, 0, 1], None),
            vip(&[240, 1, 0, 0], Some(16)),
            vip(&mapped, Some(112)),
            vip(&[1; 16], None),
        ],
        subject_alt_names: vec!["spiffe://td/ns/a/sa/b".into(), "example.com".into()],
        ip_families: proto::IpFamilies::Dual.into(),
        canonical: true,
        visibility: proto::Visibility::Namespace.into(),
        load_balancing: Some(proto::LoadBalancing {
            routing_preference: vec![6, 1, 2],
            mode: 2,
            health_policy: 1,
        }),
        weighted_waypoints: vec![proto::WeightedWaypoint {
            destination: Some(gateway_at(&[10, 2, 0, 1], 15009)),
            weight: 7,
        }],
        ..echo()
    })
    .unwrap();
    let vips: Vec<_> = service.vips.iter().map(|vip| vip.range.to_string()).collect();
    assert_eq!(
        vips,
        [
            "10.0.0.1/32",
            "240.1.0.0/16",
            "10.1.0.0/16",
            "101:101:101:101:101:101:101:101/128"
        ]
    );
    let names: Vec<_> = service.subject_alt_names.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["spiffe://td/ns/a/sa/b"],
        "what no peer can be named is left out"
    );
    assert_eq!(
        service.load_balancing,
        LoadBalancing {
            mode: Mode::Failover,
            preferences: vec![Preference::Network, Preference::Region, Preference::Zone],
            health: HealthPolicy::AllowAll,
        }
    );
    assert_eq!(
        (service.ip_families, service.visibility),
        (IpFamilies::Dual, Visibility::Namespace)
    );
    assert_eq!(
        service.weighted_waypoints[0].waypoint.to_string(),
        "net2/10.2.0.1 port 15009"
    );
    let plain = service_of(echo()).unwrap();
    assert_eq!(
        (plain.load_balancing, plain.canonical),
        (LoadBalancing::default(), false)
    );
}

#[test]
fn a_service_that_is_wrong_is_refused_with_the_name_of_the_field() {
    let wrong: [Change<proto::Service>; 11] = [
        ("hostname: \"a/b\" has a slash", |s| s.hostname = "a/b".to_owned()),
        ("namespace: \"/\" has a slash", |s| s.namespace = "/".to_owned()),
        ("hostname: missing", |s| s.hostname.clear()),
        ("addresses[0].address: 3 bytes, must be 4 or 16", |s| {
            s.addresses = vec![proto::NetworkAddress {
                address: vec![1; 3],
                ..Default::default()
            }];
        }),
        ("addresses[0].length: 33 is no length of a prefix of 1.1.1.1", |s| {
            let address = vec![1; 4];
            s.addresses = vec![proto::NetworkAddress {
                address,
                length: Some(33),
                ..Default::default()
            }];
        }),
        ("ports[0].target_port: 65536 is no port: at most 65535", |s| {
            s.ports = vec![proto::Port {
                target_port: 65536,
                ..Default::default()
            }];
        }),
        ("ip_families: 4 is not a value this agent knows", |s| s.ip_families = 4),
        (
            "load_balancing.routing_preference[1]: UNSPECIFIED_SCOPE says nothing",
            |s| {
                s.load_balancing = Some(proto::LoadBalancing {
                    routing_preference: vec![1, 0],
                    ..Default::default()
                });
            },
        ),
        ("load_balancing.mode: 4 is not a value this agent knows", |s| {
            s.load_balancing = Some(proto::LoadBalancing {
                mode: 4,
                ..Default::default()
            });
        }),
        ("load_balancing.health_policy: 2 is not a value this agent knows", |s| {
            s.load_balancing = Some(proto::LoadBalancing {
                health_policy: 2,
                ..Default::default()
            });
        }),
        ("weighted_waypoints[0].destination: missing", |s| {
            s.weighted_waypoints = vec![proto::WeightedWaypoint::default()];
        }),
    ];
    for (wanted, change) in wrong {
        let mut message = echo();
        change(&mut message);
        assert_eq!(service_of(message).unwrap_err(), wanted);
    }
    let visible = service_of(proto::Service {
        visibility: 7,
        ..echo()
    })
    .unwrap()
    .visibility;
    assert_eq!(
        visible,
        Visibility::Public,
        "the one enum of which another value is no mistake"
    );
}

#[test]
fn a_policy_is_read_field_by_field_or_refused_with_the_name_of_the_field() {
    let mut message = deny();
    message.rules = one_match(security::Match {
        principals: vec![security::StringMatch {
            match_type: Some(security::string_match::MatchType::Presence(security::Presence {})),
        }],
        not_source_ips: vec![security::Address {
            address: vec![10, 0, 0, 0],
            length: 8,
        }],
        destination_ports: vec![80],
        ..security::Match::default()
    });
    let policy = policy_of(&message).unwrap();
    assert_eq!(
        (policy.scope, policy.action, &*policy.key()),
        (Scope::Namespace, Action::Deny, "demo/deny")
    );
    let read = &policy.rules[0].clauses[1].matches[0];
    assert_eq!(read.principals, [StringMatch::Presence]);
    assert_eq!(
        (read.not_source_ips[0].to_string().as_str(), read.destination_ports[0]),
        ("10.0.0.0/8", 80)
    );

    let wrong: [Change<security::Authorization>; 7] = [
        ("name: missing", |p| p.name.clear()),
        ("scope: 3 is not a value this agent knows", |p| p.scope = 3),
        ("action: 2 is not a value this agent knows", |p| p.action = 2),
        (
            "rules[0].clauses[1].matches[0].source_ips[0].address: 1 bytes, must be 4 or 16",
            |p| {
                let source_ips = vec![security::Address {
                    address: vec![1],
                    length: 8,
                }];
                p.rules = one_match(security::Match {
                    source_ips,
                    ..Default::default()
                });
            },
        ),
        (
            "rules[0].clauses[1].matches[0].destination_ips[0].length: 33 is no length of a prefix of 1.1.1.1",
            |p| {
                let destination_ips = vec![security::Address {
                    address: vec![1; 4],
                    length: 33,
                }];
                p.rules = one_match(security::Match {
                    destination_ips,
                    ..Default::default()
                });
            },
        ),
        (
            "rules[0].clauses[1].matches[0].not_destination_ports[1]: 65616 is no port: at most 65535",
            |p| {
                let not_destination_ports = vec![80, 65616];
                p.rules = one_match(security::Match {
                    not_destination_ports,
                    ..Default::default()
                });
            },
        ),
        (
            "rules[0].clauses[1].matches[0].namespaces[0].match_type: missing, or of a kind this agent does not know",
            |p| {
                let namespaces = vec![security::StringMatch::default()];
                p.rules = one_match(security::Match {
                    namespaces,
                    ..Default::default()
                });
            },
        ),
    ];
    for (wanted, change) in wrong {
        let mut message = deny();
        change(&mut message);
        assert_eq!(policy_of(&message).unwrap_err(), wanted);
    }
}

#[test]
fn what_stands_in_for_a_policy_lets_in_nobody_whom_it_might_have_kept_out() {
    let allow = security::Authorization {
        action: security::Action::Allow.into(),
        scope: 2,
        ..deny()
    };
    let unknown = security::Authorization {
        action: 9,
        scope: 9,
        ..deny()
    };
    let global = security::Authorization { scope: 0, ..deny() };
    let everybody = || vec![Rule::default()];
    let cases = [
        (
            allow.encode_to_vec(),
            Scope::WorkloadSelector,
            Action::Allow,
            Vec::new(),
        ),
        (deny().encode_to_vec(), Scope::Namespace, Action::Deny, everybody()),
        (global.encode_to_vec(), Scope::Global, Action::Deny, everybody()),
        (unknown.encode_to_vec(), Scope::Namespace, Action::Deny, everybody()),
        (vec![0xff], Scope::Namespace, Action::Deny, everybody()),
    ];
    for (bytes, scope, action, rules) in cases {
        let policy = stand_in("demo/some", &bytes).unwrap();
        assert_eq!((&*policy.key(), policy.dry_run), ("demo/some", false));
        assert_eq!((policy.scope, policy.action, policy.rules), (scope, action, rules));
    }
    let trial = security::Authorization {
        dry_run: true,
        ..deny()
    };
    assert_eq!(
        stand_in("demo/some", &trial.encode_to_vec()),
        None,
        "it is not to be enforced"
    );
    assert_eq!(stand_in("nonsense", &[]), None);
}

#[test]
fn garbage_is_an_error_and_what_is_not_known_is_passed_over() {
    for garbage in [&[0xff, 0xff][..], &[0x0a, 0x05, 1], b"workload"] {
        assert!(address(garbage).unwrap_err().to_string().starts_with("no Address: "));
        assert!(
            authorization(garbage)
                .unwrap_err()
                .to_string()
                .starts_with("no Authorization: ")
        );
    }
    assert_eq!(
        address(&[]).unwrap_err().to_string(),
        "type: neither a workload nor a service"
    );
    // Field 99, a text.
    let unknown = [0x9a, 0x06, 0x03, b'n', b'e', b'w'];
    let mut bytes = pod().encode_to_vec();
    bytes.extend(unknown);
    let mut framed = vec![0x0a, u8::try_from(bytes.len()).unwrap()];
    framed.extend(bytes);
    framed.extend(unknown);
    assert!(matches!(address(&framed).unwrap(), Entry::Workload(draft) if &*draft.name == "echo"));
    let mut bytes = deny().encode_to_vec();
    bytes.extend(unknown);
    assert_eq!(&*authorization(&bytes).unwrap().name, "deny");
}

#[test]
fn equal_lists_of_services_come_in_the_same_order_whatever_the_map_says() {
    let keys: BTreeMap<String, proto::PortList> = (0..50)
        .map(|n| (format!("ns/{n}"), proto::PortList::default()))
        .collect();
    let read = || {
        draft_of(proto::Workload {
            services: keys.clone().into_iter().collect(),
            ..pod()
        })
        .unwrap()
        .services
    };
    assert_eq!(read(), read());
}
