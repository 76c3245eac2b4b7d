use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use isthmus_istio::security::Scope;
use prost::Message as _;

use super::*;
use crate::mesh::draw::Draw;
use crate::mesh::{Mesh, ServiceKey};
use crate::xds::fixture::{Any, deny, held, pod, policy, resource, service, serving, uid, withholding, workload};

fn key(hostname: &str) -> ServiceKey {
    service_key(&format!("demo/{hostname}")).unwrap()
}

fn endpoints(mesh: &Mesh, hostname: &str) -> Vec<String> {
    let mesh = mesh.current();
    mesh.endpoints(&key(hostname))
        .map(|endpoint| endpoint.workload.name().to_owned())
        .collect()
}

fn tell(held: &mut Held, kind: Kind, resources: impl IntoIterator<Item = discovery::Resource>) {
    for resource in resources {
        held.upsert(kind, resource).unwrap();
    }
    held.finish(kind);
}

fn resume(held: &mut Held, kind: Kind) -> BTreeMap<String, String> {
    held.open_stream(kind, usize::MAX).into_iter().collect()
}

/// Workloads without the policies that hold for them would let everybody in.
#[test]
fn nothing_is_published_before_workloads_and_policies_are_both_known() {
    let (mut held, mut mesh) = withholding();
    tell(&mut held, Kind::Address, [workload(pod("a", [10, 0, 0, 1], &[]), "1")]);
    assert!(mesh.changed().now_or_never().is_none());
    assert_eq!(mesh.current().sizes(), [0, 0, 0]);
    tell(&mut held, Kind::Authorization, [policy(&deny("p", Scope::Global))]);
    held.release();
    assert!(mesh.changed().now_or_never().is_some());
    assert_eq!(mesh.current().sizes(), [1, 0, 1]);
}

#[test]
fn a_response_is_published_once_and_only_if_it_changes_something() {
    let (mut held, mut mesh) = held();
    for name in ["a", "b"] {
        held.upsert(Kind::Address, workload(pod(name, [10, 0, 0, 1], &[]), "1"))
            .unwrap();
    }
    assert!(mesh.changed().now_or_never().is_none(), "the response is not complete");
    held.finish(Kind::Address);
    assert!(mesh.changed().now_or_never().is_some());
    assert_eq!(mesh.current().sizes(), [2, 0, 0]);
    let before = mesh.current().workload(&uid("a")).unwrap();
    tell(&mut held, Kind::Address, [workload(pod("a", [10, 0, 0, 1], &[]), "2")]);
    tell(&mut held, Kind::Authorization, []);
    assert!(
        mesh.changed().now_or_never().is_none(),
        "the same again, under another version"
    );
    assert!(Arc::ptr_eq(&before, &mesh.current().workload(&uid("a")).unwrap()));
    assert_eq!(resume(&mut held, Kind::Address)[&uid("a")], "2");
    tell(&mut held, Kind::Authorization, [policy(&deny("p", Scope::Global))]);
    assert!(mesh.changed().now_or_never().is_some());
    tell(&mut held, Kind::Authorization, [policy(&deny("p", Scope::Global))]);
    assert!(
        mesh.changed().now_or_never().is_none(),
        "a policy that istiod sends again on every stream"
    );
    tell(&mut held, Kind::Address, [service(serving("s", [10, 1, 0, 1]), "1")]);
    assert!(mesh.changed().now_or_never().is_some());
    tell(&mut held, Kind::Address, [service(serving("s", [10, 1, 0, 1]), "1")]);
    assert!(mesh.changed().now_or_never().is_none());
}

