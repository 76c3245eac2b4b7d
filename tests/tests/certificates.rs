//! Wrong, expired, untrusted and missing certificates, on either side, of the outer and the inner TLS.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{
    Agent, Because as _, Lab, Pod, Process, Result,
    agent::AgentOptions,
    authority::{Authority, Issued},
    forger::{Forger, Outcome},
    log::Log,
    roundtrip,
    scene::{OneNetwork, TwoNetworks},
    within,
};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);
const PAST: [&str; 4] = [
    "--not-before",
    "2020-01-01T00:00:00Z",
    "--not-after",
    "2020-01-02T00:00:00Z",
];
const FUTURE: [&str; 4] = [
    "--not-before",
    "2099-01-01T00:00:00Z",
    "--not-after",
    "2099-01-02T00:00:00Z",
];

/// A certificate that must be refused, and the word an operator finds in the log.
struct Bad {
    what: &'static str,
    certificate: Option<Issued>,
    logged: &'static str,
}

/// Bad certificates of an identity that would be right.
fn bad(lab: &Lab, namespace: &str, account: &str) -> Result<Vec<Bad>> {
    let right = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    let foreign = format!("spiffe://elsewhere.test/ns/{namespace}/sa/{account}");
    let own = lab.authority();
    let other = Authority::create(lab.binary(), &lab.dir().join(format!("other-ca-{namespace}-{account}")))?;
    let bad = |what, certificate, logged| Bad {
        what,
        certificate,
        logged,
    };
    Ok(vec![
        bad("expired", Some(own.issue_for(&right, &PAST)?), "expired"),
        bad("not yet valid", Some(own.issue_for(&right, &FUTURE)?), "not valid yet"),
        bad(
            "of another authority",
            Some(other.issue_for(&right, &[])?),
            "not trusted",
        ),
        bad(
            "of another trust domain",
            Some(own.issue_for(&foreign, &[])?),
            "elsewhere.test",
        ),
        bad("none at all", None, ""),
    ])
}

fn forged(forger: Forger, certificate: Option<&Issued>) -> Forger {
    match certificate {
        Some(issued) => forger.certificate(issued),
        None => forger,
    }
}

/// The log says why, to an operator who looks after `mark`.
fn says(log: &Log, mark: usize, word: &str) -> Result {
    log.wait_from(mark, SOON, |line| line.to_string().contains(word))?;
    Ok(())
}

#[test]
fn a_pod_is_closed_to_clients_without_a_good_certificate() -> Result {
    let scene = OneNetwork::start("certificates")?;
    let [_, agent] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    let good = scene.lab.authority().issue("demo", "client")?;
    let to = |ip| {
        Forger::client(SocketAddr::new(ip, 15008))
            .believing(&good)
            .connect(&SocketAddr::new(ip, PORT).to_string())
            .payload("hi")
    };
    for ip in [scene.server.ip(), scene.server.ip6()] {
        let outcome = to(ip).certificate(&good).run(&scene.outside)?;
        assert_eq!(
            (outcome.status("only"), outcome.payload()),
            ("200".into(), "hi".into()),
            "the control: {outcome:?}"
        );
        assert_eq!(outcome.text("tls", "only", "identity"), scene.server.identity());
        echo.peer()?;
    }
    for case in bad(&scene.lab, "demo", "client")? {
        let mark = agent.log().mark();
        let outcome = forged(to(scene.server.ip()), case.certificate.as_ref()).run(&scene.outside)?;
        refused(&outcome, "only", case.what);
        says(
            agent.log(),
            mark,
            if case.certificate.is_none() {
                "showed no certificate"
            } else {
                case.logged
            },
        )?;
    }
    let mark = agent.log().mark();
    let outcome = to(scene.server.ip())
        .certificate(&good)
        .protocols(&["http/1.1"])
        .run(&scene.outside)?;
    refused(&outcome, "only", "no h2");
    says(agent.log(), mark, "ALPN")?;
    echo.must_not_accept(Duration::from_millis(50))
}

fn refused(outcome: &Outcome, place: &str, what: &str) {
    assert!(!outcome.accepted(place), "{what}: {outcome:?}");
    assert!(!outcome.error(place).is_empty(), "{what}: {outcome:?}");
    assert_eq!(outcome.payload(), "", "{what}");
}

