//! What istiod's CA may do: who has a certificate keeps it, who has none is closed, and the reason is told.
//!
//! The istiod is scripted: the real one signs for a day, and refuses nobody on cue.

use std::{fs, time::Duration};

use isthmus_tests::{
    Because as _, Lab, Pod, Result, ScriptedIstiod,
    agent::AgentOptions,
    authority::Authority,
    roundtrip,
    scripted_istiod::{Answer, Event, Terms},
    under_istiod::{Difference, PORT, UnderIstiod, is_refused, speaks},
    wait::throughout,
    within,
};
use isthmus_wire::CertificateStatus;
use tonic::Code;

const SOON: Duration = Duration::from_secs(30);

/// Waits until what status says of a pod's certificate is accepted.
#[track_caller]
fn certificate(pod: &Pod, what: &str, wanted: impl Fn(&CertificateStatus) -> bool) -> Result<CertificateStatus> {
    let mut last = None;
    within(SOON, &format!("the certificate of {}: {what}", pod.name()), || {
        last = pod.status().ok()??.certificate;
        last.clone().filter(&wanted)
    })
    .because(format!("it is last {last:?}"))
}

fn is_good(certificate: &CertificateStatus) -> bool {
    certificate.failure.is_none() && certificate.remaining_seconds > Some(0)
}

fn asked_for(pod: &Pod) -> impl Fn(&Event) -> bool {
    let identity = pod.identity();
    move |event| event.is_certificate_of(&identity)
}

fn with_terms(title: &str, terms: Terms) -> Result<UnderIstiod> {
    UnderIstiod::differing(title, &Difference::default(), |istiod| {
        istiod.script(|script| script.terms = terms);
        Ok(())
    })
}

#[test]
fn certificates_are_fetched_as_pods_come_and_forgotten_as_they_go() -> Result {
    let under = with_terms("fetched", Terms::seconds(8))?;
    let (client, neighbour) = (&under.scene.client, &under.scene.neighbour);
    for pod in [client, neighbour, &under.scene.server] {
        certificate(pod, "good before anything was sent", is_good)?;
    }
    neighbour.release()?;
    within(SOON, "the neighbour is gone", || {
        neighbour.status().ok()?.is_none().then_some(())
    })?;
    let mark = under.istiod.mark();
    within(SOON, "the client's is renewed twice", || {
        (under.istiod.seen(mark, asked_for(client)).len() >= 2).then_some(())
    })?;
    let asked = under.istiod.seen(mark, asked_for(neighbour));
    assert_eq!(asked.len(), 0, "nobody needs it any more: {asked:?}");
    Ok(())
}

#[test]
fn a_ca_that_refuses_one_identity_leaves_the_others_alone_and_its_reason_is_told() -> Result {
    let reason = "scripted: not this one";
    let neighbours = "spiffe://cluster.local/ns/demo/sa/neighbour";
    let under = UnderIstiod::differing("refused", &Difference::default(), |istiod| {
        istiod.script(|script| {
            let refused = Answer::Refused(Code::Unauthenticated, reason.to_owned());
            script.ca_for.insert(neighbours.to_owned(), refused);
        });
        Ok(())
    })?;
    let traffic = under.traffic()?;
    let (neighbour, server) = (&under.scene.neighbour, &under.scene.server);
    let told = certificate(neighbour, "refused", |certificate| certificate.failure.is_some())?;
    assert!(
        told.failure.as_ref().is_some_and(|failure| failure.contains(reason)),
        "{told:?}"
    );
    println!("status: {}", told.failure.unwrap_or_default());
    under.near().wait_log(0, |line| {
        let text = line.to_string();
        text.contains(neighbours) && text.contains(reason)
    })?;
    assert!(is_refused(neighbour, server));
    certificate(&under.scene.client, "good", is_good)?;
    certificate(server, "good", is_good)?;
    under.istiod.script(|script| script.ca_for.clear());
    certificate(neighbour, "good in the end", is_good)?;
    speaks(neighbour, server)?;
    traffic.was_unharmed()
}

#[test]
fn a_slow_ca_is_waited_for_by_the_first_connections() -> Result {
    let under = UnderIstiod::differing("slow", &Difference::default(), |istiod| {
        istiod.script(|script| script.ca = Answer::After(Duration::from_secs(2)));
        Ok(())
    })?;
    let _echo = under.scene.server.echo(PORT)?;
    speaks(&under.scene.client, &under.scene.server)
}

#[test]
fn a_ca_that_talks_nonsense_or_nothing_is_told_and_what_there_is_serves_on() -> Result {
    // Renewed after 20 s; the CA is given up after 10 s.
    let under = with_terms("nonsense", Terms::seconds(40))?;
    let mut traffic = under.traffic()?;
    let client = &under.scene.client;
    for answer in [Answer::Bytes(vec![0, 0, 0, 0, 3, 255, 255, 255]), Answer::Never] {
        under.istiod.script(|script| script.ca = answer.clone());
        let told = certificate(client, "not renewed", |certificate| certificate.failure.is_some())?;
        println!("{answer:?}: {}", told.failure.unwrap_or_default());
        assert!(
            told.remaining_seconds > Some(0),
            "it is still good: {:?}",
            told.remaining_seconds
        );
        traffic.goes_on()?;
        under.istiod.script(|script| script.ca = Answer::Served);
        // The next round must not find one that is half over.
        for pod in [client, &under.scene.server] {
            certificate(pod, "new again", |certificate| {
                is_good(certificate) && certificate.remaining_seconds > Some(25)
            })?;
        }
    }
    traffic.was_unharmed()
}

