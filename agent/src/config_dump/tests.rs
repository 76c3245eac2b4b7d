//! What a real ztunnel wrote of a mesh of two networks under istiod, and what we write of the same objects; then whatever
//! that mesh has not.

use serde_json::json;

use super::*;
use crate::{
    identity::SpiffeId,
    mesh::{
        Builder, Draft, GatewayAddress, NetworkAddress, Policy, Service, ServiceKey,
        address::GatewayDestination,
        policy::{self, Clause, Match, Rule, ServiceAccountMatch, StringMatch},
        service::{HealthPolicy, IpFamilies, LoadBalancing, Mode, Scope, Vip, Visibility, WeightedWaypoint},
        workload::{ApplicationTunnel, Health, Locality, Membership, NetworkMode, Protocol, TunnelProtocol},
    },
    proxy::{Carried, OpenConnection, Requested},
};

fn dumped(builder: &Builder) -> Value {
    told(&Dump {
        mesh: Arc::new(builder.build()),
        credentials: Vec::new(),
        pods: BTreeMap::new(),
        config: Arc::default(),
        istio_version: String::new(),
    })
}

fn told(dump: &Dump) -> Value {
    let mut bytes = Vec::new();
    dump.write(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn hello() -> Arc<ServiceKey> {
    Arc::new(ServiceKey {
        namespace: "sample".into(),
        hostname: "helloworld.sample.svc.cluster.local".into(),
    })
}

fn by_address(network: &str, ip: [u8; 4]) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: network.into(),
            ip: ip.into(),
        }),
        hbone_port: 15008,
    }
}

fn curl() -> Draft {
    Draft {
        addresses: vec![[10, 241, 0, 11].into()],
        network: "network1".into(),
        protocol: Protocol::Hbone,
        canonical_name: "curl".into(),
        canonical_revision: "latest".into(),
        cluster_id: "cluster1".into(),
        workload_name: "curl".into(),
        workload_type: "pod".into(),
        locality: Locality {
            region: "r1".into(),
            zone: "z1".into(),
            subzone: "".into(),
            node: "n1".into(),
        },
        ..Draft::new("cluster1//Pod/sample/curl", "sample", "curl")
    }
}

#[test]
fn workloads_are_told_as_ztunnel_tells_them() {
    let mut builder = Builder::new();
    builder.add_workload(curl());
    builder.add_workload(Draft {
        addresses: vec![[10, 99, 0, 2].into()],
        network: "network2".into(),
        service_account: "istio-eastwestgateway".into(),
        workload_type: "deployment".into(),
        ..Draft::new(
            "NetworkGateway/network2/10.99.0.2/0",
            "istio-system",
            "NetworkGateway/network2/10.99.0.2/0",
        )
    });
    let wanted = json!([
        {
            "capacity": 1, "clusterId": "Kubernetes", "name": "NetworkGateway/network2/10.99.0.2/0",
            "namespace": "istio-system", "network": "network2", "networkMode": "Standard", "protocol": "TCP",
            "serviceAccount": "istio-eastwestgateway", "status": "Healthy", "trustDomain": "cluster.local",
            "uid": "NetworkGateway/network2/10.99.0.2/0", "workloadIps": ["10.99.0.2"], "workloadType": "deployment"
        },
        {
            "canonicalName": "curl", "canonicalRevision": "latest", "capacity": 1, "clusterId": "cluster1",
            "locality": {"region": "r1", "subzone": "", "zone": "z1"}, "name": "curl", "namespace": "sample",
            "network": "network1", "networkMode": "Standard", "node": "n1", "protocol": "HBONE",
            "serviceAccount": "default", "status": "Healthy", "trustDomain": "cluster.local",
            "uid": "cluster1//Pod/sample/curl", "workloadIps": ["10.241.0.11"], "workloadName": "curl",
            "workloadType": "pod"
        }
    ]);
    assert_eq!(dumped(&builder)["workloads"], wanted);
}

