use isthmus_istio::discovery::DeltaDiscoveryResponse;
use prost_types::Any;

use super::*;
use crate::{
    mesh::{Mesh, Snapshot},
    xds::scripted::{nonce, pod, policy, response, uid},
};

const ALL: Manner = Manner {
    on_demand: None,
    resume_bytes: 1 << 20,
};

fn node() -> Node {
    Node {
        name: "agent".to_owned(),
        namespace: Node::NAMESPACE.to_owned(),
        ip: Node::IP,
        node_name: "n".to_owned(),
        cluster_id: "c".to_owned(),
        metadata: Default::default(),
    }
}

/// What a response comes to, in the order in which it is written.
fn take(session: &mut Session, held: &mut Held, response: DeltaDiscoveryResponse) -> Taken {
    let events = response.resources.into_iter().map(Event::Resource);
    let events = events.chain([Event::Type(response.type_url)]);
    let events = events.chain(response.removed_resources.into_iter().map(Event::Removed));
    for event in events {
        assert!(session.take(event, held).unwrap().is_none(), "it is not complete");
    }
    let end = Event::End {
        nonce: response.nonce,
        bytes: 7,
    };
    session.take(end, held).unwrap().expect("it is complete")
}

fn begin(manner: Manner, held: &mut Held) -> (Session, [DeltaDiscoveryRequest; 2]) {
    let (session, requests) = Session::open(&node(), manner, held);
    (session, requests.try_into().unwrap())
}

/// A mesh of two pods and a policy, and who reads it.
fn told() -> (Held, Mesh) {
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    let mut held = Held::new(publisher);
    let (mut session, _) = begin(ALL, &mut held);
    let pods = vec![pod("a", [10, 0, 0, 1], "1"), pod("b", [10, 0, 0, 2], "1")];
    let taken = take(&mut session, &mut held, response(Kind::Address, pods));
    assert!(!taken.synced);
    let taken = take(
        &mut session,
        &mut held,
        response(Kind::Authorization, vec![policy("p")]),
    );
    assert!(taken.synced);
    (held, mesh)
}

#[test]
fn a_stream_begins_with_a_request_for_all_of_each_kind() {
    let (publisher, _mesh) = Mesh::new(Snapshot::empty());
    let (_, [addresses, policies]) = begin(ALL, &mut Held::new(publisher));
    let expected = |kind: Kind| DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let first = DeltaDiscoveryRequest {
        node: Some(node().message()),
        ..expected(Kind::Address)
    };
    assert_eq!(addresses, first);
    assert_eq!(policies, expected(Kind::Authorization), "who asks is said once");
}

#[test]
fn on_demand_nothing_is_asked_for_but_what_is_wanted_and_policies() {
    let (publisher, _mesh) = Mesh::new(Snapshot::empty());
    let manner = Manner {
        on_demand: Some(vec!["/10.0.0.1".to_owned()]),
        ..ALL
    };
    let (_, [addresses, policies]) = begin(manner, &mut Held::new(publisher));
    assert_eq!(addresses.resource_names_subscribe, ["*", "/10.0.0.1"]);
    assert_eq!(addresses.resource_names_unsubscribe, ["*"]);
    assert!(policies.resource_names_subscribe.is_empty());
    assert!(policies.resource_names_unsubscribe.is_empty());
}

#[test]
fn nothing_is_served_before_workloads_and_policies_are_known() {
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    let mut held = Held::new(publisher);
    let (mut session, _) = begin(ALL, &mut held);
    let pods = vec![pod("a", [10, 0, 0, 1], "1")];
    take(&mut session, &mut held, response(Kind::Address, pods));
    assert_eq!(
        mesh.current().sizes(),
        [0, 0, 0],
        "who is known without policies is open to all"
    );
    take(
        &mut session,
        &mut held,
        response(Kind::Authorization, vec![policy("p")]),
    );
    assert_eq!(mesh.current().sizes(), [1, 0, 1]);
}

