//! The control planes of the lab: what istiod is told, it tells.

use std::time::Duration;

use isthmus_tests::{Cluster, Lab, Result, within};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn two_istiods_tell_of_their_own_pods_and_of_each_others_global_services() -> Result {
    let lab = Lab::new("control plane")?;
    let begin = std::time::Instant::now();
    let clusters = Cluster::pair(&lab)?;
    eprintln!("two clusters after {:?}", begin.elapsed());
    for cluster in &clusters {
        let name = cluster.name();
        let node = cluster.node(&format!("{name}-node"), "r1/z1")?;
        let pod = format!("hello-{name}");
        cluster.pod(&node, &pod).service_account("hello").label("app", "helloworld").start()?;
        let vip = cluster.network().vip(20);
        cluster.service("helloworld").global().vip(vip).port(5000, 5000).add()?;
        cluster.service("local").selects("app", "helloworld").port(80, 5000).add()?;
        let gateway = cluster.stopped_gateway()?;
        std::mem::forget(gateway);
    }
    eprintln!("told after {:?}", begin.elapsed());
    let [one, two] = &clusters;
    let told = within(SOON, "cluster1 hears of cluster2's pods", || {
        let told = one.told().ok()?;
        let remote = told.workloads.keys().any(|uid| uid.contains("SplitHorizonWorkload"));
        remote.then_some(told)
    });
    if told.is_err() {
        eprintln!("{:#?}", one.told()?);
    }
    eprintln!("{:#?}", told?);
    eprintln!("all after {:?}", begin.elapsed());
    eprintln!("{:#?}", two.told()?.workloads.keys());
    Ok(())
}