#[test]
fn what_few_workloads_have_is_told_where_they_have_it() {
    let mut builder = Builder::new();
    builder.add_workload(Draft {
        addresses: vec!["2001:db8::1".parse().unwrap()],
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Hostname((*hello()).clone()),
            hbone_port: 15009,
        }),
        network_gateway: Some(by_address("network2", [10, 99, 0, 2])),
        native_tunnel: true,
        application_tunnel: Some(ApplicationTunnel {
            protocol: TunnelProtocol::Proxy,
            port: Some(15088),
        }),
        authorization_policies: vec!["sample/one".into()],
        status: Health::Unhealthy,
        hostname: "db.example".into(),
        network_mode: NetworkMode::HostNetwork,
        capacity: 0,
        services: vec![Membership {
            service: hello(),
            ports: std::iter::empty().collect(),
        }],
        ..curl()
    });
    let told = &dumped(&builder)["workloads"][0];
    let gateway = |destination: &str, port: u16| json!({"destination": destination, "hboneMtlsPort": port});
    for (key, wanted) in [
        ("workloadIps", json!(["2001:db8::1"])),
        ("waypoint", gateway("sample/helloworld.sample.svc.cluster.local", 15009)),
        ("networkGateway", gateway("network2/10.99.0.2", 15008)),
        ("nativeTunnel", json!(true)),
        ("applicationTunnel", json!({"protocol": "PROXY", "port": 15088})),
        ("authorizationPolicies", json!(["sample/one"])),
        ("status", json!("Unhealthy")),
        ("hostname", json!("db.example")),
        ("networkMode", json!("HostNetwork")),
        ("capacity", json!(0)),
        ("services", json!(["sample/helloworld.sample.svc.cluster.local"])),
    ] {
        assert_eq!(told[key], wanted, "{key}");
    }
}

#[test]
fn services_are_told_as_ztunnel_tells_them_with_all_who_serve_them() {
    let mut builder = Builder::new();
    let ports = || [(5000, 5000)].into_iter().collect();
    let beyond = "network2/SplitHorizonWorkload/istio-system/istio-eastwestgateway/10.99.0.2/sample/helloworld";
    for (uid, status) in [
        ("cluster1//Pod/sample/helloworld-v1", Health::Healthy),
        (beyond, Health::Unhealthy),
    ] {
        builder.add_workload(Draft {
            services: vec![Membership {
                service: hello(),
                ports: ports(),
            }],
            status,
            ..Draft::new(uid, "sample", "helloworld")
        });
    }
    let staged = dumped(&builder);
    assert_eq!(staged["services"], json!([]));
    let waiting = &staged["stagedServices"]["sample/helloworld.sample.svc.cluster.local"];
    assert_eq!(waiting.as_object().map(Map::len), Some(2));
    let vip = |network: &str, range: &str| Vip {
        network: network.into(),
        range: range.parse().unwrap(),
    };
    let service = Service {
        key: (*hello()).clone(),
        vips: vec![vip("network1", "10.96.6.188/32"), vip("network2", "10.96.74.88/32")],
        ports: ports(),
        subject_alt_names: Arc::from([SpiffeId::new("cluster.local", "sample", "helloworld").unwrap()]),
        ip_families: IpFamilies::V4,
        canonical: true,
        ..Service::new("sample", "helloworld", "helloworld.sample.svc.cluster.local")
    };
    builder.add_service(service);
    let dump = dumped(&builder);
    assert_eq!(dump["stagedServices"], json!({}));
    let endpoint = |uid: &str, status: &str| json!({"port": {"5000": 5000}, "status": status, "workloadUid": uid});
    let wanted = json!([{
        "canonical": true,
        "endpoints": {
            "cluster1//Pod/sample/helloworld-v1": endpoint("cluster1//Pod/sample/helloworld-v1", "Healthy"),
            beyond: endpoint(beyond, "Unhealthy"),
        },
        "hostname": "helloworld.sample.svc.cluster.local", "ipFamilies": "IPv4", "name": "helloworld",
        "namespace": "sample", "ports": {"5000": 5000},
        "subjectAltNames": ["spiffe://cluster.local/ns/sample/sa/helloworld"],
        "vips": ["network1/10.96.6.188", "network2/10.96.74.88"], "visibility": "Public"
    }]);
    assert_eq!(dump["services"], wanted);
}

