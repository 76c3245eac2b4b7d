use isthmus_wire::Enrol;

use super::{super::report::Level, *};

fn record(slot: u32, generation: &str) -> Record {
    Record {
        slot,
        cookie: 7,
        generation: generation.into(),
        released: false,
        pod: Enrol {
            uid: format!("uid-{slot}"),
            namespace: "demo".into(),
            name: format!("pod{slot}"),
            service_account: None,
            netns: "/run/netns/x".into(),
            mtls_required: None,
            reroute_interfaces: Vec::new(),
            capture: Box::default(),
        },
    }
}

fn whole() -> Facts {
    Facts {
        nodes: vec![NodePins {
            path: "/b/node1".into(),
            generations: vec![Generation {
                name: "g".into(),
                whole: true,
                slots: vec![1, 2],
            }],
        }],
        records: vec![record(1, "g"), record(2, "g")],
        ..Facts::default()
    }
}

fn running() -> Agent {
    Agent::Runs {
        node: "node1".into(),
        pid: 7,
        pods: Vec::new(),
    }
}

fn only(facts: &Facts, agent: &Agent) -> Finding {
    let mut findings = judge(facts, None, agent);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.remove(0)
}

#[test]
fn nothing_at_all_and_pods_that_are_served_are_good() {
    assert_eq!(only(&Facts::default(), &Agent::Absent).level, Level::Good);
    assert_eq!(only(&whole(), &running()).level, Level::Good);
}

#[test]
fn pods_without_an_agent_are_told() {
    let found = only(&whole(), &Agent::Dead);
    assert_eq!(found.level, Level::Warning);
    assert!(
        found.found.contains("2 pods are enrolled and no agent runs"),
        "{found:?}"
    );
}

#[test]
fn pins_without_a_record_are_told() {
    let mut facts = whole();
    facts.records.pop();
    let found = only(&facts, &running());
    assert_eq!(found.level, Level::Warning);
    assert!(
        found.found.contains("pod_2") && !found.found.contains("pod_1"),
        "{found:?}"
    );
}

#[test]
fn a_record_without_pins_is_bad_because_its_pod_is_not_guarded() {
    let mut facts = whole();
    facts.nodes[0].generations[0].slots = vec![1];
    let found = only(&facts, &running());
    assert_eq!(found.level, Level::Bad);
    assert!(
        found.found.contains("demo/pod2") && !found.found.contains("demo/pod1"),
        "{found:?}"
    );
    // Released, it has nothing to be guarded for.
    facts.records[1].released = true;
    assert_eq!(only(&facts, &running()).level, Level::Good);
}

#[test]
fn a_record_of_another_generation_has_no_pins() {
    let mut facts = whole();
    facts.records[0].generation = "other".into();
    assert_eq!(only(&facts, &running()).level, Level::Bad);
}

#[test]
fn a_generation_that_is_not_whole_is_bad() {
    let mut facts = whole();
    facts.nodes[0].generations[0].whole = false;
    let found = only(&facts, &running());
    assert_eq!(found.level, Level::Bad);
    assert!(found.found.contains("/b/node1/g"), "{found:?}");
}

#[test]
fn a_node_name_that_is_left_is_told() {
    let mut facts = whole();
    facts.nodes.push(NodePins {
        path: "/b/old".into(),
        ..NodePins::default()
    });
    for (node, says) in [
        (Some("node1"), "pinned: old"),
        (Some("none"), "pinned: node1, old"),
        (None, "node1, old"),
    ] {
        let found = judge(&facts, node, &running());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].level, Level::Warning);
        assert!(found[0].found.ends_with(says), "{found:?}");
    }
}

#[test]
fn a_record_that_cannot_be_read_and_a_killed_check_are_told() {
    let facts = Facts {
        unreadable: vec![("/r/pods/5.json".into(), "EOF".into())],
        abandoned: vec!["/b/isthmus_check_1".into()],
        ..Facts::default()
    };
    let found = judge(&facts, None, &Agent::Absent);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|finding| finding.level == Level::Warning));
    assert!(found[0].found.contains("/r/pods/5.json") && found[1].found.contains("isthmus_check_1"));
}

#[test]
fn a_directory_that_cannot_be_looked_into_is_not_taken_for_an_empty_one() {
    let closed = Facts {
        closed: vec!["/r/pods: EACCES".into()],
        ..Facts::default()
    };
    let found = only(&closed, &Agent::Absent);
    assert_eq!((found.level, found.found.as_str()), (Level::Bad, "/r/pods: EACCES"));
    let file = std::env::temp_dir().join(format!("isthmus-check-closed-{}", std::process::id()));
    fs::write(&file, "").unwrap();
    assert_eq!(Facts::gather(&file, &file).closed.len(), 2);
    fs::remove_file(file).unwrap();
}

#[test]
fn directories_are_read_as_the_agent_writes_them() {
    let root = std::env::temp_dir().join(format!("isthmus-check-pins-{}", std::process::id()));
    let (bpffs, run) = (root.join("bpf"), root.join("run"));
    for directory in ["node_1/g/pod_3", "other/h", "isthmus_check_4294967295"] {
        fs::create_dir_all(bpffs.join(directory)).unwrap();
    }
    for link in LINKS {
        fs::write(bpffs.join("node_1/g").join(format!("link_{link}")), "").unwrap();
    }
    Records::open(&run).unwrap().write(&record(3, "g")).unwrap();
    let facts = Facts::gather(&bpffs, &run);
    let [ours, other] = &facts.nodes[..] else {
        panic!("{facts:?}")
    };
    assert!(ours.is_named("node.1") && !other.is_named("node.1"));
    let wanted = Generation {
        name: "g".into(),
        whole: true,
        slots: vec![3],
    };
    assert_eq!(ours.generations, [wanted]);
    assert!(!other.generations[0].whole);
    assert_eq!(facts.records, [record(3, "g")]);
    assert_eq!(facts.abandoned, [bpffs.join("isthmus_check_4294967295")]);
    fs::remove_dir_all(root).unwrap();
}
