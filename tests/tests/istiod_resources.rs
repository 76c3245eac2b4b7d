//! What istiod may say: one bad resource leaves the others alone, and what is gone is gone, also when nobody said so.
//!
//! The istiod is scripted: the real one sends nothing bad, and forgets nothing on cue.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use isthmus_istio::workload::{Service, TunnelProtocol, Workload};
use isthmus_tests::{
    Agent, Result,
    log::field,
    must_be_reset, roundtrip,
    scripted_istiod::{
        Event, Kind, convert,
        many::Many,
        resource::{self, with_unknown_fields},
    },
    under_istiod::{PORT, UnderIstiod, is_refused, speaks},
    within,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const MANY: Many = Many {
    workloads: 100,
    services: 10,
};

fn strange(change: impl FnOnce(&mut Workload)) -> isthmus_istio::discovery::Resource {
    let mut workload = Workload {
        uid: "Kubernetes//Pod/demo/strange".to_owned(),
        name: "strange".to_owned(),
        namespace: "demo".to_owned(),
        addresses: vec![vec![10, 1, 9, 9]],
        network: "net1".to_owned(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        ..Workload::default()
    };
    change(&mut workload);
    resource::workload(workload)
}

#[test]
fn one_bad_resource_is_refused_by_name_and_field_and_the_others_of_its_response_are_taken() -> Result {
    let under = UnderIstiod::with_embedded_ca("bad")?;
    let traffic = under.traffic()?;
    under.istiod.served(2)?;
    let [mut workloads, services, policies] = under.near().status()?.mesh_size;
    let nonsense = resource::raw(Kind::Address, "Kubernetes//Pod/demo/strange", vec![255; 12]);
    let mut nameless = strange(|workload| workload.uid.clear());
    "Kubernetes//Pod/demo/strange".clone_into(&mut nameless.name);
    let bad = [
        (nonsense, ""),
        (strange(|workload| workload.addresses = vec![vec![1; 5]]), "addresses"),
        (
            strange(|workload| workload.tunnel_protocol = TunnelProtocol::LegacyIstioMtls.into()),
            "tunnel_protocol",
        ),
        (nameless, "uid"),
    ];
    for (index, (resource, named)) in bad.into_iter().enumerate() {
        let (mark, seen) = (under.near().log().mark(), under.istiod.mark());
        let response = vec![MANY.workload(2 * index, 0), resource, MANY.workload(2 * index + 1, 0)];
        under.istiod.put(Kind::Address, response);
        workloads += 2;
        for agent in &under.scene.agents {
            under.sizes(agent, [workloads, services, policies])?;
        }
        let refused = under.istiod.wait_for(seen, "a refusal", |event| {
            // The other agent's of the round before may come late.
            matches!(event, Event::Nacked { reason, .. } if reason.contains(named))
        })?;
        let Event::Nacked { reason, .. } = &refused else {
            panic!("{refused:?}")
        };
        assert!(
            reason.contains("Pod/demo/strange") && reason.contains(named),
            "{reason}"
        );
        println!("refused: {reason}");
        under.near().wait_log(mark, |line| {
            line.to_string().contains("Pod/demo/strange") && field(line, "reason").contains(named)
        })?;
        under.istiod.remove(Kind::Address, &["Kubernetes//Pod/demo/strange"]);
    }
    under.heals()?;
    traffic.was_unharmed()
}

#[test]
fn a_resource_that_turns_bad_is_kept_as_it_was_while_it_is_there() -> Result {
    let under = UnderIstiod::with_embedded_ca("turned")?;
    let traffic = under.traffic()?;
    under.istiod.served(2)?;
    let server = under.scene.server.workload_uid();
    let seen = under.istiod.mark();
    under
        .istiod
        .put(Kind::Address, vec![resource::raw(Kind::Address, &server, vec![255; 9])]);
    under
        .istiod
        .wait_for(seen, "a refusal", |event| matches!(event, Event::Nacked { .. }))?;
    // Also over a resumption, in which it is neither listed as good nor swept.
    under.istiod.drop_connections();
    under
        .istiod
        .wait_for(seen, "agents that come back", |event| event.asks(Kind::Address))?;
    under.istiod.served(2)?;
    traffic.was_unharmed()
}

#[test]
fn fields_of_a_later_istio_are_no_trouble() -> Result {
    let under = UnderIstiod::with_embedded_ca("unknown fields")?;
    let traffic = under.traffic()?;
    under.istiod.served(2)?;
    let seen = under.istiod.mark();
    let sizes = under.near().status()?.mesh_size;
    for kind in [Kind::Address, Kind::Authorization] {
        let all = under.scene.lab.mesh(|mesh| convert::resources(mesh, kind))?;
        under
            .istiod
            .put(kind, all.into_iter().map(with_unknown_fields).collect());
    }
    let policy = convert::policy(&json!({
        "name": "later", "namespace": "elsewhere", "scope": "Namespace", "action": "Deny", "rules": [[[{}]]],
    }))?;
    under.istiod.put(Kind::Authorization, vec![with_unknown_fields(policy)]);
    under.sizes(under.near(), [sizes[0], sizes[1], sizes[2] + 1])?;
    under.istiod.served(2)?;
    let refused = under.istiod.seen(seen, |event| matches!(event, Event::Nacked { .. }));
    assert_eq!(refused.len(), 0, "{refused:?}");
    traffic.was_unharmed()
}

#[test]
fn an_address_that_two_workloads_have_is_never_spoken_to_in_clear_and_heals_when_one_goes() -> Result {
    let under = UnderIstiod::with_embedded_ca("duplicate")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let (client, server) = (&under.scene.client, &under.scene.server);
    let [workloads, services, policies] = under.near().status()?.mesh_size;
    let std::net::IpAddr::V4(ip) = server.ip() else {
        panic!("{server:?}")
    };
    for protocol in [TunnelProtocol::Hbone, TunnelProtocol::None] {
        let double = strange(|workload| {
            "somebody".clone_into(&mut workload.service_account);
            workload.addresses = vec![ip.octets().to_vec()];
            workload.tunnel_protocol = protocol.into();
        });
        under.istiod.put(Kind::Address, vec![double]);
        for agent in &under.scene.agents {
            under.sizes(agent, [workloads + 1, services, policies])?;
        }
        // Either of the two may be meant; the open connection was to the one it reached.
        roundtrip(traffic.open(), b"still")?;
        let one = if is_refused(client, server) {
            "refused"
        } else {
            "served"
        };
        println!("with a double of {protocol:?} a new connection is {one}");
        under.istiod.remove(Kind::Address, &["Kubernetes//Pod/demo/strange"]);
        within(SOON, "new connections carry again", || speaks(client, server).ok())?;
        traffic.goes_on()?;
    }
    traffic.loop_ended()?;
    traffic.was_never_in_clear()
}

#[test]
fn a_service_that_points_to_nothing_refuses_with_a_reason_until_it_has_an_endpoint() -> Result {
    let under = UnderIstiod::with_embedded_ca("nothing")?;
    let traffic = under.traffic()?;
    let (client, server) = (&under.scene.client, &under.scene.server);
    let vip = under.scene.network.vip(30);
    let empty = resource::service(Service {
        name: "empty".to_owned(),
        namespace: "demo".to_owned(),
        hostname: "empty.demo.svc.cluster.local".to_owned(),
        addresses: vec![isthmus_istio::workload::NetworkAddress {
            network: "net1".to_owned(),
            address: match vip {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
            },
            length: None,
        }],
        ports: vec![isthmus_istio::workload::Port {
            service_port: 80,
            target_port: PORT.into(),
            app_protocol: 0,
        }],
        ..Service::default()
    });
    // And a workload of a service that there is not.
    let lost = strange(|workload| {
        let ports = isthmus_istio::workload::PortList { ports: Vec::new() };
        workload
            .services
            .insert("demo/nowhere.demo.svc.cluster.local".to_owned(), ports);
    });
    under.istiod.put(Kind::Address, vec![empty, lost]);
    under.istiod.served(2)?;
    let mark = under.near().log().mark();
    let at = std::net::SocketAddr::new(vip, 80);
    within(SOON, "a connection to it is refused", || {
        let mut stream = client.connect(at).ok()?;
        stream.read(&mut [0]).is_err().then_some(())
    })?;
    let line = under.near().wait_access(mark, "outbound", |line| {
        field(line, "dst.addr").starts_with(&vip.to_string())
    })?;
    println!("to nothing: {line}");
    assert!(!field(&line, "error").is_empty(), "{line}");

    let uid = server.workload_uid();
    under.scene.lab.mesh(|mesh| {
        if let Some(workload) = mesh.workloads.get_mut(&uid) {
            workload["services"] = json!({ "demo/empty.demo.svc.cluster.local": { "80": PORT } });
        }
    });
    let serving = under.scene.lab.mesh(|mesh| convert::workload(&mesh.workloads[&uid]))?;
    under.istiod.put(Kind::Address, vec![serving]);
    within(SOON, "the service is served", || {
        roundtrip(&mut client.connect(at).ok()?, b"at last").ok()
    })?;
    traffic.was_unharmed()
}

/// Nobody of this account may speak to the server.
fn denied(name: &str, account: &str) -> serde_json::Value {
    json!({
        "name": name, "namespace": "demo", "scope": "Namespace", "action": "Deny",
        "rules": [[[{ "principals": [{ "Exact": format!("cluster.local/ns/demo/sa/{account}") }] }]]],
    })
}

#[test]
fn a_policy_deleted_while_istiod_was_away_is_gone_and_one_added_is_enforced() -> Result {
    let under = UnderIstiod::with_embedded_ca("policies")?;
    let (client, neighbour, server) = (&under.scene.client, &under.scene.neighbour, &under.scene.server);
    let _echo = server.echo(PORT)?;
    under.scene.lab.mesh(|mesh| mesh.policy(denied("no-client", "client")));
    under.istiod.publish()?;
    under.istiod.served(2)?;
    assert!(is_refused(client, server), "the policy holds");
    let mut open = neighbour.connect(server.at(PORT))?;
    roundtrip(&mut open, b"nobody minds the neighbour")?;

    under.istiod.kill();
    under.mesh_says(under.far(), "that istiod is away", |said| said != "ok")?;
    assert!(is_refused(client, server), "it holds on");
    under.scene.lab.mesh(|mesh| {
        mesh.policies.remove("demo/no-client");
        mesh.policy(denied("no-neighbour", "neighbour"));
    });
    under.istiod.publish()?;
    let seen = under.istiod.mark();
    under.istiod.restart()?;
    under.heals()?;
    let listed = |event: &Event| matches!(event, Event::Asked { kind: Kind::Authorization, initial, .. } if initial.contains_key("demo/no-client"));
    assert!(
        !under.istiod.seen(seen, listed).is_empty(),
        "who comes back lists its policies"
    );
    within(SOON, "the deleted policy is gone", || speaks(client, server).ok())?;
    must_be_reset(&open);
    assert!(is_refused(neighbour, server), "the added one is enforced");
    assert_eq!(under.far().status()?.mesh_size[2], 1);
    Ok(())
}

#[test]
fn an_agent_that_restarts_while_istiod_is_away_serves_from_its_disk_and_then_asks_for_the_difference() -> Result {
    let under = UnderIstiod::with_embedded_ca("disk")?;
    let (client, neighbour, server) = (&under.scene.client, &under.scene.neighbour, &under.scene.server);
    let _echo = server.echo(PORT)?;
    under
        .scene
        .lab
        .mesh(|mesh| mesh.policy(denied("no-neighbour", "neighbour")));
    under.istiod.publish()?;
    under.istiod.put(Kind::Address, MANY.resources());
    under.istiod.served(2)?;
    let sizes = under.near().status()?.mesh_size;
    under.istiod.kill();
    for agent in &under.scene.agents {
        // The end writes what was not written yet.
        agent.stop()?;
    }
    let begin = Instant::now();
    for agent in &under.scene.agents {
        agent.restart()?;
        assert_eq!(agent.status()?.mesh_size, sizes);
    }
    speaks(client, server)?;
    println!("two agents served from disk after {:?}", begin.elapsed());
    assert!(is_refused(neighbour, server), "policies are on the disk too");

    under.istiod.put(Kind::Address, vec![MANY.workload(3, 1)]);
    under.istiod.remove(Kind::Address, &[MANY.workload(4, 0).name.as_str()]);
    let seen = under.istiod.mark();
    under.istiod.restart()?;
    under.heals()?;
    for agent in &under.scene.agents {
        under.sizes(agent, [sizes[0] - 1, sizes[1], sizes[2]])?;
    }
    let first = |wanted: &Event| {
        matches!(
            wanted,
            Event::Sent {
                kind: Kind::Address,
                ..
            }
        )
    };
    for sent in under.istiod.seen(seen, first) {
        let Event::Sent { names, removed, .. } = &sent.event else {
            panic!("{sent:?}")
        };
        assert_eq!(names, &[MANY.workload(3, 0).name], "only what has changed is sent");
        assert_eq!(removed, &[MANY.workload(4, 0).name]);
    }
    speaks(client, server)
}

#[test]
fn a_stored_mesh_that_is_damaged_is_told_and_not_served() -> Result {
    let under = UnderIstiod::with_embedded_ca("damaged")?;
    under.istiod.served(2)?;
    let agent: &Agent = under.near();
    let path = agent.node().run_dir().join("mesh.snapshot");
    agent.stop()?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    let mark = agent.log().mark();
    under.istiod.kill();
    agent.restart()?;
    agent.wait_log(mark, |line| {
        line.to_string().contains("the mesh comes from istiod alone")
    })?;
    assert_eq!(agent.status()?.mesh_size, [0, 0, 0]);
    under.istiod.restart()?;
    under.heals()
}

#[test]
fn a_worker_that_dies_while_istiod_is_away_is_followed_by_one_that_serves() -> Result {
    let under = UnderIstiod::with_embedded_ca("worker")?;
    let (client, server) = (&under.scene.client, &under.scene.server);
    let _echo = server.echo(PORT)?;
    under.istiod.served(2)?;
    let sizes = under.near().status()?.mesh_size;
    for agent in &under.scene.agents {
        let path = agent.node().run_dir().join("mesh.snapshot");
        within(SOON, "the mesh is on disk", || path.exists().then_some(()))?;
    }
    under.istiod.kill();
    for agent in &under.scene.agents {
        let before = agent.kill_worker()?;
        within(SOON, "another worker serves", || {
            agent.status().ok().filter(|status| status.worker_pid != before)
        })?;
    }
    speaks(client, server)?;
    assert_eq!(under.near().status()?.mesh_size, sizes);
    under.istiod.restart()?;
    under.heals()?;
    speaks(client, server)
}
