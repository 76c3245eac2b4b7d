//! What the way to istiod may do: the mesh serves on, the reason is told, and it heals by itself.
//!
//! The istiod is scripted: the real one is not slow, silent or broken on cue.

use std::time::Duration;

use isthmus_tests::{
    Agent, Failure, Lab, Result, ScriptedIstiod,
    agent::AgentOptions,
    scripted_istiod::{Answer, Event, Kind, Wire, many::Many},
    under_istiod::{Difference, UnderIstiod},
    within,
};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
const MANY: Many = Many {
    workloads: 2000,
    services: 20,
};

/// The agent says so in its log, after `mark`.
#[track_caller]
fn log_says(agent: &Agent, mark: usize, words: &[&str]) -> Result {
    agent.log().wait_from(mark, SOON, |line| {
        let text = line.to_string();
        words.iter().all(|word| text.contains(word))
    })?;
    Ok(())
}

/// The agent says so in its status and in its log.
#[track_caller]
fn both_say(under: &UnderIstiod, mark: usize, words: &[&str]) -> Result {
    let what = words.join(" and ");
    under.mesh_says(under.near(), &what, |said| words.iter().all(|word| said.contains(word)))?;
    log_says(under.near(), mark, words)
}

#[test]
fn istiod_killed_and_back_is_noticed_by_nobody_and_told_only_what_is_new() -> Result {
    let under = UnderIstiod::with_embedded_ca("killed")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let sizes = under.near().status()?.mesh_size;
    let mark = under.near().log().mark();
    under.istiod.kill();
    both_say(&under, mark, &["198.51.100.254:15012", "is not reached"])?;
    traffic.goes_on()?;
    assert_eq!(under.near().status()?.mesh_size, sizes);
    let seen = under.istiod.mark();
    under.istiod.restart()?;
    under.heals()?;
    let asked = under.istiod.seen(seen, |event| event.asks(Kind::Address));
    assert!(asked.len() >= 2, "{asked:?}");
    for each in &asked {
        let Event::Asked { initial, .. } = &each.event else {
            panic!("{each:?}")
        };
        assert_eq!(initial.len(), sizes[0] + sizes[1], "{initial:?}");
    }
    let sent = under.istiod.seen(
        seen,
        |event| matches!(event, Event::Sent { kind: Kind::Address, count, removed, .. } if *count > 0 || !removed.is_empty()),
    );
    assert_eq!(sent.len(), 0, "they have everything already: {sent:?}");
    assert_eq!(under.near().status()?.mesh_size, sizes);
    traffic.was_unharmed()
}

#[test]
fn a_slow_istiod_is_waited_for_while_everything_serves_on() -> Result {
    let under = UnderIstiod::with_embedded_ca("slow")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let [workloads, services, policies] = under.near().status()?.mesh_size;
    let slow = Duration::from_secs(3);
    under.istiod.script(|script| script.discovery = Answer::After(slow));
    under
        .istiod
        .put(Kind::Address, vec![MANY.service(0), MANY.workload(0, 0)]);
    traffic.goes_on()?;
    assert_eq!(
        under.near().status()?.mesh_size,
        [workloads, services, policies],
        "it is still on its way"
    );
    under.sizes(under.near(), [workloads + 1, services + 1, policies])?;
    // Also who comes back in the meantime is served in the end, byte by byte.
    under.istiod.script(|script| {
        script.wire = Wire::Dribbling {
            bytes: 512,
            pause: Duration::from_millis(5),
        };
    });
    under.istiod.drop_connections();
    under
        .istiod
        .put(Kind::Address, (1..200).map(|index| MANY.workload(index, 0)).collect());
    traffic.goes_on()?;
    for agent in &under.scene.agents {
        under.sizes(agent, [workloads + 200, services + 1, policies])?;
    }
    traffic.was_unharmed()
}

#[test]
fn an_istiod_that_refuses_is_tried_again_and_its_reason_is_told() -> Result {
    let under = UnderIstiod::with_embedded_ca("refusing")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    for (code, name) in [
        (Code::Unauthenticated, "Unauthenticated"),
        (Code::PermissionDenied, "PermissionDenied"),
        (Code::Unavailable, "Unavailable"),
        (Code::ResourceExhausted, "ResourceExhausted"),
    ] {
        let mark = under.near().log().mark();
        let reason = format!("scripted for {name}");
        under
            .istiod
            .script(|script| script.discovery = Answer::Refused(code, reason.clone()));
        under.istiod.drop_connections();
        both_say(&under, mark, &[name, &reason])?;
        traffic.goes_on()?;
        under.istiod.script(|script| script.discovery = Answer::Served);
        under.heals()?;
    }
    traffic.was_unharmed()
}

