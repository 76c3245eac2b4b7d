//! Two clusters with a stock istiod each: a pod asks a service of both, and what happens when one side goes.

use std::{process::Command, time::Instant};

use isthmus_tests::{
    Because as _, Lab, Pod, Result,
    agent::AgentOptions,
    control_plane::{Second, T1},
};

use crate::page::Page;

const ROUNDS: usize = 40;

pub(crate) fn show(page: &mut Page, keep: bool) -> Result {
    let begin = Instant::now();
    page.title("Isthmus under two istiods: two clusters, two networks, one service");
    page.note("starting two of etcd, kube-apiserver and istiod");
    let lab = Lab::with("demo of istiod", keep)?;
    let t1 = T1::start_in(lab, Second::Ours, &AgentOptions::default())?;
    page.done(&format!(
        "2 clusters with pods, services, agents and gateways stand after {:.1} s; every agent is told by its own \
         cluster's istiod",
        begin.elapsed().as_secs_f64()
    ));
    told(page, &t1)?;
    asked(page, &t1)?;
    taken_over(page, &t1)?;
    status(page, &t1)?;
    if keep {
        hints(page, &t1);
    } else {
        drop(t1);
        page.done("everything is taken down");
    }
    page.note(&format!("took {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// What istiod of the first cluster tells of namespace `sample` and of gateways.
fn told(page: &mut Page, t1: &T1) -> Result {
    let [one, _] = &t1.clusters;
    page.title("What istiod of cluster1 tells its agents");
    let told = one.told()?;
    let mut rows = vec![["workload", "network", "account"].map(str::to_owned).to_vec()];
    let workloads = told.workloads.values();
    for workload in workloads.filter(|workload| workload.namespace == "sample" || workload.uid.starts_with("Network")) {
        rows.push(vec![
            workload.uid.clone(),
            workload.network.clone(),
            workload.service_account.clone(),
        ]);
    }
    page.table(&rows);
    Ok(())
}

/// Who answers whom.
fn asked(page: &mut Page, t1: &T1) -> Result {
    page.title(&format!("{ROUNDS} connections each: who answered"));
    let mut rows = vec![head()];
    for client in &t1.clients {
        rows.push(row(t1, client, "helloworld (global)", t1.hello(client)?)?);
        rows.push(row(t1, client, "helloworld over IPv6", t1.hello6(client)?)?);
        rows.push(row(t1, client, "nearby (local)", t1.nearby(client)?)?);
    }
    page.table(&rows);
    Ok(())
}

/// The first cluster's endpoint goes and comes back.
fn taken_over(page: &mut Page, t1: &T1) -> Result {
    page.title("The endpoint of cluster1 goes, and comes back");
    let ([one, _], [client, _], [server, _]) = (&t1.clusters, &t1.clients, &t1.servers);
    let at = t1.hello(client)?;
    for (ready, wanted) in [(false, [false, true]), (true, [true, true])] {
        let begin = Instant::now();
        one.set_ready(server, ready)?;
        t1.until_answered_by(client, at, wanted)?;
        page.done(&format!(
            "{} is {}: after {:.0} ms {} has its answers from {}",
            server.name(),
            if ready { "ready again" } else { "not ready" },
            begin.elapsed().as_secs_f64() * 1e3,
            client.name(),
            if ready { "both clusters" } else { "cluster2 alone" },
        ));
    }
    Ok(())
}

fn head() -> Vec<String> {
    ["who asks", "what", "at", "cluster1", "cluster2", "took"]
        .map(str::to_owned)
        .to_vec()
}

fn row(t1: &T1, client: &Pod, what: &str, at: std::net::SocketAddr) -> Result<Vec<String>> {
    let begin = Instant::now();
    let counts = t1.ask(client, at, ROUNDS)?;
    let took = begin.elapsed().as_secs_f64() * 1e3 / ROUNDS as f64;
    let [one, two] = counts.map(|count| count.to_string());
    Ok(vec![
        client.name().to_owned(),
        what.to_owned(),
        at.to_string(),
        one,
        two,
        format!("{took:.1} ms each"),
    ])
}

/// What an operator sees on the first node.
fn status(page: &mut Page, t1: &T1) -> Result {
    let [node, _] = &t1.nodes;
    page.title(&format!("isthmus status on {}", node.name()));
    let output = Command::new(t1.lab.binary())
        .args(["status", "--run-dir"])
        .arg(node.run_dir())
        .output()
        .because("running isthmus status")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        page.note(line);
    }
    Ok(())
}

/// What a user may try in a world that stays up.
fn hints(page: &mut Page, t1: &T1) {
    let ([one, _], [client, _], [node, _]) = (&t1.clusters, &t1.clients, &t1.nodes);
    let dir = t1.lab.dir().display();
    let netns = client.netns().path().display().to_string();
    page.note("kept up; the servers were the demo's own and are gone. For example:");
    page.note(&format!("  nsenter --net={netns} ip addr"));
    page.note(&format!(
        "  {} status --run-dir {}",
        t1.lab.binary().display(),
        node.run_dir().display()
    ));
    page.note(&format!("  tail -f {dir}/agent-{}.log", node.name()));
    page.note(&format!(
        "  nsenter --net=/run/netns/{}-network1-plane kubectl --kubeconfig {dir}/{}/kubeconfig get gateways -A",
        t1.lab.name(),
        one.name()
    ));
}