#[test]
fn a_response_is_acknowledged_by_its_nonce_alone() {
    let (mut held, mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let update = DeltaDiscoveryResponse {
        removed_resources: vec![uid("b")],
        ..response(Kind::Address, vec![pod("c", [10, 0, 0, 3], "1")])
    };
    let taken = take(&mut session, &mut held, update);
    let expected = DeltaDiscoveryRequest {
        type_url: Kind::Address.url().to_owned(),
        response_nonce: nonce(Kind::Address),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(taken.answer, Some(expected));
    assert_eq!((taken.upserted, taken.removed, taken.swept), (1, 1, 0));
    let mesh = mesh.current();
    assert!(mesh.workload(&uid("c")).is_some() && mesh.workload(&uid("b")).is_none());
}

#[test]
fn one_bad_resource_is_refused_by_name_and_the_others_are_taken() {
    let (mut held, mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let bad = pod("bad", [10, 0, 0, 9], "1");
    let mut unnamed = bad.clone();
    unnamed.name = "other".to_owned();
    let missing = Resource {
        resource: None,
        name: "missing".to_owned(),
        ..bad.clone()
    };
    let mut odd = bad;
    odd.name = "odd".to_owned();
    odd.resource = Some(Any {
        type_url: "type.googleapis.com/google.protobuf.Empty".to_owned(),
        value: vec![1],
    });
    let good = pod("c", [10, 0, 0, 3], "1");
    let update = response(Kind::Address, vec![unnamed, missing, odd, good]);
    let taken = take(&mut session, &mut held, update);
    assert_eq!(taken.upserted, 1);
    assert!(mesh.current().workload(&uid("c")).is_some());
    let names: Vec<_> = taken.rejected.iter().map(|rejected| &*rejected.name).collect();
    assert_eq!(names, ["other", "missing", "odd"]);
    let answer = taken.answer.unwrap();
    assert_eq!(answer.response_nonce, nonce(Kind::Address));
    let detail = answer.error_detail.unwrap();
    assert_eq!(detail.code, INVALID_ARGUMENT);
    for part in ["other: uid: ", "missing: resource: missing", "odd: resource.type_url: "] {
        assert!(detail.message.contains(part), "{}", detail.message);
    }
}

#[test]
fn what_was_bad_and_is_right_or_gone_is_healed_once() {
    let (mut held, _mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let broken = |name: &str| Resource {
        name: uid(name),
        ..Resource::default()
    };
    let taken = take(
        &mut session,
        &mut held,
        response(Kind::Address, vec![broken("x"), broken("y"), broken("z")]),
    );
    assert!(taken.is_first && taken.healed.is_empty() && taken.rejected.len() == 3);
    let update = DeltaDiscoveryResponse {
        removed_resources: vec![uid("y")],
        ..response(Kind::Address, vec![pod("x", [10, 0, 0, 8], "2"), broken("z")])
    };
    let taken = take(&mut session, &mut held, update.clone());
    assert_eq!((taken.is_first, taken.healed), (false, vec![uid("x"), uid("y")]));
    assert_eq!(take(&mut session, &mut held, update).healed, Vec::<String>::new());
}

#[test]
fn a_refusal_is_bounded() {
    let (mut held, _mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let bad = (0..1000).map(|number| Resource {
        name: format!("{number}-{}", "ä".repeat(900)),
        ..Resource::default()
    });
    let taken = take(&mut session, &mut held, response(Kind::Address, bad.collect()));
    assert_eq!(taken.rejected.len(), MOST_REJECTED);
    let message = taken.answer.unwrap().error_detail.unwrap().message;
    assert!(message.len() < MOST_REFUSAL_BYTES + 64, "{}", message.len());
    assert!(
        message.starts_with("0-ä") && message.ends_with("; and 993 more"),
        "{message}"
    );
}

#[test]
fn what_nobody_asked_for_is_acknowledged_and_changes_nothing() {
    let (mut held, mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let before = mesh.current();
    let unknown = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        removed_resources: vec![uid("a")],
        resources: vec![Resource::default()],
        ..response(Kind::Address, Vec::new())
    };
    let taken = take(&mut session, &mut held, unknown);
    assert_eq!(taken.kind, None);
    let answer = taken.answer.unwrap();
    assert_eq!(answer.type_url, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    assert_eq!(answer.error_detail, None);
    assert!(std::sync::Arc::ptr_eq(&before, &mesh.current()));
    assert!(!session.is_answered());
}

#[test]
fn a_stream_resumes_with_the_versions_that_are_held() {
    let (mut held, _mesh) = told();
    let (_, [addresses, policies]) = begin(ALL, &mut held);
    let expected = [(uid("a"), "1".to_owned()), (uid("b"), "1".to_owned())];
    assert_eq!(addresses.initial_resource_versions, expected.into());
    let expected = [("demo/p".to_owned(), String::new())];
    assert_eq!(policies.initial_resource_versions, expected.into());
}

#[test]
fn what_was_not_listed_and_does_not_come_has_gone() {
    let (mut held, mesh) = told();
    let nothing = Manner { resume_bytes: 0, ..ALL };
    let (mut session, [addresses, policies]) = begin(nothing, &mut held);
    assert!(addresses.initial_resource_versions.is_empty());
    assert!(policies.initial_resource_versions.is_empty());
    let pods = vec![pod("b", [10, 0, 0, 2], "1"), pod("c", [10, 0, 0, 3], "1")];
    let taken = take(&mut session, &mut held, response(Kind::Address, pods));
    assert_eq!(taken.swept, 1);
    assert_eq!(mesh.current().sizes(), [2, 0, 1], "policies were not answered yet");
    let taken = take(
        &mut session,
        &mut held,
        response(Kind::Authorization, vec![policy("q")]),
    );
    assert_eq!(taken.swept, 1);
    let now = mesh.current();
    assert!(now.workload(&uid("a")).is_none() && now.policy("demo/p").is_none());
    assert!(now.workload(&uid("b")).is_some() && now.policy("demo/q").is_some());

    // Only the first response of a kind is whole.
    let taken = take(&mut session, &mut held, response(Kind::Address, Vec::new()));
    assert_eq!(taken.swept, 0);
    assert_eq!(mesh.current().sizes(), [2, 0, 1]);
}

#[test]
fn what_was_listed_stays_unless_it_is_said_to_be_gone() {
    let (mut held, mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let taken = take(&mut session, &mut held, response(Kind::Address, Vec::new()));
    assert_eq!(taken.swept, 0);
    let gone = DeltaDiscoveryResponse {
        removed_resources: vec!["demo/p".to_owned()],
        ..response(Kind::Authorization, Vec::new())
    };
    let taken = take(&mut session, &mut held, gone);
    assert_eq!((taken.swept, taken.removed), (0, 1));
    assert_eq!(mesh.current().sizes(), [2, 0, 0]);
}

#[test]
fn a_name_whose_kind_is_not_known_yet_is_an_error() {
    let (mut held, mesh) = told();
    let (mut session, _) = begin(ALL, &mut held);
    let taken = session.take(Event::Removed(uid("a")), &mut held);
    assert_eq!(taken.err(), Some(OutOfOrder));
    assert_eq!(mesh.current().sizes(), [2, 0, 1]);
}