#[test]
fn an_istiod_that_refuses_all_the_time_is_not_asked_all_the_time() -> Result {
    let under = UnderIstiod::with_embedded_ca("refusing")?;
    under.istiod.served(2)?;
    let seen = under.istiod.mark();
    under
        .istiod
        .script(|script| script.refuse(Code::Unavailable, "not today"));
    under.istiod.drop_connections();
    let refused = |event: &Event| matches!(event, Event::Refused { .. });
    // Ten refusals of two agents take at least 10 + 20 + 40 + 80 ms, halved by the dice.
    within(SOON, "the agents have tried again and again", || {
        (under.istiod.seen(seen, refused).len() >= 10).then_some(())
    })?;
    let all = under.istiod.seen(seen, refused);
    let took = all[9].at - all[0].at;
    assert!(took >= Duration::from_millis(50), "ten refusals within {took:?}");
    under.istiod.script(|script| script.discovery = Answer::Served);
    under.heals()
}

#[test]
fn nonsense_on_every_layer_is_told_and_changes_nothing() -> Result {
    let under = UnderIstiod::with_embedded_ca("nonsense")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let sizes = under.near().status()?.mesh_size;
    let frames: [(&str, Vec<u8>); 4] = [
        ("no protobuf", vec![0, 0, 0, 0, 5, 255, 255, 255, 255, 255]),
        (
            "a frame of four gigabytes",
            [&[0, 255, 255, 255, 255][..], &[0; 4096]].concat(),
        ),
        ("a compressed frame", vec![1, 0, 0, 0, 2, 8, 1]),
        ("half a frame", vec![0, 0, 0, 0, 100, 10, 3]),
    ];
    for (what, bytes) in frames {
        let mark = under.near().log().mark();
        under.istiod.script(|script| script.discovery = Answer::Bytes(bytes));
        under.istiod.drop_connections();
        let said = under.mesh_says(under.near(), what, |said| said != "ok" && said.contains("istiod"))?;
        log_says(under.near(), mark, &["no stream with istiod"])?;
        println!("{what}: {said}");
        traffic.goes_on()?;
        under.istiod.script(|script| script.discovery = Answer::Served);
        under.heals()?;
    }
    for wire in [Wire::NoTls, Wire::NoHttp2] {
        let mark = under.near().log().mark();
        under.istiod.script(|script| script.wire = wire.clone());
        under.istiod.drop_connections();
        let what = format!("that {wire:?} is wrong");
        let said = under.mesh_says(under.near(), &what, |said| said != "ok" && said.contains("istiod"))?;
        log_says(under.near(), mark, &["no stream with istiod"])?;
        println!("{wire:?}: {said}");
        traffic.goes_on()?;
        under.istiod.script(|script| script.wire = Wire::Served);
        under.heals()?;
    }
    for agent in &under.scene.agents {
        assert_eq!(agent.status()?.mesh_size, sizes);
    }
    traffic.was_unharmed()
}

#[test]
fn an_istiod_that_says_nothing_at_all_is_given_up_after_five_seconds() -> Result {
    let under = UnderIstiod::with_embedded_ca("silent")?;
    let traffic = under.traffic()?;
    under.istiod.served(2)?;
    let mark = under.near().log().mark();
    under.istiod.script(|script| script.wire = Wire::Silent);
    under.istiod.drop_connections();
    both_say(&under, mark, &["does not answer within 5 s"])?;
    under.istiod.script(|script| script.wire = Wire::Served);
    under.heals()?;
    traffic.was_unharmed()
}

#[test]
fn a_connection_cut_in_the_middle_of_a_response_leaves_the_mesh_whole_and_the_rest_comes_with_the_next() -> Result {
    let under = UnderIstiod::with_embedded_ca("cut")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let [workloads, services, policies] = under.near().status()?.mesh_size;
    under.istiod.cut_after(200_000);
    under.istiod.put(Kind::Address, MANY.resources());
    within(SOON, "a connection is cut", || under.istiod.has_cut().then_some(()))?;
    traffic.goes_on()?;
    for agent in &under.scene.agents {
        under.sizes(agent, [workloads + MANY.workloads, services + MANY.services, policies])?;
    }
    under.heals()?;
    traffic.was_unharmed()
}

#[test]
fn a_connection_that_has_reached_its_greatest_age_is_replaced_without_a_word_of_trouble() -> Result {
    let under = UnderIstiod::with_embedded_ca("goaway")?;
    let traffic = under.traffic()?;
    under.istiod.served(2)?;
    let (mark, seen) = (under.near().log().mark(), under.istiod.mark());
    under.istiod.go_away();
    // A graceful end waits for streams, and these have none: the server ends them after its grace.
    under.istiod.drop_connections();
    under
        .istiod
        .wait_for(seen, "an agent that comes back", |event| event.asks(Kind::Address))?;
    under.heals()?;
    let alarmed = under
        .near()
        .log()
        .all_from(mark, |line| line.to_string().contains("\"ERROR\""));
    assert_eq!(alarmed.len(), 0, "{alarmed:?}");
    traffic.was_unharmed()
}

