use std::net::SocketAddr;

use super::*;
use crate::mesh::fixture::{id, ip, key, socket};
use crate::mesh::policy::{Connection, authorize, plaintext_refused};
use crate::mesh::route::{Experience, Flow, Route, decide};
use crate::mesh::workload::{Protocol, Workload};
use crate::mesh::{Authority, gateway, inbound};

fn good(text: &str) -> Snapshot {
    let mut builder = Builder::new();
    streamed(text, &mut builder).unwrap_or_else(|error| panic!("{error}"));
    let snapshot = parse(text, Path::new("mesh.yaml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(builder.build().sizes(), snapshot.sizes());
    snapshot
}

/// The error, which is the same from memory and from a file.
fn bad(text: &str) -> String {
    match parse(text, Path::new("mesh.yaml")) {
        Ok(snapshot) => panic!("taken: {snapshot:?}"),
        Err(error) => {
            assert_eq!(streamed(text, &mut Builder::new()), Err(error.clone()));
            error.to_string()
        }
    }
}

/// Loads a text as a file.
fn streamed(text: &str, builder: &mut Builder) -> Result<(), MeshFileError> {
    let file = tempfile(text);
    load(&file, Path::new("mesh.yaml"), builder)
}

/// A file without a name.
fn tempfile(text: &str) -> File {
    let memory = nix::sys::memfd::memfd_create(c"mesh.yaml", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let mut file = File::from(memory);
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file
}

fn at(snapshot: &Snapshot, network: &str, address: &str) -> std::sync::Arc<Workload> {
    snapshot.workload_at(network, ip(address)).unwrap()
}

/// The example of the documentation, which promises that it loads as it stands.
fn documented() -> String {
    let page = include_str!("../../../../docs/mesh-file.md");
    let example = page
        .split("```yaml\n")
        .find(|block| block.starts_with("# mesh.yaml"))
        .unwrap();
    example.split("```").next().unwrap().to_owned()
}

/// ztunnel's own sample of its format, in what matters of it: field by field, but other names.
const ZTUNNEL: &str = "
workloads:
- uid: cluster1//v1/Pod/default/here
  name: here
  namespace: default
  serviceAccount: default
  workloadIps: [\"127.0.0.1\"]
  protocol: HBONE
  node: here
  network: \"\"
  services:
    \"default/one.example\":
      80: 8080
    \"default/two.example\":
      80: 8080
- uid: cluster1//v1/Pod/default/here-tcp
  name: here-tcp
  namespace: default
  workloadIps: [\"127.0.0.2\"]
  protocol: TCP
  services: {}
policies:
  - action: Allow
    rules:
    - - - notDestinationPorts:
          - 9999
    name: but-9999
    namespace: default
    scope: Namespace
    dryRun: false
services:
- name: one
  namespace: default
  hostname: one.example
  vips:
    - /127.10.0.1
  ports:
    80: 8080
  subjectAltNames:
   - spiffe://cluster.local/ns/default/sa/local
  canonical: true
- name: two
  namespace: default
  hostname: two.example
  vips:
    - remote/127.10.0.2
  ports:
    80: 8080
";

#[test]
fn ztunnels_local_format_loads_unchanged() {
    let mesh = good(ZTUNNEL);
    assert_eq!(mesh.sizes(), [2, 2, 1]);
    let here = at(&mesh, "", "127.0.0.1");
    assert_eq!(here.uid().to_string(), "cluster1//v1/Pod/default/here");
    assert_eq!(here.protocol, Protocol::Hbone);
    assert_eq!(here.identity().unwrap(), id("default/default"));
    assert_eq!(at(&mesh, "", "127.0.0.2").identity().unwrap(), id("default/default"));
    let one = mesh.service_at("", ip("127.10.0.1"), "default").unwrap();
    assert_eq!(one.key, key("default/one.example"));
    assert!(one.canonical);
    assert_eq!(*one.subject_alt_names, [id("default/local")]);
    let two = mesh.service_at("remote", ip("127.10.0.2"), "default").unwrap();
    assert!(two.subject_alt_names.is_empty(), "one network: nothing is derived");
    let verdict = |port| {
        let connection = Connection {
            source_ip: ip("127.0.0.9"),
            source: None,
            destination: SocketAddr::new(ip("127.0.0.1"), port),
        };
        authorize(&mesh, &here, &connection).is_allowed()
    };
    assert!(verdict(80));
    assert!(!verdict(9999));
}

#[test]
fn every_field_of_a_workload_is_taken() {
    let mesh = good(
        "
services: [{name: s, namespace: demo, hostname: s.demo, ports: {80: 8080}}]
policies: [{name: p, namespace: demo, scope: WorkloadSelector, action: Deny}]
workloads:
- uid: u
  name: n
  namespace: demo
  workloadIps: [10.0.0.1, 'fd00::1']
  network: net1
  protocol: HBONE
  trustDomain: td.example
  serviceAccount: sa
  waypoint: {destination: demo/waypoint.demo, hboneMtlsPort: 15009}
  networkGateway: {destination: net1/172.18.0.1}
  networkMode: Standard
  node: node1
  canonicalName: cn
  canonicalRevision: cr
  workloadName: wn
  workloadType: deployment
  hostname: N.example
  nativeTunnel: true
  applicationTunnel: {protocol: NONE, port: 15088}
  authorizationPolicies: [demo/p]
  status: Unhealthy
  clusterId: c1
  locality: {region: r, zone: z, subzone: s}
  services: {demo/s.demo: {80: 8081}}
  capacity: 7
",
    );
    let workload = at(&mesh, "net1", "fd00::1");
    assert_eq!(
        workload.identity().unwrap().as_str(),
        "spiffe://td.example/ns/demo/sa/sa"
    );
    let waypoint = workload.waypoint.as_ref().unwrap();
    assert_eq!(waypoint.to_string(), "demo/waypoint.demo port 15009");
    assert_eq!(
        workload.network_gateway.as_ref().unwrap().to_string(),
        "net1/172.18.0.1 port 15008"
    );
    assert_eq!(
        (
            &*workload.locality.node,
            &*workload.canonical_name,
            &*workload.canonical_revision
        ),
        ("node1", "cn", "cr")
    );
    assert_eq!(
        (&*workload.workload_name, &*workload.workload_type),
        ("wn", "deployment")
    );
    assert_eq!(&*workload.hostname, "n.example");
    assert!(workload.native_tunnel);
    assert_eq!(workload.application_tunnel.unwrap().port, Some(15088));
    assert_eq!(workload.status, crate::mesh::workload::Health::Unhealthy);
    assert_eq!(&*workload.cluster_id, "c1");
    assert_eq!(&*workload.locality.subzone, "s");
    assert_eq!(workload.capacity, 7);
    assert_eq!(
        workload.ports_for(&key("demo/s.demo")).unwrap().target_of(80),
        Some(8081)
    );
    assert!(plaintext_refused(&mesh, &workload));
}

#[test]
fn every_field_of_a_service_is_taken() {
    use crate::mesh::service::{HealthPolicy, IpFamilies, Mode, Scope, Visibility};
    let mesh = good(
        "
services:
- name: s
  namespace: demo
  hostname: s.demo
  vips: [net1/10.1.0.1, 'net1/fd01::1', net1/240.0.0.0/4]
  cidrVips: [{network: net2, cidr: 10.2.0.0/16}]
  ports: {80: 8080, '443': 8443}
  subjectAltNames: ['spiffe://cluster.local/ns/demo/sa/s']
  waypoint: {destination: net1/10.0.0.9, hboneMtlsPort: 15008}
  weightedWaypoints: [{destination: {destination: net1/10.0.0.8}, weight: 3}]
  loadBalancer: {mode: Failover, routingPreferences: [Network, Region, Zone, Subzone, Node, Cluster], healthPolicy: AllowAll}
  ipFamilies: IPv6
  canonical: true
  visibility: Namespace
",
    );
    let service = mesh.service_named("demo", "s.demo").unwrap();
    assert_eq!(service.vips.len(), 4);
    assert!(mesh.service_at("net1", ip("241.0.0.1"), "demo").is_some());
    assert!(mesh.service_at("net2", ip("10.2.9.9"), "demo").is_some());
    assert_eq!(service.ports.target_of(443), Some(8443));
    assert_eq!(service.weighted_waypoints[0].weight, 3);
    assert_eq!(service.load_balancing.mode, Mode::Failover);
    assert_eq!(service.load_balancing.preferences.len(), 6);
    assert_eq!(service.load_balancing.preferences[0], Scope::Network);
    assert_eq!(service.load_balancing.health, HealthPolicy::AllowAll);
    assert_eq!(service.ip_families, IpFamilies::V6);
    assert_eq!(service.visibility, Visibility::Namespace);
}

#[test]
fn every_condition_of_a_policy_is_taken() {
    let mesh = good(
        "
policies:
- name: p
  namespace: demo
  scope: Global
  action: Deny
  dryRun: true
  rules:
  - - - namespaces: [Exact: a, !Prefix b]
        notNamespaces: [Suffix: c]
        serviceAccounts: [{namespace: a, serviceAccount: b}]
        notServiceAccounts: [{namespace: a, serviceAccount: c}]
        principals: [Presence: []]
        notPrincipals: [!Exact d]
        sourceIps: [10.0.0.0/8, 10.0.0.1]
        notSourceIps: ['fd00::/8']
        destinationIps: [10.0.0.2]
        notDestinationIps: [10.0.0.3]
        destinationPorts: [80]
        notDestinationPorts: [81]
",
    );
    let policy = mesh.policy("demo/p").unwrap();
    assert!(policy.dry_run);
    let one = &policy.rules[0].clauses[0].matches[0];
    let shape = format!("{one:?}");
    for part in [
        "Exact(\"a\")",
        "Prefix(\"b\")",
        "Suffix(\"c\")",
        "Presence",
        "Exact(\"d\")",
        "fd00::/8",
        "[81]",
    ] {
        assert!(shape.contains(part), "{part} in {shape}");
    }
    assert_eq!(one.source_ips.len(), 2);
    assert_eq!(one.destination_ips[0].prefix_len(), 32);
}

#[test]
fn what_is_left_out_has_its_default() {
    let mesh = good("workloads: [{name: a, namespace: demo, workloadIps: [10.0.0.1], network: net1}]");
    let workload = at(&mesh, "net1", "10.0.0.1");
    assert_eq!(workload.uid().to_string(), "net1//Pod/demo/a");
    assert_eq!(workload.identity().unwrap(), id("demo/default"));
    assert_eq!((workload.protocol, workload.capacity), (Protocol::Tcp, 1));
    assert_eq!(&*workload.cluster_id, "Kubernetes");
    let mesh = good(
        "trustDomain: td.example\nworkloads: [{name: a, namespace: demo, trustDomain: '', workloadIps: [10.0.0.1]}]",
    );
    let workload = at(&mesh, "", "10.0.0.1");
    assert_eq!(
        workload.identity().unwrap().as_str(),
        "spiffe://td.example/ns/demo/sa/default"
    );
    assert_eq!(workload.uid().to_string(), "Kubernetes//Pod/demo/a");
    assert_eq!(good("workloads: []").sizes(), [0, 0, 0]);
}

#[test]
fn the_documented_example_is_a_mesh_of_two_networks() {
    let mesh = good(&documented());
    let curl = mesh.workload_of_pod("demo", "curl", None).unwrap();
    assert_eq!(&*curl.network, "net1");
    let decided = |destination: &str| {
        let flow = Flow {
            source: &curl,
            destination: socket(destination),
            entropy: 1,
            experience: Experience::default(),
        };
        decide(&mesh, &flow)
    };
    let Route::DoubleHbone {
        gateway,
        gateway_expected,
        authority,
        expected,
        ..
    } = decided("10.1.0.100:80")
    else {
        panic!("{:?}", decided("10.1.0.100:80"));
    };
    assert_eq!(gateway, socket("172.30.0.2:15008"));
    assert_eq!(*gateway_expected, [id("istio-system/eastwest")]);
    assert_eq!(authority.to_string(), "echo.demo.svc.cluster.local:80");
    assert_eq!(*expected, [id("demo/echo")]);
    // The pod is listed by its address, which is not one here.
    assert!(matches!(decided("10.2.0.10:8080"), Route::Deny(_)));
    // At the other end: the gateway finds the pod, and the pod its port.
    let found = gateway::endpoints(&mesh, "net2", &authority, 1).unwrap();
    assert_eq!(found, [socket("10.2.0.10:15008")]);
    assert!(gateway::endpoints(&mesh, "net1", &authority, 1).is_err());
    let echo = mesh.workload_of_pod("demo", "echo", None).unwrap();
    let admission = inbound::admit(&mesh, &echo, ip("10.2.0.10"), &authority).unwrap();
    assert_eq!(admission.to_port, 8080);
    let other: Authority = "10.2.0.11:8080".parse().unwrap();
    assert!(inbound::admit(&mesh, &echo, ip("10.2.0.10"), &other).is_err());
}

#[test]
fn names_are_derived_only_across_networks_and_only_from_tunnelled_workloads() {
    let text = |network: &str| {
        format!(
            "
services: [{{name: s, namespace: demo, hostname: s.demo, ports: {{80: 80}}}}]
workloads:
- {{name: a, namespace: demo, serviceAccount: a, network: net1, protocol: HBONE, services: {{demo/s.demo: {{}}}}}}
- {{name: b, namespace: demo, serviceAccount: b, network: {network}, protocol: HBONE, services: {{demo/s.demo: {{}}}}}}
- {{name: c, namespace: demo, serviceAccount: c, network: {network}, services: {{demo/s.demo: {{}}}}}}
"
        )
    };
    let names = |text: &str| {
        good(text)
            .service_named("demo", "s.demo")
            .unwrap()
            .subject_alt_names
            .to_vec()
    };
    assert!(names(&text("net1")).is_empty());
    assert_eq!(names(&text("net2")), [id("demo/a"), id("demo/b")]);
    let given = text("net2").replace(
        "ports:",
        "subjectAltNames: ['spiffe://cluster.local/ns/demo/sa/x'], ports:",
    );
    assert_eq!(names(&given), [id("demo/x")]);
}

#[test]
fn errors_name_file_line_column_and_field() {
    let cases = [
        (
            "workload: []\n",
            "mesh.yaml:1:1: workload: there is no field `workload`; expected one of trustDomain",
        ),
        (
            "workloads:\n- nam: a\n  namespace: b\n",
            "mesh.yaml:2:3: workloads[0].nam: there is no field `nam`",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c\n  port: {}\n",
            "mesh.yaml:5:3: services[0].port: there",
        ),
        (
            "policies:\n- nme: a\n",
            "mesh.yaml:2:3: policies[0].nme: there is no field",
        ),
        (
            "workloads:\n- name: a\n- namespace: b\n",
            "mesh.yaml:2:3: workloads[0]: the field `namespace` is missing",
        ),
        (
            "gateways:\n- network: a\n",
            "mesh.yaml:2:3: gateways[0]: the field `address` is missing",
        ),
        (
            "workloads:\n- name: a\n  namespace: b\n  workloadIps: [10.0.0.1, 10.0.0]\n",
            "mesh.yaml:4:27: workloads[0].workloadIps[1]: \"10.0.0\" is not an IP address",
        ),
        (
            "workloads:\n- name: a\n  namespace: b\n  protocol: UDP\n",
            "mesh.yaml:4:13: workloads[0].protocol: \"UDP\" is not known here; expected one of TCP, HBONE",
        ),
        (
            "workloads:\n- name: a\n  namespace: b c\n",
            "mesh.yaml:3:14: workloads[0].namespace: \"b c\" is not a name",
        ),
        (
            "workloads:\n- namespace: b\n",
            "mesh.yaml:2:3: workloads[0]: a workload needs a `uid` or a `name`",
        ),
        (
            "workloads:\n- name: a\n  namespace: b\n  capacity: -1\n",
            "mesh.yaml:4:13: workloads[0].capacity: \"-1\" is not a number from 0",
        ),
        (
            "workloads:\n- name: a\n  namespace: b\n  serviceAccount: 'x/y'\n",
            "mesh.yaml:3:14: workloads[0].namespace: no identity can be made of this entry: service account \"x/y\"",
        ),
        (
            "workloads:\n- name: a\n  namespace: b\n  waypoint: {destination: nobody}\n",
            "mesh.yaml:4:27: workloads[0].waypoint.destination: \"nobody\" is not the address of a gateway",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c\n  vips: [10.0.0.1]\n",
            "mesh.yaml:5:10: services[0].vips[0]: \"10.0.0.1\" is not a virtual address: expected NETWORK/IP",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c c\n",
            "mesh.yaml:4:13: services[0].hostname: \"c c\" is not",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c\n  ports: {80: 0}\n",
            "mesh.yaml:5:15: services[0].ports.80: \"0\" is not a port: expected a number from 1 to 65535",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c\n  ports: {0: 80}\n",
            "mesh.yaml:5:11: services[0].ports.0: \"0\" is not a port",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c\n  ports:\n    80: 1\n    '80': 2\n",
            "mesh.yaml:7:5: services[0].ports.80: port 80 is given twice; the other is at 6:5 (services[0].ports.80)",
        ),
        (
            "services:\n- name: a\n  namespace: b\n  hostname: c\n  subjectAltNames: [https://x]\n",
            "mesh.yaml:5:21: services[0].subjectAltNames[0]: \"https://x\" is not of the form spiffe://",
        ),
        (
            "policies:\n- name: a\n  namespace: b\n  scope: Cluster\n  action: Deny\n",
            "mesh.yaml:4:10: policies[0].scope: \"Cluster\" is not known here; expected one of Global, Namespace",
        ),
        (
            "policies:\n- name: a\n  namespace: b\n  scope: Global\n  action: Deny\n  rules:\n  - - - sourceIps: [x]\n",
            "mesh.yaml:7:21: policies[0].rules[0][0][0].sourceIps[0]: \"x\" is not an address or range",
        ),
        (
            "policies:\n- name: a\n  namespace: b\n  scope: Global\n  action: Deny\n  rules:\n  - - - ports: [1]\n",
            "mesh.yaml:7:9: policies[0].rules[0][0][0].ports: there is no field `ports`",
        ),
        (
            "gateways:\n- {network: n, address: 10.0.0.1, port: 0, namespace: a, serviceAccount: b}\n",
            "mesh.yaml:2:41: gateways[0].port: \"0\" is not a port",
        ),
        (
            "trustDomain: Not/One\n",
            "mesh.yaml:1:14: trustDomain: trust domain \"Not/One\"",
        ),
        (
            "networks: [net1]\nworkloads: [{name: a, namespace: b, network: net2}]\n",
            "mesh.yaml:2:46: workloads[0].network: network \"net2\" is not in `networks`; expected one of net1",
        ),
        ("workloads: 3\n", "mesh.yaml:1:12: workloads: "),
        ("- a\n", "mesh.yaml:1:1: "),
    ];
    for (text, wanted) in cases {
        let found = bad(text);
        assert!(found.starts_with(wanted), "\n   {found}\nis not\n   {wanted}");
    }
}

#[test]
fn contradictions_name_both_places() {
    let cases = [
        (
            "workloads:\n- {uid: u, name: a, namespace: d}\n- {uid: u, name: b, namespace: d}\n",
            "mesh.yaml:3:9: workloads[1].uid: workload d/b: uid \"u\" is given twice; the other is at 2:9 (workloads[0].uid)",
        ),
        (
            "workloads:\n- {name: a, namespace: d}\n- {name: a, namespace: d}\n",
            "mesh.yaml:3:3: workloads[1]: workload d/a: uid \"Kubernetes//Pod/d/a\" is given twice; the other is at 2:3 \
             (workloads[0])",
        ),
        (
            "workloads:\n- {name: a, namespace: d, workloadIps: [10.0.0.1]}\n- {name: b, namespace: d, workloadIps: [10.0.0.1]}\n",
            "mesh.yaml:3:41: workloads[1].workloadIps[0]: workload d/b: address 10.0.0.1 of network \"\" is given twice; \
             the other is at 2:41 (workloads[0].workloadIps[0])",
        ),
        (
            "workloads:\n- {name: a, namespace: d, services: {d/x.y: {}}}\n",
            "mesh.yaml:2:38: workloads[0].services[\"d/x.y\"]: there is no service d/x.y",
        ),
        (
            "workloads:\n- {name: a, namespace: d, authorizationPolicies: [d/p]}\n",
            "mesh.yaml:2:51: workloads[0].authorizationPolicies[0]: there is no policy \"d/p\"",
        ),
        (
            "services:\n- {name: a, namespace: d, hostname: a.d, vips: [n/10.0.0.1]}\n- {name: b, namespace: d, hostname: b.d, vips: [n/10.0.0.1]}\n",
            "mesh.yaml:3:49: services[1].vips[0]: virtual address n/10.0.0.1/32 is given twice; the other is at 2:49 \
             (services[0].vips[0])",
        ),
        (
            "services:\n- {name: a, namespace: d, hostname: a.d}\n- {name: b, namespace: d, hostname: A.D}\n",
            "mesh.yaml:3:37: services[1].hostname: service d/a.d is given twice; the other is at 2:37",
        ),
        (
            "policies:\n- {name: a, namespace: d, scope: Global, action: Deny}\n- {name: a, namespace: d, scope: Global, action: Allow}\n",
            "mesh.yaml:3:10: policies[1].name: policy d/a is given twice; the other is at 2:10 (policies[0].name)",
        ),
        (
            "gateways:\n- {network: n, address: 10.0.0.1, namespace: a, serviceAccount: b}\n- {network: n, address: 10.0.0.1, port: 15008, namespace: a, serviceAccount: c}\n",
            "mesh.yaml:3:25: gateways[1].address: gateway 10.0.0.1 port 15008 of network \"n\" is given twice; the other \
             is at 2:25 (gateways[0].address)",
        ),
        (
            "gateways:\n- {network: n, address: 10.0.0.1, namespace: a, serviceAccount: b}\n- {network: n, address: 10.0.0.1, port: 15009, namespace: a, serviceAccount: c}\n",
            "mesh.yaml:3:25: gateways[1].address: gateway 10.0.0.1 of network \"n\" is given another identity; the other is \
             at 2:25 (gateways[0].address)",
        ),
        (
            "gateways:\n- {network: n, address: 10.0.0.1, namespace: a, serviceAccount: b}\nworkloads:\n- {name: g, namespace: a, network: n, workloadIps: [10.0.0.1]}\n",
            "mesh.yaml:4:53: workloads[0].workloadIps[0]: workload a/g: address 10.0.0.1 of network \"n\" is given twice; \
             the other is at 2:25 (gateways[0].address)",
        ),
        (
            "workloads:\n- name: a\n  name: b\n  namespace: c\n",
            "mesh.yaml:3:3: workloads[0].name: `name` is given twice",
        ),
        (
            "workloads: []\nworkloads: []\n",
            "mesh.yaml:2:1: workloads: `workloads` is given twice",
        ),
    ];
    for (text, wanted) in cases {
        let found = bad(text);
        assert!(found.starts_with(wanted), "\n   {found}\nis not\n   {wanted}");
    }
}

#[test]
fn what_may_be_shared_is() {
    good(
        "
gateways:
- {network: n, address: 10.0.0.1, namespace: a, serviceAccount: b}
- {network: n, address: 10.0.0.1, port: 15009, namespace: a, serviceAccount: b}
- {network: n, address: 10.0.0.2, namespace: a, serviceAccount: b}
services:
- {name: a, namespace: d, hostname: a.d, vips: [n/10.1.0.1, m/10.1.0.1, n/10.1.0.0/24]}
- {name: a, namespace: e, hostname: a.d}
workloads:
- {name: a, namespace: d, network: n, workloadIps: [192.168.0.1], networkMode: HostNetwork}
- {name: b, namespace: d, network: n, workloadIps: [192.168.0.1], networkMode: HostNetwork}
- {name: a, namespace: d, network: m, workloadIps: [192.168.0.1]}
",
    );
}

#[test]
fn empty_and_outsized_files_are_refused() {
    for text in ["", "\n\n", "# nothing\n", "---\n", "\u{feff}", "---\n# nothing\n...\n"] {
        assert!(bad(text).contains("the file is empty"), "{text:?}");
    }
    let large = format!("workloads: []\n#{}", "x".repeat(LARGEST_FILE));
    assert!(bad(&large).contains("more than the 67108864 bytes"));
    let deep = "workloads:\n".to_owned()
        + &(0..100)
            .map(|depth| format!("{}-\n", " ".repeat(depth)))
            .collect::<String>();
    assert!(bad(&deep).starts_with("mesh.yaml:"), "{}", bad(&deep));
    let closed = format!("workloads: {}{}\n", "[".repeat(60), "]".repeat(60));
    assert!(bad(&closed).contains("mesh.yaml:1:"), "{}", bad(&closed));
    let rules = format!(
        "policies: [{{name: a, namespace: b, scope: Global, action: Deny, rules: {}{}}}]",
        "[".repeat(200),
        "]".repeat(200)
    );
    assert!(bad(&rules).starts_with("mesh.yaml:1:"), "{}", bad(&rules));
    assert!(bad("---\nworkloads: []\n---\nworkloads: []\n").contains("second YAML document"));
}

#[test]
fn aliases_cannot_blow_up() {
    let mut text = "a: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let names = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("b{level}: &a{level} [{names}]\n"));
    }
    bad(&text);
    bad("workloads: &a [*a]\n");
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_smaller_mesh_but_no_panic() {
    let text = documented();
    let whole = good(&text).sizes();
    let (mut refused, mut total) = (0, 0);
    for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
        total += 1;
        match parse(&text[..cut], Path::new("mesh.yaml")) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("mesh.yaml:"), "{error}");
            }
            Ok(mesh) => assert!(mesh.sizes().iter().zip(whole).all(|(part, whole)| *part <= whole)),
        }
    }
    assert!(refused > total / 2, "{refused} of {total}");
}

#[test]
fn rubbish_is_refused_without_panic() {
    let pieces = [
        "workloads:",
        "\n",
        "- ",
        "  ",
        "name: a",
        "[",
        "]",
        "{",
        "}",
        ": ",
        "&a ",
        "*a",
        "!x ",
        "\"",
        "'",
        "|\n",
        "10.0.0.1",
        "\t",
        "<<",
        "?",
        "\u{0}",
        "é",
        "%YAML",
        "---\n",
        "services",
        "80",
    ];
    for seed in 0..20_000 {
        let mut draw = crate::mesh::draw::Draw::new(seed);
        let length = 1 + draw.below(14);
        let pick = |draw: &mut crate::mesh::draw::Draw| {
            let at = draw.below(u64::try_from(pieces.len()).unwrap());
            pieces[usize::try_from(at).unwrap()]
        };
        let text: String = (0..length).map(|_| pick(&mut draw)).collect();
        if let Err(error) = parse(&text, Path::new("mesh.yaml")) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn what_two_versions_have_in_common_stays_the_same_object_and_the_rest_goes() {
    let before = "
workloads:
- {name: stays, namespace: d, workloadIps: [10.0.0.1], services: {d/echo.d: {80: 80}}}
- {name: changes, namespace: d, workloadIps: [10.0.0.2]}
- {name: goes, namespace: d, workloadIps: [10.0.0.3], services: {d/echo.d: {80: 80}}}
services:
- {name: echo, namespace: d, hostname: echo.d, vips: [/10.1.0.1]}
- {name: old, namespace: d, hostname: old.d, vips: [/10.1.0.2]}
policies:
- {name: p, namespace: d, scope: Namespace, action: Deny}
";
    let after = "
workloads:
- {name: changes, namespace: d, workloadIps: [10.0.0.3], services: {d/echo.d: {80: 80}}}
- {name: stays, namespace: d, workloadIps: [10.0.0.1], services: {d/echo.d: {80: 80}}}
services:
- {name: echo, namespace: d, hostname: echo.d, vips: [/10.1.0.2]}
";
    let mut builder = Builder::new();
    streamed(before, &mut builder).unwrap();
    let first = builder.build();
    assert!(streamed(&after.replace("10.0.0.3", "10.0.0.1"), &mut builder).is_err());
    assert_eq!(builder.build().sizes(), [3, 2, 1], "an error leaves all as it was");
    assert!(std::sync::Arc::ptr_eq(
        &at(&builder.build(), "", "10.0.0.2"),
        &at(&first, "", "10.0.0.2")
    ));

    streamed(after, &mut builder).unwrap();
    let second = builder.build();
    assert_eq!(second.sizes(), [2, 1, 0]);
    assert!(std::sync::Arc::ptr_eq(
        &at(&first, "", "10.0.0.1"),
        &at(&second, "", "10.0.0.1")
    ));
    assert_eq!(at(&second, "", "10.0.0.3").name(), "changes");
    assert!(second.workload_at("", ip("10.0.0.2")).is_none());
    let names = |mesh: &Snapshot| -> Vec<_> {
        let endpoints = key("d/echo.d");
        mesh.endpoints(&endpoints)
            .map(|endpoint| endpoint.workload.name().to_owned())
            .collect()
    };
    assert_eq!(names(&second), ["changes", "stays"]);
    assert_eq!(second.services_claiming("", ip("10.1.0.1")).count(), 0);
    assert_eq!(&*second.service_at("", ip("10.1.0.2"), "d").unwrap().name, "echo");
    assert!(second.service_named("d", "old.d").is_none());
    // Whoever still decides by the version before sees all of it.
    assert_eq!(
        (first.sizes(), names(&first)),
        ([3, 2, 1], vec!["goes".to_owned(), "stays".to_owned()])
    );
    assert_eq!(at(&first, "", "10.0.0.3").name(), "goes");
}

#[test]
fn a_file_is_the_same_mesh_whether_its_workloads_come_first_or_last() {
    let services = "services:\n- {name: echo, namespace: d, hostname: echo.d, vips: [/10.1.0.1]}\n";
    let workloads = "workloads:\n- {name: a, namespace: d, workloadIps: [10.0.0.1], services: {d/echo.d: {80: 80}}}\n";
    for text in [format!("{services}{workloads}"), format!("{workloads}{services}")] {
        let mesh = good(&text);
        assert_eq!(mesh.sizes(), [1, 1, 0]);
        assert_eq!(mesh.endpoints(&key("d/echo.d")).count(), 1);
    }
    // What only looks like the last key is none, and what is wrong with it is told all the same.
    assert!(bad(&format!("{services}{workloads}\"policies\": 3\n")).contains("policies"));
    assert!(bad(&format!("{services}x: 1\n{workloads}")).contains("there is no field `x`"));
    assert!(bad(&format!("{services}{workloads}{workloads}")).contains("`workloads` is given twice"));
}