/// Runs forged servers in these pods and waits until they listen.
fn serve(pods: &[&Pod], certificate: Option<&Issued>) -> Result<Vec<Process>> {
    let servers = pods
        .iter()
        .map(|pod| forged(Forger::server(), certificate).start(pod))
        .collect::<Result<Vec<_>>>()?;
    for server in &servers {
        server
            .output()
            .wait_from(0, SOON, |line| line["event"] == "listening")?;
    }
    Ok(servers)
}

/// How many CONNECTs forged servers have got.
fn connects(servers: &[Process]) -> usize {
    servers
        .iter()
        .map(|server| server.output().all_from(0, |line| line["event"] == "connect").len())
        .sum()
}

#[test]
fn a_pod_does_not_speak_to_servers_without_a_good_certificate() -> Result {
    let scene = OneNetwork::not_enrolled("certificates", &AgentOptions::default())?;
    scene.client.enrol()?;
    let [agent, _] = &scene.agents;
    let echo = scene.server.echo(PORT)?;
    let good = scene.lab.authority().issue("demo", "server")?;
    let servers = serve(&[&scene.server], Some(&good))?;
    for to in [scene.server.at(PORT), scene.server.at6(PORT)] {
        roundtrip(&mut scene.client.connect(to)?, b"the control")?;
    }
    assert!(connects(&servers) > 0);
    let shown = servers[0].output().all_from(0, |line| line["event"] == "tls");
    assert!(!shown.is_empty());
    drop(servers);
    let mut cases = bad(&scene.lab, "demo", "server")?;
    let wrong = scene.lab.authority().issue("demo", "somebody")?;
    cases.push(Bad {
        what: "of somebody else",
        certificate: Some(wrong),
        logged: "sa/somebody",
    });
    for case in cases {
        let servers = serve(&[&scene.server], case.certificate.as_ref())?;
        cannot_speak(agent, &scene.client, scene.server.at(PORT), &case)?;
        assert_eq!(connects(&servers), 0, "{}", case.what);
    }
    echo.must_not_accept(Duration::from_millis(50))
}

/// The application's connection ends without a byte, and the agent says why.
fn cannot_speak(agent: &Agent, client: &Pod, to: SocketAddr, case: &Bad) -> Result {
    let mark = agent.log().mark();
    let ended = client
        .connect(to)
        .and_then(|mut stream| roundtrip(&mut stream, b"hello?"));
    let text = ended
        .err()
        .because(format!("a server whose certificate is {} was spoken to", case.what))?
        .to_string();
    assert!(
        !text.contains("temporarily") && !text.contains("timed out"),
        "{}: {text}",
        case.what
    );
    says(agent.log(), mark, case.logged)
}

#[test]
fn a_gateway_is_closed_to_clients_without_a_good_certificate() -> Result {
    let scene = TwoNetworks::start("certificates")?;
    let [net1, _] = &scene.networks;
    let stranger = net1.host("stranger")?;
    let good = scene.lab.authority().issue("demo", "client")?;
    let authority = format!("{}:{PORT}", scene.hostname);
    let to_gateway = || Forger::client(scene.gateway.at()).believing(&good).connect(&authority);
    let outcome = to_gateway().certificate(&good).run(&stranger)?;
    assert_eq!(outcome.status("only"), "200", "the control: {outcome:?}");
    assert_eq!(outcome.text("tls", "only", "identity"), scene.gateway.identity());
    for case in bad(&scene.lab, "demo", "client")? {
        let mark = scene.gateway.log().mark();
        let outcome = forged(to_gateway(), case.certificate.as_ref()).run(&stranger)?;
        refused(&outcome, "only", case.what);
        let word = if case.certificate.is_none() {
            "showed no certificate"
        } else {
            case.logged
        };
        says(scene.gateway.log(), mark, word)?;
    }
    Ok(())
}

