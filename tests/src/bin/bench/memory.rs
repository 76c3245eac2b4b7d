//! Memory: an agent with meshes of several sizes, and agents with open connections.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use isthmus_tests::{Agent, Because as _, Lab, Pod, Process, Result, scene::OneNetwork, within};

use crate::{
    goal::Goal,
    pace::Pace,
    report::{Better, Figure, Row},
    resident::Resident,
};

/// How long an agent may take to serve a new mesh.
const LOADING: Duration = Duration::from_secs(120);
/// Connections in each step of the second row.
const STEP: usize = 1000;
const ECHO: u16 = 8080;
const UP: Duration = Duration::from_secs(60);
const NAMESPACES: usize = 100;
/// A small mesh has ten endpoints to a service, because each workload serves two; a large one has more.
const WORKLOADS_PER_SERVICE: usize = 5;
const MOST_SERVICES: usize = 1000;

/// A mesh whose size is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mesh {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    workloads: usize,
    goal: Option<Goal>,
}

pub(crate) const MESHES: [Mesh; 3] = [
    Mesh {
        name: "memory-0",
        title: "memory, no workloads, no pods",
        workloads: 0,
        goal: Some(Goal::ValueAtMost(15.0)),
    },
    Mesh {
        name: "memory-10k",
        title: "memory, 10 000 workloads of two services each",
        workloads: 10_000,
        goal: None,
    },
    Mesh {
        name: "memory-100k",
        title: "memory, 100 000 workloads of two services each",
        workloads: 100_000,
        goal: Some(Goal::ValueAtMost(45.0)),
    },
];

pub(crate) const CONNECTIONS: (&str, &str) = ("memory-connections", "memory, open connections without traffic");

/// An agent that starts with nothing and is then told a mesh.
pub(crate) fn of_mesh(mesh: &Mesh, pace: &Pace) -> Result<Row> {
    let lab = Lab::with("bench", false)?;
    let node = lab.network("net1")?.node("node1")?;
    let agent = node.agent()?;
    let text = mesh_file(mesh.workloads);
    let begin = Instant::now();
    lab.mesh(|file| file.write_text(&text))?;
    drop(text);
    let sizes = [mesh.workloads, services_of(mesh.workloads), 0];
    within(LOADING, &format!("the agent serves {sizes:?}"), || {
        agent.status().ok().filter(|status| status.mesh_size == sizes)
    })
    .because(agent.last_words())?;
    let loaded = begin.elapsed().as_secs_f64();
    let (settled, is_still) = Resident::settled(agent.pids()?, still(pace))?;
    let mut row = Row::new(mesh.name, mesh.title);
    row.figures = figures(settled, mesh.goal);
    if mesh.workloads > 0 {
        let time = vec![loaded];
        row.figures
            .push(Figure::ours("from written to served", "s", Better::Lower, time));
    }
    row.notes.extend((!is_still).then(unsettled));
    Ok(row)
}

fn figures([parent, worker]: [Resident; 2], goal: Option<Goal>) -> Vec<Figure> {
    let figure = |name: &str, bytes: u64| Figure::ours(name, "MB", Better::Lower, vec![megabytes(bytes)]);
    let mut together = figure("settled, both processes, PSS", parent.share + worker.share);
    together.goal = goal;
    vec![
        together,
        figure("settled, both processes, RSS", parent.rss + worker.rss),
        figure("settled, worker, RSS", worker.rss),
        figure("settled, worker, anonymous", worker.anonymous),
        figure("settled, parent, RSS", parent.rss),
        figure("settled, parent, anonymous", parent.anonymous),
        figure("peak, worker, RSS", worker.peak),
        figure("peak, parent, RSS", parent.peak),
    ]
}

/// Two agents between which connections are opened and then left alone.
pub(crate) fn of_connections(pace: &Pace) -> Result<Row> {
    let scene = OneNetwork::start("bench")?;
    let _server = serve(&scene.server)?;
    let mut row = Row::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut looks = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        let [near, far] = &scene.agents;
        let ([near, far], is_still) = Resident::settled([worker(near)?, worker(far)?], still(pace))?;
        row.notes.extend((!is_still).then(unsettled));
        looks.push([near, far]);
        if looks.len() < 3 {
            held.push(hold(&scene.client, &scene.server)?);
        }
    }
    let [empty, first, second] = <[[Resident; 2]; 3]>::try_from(looks)
        .ok()
        .because("there are three looks")?;
    for (side, who) in ["the client's agent", "the server's agent"].into_iter().enumerate() {
        let of = |look: &[Resident; 2]| look.get(side).copied().unwrap_or_default();
        let mut figure = |name: &str, bytes: f64| {
            let name = format!("{name}, {who}");
            row.figures
                .push(Figure::ours(&name, "MB", Better::Lower, vec![bytes / 1e6]));
        };
        let grown = |from: &[Resident; 2], to: &[Resident; 2], part: fn(Resident) -> u64| {
            part(of(to)) as f64 - part(of(from)) as f64
        };
        figure("the second 1000, RSS", grown(&first, &second, |one| one.rss));
        figure(
            "the second 1000, anonymous",
            grown(&first, &second, |one| one.anonymous),
        );
        figure("the first 1000, RSS", grown(&empty, &first, |one| one.rss));
        figure("peak with 2000, RSS", of(&second).peak as f64);
    }
    Ok(row)
}

