use isthmus_wire::Enrol;

use super::*;
use crate::check::pins::Generation;

fn arguments(node: Option<&str>) -> CleanupArgs {
    CleanupArgs {
        node: node.map(str::to_owned),
        run_dir: "/run/isthmus".into(),
        state_dir: None,
        bpffs: "/b".into(),
        cgroup: None,
        pods: vec!["/run/netns/asked".into()],
        cni_bin_dir: Some("/nonexistent/bin".into()),
        cni_conf_dir: Some("/nonexistent/net.d".into()),
        force: false,
        istio_cni: false,
        host_root: None,
        node_netns: "/proc/self/ns/net".into(),
    }
}

fn record(slot: u32, generation: &str) -> Record {
    Record {
        slot,
        cookie: 70 + u64::from(slot),
        generation: generation.into(),
        released: false,
        pod: Enrol {
            uid: format!("uid-{slot}"),
            namespace: "demo".into(),
            name: format!("pod{slot}"),
            service_account: None,
            netns: format!("/run/netns/pod{slot}").into(),
            mtls_required: None,
            reroute_interfaces: Vec::new(),
            capture: Box::default(),
        },
    }
}

fn node(name: &str, generation: &str, slots: &[u32]) -> NodePins {
    NodePins {
        path: Path::new("/b").join(name),
        generations: vec![Generation {
            name: generation.into(),
            whole: true,
            slots: slots.to_vec(),
        }],
    }
}

fn facts() -> Facts {
    Facts {
        nodes: vec![node("new", "g", &[1, 9]), node("old", "h", &[2])],
        abandoned: vec!["/b/isthmus_check_1".into()],
        records: vec![record(1, "g"), record(2, "h"), record(3, "nowhere")],
        unreadable: vec![("/run/isthmus/pods/4.json".into(), "EOF".into())],
        closed: Vec::new(),
    }
}

fn runs(node: &str) -> Agent {
    Agent::Runs {
        node: node.into(),
        pid: 7,
        pods: Vec::new(),
    }
}

fn slots(scope: &Scope) -> Vec<u32> {
    scope.records.iter().map(|record| record.slot).collect()
}

#[test]
fn without_a_name_everything_goes() {
    let scope = Scope::of(&arguments(None), &Agent::Absent, facts());
    assert_eq!((scope.nodes.len(), slots(&scope)), (2, vec![1, 2, 3]));
    assert!(scope.has_run_directory && scope.unreadable.len() == 1 && scope.abandoned.len() == 1);
}

#[test]
fn with_a_name_what_is_pinned_under_another_stays() {
    let scope = Scope::of(&arguments(Some("old")), &Agent::Dead, facts());
    assert_eq!(scope.nodes, [node("old", "h", &[2])]);
    assert_eq!(slots(&scope), [2, 3], "the third is pinned nowhere");
    assert!(scope.has_run_directory);
}

#[test]
fn a_record_pinned_under_both_names_goes_with_the_one_that_was_named() {
    let mut facts = facts();
    facts.nodes = vec![node("new", "g", &[1]), node("old", "g", &[1])];
    facts.records = vec![record(1, "g")];
    assert_eq!(slots(&Scope::of(&arguments(Some("old")), &Agent::Dead, facts)), [1]);
}

#[test]
fn under_a_running_agent_of_another_name_only_pins_go() {
    let scope = Scope::of(&arguments(Some("old")), &runs("new"), facts());
    assert_eq!(scope.nodes, [node("old", "h", &[2])]);
    assert_eq!(slots(&scope), Vec::<u32>::new());
    assert!(!scope.has_run_directory && scope.unreadable.is_empty());
    let own = Scope::of(&arguments(Some("new")), &runs("new"), facts());
    assert!(own.has_run_directory, "its own agent is in the way");
}

#[test]
fn namespaces_come_from_records_from_pins_without_one_and_from_the_asker() {
    let scope = Scope::of(&arguments(None), &Agent::Absent, facts());
    let found = insides(&arguments(None), &scope);
    let names: Vec<&str> = found.iter().map(|inside| inside.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "pod demo/pod1",
            "pod demo/pod2",
            "pod demo/pod3",
            "the pod of /b/new/g/pod_9",
            "namespace /run/netns/asked"
        ]
    );
    assert_eq!(found[0].cookie, Some(71));
    assert_eq!((found[3].cookie, found[3].slot), (None, None));
}

#[tokio::test]
async fn a_namespace_that_is_gone_is_said_and_is_no_failure() {
    let mut out = Vec::new();
    let mut ledger = Ledger::new(&mut out, "Isthmus");
    let inside = Inside {
        name: "pod demo/a".into(),
        path: Some("/run/netns/isthmus-is-not-here".into()),
        cookie: Some(7),
        slot: Some(1),
        enrolled: true,
    };
    assert!(clear(&inside, &mut ledger).await);
    assert!(ledger.close().unwrap());
    assert!(
        String::from_utf8(out)
            .unwrap()
            .starts_with("pod demo/a: its network namespace is gone")
    );
}

#[test]
fn the_refusal_names_the_agent_and_both_ways_on() {
    let text = occupied(&runs("node1"), Path::new("/run/isthmus")).to_string();
    for says in [
        "/run/isthmus/agent.sock",
        "node node1, process 7",
        "systemctl stop isthmus",
        "--force",
    ] {
        assert!(text.contains(says), "{text}");
    }
}