#[test]
fn an_endpoint_may_come_before_its_service_and_stay_after_it() {
    let (mut held, mesh) = held();
    tell(
        &mut held,
        Kind::Address,
        [workload(pod("a", [10, 0, 0, 1], &["demo/s"]), "1")],
    );
    assert!(endpoints(&mesh, "s").is_empty());
    assert_eq!(held.sizes(), [1, 0, 0]);
    assert_eq!(
        resume(&mut held, Kind::Address).len(),
        1,
        "a service known by its endpoint was not told of"
    );
    held.remove(Kind::Address, "demo/s");
    tell(&mut held, Kind::Address, [service(serving("s", [10, 1, 0, 1]), "1")]);
    assert_eq!(endpoints(&mesh, "s"), ["a"]);
    // Another health policy, the same endpoints.
    let mut unhealthy = pod("a", [10, 0, 0, 1], &["demo/s"]);
    unhealthy.status = 1;
    tell(&mut held, Kind::Address, [workload(unhealthy, "2")]);
    assert!(endpoints(&mesh, "s").is_empty());
    let mut all = serving("s", [10, 1, 0, 1]);
    all.load_balancing = Some(isthmus_istio::workload::LoadBalancing {
        health_policy: 1,
        ..Default::default()
    });
    tell(&mut held, Kind::Address, [service(all, "2")]);
    assert_eq!(endpoints(&mesh, "s"), ["a"]);
    held.remove(Kind::Address, "demo/s");
    held.finish(Kind::Address);
    assert_eq!(held.sizes(), [1, 0, 0]);
    assert!(endpoints(&mesh, "s").is_empty());
    tell(
        &mut held,
        Kind::Address,
        [
            service(serving("s", [10, 1, 0, 1]), "3"),
            workload(pod("a", [10, 0, 0, 1], &["demo/s"]), "3"),
        ],
    );
    assert_eq!(endpoints(&mesh, "s"), ["a"]);
}

#[test]
fn removals_come_by_uid_or_by_namespace_and_hostname_and_before_upserts() {
    let (mut held, mesh) = held();
    tell(
        &mut held,
        Kind::Address,
        [
            workload(pod("a", [10, 0, 0, 1], &["demo/s"]), "1"),
            workload(pod("b", [10, 0, 0, 2], &["demo/s"]), "1"),
            service(serving("s", [10, 1, 0, 1]), "1"),
        ],
    );
    tell(
        &mut held,
        Kind::Authorization,
        [policy(&deny("p", Scope::Global)), policy(&deny("q", Scope::Global))],
    );
    for nonsense in ["", "/", "demo", "demo/none", "Kubernetes//Pod/demo/none"] {
        held.remove(Kind::Address, nonsense);
        held.remove(Kind::Authorization, nonsense);
    }
    held.finish(Kind::Address);
    assert_eq!(held.sizes(), [2, 1, 2]);

    held.upsert(Kind::Address, workload(pod("a", [10, 0, 0, 3], &["demo/s"]), "2"))
        .unwrap();
    held.upsert(Kind::Authorization, policy(&deny("p", Scope::Namespace)))
        .unwrap();
    for name in [uid("a"), uid("b"), "demo/s".to_owned()] {
        held.remove(Kind::Address, &name);
    }
    ["demo/p", "demo/q"]
        .into_iter()
        .for_each(|name| held.remove(Kind::Authorization, name));
    held.finish(Kind::Address);
    held.finish(Kind::Authorization);
    assert_eq!(held.sizes(), [1, 0, 1]);
    assert_eq!(
        mesh.current().workload(&uid("a")).unwrap().addresses.first(),
        Some([10, 0, 0, 3].into())
    );
    // In another response they do go.
    held.remove(Kind::Address, &uid("a"));
    held.remove(Kind::Authorization, "demo/p");
    held.finish(Kind::Address);
    assert_eq!(mesh.current().sizes(), [0, 0, 0]);
}