#[test]
fn a_certificate_that_ends_while_the_ca_is_away_closes_to_new_connections_until_it_is_back() -> Result {
    let under = with_terms("expired", Terms::seconds(20))?;
    let mut traffic = under.traffic()?;
    let (client, server) = (&under.scene.client, &under.scene.server);
    under
        .istiod
        .script(|script| script.ca = Answer::Refused(Code::Unavailable, "scripted: the CA is away".to_owned()));
    certificate(client, "not renewed", |certificate| certificate.failure.is_some())?;
    traffic.goes_on()?;
    for pod in [client, server] {
        certificate(pod, "ended", |certificate| certificate.remaining_seconds < Some(0))?;
    }
    let mark = under.near().log().mark();
    within(SOON, "new connections are refused", || {
        is_refused(client, server).then_some(())
    })?;
    under.near().wait_log(mark, |line| {
        let text = line.to_string();
        text.contains("expired") && text.contains("the CA is away")
    })?;
    let old = roundtrip(traffic.open(), b"from before");
    println!("the connection from before: {old:?}");
    under.istiod.script(|script| script.ca = Answer::Served);
    for pod in [client, server] {
        certificate(pod, "good again", is_good)?;
    }
    within(SOON, "new connections carry", || speaks(client, server).ok())?;
    traffic.loop_ended()?;
    traffic.was_never_in_clear()
}

#[test]
fn certificates_that_have_not_begun_or_are_over_are_not_used_and_that_is_told() -> Result {
    for (terms, word) in [(Terms::FUTURE, "begins in"), (Terms::EXPIRED, "ended")] {
        let under = with_terms("dates", terms)?;
        let (client, server) = (&under.scene.client, &under.scene.server);
        let echo = server.echo(PORT)?;
        let told = certificate(client, "not taken", |certificate| certificate.failure.is_some())?;
        let failure = told.failure.unwrap_or_default();
        println!("{terms:?}: {failure}");
        assert!(failure.contains(word), "{failure}");
        under.near().wait_log(0, |line| {
            let text = line.to_string();
            text.contains(&client.identity()) && text.contains(word)
        })?;
        assert!(is_refused(client, server));
        echo.must_not_accept(Duration::from_millis(50))?;
        under.istiod.script(|script| script.terms = Terms::DAY);
        for pod in [client, server] {
            certificate(pod, "good", is_good)?;
        }
        speaks(client, server)?;
    }
    Ok(())
}

#[test]
fn a_worker_that_dies_while_istiod_and_its_ca_are_away_is_followed_by_one_that_serves() -> Result {
    let under = UnderIstiod::start("worker")?;
    let (client, server) = (&under.scene.client, &under.scene.server);
    let _echo = server.echo(PORT)?;
    speaks(client, server)?;
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
    let mark = under.istiod.mark();
    speaks(client, server)?;
    for pod in [client, server] {
        certificate(pod, "still there", |certificate| {
            certificate.remaining_seconds > Some(0)
        })?;
    }
    throughout(Duration::from_secs(1), "they serve", || speaks(client, server).is_ok())?;
    under.istiod.restart()?;
    under.heals()?;
    let asked = under.istiod.seen(mark, asked_for(client));
    assert_eq!(asked.len(), 0, "what is good is not asked for again: {asked:?}");
    // No key is on the disk, which outlives the agent.
    for agent in &under.scene.agents {
        for entry in walk(&agent.node().run_dir())? {
            let bytes = fs::read(&entry)?;
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("PRIVATE KEY"), "{}", entry.display());
        }
    }
    Ok(())
}

fn walk(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(walk(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[test]
fn the_meshs_root_is_replaced_under_traffic() -> Result {
    let under = with_terms("roots", Terms::seconds(16))?;
    let traffic = under.traffic()?;
    let next = Authority::create(under.scene.lab.binary(), &under.scene.lab.dir().join("next-ca"))?;
    let old = under.scene.lab.authority();
    let pods = [&under.scene.client, &under.scene.neighbour, &under.scene.server];
    // Both are believed; then the new one signs; then only that is believed.
    for (signs, others) in [(old, vec![&next]), (&next, vec![old]), (&next, vec![])] {
        let mark = under.istiod.mark();
        under.istiod.sign_with(signs, &others)?;
        for pod in pods {
            under
                .istiod
                .wait_within(mark, SOON, "every identity renewed", asked_for(pod))?;
        }
        for pod in pods {
            certificate(pod, "good", is_good)?;
        }
    }
    speaks(&under.scene.client, &under.scene.server)?;
    traffic.was_unharmed()
}

#[test]
fn agents_under_istiod_and_under_the_embedded_ca_believe_each_other() -> Result {
    let lab = Lab::new("both")?;
    let network = lab.network("net1")?;
    let (node1, node2) = (network.node("node1")?, network.node("node2")?);
    let (client, server) = (node1.pod("client").start()?, node2.pod("server").start()?);
    let istiod = ScriptedIstiod::start(&lab)?;
    let _near = node1.agent_with(AgentOptions {
        istiod: Some(istiod.options()),
        ..AgentOptions::default()
    })?;
    let _far = node2.agent()?;
    client.enrol()?;
    server.enrol()?;
    let _echo = server.echo(PORT)?;
    speaks(&client, &server)?;
    assert!(!istiod.seen(0, asked_for(&client)).is_empty());
    assert!(
        istiod.seen(0, asked_for(&server)).is_empty(),
        "the other node asks another"
    );
    Ok(())
}
