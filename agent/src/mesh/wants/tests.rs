use super::*;
use crate::mesh::{
    Builder, Draft,
    fixture::{gateway_at, gateway_of, ip, on, service, workload},
};

const WEB: &str = "demo/web.demo.svc";

fn with(name: &str, address: &str) -> Draft {
    Draft {
        addresses: vec![ip(address)],
        ..workload(name)
    }
}

fn wants(builder: &Builder, to: &str) -> Vec<(String, Need)> {
    let source = with("client", "10.0.0.9").into();
    let list = of_connection(&builder.build(), &source, [ip(to)]);
    list.into_iter().map(|want| (want.name, want.need)).collect()
}

fn expect(found: &[(String, Need)], wanted: &[(&str, Need)]) {
    let wanted: Vec<_> = wanted.iter().map(|(name, need)| ((*name).to_owned(), *need)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn an_address_is_all_that_is_known_at_first() {
    expect(&wants(&Builder::new(), "10.0.0.1"), &[("net1/10.0.0.1", Need::Missing)]);
    expect(&wants(&Builder::new(), "fd00::1"), &[("net1/fd00::1", Need::Missing)]);
}

#[test]
fn a_workload_and_its_waypoint_are_wanted() {
    let mut mesh = Builder::new();
    mesh.add_workload(Draft {
        waypoint: Some(gateway_of(WEB)),
        ..with("a", "10.0.0.1")
    });
    expect(
        &wants(&mesh, "10.0.0.1"),
        &[("net1/10.0.0.1", Need::Held), (WEB, Need::Missing)],
    );
    mesh.add_service(service("demo", "web.demo.svc", &[], &[(15008, 15008)]));
    expect(
        &wants(&mesh, "10.0.0.1"),
        &[("net1/10.0.0.1", Need::Held), (WEB, Need::Endpoints)],
    );
}

#[test]
fn a_service_is_wanted_with_the_gateways_of_its_endpoints() {
    let mut mesh = Builder::new();
    mesh.add_service(service("demo", "web.demo.svc", &["net1/10.1.0.1"], &[(80, 80)]));
    for name in ["far", "farther"] {
        mesh.add_workload(Draft {
            network: "net2".into(),
            network_gateway: Some(gateway_at("net2/192.0.2.1")),
            services: vec![on(WEB, &[])],
            ..with(name, "10.0.0.1")
        });
    }
    let found = [("net1/10.1.0.1", Need::Held), (WEB, Need::Endpoints)];
    let [at, key] = found;
    expect(&wants(&mesh, "10.1.0.1"), &[at, key, ("net2/192.0.2.1", Need::Missing)]);
    mesh.add_workload(Draft {
        network: "net2".into(),
        services: vec![on("istio/gateway", &[])],
        ..with("gateway", "192.0.2.1")
    });
    expect(
        &wants(&mesh, "10.1.0.1"),
        &[
            at,
            key,
            ("net2/192.0.2.1", Need::Held),
            ("istio/gateway", Need::Missing),
        ],
    );
}

#[test]
fn gateways_that_name_each_other_come_to_an_end() {
    let mut mesh = Builder::new();
    let mut web = service("demo", "web.demo.svc", &["net1/10.1.0.1"], &[(80, 80)]);
    web.waypoint = Some(gateway_of(WEB));
    mesh.add_service(web);
    mesh.add_workload(Draft {
        network: "net2".into(),
        network_gateway: Some(gateway_of(WEB)),
        services: vec![on(WEB, &[])],
        ..workload("a")
    });
    expect(
        &wants(&mesh, "10.1.0.1"),
        &[("net1/10.1.0.1", Need::Held), (WEB, Need::Endpoints)],
    );
}

#[test]
fn an_address_within_a_range_may_be_somebodys_own() {
    let mut mesh = Builder::new();
    mesh.add_service(service("demo", "web.demo.svc", &["net1/10.1.0.0/16"], &[(80, 80)]));
    expect(
        &wants(&mesh, "10.1.0.1"),
        &[("net1/10.1.0.1", Need::Missing), (WEB, Need::Endpoints)],
    );
}

#[test]
fn a_request_for_a_host_wants_the_services_of_the_pod_that_have_this_name() {
    let mesh = Builder::new().build();
    let pod = Draft {
        services: vec![on(WEB, &[]), on("demo/other.svc", &[])],
        ..with("a", "10.0.0.1")
    };
    let (pod, at) = (pod.into(), ip("10.0.0.1"));
    let wanted = |authority: &str| {
        let list = of_request(&mesh, &pod, at, &authority.parse().unwrap());
        list.into_iter().map(|want| want.name).collect::<Vec<_>>()
    };
    assert_eq!(wanted("web.demo.svc:80"), [WEB]);
    assert!(wanted("10.0.0.1:80").is_empty());
    assert_eq!(wanted("10.0.0.2:80"), ["net1/10.0.0.2"], "for a waypoint");
}

#[test]
fn a_name_means_what_istiod_tells_of_it() {
    let mut mesh = Builder::new();
    mesh.add_service(service("demo", "web.demo.svc", &["net1/10.1.0.1"], &[(80, 80)]));
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        mesh.add_workload(Draft {
            services: vec![on(WEB, &[])],
            ..with(name, address)
        });
    }
    mesh.add_workload(with("alone", "10.0.0.3"));
    let mesh = mesh.build();
    let uids = |name: &str| {
        let mut uids: Vec<String> = mesh
            .numbered_workloads()
            .filter(|(slot, _)| mesh.meant_by(name).workloads.contains(slot))
            .map(|(_, workload)| workload.uid().to_string())
            .collect();
        uids.sort();
        (uids, mesh.meant_by(name).services.len())
    };
    let both = vec!["uid-a".to_owned(), "uid-b".to_owned()];
    assert_eq!(uids(WEB), (both.clone(), 1));
    assert_eq!(uids("net1/10.1.0.1"), (both, 1));
    assert_eq!(uids("net1/10.0.0.3"), (vec!["uid-alone".to_owned()], 0));
    assert_eq!(uids("uid-alone"), (vec!["uid-alone".to_owned()], 0));
    assert_eq!(uids("net2/10.0.0.3"), (Vec::new(), 0));
    assert_eq!(uids("demo/nobody"), (Vec::new(), 0));
}
