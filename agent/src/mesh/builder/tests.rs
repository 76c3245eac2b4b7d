use std::collections::BTreeMap;

use super::*;
use crate::mesh::draw::Draw;
use crate::mesh::fixture::{ip, key, on, service, workload};
use crate::mesh::policy::{Action, Scope};
use crate::mesh::workload::Health;

/// One of few workloads, so that changes, clashes and removals are many.
fn draft(number: u64, draw: &mut Draw) -> Draft {
    let mut any = |end| draw.below(end);
    let name = format!("w{}", any(4));
    let kind = if any(2) == 0 {
        "Kubernetes//Pod/demo"
    } else {
        "Kubernetes/entry/demo"
    };
    let mut addresses = vec![ip(&format!("10.0.0.{}", any(8))), ip(&format!("fd00::{}", any(8)))];
    addresses.truncate(usize::try_from(any(3)).unwrap());
    let services = (0..4)
        .filter(|_| any(2) == 0)
        .map(|at| on(&format!("demo/s{at}.demo"), &[(80, 80)]))
        .collect();
    Draft {
        uid: format!("{kind}/{number}/{name}").into(),
        name: name.into(),
        addresses,
        network: format!("net{}", any(2)).into(),
        protocol: [Protocol::Tcp, Protocol::Hbone][usize::try_from(any(2)).unwrap()],
        status: [Health::Healthy, Health::Unhealthy][usize::try_from(any(2)).unwrap()],
        network_mode: [NetworkMode::Standard, NetworkMode::HostNetwork][usize::from(any(8) == 0)],
        hostname: ["", "one.host", "two.host"][usize::try_from(any(3)).unwrap()].into(),
        services,
        ..workload("any")
    }
}

fn some_service(draw: &mut Draw) -> Service {
    let at = draw.below(4);
    let vips = [
        format!("net{}/10.1.0.{}", draw.below(2), draw.below(3)),
        "net1/10.2.0.0/16".to_owned(),
    ];
    let vips: Vec<&str> = vips
        .iter()
        .map(String::as_str)
        .take(usize::try_from(draw.below(3)).unwrap())
        .collect();
    service("demo", &format!("s{at}.demo"), &vips, &[(80, 80)])
}

/// All that can be asked of a mesh of the above.
fn answers(mesh: &Snapshot) -> Vec<String> {
    let uid = |found: Option<Arc<Workload>>| found.map(|workload| format!("{workload:?}")).unwrap_or_default();
    let name = |found: Option<Arc<Service>>| found.map(|service| service.key.to_string()).unwrap_or_default();
    let mut all = vec![format!("{:?}", mesh.sizes())];
    for network in ["net0", "net1"] {
        for at in 0..8 {
            for address in [format!("10.0.0.{at}"), format!("fd00::{at}")] {
                all.push(uid(mesh.workload_at(network, ip(&address))));
                all.push(uid(mesh.workload_elsewhere(network, ip(&address))));
            }
            for address in [format!("10.1.0.{at}"), format!("10.2.0.{at}")] {
                all.push(name(mesh.service_at(network, ip(&address), "demo")));
                let claiming = mesh.services_claiming(network, ip(&address));
                all.push(claiming.map(|service| service.key.to_string()).collect());
            }
        }
        for at in 0..4 {
            all.push(uid(mesh.workload_of_pod_in(network, "demo", &format!("w{at}"), None)));
        }
    }
    for at in 0..4 {
        let key = key(&format!("demo/s{at}.demo"));
        all.push(uid(mesh.workload_of_pod("demo", &format!("w{at}"), None)));
        all.push(name(mesh.service_named("demo", &key.hostname)));
        all.push(mesh.services_of_hostname(&key.hostname).count().to_string());
        all.push(
            mesh.endpoints(&key)
                .map(|endpoint| format!("{} ", endpoint.workload.uid()))
                .collect(),
        );
    }
    all.extend(["one.host", "two.host"].map(|host| uid(mesh.workload_named(&key(&format!("demo/{host}"))))));
    all
}

