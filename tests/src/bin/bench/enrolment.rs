//! Enrolment: how long an agent takes to bring a running pod into the mesh.

use std::time::{Duration, Instant};

use isthmus_tests::{Agent, Failure, Lab, Pod, Result, histogram::Histogram, within};
use isthmus_wire::{Enrol, Request, Response};

use crate::{
    pace::Pace,
    report::{Better, Figure, Row},
};

pub(crate) const NAME: (&str, &str) = (
    "enrol",
    "enrolment of running pods, one after the other, asked over the agent's socket",
);

/// Pods of a node that the lab has addresses for.
const PODS_PER_NODE: usize = 200;
/// So many pods are enrolled while no other is.
const ALONE: usize = 30;
const SOME: usize = 100;
const ASK: Duration = Duration::from_secs(10);
const GONE: Duration = Duration::from_secs(10);

/// Enrols each of a few pods alone, then all pods.
pub(crate) fn row(pace: &Pace) -> Result<Row> {
    let lab = Lab::with("bench", false)?;
    let network = lab.network("net1")?;
    let first = network.node("node1")?;
    let mut pods = Vec::with_capacity(pace.pods);
    let mut node = first.clone();
    for index in 0..pace.pods {
        if index > 0 && index % PODS_PER_NODE == 0 {
            node = network.node(&format!("node{}", 1 + index / PODS_PER_NODE))?;
        }
        pods.push(node.pod(&format!("pod{index}")).start()?);
    }
    // They have addresses of several nodes and one agent.
    lab.mesh(|mesh| {
        for workload in mesh.workloads.values_mut() {
            if let Some(node) = workload.get_mut("node") {
                *node = "node1".into();
            }
        }
    });
    let agent = first.agent()?;
    let mut row = Row::new(NAME.0, NAME.1);
    let mut tell = |label: &str, took: &Histogram| {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = vec![took.quantile(share).as_secs_f64() * 1e3];
            row.figures
                .push(Figure::ours(&format!("{label}, {name}"), "ms", Better::Lower, value));
        }
    };
    let mut took = Histogram::default();
    for pod in pods.iter().take(ALONE) {
        took.record(enrol(&agent, pod)?);
        release(&agent, pod)?;
    }
    tell("one pod, no other enrolled", &took);
    took = Histogram::default();
    for (index, pod) in pods.iter().enumerate() {
        took.record(enrol(&agent, pod)?);
        if [SOME, pods.len()].contains(&(index + 1)) {
            tell(&format!("each of the first {}", index + 1), &took);
        }
    }
    let enrolled = agent.status()?.pods.len();
    if enrolled != pods.len() {
        return Err(Failure::new(format!("{enrolled} of {} pods are enrolled", pods.len())));
    }
    Ok(row)
}

fn enrol(agent: &Agent, pod: &Pod) -> Result<Duration> {
    let request = Request::Enrol(Enrol {
        uid: pod.uid(),
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        service_account: Some(pod.service_account().to_owned()),
        netns: pod.netns().path(),
        mtls_required: Some(false),
        reroute_interfaces: Vec::new(),
        capture: Box::default(),
    });
    let begin = Instant::now();
    ask(agent, &request)?;
    Ok(begin.elapsed())
}

/// Lets it go and waits until the agent has forgotten it, and the kernel too: it takes the links down under the lock
/// that enrolling needs, and that `ip` has to wait for as well.
fn release(agent: &Agent, pod: &Pod) -> Result {
    ask(agent, &Request::Release { uid: pod.uid() })?;
    within(GONE, &format!("{} is forgotten", pod.name()), || {
        agent.status().ok().filter(|status| status.pods.is_empty())
    })?;
    pod.netns().ip("link set lo up\n")
}

fn ask(agent: &Agent, request: &Request) -> Result {
    match isthmus_wire::ask(&agent.node().socket(), request, ASK)? {
        Response::Done => Ok(()),
        other => Err(Failure::new(format!("{request:?} was answered {other:?}"))),
    }
}