#[test]
fn what_a_stream_does_not_name_is_swept_and_nothing_else() {
    let (mut held, mesh) = held();
    let all = ["a", "b", "c"];
    tell(
        &mut held,
        Kind::Address,
        all.map(|name| workload(pod(name, [10, 0, 0, 1], &[]), "1")),
    );
    tell(
        &mut held,
        Kind::Address,
        ["s", "t"].map(|name| service(serving(name, [10, 1, 0, 1]), "1")),
    );
    tell(
        &mut held,
        Kind::Authorization,
        ["p", "q"].map(|name| policy(&deny(name, Scope::Global))),
    );
    assert_eq!(held.sweep(Kind::Address), 0, "all came on this stream");

    assert_eq!(resume(&mut held, Kind::Address).len(), 5);
    assert_eq!(held.sweep(Kind::Address), 0, "istiod says what of the list is no more");
    assert!(held.open_stream(Kind::Address, 0).is_empty());
    tell(
        &mut held,
        Kind::Address,
        [
            workload(pod("b", [10, 0, 0, 1], &[]), "1"),
            service(serving("t", [10, 1, 0, 1]), "1"),
        ],
    );
    // It is at istiod, in whatever form.
    let mut wrong = pod("c", [10, 0, 0, 1], &[]);
    wrong.tunnel_protocol = 2;
    held.upsert(Kind::Address, workload(wrong, "2")).unwrap_err();
    assert_eq!(held.sweep(Kind::Address), 2);
    let now = mesh.current();
    assert!(
        now.workload(&uid("a")).is_none() && now.workload(&uid("b")).is_some() && now.workload(&uid("c")).is_some()
    );
    assert!(now.service_named("demo", "s").is_none() && now.service_named("demo", "t").is_some());

    assert!(held.open_stream(Kind::Authorization, 0).is_empty());
    tell(&mut held, Kind::Authorization, [policy(&deny("q", Scope::Global))]);
    assert_eq!(held.sweep(Kind::Authorization), 1);
    assert!(mesh.current().policy("demo/p").is_none() && mesh.current().policy("demo/q").is_some());
    assert_eq!(held.sizes(), [2, 1, 1]);
}

#[test]
fn a_list_to_resume_with_has_the_bytes_it_may_have_and_only_what_it_has_counts_as_seen() {
    let (mut held, _mesh) = held();
    tell(
        &mut held,
        Kind::Address,
        (0..100).map(|n| workload(pod(&format!("{n:03}"), [10, 0, 0, n], &[]), "abcdef")),
    );
    let bytes = |list: Vec<(String, String)>| {
        discovery::DeltaDiscoveryRequest {
            initial_resource_versions: list.into_iter().collect(),
            ..Default::default()
        }
        .encoded_len()
    };
    let whole = bytes(held.open_stream(Kind::Address, usize::MAX));
    assert_eq!(
        bytes(held.open_stream(Kind::Address, whole)),
        whole,
        "counted to the byte"
    );
    let some = held.open_stream(Kind::Address, whole / 3);
    let listed = some.len();
    assert!((30..34).contains(&listed), "{listed}");
    assert!(bytes(some) <= whole / 3);
    assert_eq!(held.sweep(Kind::Address), 100 - listed);
}

#[test]
fn a_resource_that_is_wrong_is_refused_by_name_and_field_and_what_was_held_stays() {
    let (mut held, mesh) = held();
    tell(&mut held, Kind::Address, [workload(pod("a", [10, 0, 0, 1], &[]), "1")]);
    let mut legacy = pod("a", [10, 0, 0, 2], &[]);
    legacy.tunnel_protocol = 2;
    let mut renamed = workload(pod("a", [10, 0, 0, 2], &[]), "2");
    renamed.name = uid("b");
    let mut moved = service(serving("s", [10, 1, 0, 1]), "1");
    moved.name = "other/s".to_owned();
    let empty = discovery::Resource {
        name: "x".to_owned(),
        ..Default::default()
    };
    let mut mistyped = workload(pod("a", [10, 0, 0, 2], &[]), "2");
    mistyped.resource.as_mut().unwrap().type_url = Kind::Authorization.url().to_owned();
    let cases = [
        (
            workload(legacy, "2"),
            uid("a"),
            "tunnel_protocol: LEGACY_ISTIO_MTLS is spoken by sidecars alone".to_owned(),
        ),
        (
            renamed,
            uid("b"),
            format!("uid: {:?} is not what the resource is named", uid("a")),
        ),
        (
            moved,
            "other/s".to_owned(),
            "namespace and hostname: \"demo/s\" is not what the resource is named".to_owned(),
        ),
        (empty, "x".to_owned(), "resource: missing".to_owned()),
        (
            mistyped,
            uid("a"),
            format!(
                "resource.type_url: {:?} is not {}",
                Kind::Authorization.url(),
                Kind::Address.url()
            ),
        ),
    ];
    for (resource, name, reason) in cases {
        assert_eq!(held.upsert(Kind::Address, resource), Err(Rejected { name, reason }));
    }
    held.finish(Kind::Address);
    assert_eq!(held.sizes(), [1, 0, 0]);
    assert_eq!(
        mesh.current().workload(&uid("a")).unwrap().addresses.first(),
        Some([10, 0, 0, 1].into())
    );
    assert_eq!(
        resume(&mut held, Kind::Address)[&uid("a")],
        "1",
        "istiod will send it again"
    );
}