#[test]
fn a_mesh_that_changed_step_by_step_is_the_one_made_at_once_in_any_order() {
    for seed in 0..20 {
        let draw = &mut Draw::new(seed);
        let (mut builder, mut workloads, mut services) = (Builder::new(), BTreeMap::new(), BTreeMap::new());
        let mut held: Vec<(Snapshot, Vec<String>)> = Vec::new();
        for step in 0..300 {
            match draw.below(10) {
                0..5 => {
                    let draft = draft(draw.below(12), draw);
                    workloads.insert(draft.uid.clone(), draft.clone());
                    builder.add_workload(draft);
                }
                5..7 => {
                    let number = usize::try_from(draw.below(12)).unwrap();
                    if let Some(uid) = workloads.keys().nth(number).cloned() {
                        workloads.remove(&uid);
                        assert!(builder.remove_workload(&uid));
                        assert!(!builder.remove_workload(&uid));
                    }
                }
                7..9 => {
                    let service = some_service(draw);
                    services.insert(service.key.clone(), service.clone());
                    builder.add_service(service);
                }
                _ => {
                    let key = some_service(draw).key;
                    assert_eq!(builder.remove_service(&key), services.remove(&key).is_some());
                }
            }
            if step % 50 == 0 {
                let snapshot = builder.build();
                let now = answers(&snapshot);
                held.push((snapshot, now));
            }
        }
        let mut fresh = Builder::new();
        workloads
            .into_values()
            .rev()
            .for_each(|draft| fresh.add_workload(draft));
        services.into_values().for_each(|service| fresh.add_service(service));
        assert_eq!(answers(&builder.build()), answers(&fresh.build()), "seed {seed}");
        for (snapshot, then) in held {
            assert_eq!(answers(&snapshot), then, "a snapshot never changes");
        }
        assert_eq!(
            builder.build().services.iter().count(),
            fresh.build().services.iter().count()
        );
    }
}

#[test]
fn what_is_added_again_unchanged_stays_the_same_object() {
    let mut builder = Builder::new();
    builder.add_workload(workload("a"));
    let first = builder.build().workload("uid-a").unwrap();
    builder.add_workload(workload("a"));
    assert!(Arc::ptr_eq(&first, &builder.build().workload("uid-a").unwrap()));
    builder.add_workload(Draft {
        status: Health::Unhealthy,
        ..workload("a")
    });
    let changed = builder.build().workload("uid-a").unwrap();
    assert_eq!((first.status, changed.status), (Health::Healthy, Health::Unhealthy));
    assert_eq!(builder.build().sizes(), [1, 0, 0]);
}

#[test]
fn a_rank_that_changes_moves_an_address() {
    let draft = |uid: &str, protocol| Draft {
        uid: uid.into(),
        addresses: vec![ip("10.0.0.1")],
        protocol,
        ..workload("w")
    };
    let mut builder = Builder::new();
    builder.add_workload(draft("a", Protocol::Tcp));
    builder.add_workload(draft("b", Protocol::Tcp));
    let at = |builder: &Builder| {
        builder
            .build()
            .workload_at("net1", ip("10.0.0.1"))
            .unwrap()
            .uid()
            .to_string()
    };
    assert_eq!(at(&builder), "a");
    builder.add_workload(draft("b", Protocol::Hbone));
    assert_eq!(at(&builder), "b");
    assert!(builder.remove_workload("b"));
    assert_eq!(at(&builder), "a");
}

#[test]
fn policies_come_in_the_order_of_their_keys_and_go_from_every_list() {
    let policy = |name: &str, scope| Policy {
        name: name.into(),
        namespace: "demo".into(),
        scope,
        action: Action::Deny,
        rules: Vec::new(),
        dry_run: false,
    };
    let mut builder = Builder::new();
    for name in ["c", "a", "b"] {
        builder.add_policy(policy(name, Scope::Global));
    }
    builder.add_policy(policy("n", Scope::Namespace));
    builder.add_policy(policy("b", Scope::Namespace));
    let own = Workload::from(workload("w"));
    let names = |builder: &Builder| -> Vec<_> {
        builder
            .build()
            .policies_of(&own)
            .map(|policy| policy.name.to_string())
            .collect()
    };
    assert_eq!(names(&builder), ["b", "n", "a", "c"]);
    let before = builder.build();
    assert!(builder.remove_policy("demo/b"));
    assert!(!builder.remove_policy("demo/b"));
    assert!(builder.remove_policy("demo/c"));
    assert_eq!(names(&builder), ["n", "a"]);
    assert_eq!(before.policies_of(&own).count(), 4);
    assert_eq!(builder.build().sizes(), [0, 0, 2]);
}
