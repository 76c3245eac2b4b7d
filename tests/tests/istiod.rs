//! One real istiod: what it tells holds, also while it is away, and what changes meanwhile holds when it is back.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use isthmus_tests::{
    Agent, Cluster, Lab, Node, Pod, Result, roundtrip,
    under_istiod::{PORT, is_refused, speaks},
    within,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A cluster with two nodes: `client` and `other` here, `server` there.
struct World {
    client: Pod,
    other: Pod,
    server: Pod,
    agents: [Agent; 2],
    nodes: [Node; 2],
    cluster: Cluster,
    _lab: Lab,
}

impl World {
    fn start(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let cluster = Cluster::alone(&lab)?;
        let nodes = [cluster.node("node1", "r1/z1")?, cluster.node("node2", "r1/z2")?];
        let [near, far] = &nodes;
        let client = cluster.pod(near, "client").start()?;
        let other = cluster.pod(near, "other").start()?;
        let server = cluster.pod(far, "server").label("app", "server").start()?;
        let agents = [cluster.agent(near)?, cluster.agent(far)?];
        for pod in [&client, &other, &server] {
            // Plaintext as policies say.
            pod.enrol_with(None)?;
        }
        for agent in &agents {
            cluster.settled(agent)?;
        }
        Ok(Self {
            client,
            other,
            server,
            agents,
            nodes,
            cluster,
            _lab: lab,
        })
    }

    /// Until both agents say of istiod what is wanted.
    fn both_say(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result {
        self.agents.iter().try_for_each(|agent| {
            within(SOON, what, || {
                agent.status().ok().filter(|status| wanted(&status.mesh)).map(drop)
            })
        })
    }
}

/// Lets only `client` speak to the server.
fn only_client() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": "only-client", "namespace": "demo" },
        "spec": {
            "selector": { "matchLabels": { "app": "server" } },
            "action": "ALLOW",
            "rules": [{ "from": [{ "source": { "principals": ["cluster.local/ns/demo/sa/client"] } }] }],
        },
    })
}

/// Refuses plain TCP to the server.
fn strict() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": { "name": "strict", "namespace": "demo" },
        "spec": { "selector": { "matchLabels": { "app": "server" } }, "mtls": { "mode": "STRICT" } },
    })
}

#[test]
fn killed_and_back_nobody_notices_and_what_was_deleted_meanwhile_is_gone() -> Result {
    let world = World::start("istiod away")?;
    let World {
        client,
        other,
        server,
        cluster,
        ..
    } = &world;
    let _echo = server.echo(PORT)?;
    cluster.apply(&only_client())?;
    within(SOON, "the policy refuses the other client", || {
        is_refused(other, server).then_some(())
    })?;
    let mut open = client.connect(server.at(PORT))?;
    roundtrip(&mut open, b"before")?;
    let sizes = world.agents[1].status()?.mesh_size;

    cluster.kill_istiod();
    world.both_say("that istiod is not reached", |mesh| mesh != "ok")?;
    cluster.delete(&only_client())?;
    roundtrip(&mut open, b"meanwhile")?;
    speaks(client, server)?;
    assert!(is_refused(other, server), "what istiod told last holds");
    assert_eq!(world.agents[1].status()?.mesh_size, sizes);

    cluster.start_istiod()?;
    world.both_say("that all is well", |mesh| mesh == "ok")?;
    within(SOON, "the policy is gone", || speaks(other, server).ok())?;
    roundtrip(&mut open, b"after")?;
    cluster.settled(&world.agents[1])
}

#[test]
fn strict_peers_refuse_plain_tcp_and_permissive_ones_take_it() -> Result {
    let world = World::start("istiod strict")?;
    let World {
        client,
        server,
        cluster,
        ..
    } = &world;
    let _echo = server.echo(PORT)?;
    let outsider = cluster.pod(&world.nodes[0], "outsider").plain().start()?;
    speaks(&outsider, server)?;
    cluster.apply(&strict())?;
    within(SOON, "plain TCP is refused", || {
        is_refused(&outsider, server).then_some(())
    })?;
    speaks(client, server)?;
    cluster.delete(&strict())?;
    within(SOON, "plain TCP is taken again", || speaks(&outsider, server).ok())
}

#[test]
fn an_entry_leads_outside_and_back_into_the_mesh() -> Result {
    let world = World::start("istiod entries")?;
    let World {
        client,
        server,
        cluster,
        ..
    } = &world;
    let outsider = cluster.pod(&world.nodes[1], "outsider").plain().start()?;
    let (far, near) = (outsider.echo(PORT)?, server.echo(PORT)?);
    let vips: [IpAddr; 2] = [cluster.network().vip(40), cluster.network().vip(41)];
    let entry = |name: &str, vip: IpAddr, ends: Value| {
        let mut spec = json!({
            "hosts": [format!("{name}.example")],
            "addresses": [vip.to_string()],
            "ports": [{ "number": 80, "targetPort": PORT, "name": "tcp", "protocol": "TCP" }],
            "resolution": "STATIC",
            "location": "MESH_INTERNAL",
        });
        if let (Some(spec), Some(ends)) = (spec.as_object_mut(), ends.as_object()) {
            spec.extend(ends.clone());
        }
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": { "name": name, "namespace": "demo" },
            "spec": spec,
        })
    };
    let [outside, inside] = vips;
    cluster.apply(&entry(
        "outside",
        outside,
        json!({ "endpoints": [{ "address": outsider.ip().to_string() }] }),
    ))?;
    let inner = json!({ "workloadSelector": { "labels": { "app": "server" } } });
    cluster.apply(&entry("inside", inside, inner))?;
    for (vip, echo) in [(outside, &far), (inside, &near)] {
        let at = SocketAddr::new(vip, 80);
        within(SOON, "the entry leads somewhere", || {
            roundtrip(&mut client.connect(at).ok()?, b"hello").ok()
        })?;
        assert!(echo.taken() > 0, "{at}");
    }
    Ok(())
}