#[test]
fn a_root_that_is_not_known_is_told_and_a_new_file_of_roots_heals_without_a_restart() -> Result {
    let under = UnderIstiod::with_embedded_ca("roots")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let mark = under.near().log().mark();
    under.istiod.change_root(true)?;
    under.istiod.drop_connections();
    both_say(&under, mark, &["TLS with istiod", "UnknownIssuer"])
        .or_else(|_| both_say(&under, mark, &["TLS with istiod"]))?;
    traffic.goes_on()?;
    under.istiod.change_root(false)?;
    under.heals()?;
    traffic.was_unharmed()
}

#[test]
fn a_rotated_token_is_shown_from_the_next_stream_on() -> Result {
    let under = UnderIstiod::with_embedded_ca("token")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let seen = under.istiod.mark();
    under.istiod.rotate_token("second.token.signature")?;
    under.istiod.drop_connections();
    under
        .istiod
        .wait_for(seen, "an agent that comes back", |event| event.asks(Kind::Address))?;
    under.heals()?;
    let refused = under.istiod.seen(seen, |event| matches!(event, Event::Refused { .. }));
    assert_eq!(refused.len(), 0, "{refused:?}");
    // One that is not believed is told, and the agent's secrets are not.
    let mark = under.near().log().mark();
    under.istiod.write_token("forged.token.signature")?;
    under.istiod.drop_connections();
    both_say(&under, mark, &["Unauthenticated"])?;
    traffic.goes_on()?;
    let leaked = under
        .near()
        .log()
        .all_from(0, |line| line.to_string().contains("token.signature"));
    assert_eq!(leaked.len(), 0, "a token is in the log: {leaked:?}");
    under.istiod.write_token("second.token.signature")?;
    under.heals()?;
    traffic.was_unharmed()
}

#[test]
fn a_token_that_is_missing_or_empty_is_told_with_its_path_and_read_as_soon_as_it_is_there() -> Result {
    let under = UnderIstiod::with_embedded_ca("token")?;
    let mut traffic = under.traffic()?;
    under.istiod.served(2)?;
    let path = under.istiod.token().display().to_string();
    for empty in [false, true] {
        let mark = under.near().log().mark();
        if empty {
            under.istiod.write_token("")?;
        } else {
            std::fs::remove_file(under.istiod.token())?;
        }
        under.istiod.drop_connections();
        both_say(
            &under,
            mark,
            &[&path, if empty { "is empty" } else { "cannot be read" }],
        )?;
        traffic.goes_on()?;
        under.istiod.write_token(isthmus_tests::scripted_istiod::TOKEN)?;
        under.heals()?;
    }
    traffic.was_unharmed()
}

#[test]
fn an_agent_that_starts_while_istiod_is_away_waits_and_its_pods_speak_to_nobody_in_clear() -> Result {
    let lab = Lab::new("away")?;
    let network = lab.network("net1")?;
    let (node1, node2) = (network.node("node1")?, network.node("node2")?);
    let (client, server) = (node1.pod("client").start()?, node2.pod("server").start()?);
    let istiod = ScriptedIstiod::start(&lab)?;
    istiod.kill();
    let mut options = istiod.options();
    options.signs = false;
    let agent = node1.agent_with(AgentOptions {
        istiod: Some(options),
        ..AgentOptions::default()
    })?;
    client.enrol()?;
    let echo = server.echo(8080)?;
    let refused = client
        .connect_within(server.at(8080), Duration::from_secs(15))
        .and_then(|mut stream| isthmus_tests::roundtrip(&mut stream, b"anybody?"));
    assert!(refused.is_err(), "nothing is known of the mesh");
    echo.must_not_accept(Duration::from_millis(50))?;
    let status = agent.status()?;
    assert!(status.mesh.contains("is not reached"), "{}", status.mesh);
    istiod.restart()?;
    within(SOON, "the agent knows the pod", || client.status().ok()??.identity)?;
    Ok(())
}

#[test]
fn who_asks_says_who_it_is() -> Result {
    let difference = Difference {
        signs: false,
        ..Difference::default()
    };
    let under = UnderIstiod::differing("node", &difference, |_| Ok(()))?;
    under.istiod.served(2)?;
    let asked = under
        .istiod
        .seen(0, |event| matches!(event, Event::Asked { node: Some(_), .. }));
    let names: Vec<&str> = asked
        .iter()
        .filter_map(|seen| match &seen.event {
            Event::Asked { metadata, .. } => metadata.get("NODE_NAME").map(String::as_str),
            _ => None,
        })
        .collect();
    assert!(names.contains(&"node1") && names.contains(&"node2"), "{names:?}");
    let Some(Event::Asked {
        node: Some(node),
        metadata,
        ..
    }) = asked.first().map(|seen| &seen.event)
    else {
        return Err(Failure::new(format!("{asked:?}")));
    };
    assert_eq!(
        node,
        "ztunnel~1.1.1.1~ztunnel-lab.istio-system~istio-system.svc.cluster.local"
    );
    assert_eq!(metadata["NAMESPACE"], "istio-system");
    assert_eq!(metadata["CLUSTER_ID"], "Kubernetes");
    Ok(())
}