fn worker(agent: &Agent) -> Result<u32> {
    Ok(agent.status()?.worker_pid)
}

fn serve(pod: &Pod) -> Result<Process> {
    let server = pod.peer(&["echo", &format!("0.0.0.0:{ECHO}")])?;
    server
        .output()
        .wait_from(0, UP, |line| line.get("listening").is_some())?;
    Ok(server)
}

/// Opens connections that carry a byte and then nothing.
fn hold(from: &Pod, to: &Pod) -> Result<Process> {
    let hold = from.peer(&["hold", &to.at(ECHO).to_string(), "--count", &STEP.to_string()])?;
    let held = hold.output().wait_from(0, UP, |line| line.get("held").is_some());
    held.because(format!(
        "holding {STEP} connections; the load says {:?}",
        hold.errors().all_from(0, |_| true)
    ))?;
    Ok(hold)
}

pub(crate) fn still(pace: &Pace) -> Duration {
    Duration::from_secs_f64(pace.settled_seconds)
}

pub(crate) fn unsettled() -> String {
    "memory had not come to rest; what is told is the last look".to_owned()
}

pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn services_of(workloads: usize) -> usize {
    (workloads / WORKLOADS_PER_SERVICE).min(MOST_SERVICES)
}

/// A mesh file of so many workloads, with names, lengths and numbers of namespaces as a cluster has them.
fn mesh_file(workloads: usize) -> String {
    let services = services_of(workloads);
    let mut text = String::from("# Written by the bench.\n");
    // Writing to a string does not fail.
    fill(&mut text, workloads, services).unwrap_or_default();
    text
}

fn fill(text: &mut String, workloads: usize, services: usize) -> std::fmt::Result {
    let namespace = |service: usize| format!("team-{:02}", service % NAMESPACES);
    let host = |service: usize| {
        let namespace = namespace(service);
        format!("{namespace}/service-{service:05}.{namespace}.svc.cluster.local")
    };
    text.push_str(if services == 0 { "services: []\n" } else { "services:\n" });
    for service in 0..services {
        let [high, mid, low] = bytes_of(service);
        let namespace = namespace(service);
        writeln!(
            text,
            "- name: service-{service:05}\n  namespace: {namespace}\n  \
             hostname: service-{service:05}.{namespace}.svc.cluster.local\n  \
             vips: [\"net1/100.{}.{mid}.{low}\"]\n  ports:\n    80: 8080",
            112 + high
        )?;
    }
    text.push_str(if workloads == 0 {
        "workloads: []\n"
    } else {
        "workloads:\n"
    });
    for index in 0..workloads {
        let own = index % services;
        let other = (own + 1) % services;
        let [high, mid, low] = bytes_of(index);
        writeln!(
            text,
            "- name: service-{own:05}-{hash:010x}-{index:06}\n  namespace: {namespace}\n  serviceAccount: service-{own:05}\n  \
             network: net1\n  node: node-{node:04}\n  workloadIps: [\"{ip}\"]\n  protocol: HBONE\n  services:\n    \
             {first}:\n      80: 8080\n    {second}:\n      80: 8080",
            hash = own * 7919 % 0xff_ffff,
            namespace = namespace(own),
            node = index % 1000,
            ip = format_args!("100.{}.{mid}.{low}", 64 + high),
            first = host(own),
            second = host(other),
        )?;
    }
    Ok(())
}

/// The last three bytes of an address.
fn bytes_of(number: usize) -> [usize; 3] {
    [number >> 16, number >> 8 & 255, number & 255]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_workload_has_a_name_and_an_address_of_its_own() {
        let text = mesh_file(5000);
        for mark in ["- name: ", "workloadIps: ", "vips: "] {
            let mut values: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix(mark)).collect();
            let count = values.len();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), count, "{mark}");
        }
        assert_eq!(text.matches("protocol: HBONE").count(), 5000);
    }

    #[test]
    fn every_workload_serves_two_services_and_every_service_has_ten() {
        let text = mesh_file(1000);
        let mut endpoints = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("    team-")) {
            *endpoints.entry(line).or_insert(0) += 1;
        }
        assert_eq!(endpoints.len(), 200);
        assert!(endpoints.values().all(|count| *count == 10), "{endpoints:?}");
        for workload in text.split("\n- ") {
            let mut services: Vec<_> = workload.lines().filter(|line| line.starts_with("    team-")).collect();
            services.dedup();
            assert!(services.len() == 2 || !workload.contains("workloadIps"), "{workload}");
        }
    }

    #[test]
    fn an_empty_mesh_is_a_mesh() {
        assert!(mesh_file(0).ends_with("services: []\nworkloads: []\n"));
    }
}
