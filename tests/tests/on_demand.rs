//! An agent that asks istiod on demand: what it is told of, what it is not, and what becomes of connections meanwhile.

use std::{collections::BTreeSet, time::Duration};

use isthmus_tests::{
    Because as _, Cluster, Lab, Result,
    agent::AgentOptions,
    control_plane::{Second, T1, Told},
    log::field,
    roundtrip,
    scripted_istiod::{Event, Kind, convert, many::Many},
    under_istiod::{Difference, PORT, UnderIstiod, is_refused, speaks},
    within,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const MANY: Many = Many {
    workloads: 2000,
    services: 20,
};

fn flags() -> Vec<String> {
    vec!["--xds-on-demand".to_owned()]
}

/// Two agents that ask on demand, in a mesh with many workloads that nobody talks to.
fn start(title: &str) -> Result<UnderIstiod> {
    let difference = Difference {
        signs: false,
        arguments: flags(),
    };
    UnderIstiod::differing(title, &difference, |istiod| {
        istiod.put(Kind::Address, MANY.resources());
        Ok(())
    })
}

/// Names of all workloads and services that were sent after `mark`.
fn sent(under: &UnderIstiod, mark: usize) -> BTreeSet<String> {
    let seen = under.istiod.seen(mark, |event| {
        matches!(
            event,
            Event::Sent {
                kind: Kind::Address,
                ..
            }
        )
    });
    seen.into_iter()
        .flat_map(|seen| match seen.event {
            Event::Sent { names, .. } => names,
            _ => Vec::new(),
        })
        .collect()
}

/// How often a name was asked for after `mark`.
fn asked(under: &UnderIstiod, mark: usize, name: &str) -> usize {
    let seen = under.istiod.seen(
        mark,
        |event| matches!(event, Event::Asked { kind: Kind::Address, subscribe, .. } if subscribe.iter().any(|one| one == name)),
    );
    seen.len()
}

#[test]
fn an_agent_is_told_of_its_own_pods_and_of_those_they_talk_to() -> Result {
    let under = start("on demand")?;
    let (client, server) = (&under.scene.client, &under.scene.server);
    under.mesh_says(under.near(), "that it is well", |said| said == "ok")?;
    assert_eq!(under.near().status()?.mesh_size, [2, 0, 0], "its own pods");
    let mut traffic = under.traffic()?;
    under.sizes(under.near(), [3, 0, 0])?;
    for _ in 0..40 {
        traffic.goes_on()?;
    }
    // Who came is asked for, too, and so is told in the server's log.
    let mark = under.far().log().mark();
    speaks(client, server)?;
    under
        .far()
        .wait_access(mark, "inbound", |line| field(line, "src.workload") == client.name())?;
    traffic.was_unharmed()?;
    let names = sent(&under, 0);
    let own: BTreeSet<String> = [client, &under.scene.neighbour, server, &under.scene.plain]
        .iter()
        .map(|pod| pod.workload_uid())
        .collect();
    assert_eq!(names, own, "and nothing of what nobody talks to");
    let at = format!("net1/{}", server.ip());
    assert_eq!(asked(&under, 0, &at), 1, "however many connections there were");
    let status = under.near().status()?;
    let on_demand = status.istiod.and_then(|istiod| istiod.on_demand);
    assert_eq!(on_demand.map(|on_demand| on_demand.absent), Some(0));
    Ok(())
}

#[test]
fn who_is_outside_is_reached_in_clear_and_passes_the_agent() -> Result {
    let under = start("on demand")?;
    let (client, outside) = (&under.scene.client, &under.scene.outside);
    let echo = outside.echo(PORT)?;
    let mark = under.near().log().mark();
    let seen = under.istiod.mark();
    for _ in 0..3 {
        let mut stream = client.connect(outside.at(PORT))?;
        roundtrip(&mut stream, b"hello")?;
        assert_ne!(echo.peer()?, stream.local_addr()?, "the kernel leaves nobody alone");
    }
    under.near().wait_access(mark, "outbound", |line| {
        field(line, "dst.addr") == outside.at(PORT).to_string()
    })?;
    let at = format!("net1/{}", outside.ip());
    assert!(asked(&under, seen, &at) >= 1);
    let status = under.near().status()?;
    let on_demand = status.istiod.and_then(|istiod| istiod.on_demand);
    assert_eq!(on_demand.map(|on_demand| on_demand.absent), Some(1));
    assert_eq!(
        status.verdicts.get("connect_left_alone").copied().unwrap_or_default(),
        0
    );
    // Nobody is told when it joins the mesh after it was asked for.
    let joined = convert::workload(&json!({
        "uid": "joined", "name": "joined", "namespace": "demo", "network": "net1", "protocol": "HBONE",
        "serviceAccount": "default", "trustDomain": "cluster.local",
        "workloadIps": [outside.ip()],
    }))?;
    under.istiod.put(Kind::Address, vec![joined]);
    within(SOON, "it is not spoken to in clear any more", || {
        is_refused(client, outside).then_some(())
    })
}

#[test]
fn while_istiod_is_away_what_was_asked_for_serves_on_and_the_rest_is_refused() -> Result {
    let under = start("on demand")?;
    let (client, server, plain) = (&under.scene.client, &under.scene.server, &under.scene.plain);
    let outside = &under.scene.outside;
    let mut traffic = under.traffic()?;
    let _echoes = [plain.echo(PORT)?, outside.echo(PORT)?];
    speaks(client, outside)?;
    under.istiod.kill();
    under.mesh_says(under.near(), "that istiod is away", |said| {
        said.contains("is not reached")
    })?;
    traffic.goes_on()?;
    speaks(client, outside)?;
    let mark = under.near().log().mark();
    assert!(is_refused(client, plain), "nobody knows whether it must be tunnelled");
    let line = under.near().wait_access(mark, "outbound", |line| {
        field(line, "dst.addr") == plain.at(PORT).to_string()
    })?;
    assert_eq!(field(&line, "close"), "mesh-silent", "{line}");
    // A restarted agent has on disk what was asked for.
    under.near().stop()?;
    under.near().restart()?;
    speaks(client, server)?;
    under.istiod.restart()?;
    within(SOON, "the rest is reached", || speaks(client, plain).ok())?;
    under.mesh_says(under.near(), "that it is well", |said| said == "ok")?;
    traffic.was_never_in_clear()
}

#[test]
fn a_service_of_two_clusters_is_reached_at_home_and_through_the_other_networks_gateway() -> Result {
    let options = AgentOptions {
        arguments: flags(),
        ..AgentOptions::default()
    };
    let t1 = T1::start_in(Lab::new("on demand")?, Second::Ours, &options)?;
    for client in &t1.clients {
        let counts = t1.ask(client, t1.hello(client)?, 40)?;
        // By capacity, which is one each: to miss four of forty by chance is one in a hundred million.
        assert!(counts.iter().all(|count| *count >= 4), "{}: {counts:?}", client.name());
    }
    Ok(())
}

/// Waits until istiod would tell an agent that asks for all what `wanted` accepts.
fn told(cluster: &Cluster, wanted: impl Fn(&Told) -> bool) -> Result {
    within(SOON, "istiod knows", || cluster.told().ok().filter(&wanted).map(drop))
}

#[test]
fn the_real_istiod_answers_what_it_is_asked_and_a_service_keeps_up_with_its_endpoints() -> Result {
    let lab = Lab::new("on demand")?;
    let cluster = &Cluster::alone(&lab)?;
    let (near, far) = (cluster.node("near", "r1/z1")?, cluster.node("far", "r1/z1")?);
    let client = cluster.pod(&near, "client").start()?;
    let first = cluster.pod(&far, "first").label("app", "web").start()?;
    let unasked = cluster.pod(&far, "unasked").start()?;
    let vip = cluster.network().vip(20);
    cluster.service("web").vip(vip).port(80, PORT).add()?;
    cluster.service("unasked").port(80, PORT).add()?;
    let pods = [&client, &first, &unasked].map(|pod| cluster.workload_uid(pod));
    told(cluster, |told| pods.iter().all(|uid| told.workloads.contains_key(uid)))?;
    let options = AgentOptions {
        arguments: flags(),
        ..AgentOptions::default()
    };
    let agent = cluster.agent_with(&near, options)?;
    let _far = cluster.agent(&far)?;
    for pod in [&client, &first, &unasked] {
        pod.enrol()?;
    }
    let [own, services, _] = agent.status()?.mesh_size;
    assert_eq!(services, 0);
    let _echo = first.echo(PORT)?;
    let mark = agent.log().mark();
    let reach = |when: &str| -> Result {
        let reached = roundtrip(&mut client.connect((vip, 80).into())?, b"hello");
        reached.because(format!("{when}; its last words:\n{}", agent.last_words()))
    };
    reach("at first")?;
    let line = agent.wait_access(mark, "outbound", |_| true)?;
    assert_eq!(field(&line, "dst.identity"), first.identity(), "{line}");
    let [workloads, services, _] = agent.status()?.mesh_size;
    assert_eq!((workloads, services), (own + 1, 1), "the service and who serves it");

    // Another takes over: istiod tells that the first has gone, but not that the second has come.
    let second = cluster.pod(&far, "second").label("app", "web").start()?;
    second.enrol()?;
    let _other = second.echo(PORT)?;
    let came = cluster.workload_uid(&second);
    told(cluster, |told| told.workloads.contains_key(&came))?;
    let left = cluster.workload_uid(&first);
    cluster.delete_pod(&first)?;
    told(cluster, |told| !told.workloads.contains_key(&left))?;
    within(SOON, "only that the first has gone is told", || {
        let [workloads, ..] = agent.status().ok()?.mesh_size;
        (workloads == own).then_some(())
    })?;
    let mark = agent.log().mark();
    reach("when the first has gone")?;
    agent.wait_access(mark, "outbound", |line| field(line, "dst.workload") == "second")?;

    // The same stream ended by istiod: what is held is resumed.
    cluster.kill_istiod();
    reach("without istiod")?;
    cluster.start_istiod()?;
    let outside = cluster.network().host("outside")?;
    let _echo = outside.echo(PORT)?;
    within(SOON, "what is new is asked for", || speaks(&client, &outside).ok())?;
    reach("when istiod is back")
}
