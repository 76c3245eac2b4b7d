//! The control planes of the lab: what istiod is told, it tells.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use isthmus_tests::{
    Cluster, Lab, Result,
    authority::spiffe,
    control_plane::{EastWest, Told, split_horizon},
    within,
};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn two_istiods_tell_of_their_own_pods_and_of_each_others_global_services() -> Result {
    let lab = Lab::new("control plane")?;
    let clusters = Cluster::pair(&lab)?;
    let mut gateways = Vec::new();
    for cluster in &clusters {
        let name = cluster.name();
        let node = cluster.node(&format!("{name}-node"), "r1/z1")?;
        let hello = cluster.pod(&node, &format!("hello-{name}"));
        hello.service_account(name).label("app", "helloworld").start()?;
        let vip = cluster.network().vip(20);
        let service = cluster.service("helloworld").global();
        service.vip(vip).port(5000, 5001).add()?;
        cluster
            .service("local")
            .selects("app", "helloworld")
            .port(80, 5000)
            .add()?;
        gateways.push(cluster.stopped_gateway()?);
    }
    let [one, two] = &clusters;
    let told = until(one, |told| !split_horizon(told, two).is_empty())?;
    let [far] = split_horizon(&told, two).try_into().expect("one per global service");
    let split = &told.workloads[&far];
    assert_eq!(
        (split.network.as_str(), split.cluster_id.as_str()),
        ("network2", "cluster2")
    );
    assert!(split.addresses.is_empty());
    let outer = gateways[1].outer();
    let gateway = &told.workloads[&format!("NetworkGateway/network2/{outer}/0")];
    assert_eq!(gateway.service_account, "istio-eastwestgateway");
    let own = &told.workloads["cluster1//Pod/demo/hello-cluster1"];
    assert_eq!(own.locality.as_ref().map(|at| at.zone.as_str()), Some("z1"));
    assert_eq!(own.node, "cluster1-node");
    assert!(!told.workloads.keys().any(|uid| uid.starts_with("cluster2//Pod/demo")));

    let hello = &told.services["demo/helloworld.demo.svc.cluster.local"];
    let networks: BTreeSet<&str> = hello.addresses.iter().map(|at| at.network.as_str()).collect();
    assert_eq!(networks, BTreeSet::from(["network1", "network2"]));
    // Who serves at home is told by the workloads.
    assert_eq!(hello.subject_alt_names, [spiffe("demo", "cluster2")]);
    assert_eq!(hello.ports[0].target_port, 5001);
    let local = &told.services["demo/local.demo.svc.cluster.local"];
    assert!(local.addresses.iter().all(|at| at.network == "network1"));

    only_one_gateway_of_a_network_is_told_with_services(one, two)
}

/// What istiod does with a second gateway of a network, and with one that has no HBONE listener.
fn only_one_gateway_of_a_network_is_told_with_services(one: &Cluster, two: &Cluster) -> Result {
    let ip = |last| IpAddr::from([198, 51, 100, last]);
    let stray = EastWest::new("a-gateway-without-hbone").without_hbone();
    stray.tell(two, [10, 2, 0, 250].into(), ip(250))?;
    EastWest::new("a-second-gateway").tell(two, [10, 2, 0, 251].into(), ip(251))?;
    let told = until(one, |told| {
        let gateways = told
            .workloads
            .keys()
            .filter(|uid| uid.starts_with("NetworkGateway/network2/"));
        gateways.count() == 2
    })?;
    assert!(!told.workloads.keys().any(|uid| uid.contains("198.51.100.250")));
    assert_eq!(split_horizon(&told, two).len(), 1, "whatever gateways there are");
    Ok(())
}

/// Waits until istiod of a cluster tells what is wanted.
fn until(cluster: &Cluster, wanted: impl Fn(&Told) -> bool) -> Result<Told> {
    let what = format!("istiod of {} tells what is wanted", cluster.name());
    within(SOON, &what, || cluster.told().ok().filter(&wanted))
}