#[test]
fn a_pod_behind_a_gateway_is_closed_to_clients_without_a_good_inner_certificate() -> Result {
    let scene = TwoNetworks::start("certificates")?;
    let [_, agent] = &scene.agents;
    let [net1, _] = &scene.networks;
    let stranger = net1.host("stranger")?;
    let echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    let good = scene.lab.authority().issue("demo", "client")?;
    let authority = format!("{}:{PORT}", scene.hostname);
    let through = |inner: &Forger| {
        let outer = Forger::client(scene.gateway.at())
            .certificate(&good)
            .believing(&good)
            .connect(&authority);
        outer.inner(inner).payload("hi").run(&stranger)
    };
    let inner = || Forger::client(scene.gateway.at()).believing(&good).connect(&authority);
    let outcome = through(&inner().certificate(&good))?;
    assert_eq!(
        (outcome.status("inner"), outcome.payload()),
        ("200".into(), "hi".into()),
        "the control: {outcome:?}"
    );
    assert_eq!(outcome.text("tls", "inner", "identity"), scene.server.identity());
    let reached = |echo: &isthmus_tests::Echo| echo.must_not_accept(Duration::from_millis(50)).is_err();
    assert_eq!(echoes.iter().filter(|echo| reached(echo)).count(), 1);
    for case in bad(&scene.lab, "demo", "client")? {
        let mark = agent.log().mark();
        let outcome = through(&forged(inner(), case.certificate.as_ref()))?;
        assert_eq!(
            outcome.status("outer"),
            "200",
            "the gateway does not see the inner one: {outcome:?}"
        );
        refused(&outcome, "inner", case.what);
        let word = if case.certificate.is_none() {
            "showed no certificate"
        } else {
            case.logged
        };
        says(agent.log(), mark, word)?;
    }
    echoes
        .iter()
        .try_for_each(|echo| echo.must_not_accept(Duration::from_millis(50)))
}

#[test]
fn a_pod_does_not_speak_through_a_gateway_without_a_good_certificate() -> Result {
    let scene = TwoNetworks::start("certificates")?;
    let [agent, _] = &scene.agents;
    let echoes = [scene.server.echo(PORT)?, scene.twin.echo(PORT)?];
    roundtrip(
        &mut scene.client.connect(scene.at(PORT))?,
        b"the control: a good gateway",
    )?;
    scene.gateway.kill();
    let mut cases = bad(&scene.lab, "istio-system", "gateway2")?;
    let wrong = scene.lab.authority().issue("istio-system", "somebody")?;
    cases.push(Bad {
        what: "of somebody else",
        certificate: Some(wrong),
        logged: "sa/somebody",
    });
    for case in cases {
        let forger = forged(Forger::server(), case.certificate.as_ref());
        let servers = [forger.start_in(&scene.lab, scene.gateway.netns())?];
        servers[0]
            .output()
            .wait_from(0, SOON, |line| line["event"] == "listening")?;
        cannot_speak(agent, &scene.client, scene.at(PORT), &case)?;
        assert_eq!(connects(&servers), 0, "{}", case.what);
    }
    drop(echoes);
    Ok(())
}

#[test]
fn a_pod_does_not_speak_to_a_server_behind_a_gateway_without_a_good_inner_certificate() -> Result {
    let scene = TwoNetworks::start("certificates")?;
    let [agent, far] = &scene.agents;
    for pod in [&scene.server, &scene.twin] {
        pod.release()?;
    }
    within(SOON, "the servers are let go", || {
        far.status().ok().filter(|status| status.pods.is_empty())
    })?;
    let good = scene.lab.authority().issue("demo", "web")?;
    let pods = [&scene.server, &scene.twin];
    let servers = serve(&pods, Some(&good))?;
    roundtrip(&mut scene.client.connect(scene.at(PORT))?, b"the control")?;
    assert!(connects(&servers) > 0);
    drop(servers);
    let mut cases = bad(&scene.lab, "demo", "web")?;
    let wrong = scene.lab.authority().issue("demo", "somebody")?;
    cases.push(Bad {
        what: "of somebody else",
        certificate: Some(wrong),
        logged: "sa/somebody",
    });
    for case in cases {
        let servers = serve(&pods, case.certificate.as_ref())?;
        cannot_speak(agent, &scene.client, scene.at(PORT), &case)?;
        assert_eq!(connects(&servers), 0, "{}", case.what);
    }
    Ok(())
}

#[test]
fn agents_of_two_authorities_do_not_trust_each_other() -> Result {
    let lab = Lab::new("certificates")?;
    let network = lab.network("net1")?;
    let (node1, node2) = (network.node("node1")?, network.node("node2")?);
    let (client, server) = (node1.pod("client").start()?, node2.pod("server").start()?);
    let other = Authority::create(lab.binary(), &lab.dir().join("other-ca"))?;
    let own = node1.agent()?;
    let foreign = node2.agent_with(AgentOptions {
        authority: Some(other.dir().to_owned()),
        ..AgentOptions::default()
    })?;
    client.enrol()?;
    server.enrol()?;
    let echo = server.echo(PORT)?;
    let case = Bad {
        what: "of another authority",
        certificate: None,
        logged: "not trusted",
    };
    cannot_speak(&own, &client, server.at(PORT), &case)?;
    says(foreign.log(), 0, "roots")?;
    echo.must_not_accept(Duration::from_millis(50))
}