#[test]
fn a_policy_that_cannot_be_read_keeps_out_whom_it_may_have_kept_out_until_it_can_be_or_goes() {
    let (mut held, mesh) = held();
    tell(&mut held, Kind::Authorization, [policy(&deny("held", Scope::Global))]);
    for name in ["demo/held", "demo/new", "nonsense"] {
        held.upsert(
            Kind::Authorization,
            resource(Kind::Authorization, name, "7", vec![0xff]),
        )
        .unwrap_err();
    }
    held.finish(Kind::Authorization);
    assert_eq!(held.sizes(), [0, 0, 2]);
    assert_eq!(
        mesh.current().policy("demo/held").unwrap().scope,
        crate::mesh::policy::Scope::Global
    );
    let stand_in = Arc::clone(mesh.current().policy("demo/new").unwrap());
    assert_eq!(
        (stand_in.scope, stand_in.rules.len()),
        (crate::mesh::policy::Scope::Namespace, 1)
    );
    assert_eq!(resume(&mut held, Kind::Authorization)["demo/new"], "");

    let allow = isthmus_istio::security::Authorization {
        action: 0,
        ..deny("new", Scope::WorkloadSelector)
    };
    tell(&mut held, Kind::Authorization, [policy(&allow)]);
    assert_eq!(
        mesh.current().policy("demo/new").unwrap().action,
        crate::mesh::policy::Action::Allow
    );
    held.remove(Kind::Authorization, "demo/new");
    held.finish(Kind::Authorization);
    assert_eq!(held.sizes(), [0, 0, 1]);
}

#[test]
fn odd_things_are_taken_as_they_are() {
    let (mut held, mesh) = held();
    let mut referring = pod("a", [10, 0, 0, 1], &["demo/nowhere"]);
    referring.authorization_policies = vec!["demo/unknown".into()];
    tell(
        &mut held,
        Kind::Address,
        [
            workload(referring, "1"),
            workload(pod("b", [10, 0, 0, 1], &[]), "1"),
            service(serving("empty", [10, 0, 0, 1]), "1"),
        ],
    );
    let now = mesh.current();
    assert_eq!(
        now.workload_at("net1", [10, 0, 0, 1].into()).unwrap().name(),
        "a",
        "of two with one address the first"
    );
    assert_eq!(now.policies_of(&now.workload(&uid("a")).unwrap()).count(), 0);
    assert!(endpoints(&mesh, "empty").is_empty());
    held.remove(Kind::Address, &uid("a"));
    held.finish(Kind::Address);
    assert_eq!(
        mesh.current().workload_at("net1", [10, 0, 0, 1].into()).unwrap().name(),
        "b"
    );
}

#[test]
fn a_name_that_was_a_service_and_is_a_workload_is_one_resource() {
    let (mut held, mesh) = held();
    tell(&mut held, Kind::Address, [service(serving("s", [10, 1, 0, 1]), "1")]);
    let mut odd = pod("a", [10, 0, 0, 1], &[]);
    odd.uid = "demo/s".into();
    tell(&mut held, Kind::Address, [workload(odd, "2")]);
    assert_eq!(mesh.current().sizes(), [1, 0, 0]);
    assert_eq!(
        resume(&mut held, Kind::Address),
        BTreeMap::from([("demo/s".to_owned(), "2".to_owned())])
    );
    tell(&mut held, Kind::Address, [service(serving("s", [10, 1, 0, 1]), "3")]);
    assert_eq!(mesh.current().sizes(), [0, 1, 0]);
    assert_eq!(
        resume(&mut held, Kind::Address),
        BTreeMap::from([("demo/s".to_owned(), "3".to_owned())])
    );
}