#[test]
fn what_few_services_have_is_told_where_they_have_it() {
    let mut builder = Builder::new();
    builder.add_service(Service {
        vips: vec![Vip {
            network: "network1".into(),
            range: "10.0.0.0/8".parse().unwrap(),
        }],
        waypoint: Some(by_address("network1", [10, 0, 0, 9])),
        weighted_waypoints: vec![WeightedWaypoint {
            waypoint: by_address("network1", [10, 0, 0, 8]),
            weight: 3,
        }],
        load_balancing: LoadBalancing {
            mode: Mode::Failover,
            preferences: vec![Scope::Network, Scope::Region],
            health: HealthPolicy::AllowAll,
        },
        ip_families: IpFamilies::Dual,
        visibility: Visibility::Namespace,
        ..Service::new("demo", "web", "web.example")
    });
    let told = &dumped(&builder)["services"][0];
    let gateway = |destination: &str| json!({"destination": destination, "hboneMtlsPort": 15008});
    for (key, wanted) in [
        ("vips", json!([])),
        ("cidrVips", json!([{"network": "network1", "cidr": "10.0.0.0/8"}])),
        ("waypoint", gateway("network1/10.0.0.9")),
        (
            "weightedWaypoints",
            json!([{"destination": gateway("network1/10.0.0.8"), "weight": 3}]),
        ),
        (
            "loadBalancer",
            json!({"mode": "Failover", "routingPreferences": ["Network", "Region"], "healthPolicy": "AllowAll"}),
        ),
        ("ipFamilies", json!("Dual")),
        ("visibility", json!("Namespace")),
        ("canonical", json!(false)),
        ("endpoints", json!({})),
    ] {
        assert_eq!(told[key], wanted, "{key}");
    }
}

#[test]
fn every_condition_of_a_policy_is_told_under_its_own_key() {
    let ranges = |text: &str| vec![text.parse().unwrap()];
    let account = |name: &str| {
        vec![ServiceAccountMatch {
            namespace: "demo".into(),
            service_account: name.into(),
        }]
    };
    let everything = Match {
        namespaces: vec![StringMatch::Exact("a".into())],
        not_namespaces: vec![StringMatch::Prefix("b".into())],
        service_accounts: account("c"),
        not_service_accounts: account("d"),
        principals: vec![StringMatch::Suffix("e".into())],
        not_principals: vec![StringMatch::Presence],
        source_ips: ranges("10.0.0.1/32"),
        not_source_ips: ranges("10.0.0.2/32"),
        destination_ips: ranges("10.0.0.0/8"),
        not_destination_ips: ranges("2001:db8::/32"),
        destination_ports: vec![80],
        not_destination_ports: vec![443],
    };
    let mut builder = Builder::new();
    builder.add_policy(Policy {
        name: "p".into(),
        namespace: "demo".into(),
        scope: policy::Scope::WorkloadSelector,
        action: policy::Action::Deny,
        rules: vec![Rule {
            clauses: vec![Clause {
                matches: vec![everything],
            }],
        }],
        dry_run: true,
    });
    let account = |name: &str| json!([{"namespace": "demo", "serviceAccount": name}]);
    let wanted = json!([{
        "name": "p", "namespace": "demo", "scope": "WorkloadSelector", "action": "Deny", "dryRun": true,
        "rules": [[[{
            "namespaces": [{"Exact": "a"}], "notNamespaces": [{"Prefix": "b"}],
            "serviceAccounts": account("c"), "notServiceAccounts": account("d"),
            "principals": [{"Suffix": "e"}], "notPrincipals": [{"Presence": []}],
            "sourceIps": ["10.0.0.1/32"], "notSourceIps": ["10.0.0.2/32"],
            "destinationIps": ["10.0.0.0/8"], "notDestinationIps": ["2001:db8::/32"],
            "destinationPorts": [80], "notDestinationPorts": [443]
        }]]]
    }]);
    assert_eq!(dumped(&builder)["policies"], wanted);
}

