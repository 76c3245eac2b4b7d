//! Istio's own command line reads what an agent holds: `istioctl ztunnel-config VERB -f` on the answer of `/config_dump`.
//!
//! The istioctl is that of `cargo xtask setup`, or the one that ISTIOCTL names.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test reads JSON whose shape it asserts, and fails where that differs"
)]

use std::{
    env, fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use isthmus_tests::{
    Agent, Because as _, Failure, Result, control_plane, log::field, pod::connect_from, roundtrip, scene::TwoNetworks,
    within,
};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const PLAIN_PORT: u16 = 7000;
const SOON: Duration = Duration::from_secs(5);
const ADMIN: u16 = 15000;

fn istioctl() -> Result<PathBuf> {
    match env::var_os("ISTIOCTL") {
        Some(path) => Ok(path.into()),
        None => control_plane::istioctl(),
    }
}

/// What an agent holds, as a file that istioctl reads.
struct Dump {
    istioctl: PathBuf,
    file: PathBuf,
    held: Value,
}

impl Dump {
    /// Asks an agent for it, by any method.
    fn of(agent: &Agent, directory: &Path) -> Result<Self> {
        let mut stream = connect_from(agent.node().netns(), ([127, 0, 0, 1], ADMIN).into(), SOON)?;
        // Not 1.1, whose answer would come in chunks.
        stream.write_all(b"POST /config_dump HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").because("an HTTP head")?;
        assert!(head.contains(" 200 "), "{head}");
        let file = directory.join(format!("dump-{}.json", agent.node().name()));
        fs::write(&file, body)?;
        Ok(Self {
            istioctl: istioctl()?,
            held: serde_json::from_str(body)?,
            file,
        })
    }

    fn run(&self, verb: &str, format: &str) -> Result<String> {
        let mut command = Command::new(&self.istioctl);
        command
            .args(["ztunnel-config", verb, "-o", format, "-f"])
            .arg(&self.file)
            .env_clear()
            .env("HOME", "/nonexistent");
        let output = command
            .output()
            .because(format!("starting {}", self.istioctl.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::new(format!("{command:?}: {said}")));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The words of each row, without the header, which must be this one.
    fn rows(&self, verb: &str, header: &str) -> Result<Vec<String>> {
        let text = self.run(verb, "short")?;
        let mut lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(lines.next().as_deref(), Some(header), "{text}");
        Ok(lines.collect())
    }

    /// The objects, which JSON and YAML must tell alike: YAML has a line for every entry and names nothing else.
    fn objects(&self, verb: &str) -> Result<Vec<Value>> {
        let objects: Vec<Value> = serde_json::from_str(&self.run(verb, "json")?)?;
        let yaml = self.run(verb, "yaml")?;
        assert_eq!(
            yaml.lines().filter(|line| line.starts_with("- ")).count(),
            objects.len(),
            "{yaml}"
        );
        let keys = objects
            .iter()
            .filter_map(Value::as_object)
            .flat_map(|object| object.keys());
        for key in keys {
            assert!(yaml.contains(&format!("{key}:")), "{key} in {yaml}");
        }
        Ok(objects)
    }
}

#[track_caller]
fn find<'a>(objects: &'a [Value], key: &str, wanted: &str) -> &'a Value {
    let found = objects.iter().find(|object| object[key] == wanted);
    found.unwrap_or_else(|| panic!("{key} {wanted} in {objects:#?}"))
}

#[track_caller]
fn has(rows: &[String], wanted: &str) {
    assert!(rows.iter().any(|row| row == wanted), "{wanted:?} in {rows:#?}");
}

/// Puts into the mesh whatever a scene of two networks has not.
fn add_rare_objects(scene: &TwoNetworks) -> Result {
    let [net1, _] = &scene.networks;
    let network = net1.name();
    let waypoint = json!({"destination": "demo/waypoint.demo.svc.cluster.local", "hboneMtlsPort": 15008});
    let service = |name: &str, rest: Value| {
        let mut service = json!({
            "name": name, "namespace": "demo", "hostname": format!("{name}.demo.svc.cluster.local"), "ports": {"80": 80}
        });
        if let (Some(fields), Value::Object(rest)) = (service.as_object_mut(), rest) {
            fields.extend(rest);
        }
        service
    };
    let behind = |port: u16| json!({"demo/behind.demo.svc.cluster.local": {"80": port}});
    let workload = |name: &str, rest: Value| {
        let mut workload = json!({
            "uid": format!("{network}//Pod/demo/{name}"), "name": name, "namespace": "demo", "network": network,
        });
        if let (Some(fields), Value::Object(rest)) = (workload.as_object_mut(), rest) {
            fields.extend(rest);
        }
        workload
    };
    scene.lab.mesh(|mesh| {
        mesh.add_service(service("waypoint", json!({"vips": [format!("{network}/10.111.0.1")]})));
        mesh.add_service(service(
            "behind",
            json!({
                "vips": [format!("{network}/10.111.0.2")], "waypoint": waypoint, "ipFamilies": "Dual",
                "loadBalancer": {"mode": "Failover", "routingPreferences": ["Network", "Node"]}
            }),
        ));
        mesh.add_service(service(
            "range",
            json!({"cidrVips": [{"network": network, "cidr": "10.112.0.0/16"}], "visibility": "Namespace"}),
        ));
        mesh.add_workload(workload(
            "sick",
            json!({"status": "Unhealthy", "services": behind(8080), "capacity": 3}),
        ));
        mesh.add_workload(workload(
            "well",
            json!({
                "workloadIps": ["10.111.9.1", "fd11::1"], "protocol": "HBONE", "services": behind(8080),
                "waypoint": waypoint, "authorizationPolicies": ["demo/chosen"], "node": "far-node",
                "locality": {"region": "r1", "zone": "z1"}
            }),
        ));
        mesh.add_workload(workload("named", json!({"hostname": "db.example"})));
        mesh.policy(json!({
            "name": "chosen", "namespace": "demo", "scope": "WorkloadSelector", "action": "Deny",
            "rules": [[[{"principals": [{"Exact": "cluster.local/ns/demo/sa/eve"}], "destinationPorts": [9999]}]]]
        }));
        mesh.policy(json!({
            "name": "open", "namespace": "demo", "scope": "Namespace", "action": "Allow", "rules": [[[
                {"namespaces": [{"Prefix": "de"}], "notSourceIps": ["192.0.2.0/24"]},
                {"serviceAccounts": [{"namespace": "demo", "serviceAccount": "client"}]}
            ]]]
        }));
    });
    scene.lab.publish()
}

#[test]
fn istioctl_reads_workloads_services_policies_certificates_and_connections_of_an_agent() -> Result {
    let scene = TwoNetworks::start("istioctl")?;
    let [near, far] = &scene.agents;
    let plain = far.node().pod("plain").plain().start()?;
    add_rare_objects(&scene)?;
    let rare = |agent: &Agent| agent.status().ok().filter(|status| status.mesh_size[2] == 2);
    for agent in [near, far] {
        within(SOON, "the agent has taken the mesh", || rare(agent).map(|_| ()))?;
    }
    let _echoes = [
        scene.server.echo(PORT)?,
        scene.twin.echo(PORT)?,
        plain.echo(PLAIN_PORT)?,
    ];
    let mut across = scene.client.connect(scene.at(PORT))?;
    roundtrip(&mut across, b"to another network")?;
    let mut beside = scene.twin.connect(scene.server.at(PORT))?;
    roundtrip(&mut beside, b"to a neighbour")?;
    let mut clear = scene.twin.connect(plain.at(PLAIN_PORT))?;
    roundtrip(&mut clear, b"in clear")?;

    let dump = Dump::of(near, scene.lab.dir())?;
    workloads(&dump, &scene)?;
    services(&dump, &scene)?;
    policies(&dump)?;
    certificates(&dump, &scene)?;
    let far = Dump::of(far, scene.lab.dir())?;
    let server_serves = connections(&[dump, far], &scene, [&across, &beside, &clear])?;
    drop((across, beside, clear));
    let [_, agent] = &scene.agents;
    within(SOON, "what has ended is not listed any more", || {
        let dump = Dump::of(agent, scene.lab.dir()).ok()?;
        let objects = dump.objects("connections").ok()?;
        let server = objects.iter().find(|state| state["info"]["name"] == "server")?;
        (server["connections"]["inbound"].as_array()?.len() < server_serves).then_some(())
    })
}

fn workloads(dump: &Dump, scene: &TwoNetworks) -> Result {
    let rows = dump.rows("workloads", "NAMESPACE POD NAME ADDRESS NODE WAYPOINT PROTOCOL")?;
    let [v4, v6] = [scene.client.ip(), scene.client.ip6()];
    let client = rows
        .iter()
        .find(|row| row.starts_with("demo client "))
        .because("the client has a row")?;
    assert!(
        client.contains(&v4.to_string()) && client.ends_with(" node1 None HBONE"),
        "{client} {v6}"
    );
    has(&rows, "demo well 10.111.9.1,fd11::1 far-node waypoint HBONE");
    // No address, hence its host name; no node.
    has(&rows, "demo named db.example None TCP");
    assert!(
        rows.iter()
            .any(|row| row.starts_with("demo plain ") && row.ends_with(" None TCP")),
        "{rows:#?}"
    );

    let objects = dump.objects("workloads")?;
    assert_eq!(objects.len(), dump.held["workloads"].as_array().map_or(0, Vec::len));
    let well = find(&objects, "name", "well");
    for (key, wanted) in [
        ("uid", json!(format!("{}//Pod/demo/well", scene.networks[0].name()))),
        ("workloadIps", json!(["10.111.9.1", "fd11::1"])),
        (
            "waypoint",
            json!({"destination": "demo/waypoint.demo.svc.cluster.local"}),
        ),
        ("serviceAccount", json!("default")),
        ("trustDomain", json!("cluster.local")),
        ("network", json!(scene.networks[0].name())),
        ("locality", json!({"region": "r1", "zone": "z1"})),
        ("status", json!("Healthy")),
        ("authorizationPolicies", json!(["demo/chosen"])),
        ("clusterId", json!("Kubernetes")),
    ] {
        assert_eq!(well[key], wanted, "{key}");
    }
    let sick = find(&objects, "name", "sick");
    assert_eq!((&sick["status"], &sick["capacity"]), (&json!("Unhealthy"), &json!(3)));
    let server = find(&objects, "name", "server");
    assert!(
        field(&server["networkGateway"], "destination").starts_with(scene.networks[1].name()),
        "{server}"
    );
    Ok(())
}

fn services(dump: &Dump, scene: &TwoNetworks) -> Result {
    let rows = dump.rows("services", "NAMESPACE SERVICE NAME SERVICE VIP WAYPOINT ENDPOINTS")?;
    has(&rows, "demo behind 10.111.0.2 waypoint 1/2");
    has(&rows, "demo waypoint 10.111.0.1 None 0/0");
    has(&rows, "demo range None 0/0");
    let web = rows
        .iter()
        .find(|row| row.starts_with("demo web "))
        .because("the global service has a row")?;
    assert!(
        web.contains(&scene.vips()[0].to_string()) && web.ends_with(" None 2/2"),
        "{web}"
    );

    let objects = dump.objects("services")?;
    let behind = find(&objects, "name", "behind");
    let balancer =
        json!({"mode": "Failover", "routingPreferences": ["Network", "Node"], "healthPolicy": "OnlyHealthy"});
    assert_eq!(
        (&behind["loadBalancer"], &behind["ipFamilies"]),
        (&balancer, &json!("Dual"))
    );
    let uid = format!("{}//Pod/demo/well", scene.networks[0].name());
    let endpoint = &behind["endpoints"][&uid];
    assert_eq!(
        (&endpoint["workloadUid"], &endpoint["port"]),
        (&json!(uid), &json!({"80": 8080}))
    );
    let range = find(&objects, "name", "range");
    assert_eq!(
        range["cidrVips"],
        json!([format!("{}/10.112.0.0/16", scene.networks[0].name())])
    );
    assert_eq!(range["visibility"], "Namespace");
    let web = find(&objects, "name", "web");
    assert_eq!(web["subjectAltNames"], json!([scene.server.identity()]));
    Ok(())
}

fn policies(dump: &Dump) -> Result {
    let rows = dump.rows("policies", "NAMESPACE POLICY NAME ACTION SCOPE")?;
    assert_eq!(rows, ["demo chosen Deny WorkloadSelector", "demo open Allow Namespace"]);
    let objects = dump.objects("policies")?;
    let wanted = json!([[[{"principals": [{"Exact": "cluster.local/ns/demo/sa/eve"}], "destinationPorts": [9999]}]]]);
    assert_eq!(find(&objects, "name", "chosen")["rules"], wanted);
    let wanted = json!([[[
        {"namespaces": [{"Prefix": "de"}], "notSourceIps": ["192.0.2.0/24"]},
        {"serviceAccounts": [{"namespace": "demo", "serviceAccount": "client"}]}
    ]]]);
    assert_eq!(find(&objects, "name", "open")["rules"], wanted);
    Ok(())
}

fn certificates(dump: &Dump, scene: &TwoNetworks) -> Result {
    let header = "CERTIFICATE NAME TYPE STATUS VALID CERT SERIAL NUMBER NOT AFTER NOT BEFORE";
    let rows = dump.rows("certificates", header)?;
    let identity = scene.client.identity();
    let objects = dump.objects("certificates")?;
    let held = find(&objects, "identity", &identity);
    assert_eq!(held["state"], "Available");
    for (kind, certificate) in [("Leaf", &held["certChain"][0]), ("Root", &held["rootCerts"][0])] {
        let (from, to) = (field(certificate, "validFrom"), field(certificate, "expirationTime"));
        let begin = format!("{identity} {kind} Available true ");
        let row = rows
            .iter()
            .find(|row| row.starts_with(&begin))
            .because(format!("{begin} in {rows:#?}"))?;
        assert!(row.ends_with(&format!(" {to} {from}")), "{row}");
        let serial = hexadecimal(&field(certificate, "serialNumber"));
        assert!(
            serial.len() > 1 && row.contains(&format!(" {serial} ")),
            "{serial} in {row}"
        );
        assert!(field(certificate, "pem").len() > 500);
    }
    Ok(())
}

/// A decimal number of any length in hexadecimal, as istioctl prints serial numbers.
fn hexadecimal(decimal: &str) -> String {
    let mut digits: Vec<u32> = decimal.chars().filter_map(|digit| digit.to_digit(10)).collect();
    let mut hexadecimal = Vec::new();
    while digits.iter().any(|digit| *digit != 0) {
        let mut rest = 0;
        for digit in &mut digits {
            let value = rest * 10 + *digit;
            (*digit, rest) = (value / 16, value % 16);
        }
        hexadecimal.extend(char::from_digit(rest, 16));
    }
    hexadecimal.iter().rev().collect()
}

/// Answers how many connections the server was told to have.
fn connections(
    [near, far]: &[Dump; 2],
    scene: &TwoNetworks,
    [across, beside, clear]: [&std::net::TcpStream; 3],
) -> Result<usize> {
    let header = "WORKLOAD DIRECTION LOCAL REMOTE REMOTE TARGET PROTOCOL";
    let from = across.local_addr()?;
    let rows = near.rows("connections", header)?;
    // Addresses of services and workloads are shown by their names; the gateway is a workload.
    let row = rows
        .iter()
        .find(|row| row.starts_with("client.demo Outbound "))
        .because(format!("{rows:#?}"))?;
    assert!(
        row.starts_with(&format!("client.demo Outbound client.demo:{} ", from.port())),
        "{row}"
    );
    assert!(
        row.ends_with(&format!(" {}:{PORT} DOUBLEHBONE", scene.hostname)),
        "{row}"
    );

    let rows = far.rows("connections", header)?;
    let port = |stream: &std::net::TcpStream| stream.local_addr().map(|address| address.port());
    has(
        &rows,
        &format!(
            "twin.demo Outbound twin.demo:{} server.demo:15008 server.demo:{PORT} HBONE",
            port(beside)?
        ),
    );
    has(
        &rows,
        &format!(
            "twin.demo Outbound twin.demo:{} plain.demo:{PLAIN_PORT} plain.demo:{PLAIN_PORT} TCP",
            port(clear)?
        ),
    );
    let objects = far.objects("connections")?;
    let served = |name: &str| -> Result<Vec<Value>> {
        let state = objects
            .iter()
            .find(|state| state["info"]["name"] == name)
            .because("the pod is told")?;
        assert_eq!(
            (&state["state"], &state["info"]["serviceAccount"]),
            (&json!("Up"), &json!("web"))
        );
        Ok(state["connections"]["inbound"].as_array().cloned().unwrap_or_default())
    };
    let (by_server, by_twin) = (served("server")?, served("twin")?);
    let neighbour = json!({
        "src": beside.local_addr()?.to_string(), "originalDst": "", "actualDst": scene.server.at(PORT).to_string(),
        "protocol": "HBONE"
    });
    assert!(by_server.contains(&neighbour), "{neighbour} in {by_server:#?}");
    let from_afar = by_server
        .iter()
        .chain(&by_twin)
        .filter(|open| open["originalDst"] == scene.hostname.as_str());
    assert_eq!(
        from_afar.count(),
        1,
        "one of them answered the client: {by_server:#?} {by_twin:#?}"
    );
    Ok(by_server.len())
}
