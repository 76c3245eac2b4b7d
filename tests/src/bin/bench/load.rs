//! One run of the load program in a client's pod.

use std::{fs, time::Duration};

use isthmus_tests::{Because as _, Failure, Netns, Process, Result, within};
use serde_json::Value;

use crate::{
    case::{Close, Kind},
    cpu::Used,
    stage::{Destination, ECHO, ECHO_PORTS, ECHO_THREADS, Place, SINK, Stage},
};

/// How long a run may take beyond its span.
const SLACK: Duration = Duration::from_secs(90);

/// When a run is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Seconds of load before the window.
    pub(crate) warm: f64,
    /// Seconds of the window.
    pub(crate) seconds: f64,
}

/// What a run has found in its window.
#[derive(Debug)]
pub(crate) struct Run {
    report: Value,
    /// Processor seconds of everything of ours.
    pub(crate) cpu: f64,
    /// Processor seconds of the whole machine, load included.
    pub(crate) machine: f64,
    /// Bytes on the links of the client's pod, both directions.
    pub(crate) client_wire: f64,
    /// Bytes on the links of the server's pod, both directions.
    pub(crate) server_wire: f64,
}

/// What is read at both ends of the window.
struct Look {
    used: Used,
    wires: [u64; 2],
}

impl Run {
    /// Runs the load and waits for its end.
    pub(crate) fn of(stage: &Stage, kind: Kind, from: Place, to: Destination, span: Span) -> Result<Self> {
        let client = stage.pod(from)?;
        let server = stage.server(to)?;
        let words = words(stage, kind, to, span)?;
        // Asked before and after: an agent that is busy takes its time to answer.
        let pids = stage.pids()?;
        let mut load = client.load(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let look = || {
            Ok::<_, Failure>(Look {
                used: Used::by(&pids)?,
                wires: [wire_bytes(client.netns())?, wire_bytes(server.netns())?],
            })
        };
        let bound = Duration::from_secs_f64(span.warm + span.seconds) + SLACK;
        marker(&mut load, "measuring", bound)?;
        let before = look()?;
        marker(&mut load, "measured", bound)?;
        let after = look()?;
        let report = load.report(bound)?;
        let [cpu, machine] = after.used.since(&before.used);
        let now = stage.pids()?;
        if now != pids {
            return Err(Failure::new(format!(
                "an agent was replaced during the run: {pids:?} are now {now:?}"
            )));
        }
        let wire = |pod: usize| {
            let at = |look: &Look| look.wires.get(pod).copied().unwrap_or_default();
            at(&after).saturating_sub(at(&before)) as f64
        };
        Ok(Self {
            report,
            cpu,
            machine,
            client_wire: wire(0),
            server_wire: wire(1),
        })
    }

    /// A number of the load's report.
    pub(crate) fn number(&self, name: &str) -> Result<f64> {
        let number = self.report.get(name).and_then(Value::as_f64);
        number.because(format!("looking for {name} in the load's report {}", self.report))
    }

    /// A list of numbers in the load's report; empty when there is none of that name.
    pub(crate) fn numbers(&self, name: &str) -> Vec<f64> {
        let list = self.report.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_f64).collect()
    }

    /// A list of texts in the load's report.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let list = self.report.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect()
    }
}

/// The load's arguments.
fn words(stage: &Stage, kind: Kind, to: Destination, span: Span) -> Result<Vec<String>> {
    let at = |port| Ok::<_, Failure>(stage.address(to, port)?.to_string());
    let mut words = match kind {
        Kind::Bulk { streams } => vec!["upload".to_owned(), at(SINK)?, format!("--streams={streams}")],
        Kind::Ping { connections: 1 } => vec!["ping".to_owned(), at(ECHO_THREADS)?],
        Kind::Ping { connections } => vec!["ping".to_owned(), at(ECHO)?, format!("--connections={connections}")],
        Kind::Churn { close: Close::Rst } => vec!["churn".to_owned(), at(ECHO)?, "--close=rst".to_owned()],
        Kind::Churn { close: Close::Fin } => vec![
            "churn".to_owned(),
            at(ECHO)?,
            "--close=fin".to_owned(),
            // To one port of one server raw TCP itself has but 28 000 connections a minute.
            format!("--ports={ECHO_PORTS}"),
        ],
    };
    words.push(format!("--seconds={}", span.seconds));
    if !matches!(kind, Kind::Bulk { .. }) {
        words.push(format!("--warm={}", span.warm));
    }
    Ok(words)
}

/// Waits until the load says so; a load that fails before says why.
fn marker(load: &mut Process, name: &str, bound: Duration) -> Result {
    let said = within(bound, &format!("the load says {name:?}"), || {
        let lines = load.output().all_from(0, |line| line.get(name).is_some());
        (!lines.is_empty() || !load.runs()).then_some(())
    });
    let lines = load.output().all_from(0, |line| line.get(name).is_some());
    if said.is_ok() && !lines.is_empty() {
        return Ok(());
    }
    let errors = fs::read_to_string(load.errors().path()).unwrap_or_default();
    let errors = errors.trim();
    Err(Failure::new(if errors.is_empty() {
        format!("the load did not come to {name:?}")
    } else {
        errors.to_owned()
    }))
}

/// Bytes received and sent on all links but loopback.
fn wire_bytes(netns: &Netns) -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let table = netns.enter(|| fs::read_to_string(path))?;
    Ok(bytes_in(&table.because(format!("reading {path}"))?))
}

fn bytes_in(table: &str) -> u64 {
    let links = table.lines().filter_map(|line| line.split_once(':'));
    links
        .filter(|(name, _)| name.trim() != "lo")
        .flat_map(|(_, counters)| {
            let counters: Vec<&str> = counters.split_whitespace().collect();
            // Received bytes are the first column, sent bytes the ninth (proc_pid_net(5)).
            [counters.first().copied(), counters.get(8).copied()]
        })
        .filter_map(|counter| counter?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::bytes_in;

    #[test]
    fn loopback_is_no_wire() {
        let table = "Inter-|   Receive                    |  Transmit\n face |bytes    packets errs\n    \
                     lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0\n  \
                     eth0: 500 5 0 0 0 0 0 0 70 7 0 0 0 0 0 0\n";
        assert_eq!(bytes_in(table), 570);
        assert_eq!(bytes_in(""), 0);
    }
}