#[test]
fn a_certificate_is_told_with_a_decimal_serial_number_and_pem_that_is_read_back() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};

    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.serial_number = Some(vec![0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0xff].into());
    params.not_before = rcgen::date_time_ymd(2026, 1, 2);
    params.not_after = rcgen::date_time_ymd(2027, 3, 4);
    let made = params.self_signed(&key).unwrap();
    let der = made.der().clone().into_owned();
    let credential = |availability, chain| Credential {
        identity: SpiffeId::new("cluster.local", "demo", "web").unwrap(),
        availability,
        chain,
        roots: vec![der.clone()],
    };
    let dump = told(&Dump {
        mesh: Arc::default(),
        credentials: vec![
            credential(
                Availability::Available,
                vec![der.clone(), CertificateDer::from(vec![1, 2])],
            ),
            credential(Availability::Initializing, Vec::new()),
            credential(Availability::Unavailable("the CA said no".to_owned()), Vec::new()),
        ],
        pods: BTreeMap::new(),
        config: Arc::default(),
        istio_version: String::new(),
    });
    let certificates = &dump["certificates"];
    let states = [0, 1, 2].map(|at: usize| certificates[at]["state"].clone());
    assert_eq!(
        states,
        ["Available", "Initializing", "Unavailable: the CA said no"].map(Value::from)
    );
    assert_eq!(certificates[0]["identity"], "spiffe://cluster.local/ns/demo/sa/web");
    let [leaf, unreadable] = [0, 1].map(|at: usize| &certificates[0]["certChain"][at]);
    assert_eq!(leaf["serialNumber"], "4722366482869645213951");
    assert_eq!(leaf["validFrom"], "2026-01-02T00:00:00Z");
    assert_eq!(leaf["expirationTime"], "2027-03-04T00:00:00Z");
    let pem = STANDARD.decode(leaf["pem"].as_str().unwrap()).unwrap();
    assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap(), der);
    assert!(pem.split(|byte| *byte == b'\n').all(|line| line.len() <= 64));
    assert_eq!(
        (&unreadable["serialNumber"], &unreadable["validFrom"]),
        (&json!("0"), &json!(""))
    );
    assert_eq!(certificates[1]["rootCerts"][0]["serialNumber"], leaf["serialNumber"]);
}

#[test]
fn pods_are_told_by_uid_with_the_connections_of_each_direction() {
    let open = |requested, carried| {
        Arc::new(OpenConnection {
            source: ([10, 0, 0, 1], 40000).into(),
            requested,
            actual: ([10, 0, 0, 2], 15008).into(),
            carried,
        })
    };
    let pod = PodConnections {
        namespace: "demo".to_owned(),
        name: "web".to_owned(),
        service_account: "web-account".to_owned(),
        served: true,
        inbound: vec![
            open(Requested::Service(Some("web.example".into())), Carried::Hbone),
            open(Requested::Service(None), Carried::Hbone),
        ],
        outbound: [Carried::Plain, Carried::Hbone, Carried::DoubleHbone]
            .map(|carried| open(Requested::Address(([10, 9, 0, 1], 80).into()), carried))
            .to_vec(),
        not_listed: 7,
    };
    let leaving = PodConnections {
        served: false,
        ..PodConnections::default()
    };
    let dump = told(&Dump {
        mesh: Arc::default(),
        credentials: Vec::new(),
        pods: BTreeMap::from([("u1".to_owned(), pod), ("u2".to_owned(), leaving)]),
        config: Arc::default(),
        istio_version: "1.30".to_owned(),
    });
    let connection = |requested: Value, protocol: &str| json!({"src": "10.0.0.1:40000", "originalDst": requested, "actualDst": "10.0.0.2:15008", "protocol": protocol});
    let asked = || json!("10.9.0.1:80");
    let wanted = json!({
        "state": "Up",
        "connections": {
            "inbound": [connection(json!("web.example"), "HBONE"), connection(Value::Null, "HBONE")],
            "outbound": [
                connection(asked(), "TCP"), connection(asked(), "HBONE"), connection(asked(), "DOUBLEHBONE")
            ],
            "notListed": 7
        },
        "info": {"name": "web", "namespace": "demo", "serviceAccount": "web-account"}
    });
    assert_eq!(dump["workloadState"]["u1"], wanted);
    assert_eq!(dump["workloadState"]["u2"]["state"], "Pending");
    assert_eq!(
        dump["workloadState"]["u2"]["connections"],
        json!({"inbound": [], "outbound": []})
    );
    assert_eq!(dump["version"]["istioVersion"], "1.30");
}

#[test]
fn an_empty_agent_has_every_key_that_is_read() {
    let dump = dumped(&Builder::new());
    let keys: Vec<_> = dump.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "certificates",
            "config",
            "policies",
            "services",
            "stagedServices",
            "staticConfig",
            "version",
            "workloadState",
            "workloads"
        ]
    );
    assert!(
        dump["version"]["rustVersion"]
            .as_str()
            .is_some_and(|version| version.starts_with("1.")),
        "{dump}"
    );
}