#[test]
fn a_number_given_to_another_object_has_its_version_and_no_other() {
    let (mut held, _mesh) = held();
    tell(
        &mut held,
        Kind::Address,
        [workload(pod("a", [10, 0, 0, 1], &[]), "text version")],
    );
    held.remove(Kind::Address, &uid("a"));
    held.finish(Kind::Address);
    tell(&mut held, Kind::Address, [workload(pod("b", [10, 0, 0, 1], &[]), "")]);
    assert_eq!(
        resume(&mut held, Kind::Address),
        BTreeMap::from([(uid("b"), String::new())])
    );
}

/// What a mesh decides, in words.
fn decisions(mesh: &Snapshot) -> Vec<String> {
    let mut said = Vec::new();
    for network in ["", "net1", "net2"] {
        for last in 0..8_u8 {
            let v6: [u8; 16] = std::array::from_fn(|at| if at == 15 { last } else { 0xfd });
            for ip in [[10, 0, 0, last].into(), v6.into()] {
                let workload = mesh.workload_at(network, ip).map(|workload| workload.uid().to_string());
                let service = mesh
                    .service_at(network, ip, "demo")
                    .map(|service| service.key.to_string());
                said.push(format!("{network}/{ip}: {workload:?} {service:?}"));
            }
        }
    }
    for n in 0..4 {
        let key = key(&format!("host{n}"));
        let endpoints = mesh.endpoints(&key);
        let endpoints: Vec<_> = endpoints
            .map(|one| (one.workload.uid().to_string(), one.ports.clone()))
            .collect();
        said.push(format!(
            "{key}: {:?} {endpoints:?}",
            mesh.service_named("demo", &key.hostname)
        ));
    }
    let mut workloads: Vec<_> = mesh
        .numbered_workloads()
        .map(|(_, workload)| Arc::clone(workload))
        .collect();
    workloads.sort_by(|one, other| one.uid().cmp(&other.uid()));
    for workload in workloads {
        let policies: Vec<_> = mesh.policies_of(&workload).map(|policy| policy.key()).collect();
        said.push(format!("{workload:?}: {policies:?}"));
    }
    said
}

#[test]
fn any_order_of_resources_makes_the_same_decisions() {
    for seed in 0..30 {
        let mut any = Any(Draw::new(seed));
        let mut told: Vec<(Kind, discovery::Resource)> = Vec::new();
        told.extend((0..25).map(|n| (Kind::Address, workload(any.workload(n), "1"))));
        told.extend((0..4).map(|n| (Kind::Address, service(any.service(n), "1"))));
        told.extend((0..6).map(|n| (Kind::Authorization, policy(&any.policy(n)))));
        let (mut first, mesh) = held();
        for (kind, resource) in told.clone() {
            first.upsert(kind, resource).unwrap();
            first.finish(kind);
        }
        let wanted = decisions(&mesh.current());
        for _ in 0..3 {
            any.shuffle(&mut told);
            let (mut other, mesh) = held();
            // What was known before is replaced, or goes.
            for n in 0..40 {
                other.upsert(Kind::Address, workload(any.workload(n), "0")).unwrap();
            }
            for n in 0..6 {
                other.upsert(Kind::Address, service(any.service(n), "0")).unwrap();
                other.upsert(Kind::Authorization, policy(&any.policy(n + 3))).unwrap();
            }
            Kind::ALL.into_iter().for_each(|kind| other.finish(kind));
            Kind::ALL.into_iter().for_each(|kind| drop(other.open_stream(kind, 0)));
            for (at, (kind, resource)) in told.clone().into_iter().enumerate() {
                other.upsert(kind, resource).unwrap();
                if at % 7 == 0 {
                    other.finish(kind);
                }
            }
            for kind in Kind::ALL {
                other.sweep(kind);
            }
            assert_eq!(decisions(&mesh.current()), wanted, "seed {seed}");
        }
    }
}
