//! Workloads change all the time while a connection carries.

use std::{
    thread,
    time::{Duration, Instant},
};

use isthmus_istio::discovery::Resource;
use isthmus_tests::{Result, scripted_istiod::Kind, wait::throughout};

use crate::{
    cpu::Used,
    memory::{megabytes, still, unsettled},
    pace::Pace,
    pinger::Pinger,
    report::{Better, Figure, Row},
    resident::Resident,
    told::Told,
};

pub(crate) const NAME: (&str, &str) = (
    "mesh-churn",
    "10 000 workload updates a second from istiod, in a mesh of 100 000, under a ping-pong",
);

/// Updates of each response.
const BATCH: usize = 100;
/// Responses a second.
const BATCHES: f64 = 100.0;
/// So many workloads change in turn.
const CHANGING: usize = 10_000;

pub(crate) fn row(pace: &Pace) -> Result<Row> {
    let told = Told::build(pace.workloads, true)?;
    told.load()?;
    let pids = told.near.pids()?;
    let pinger = Pinger::start(told.connection()?);
    throughout(
        Duration::from_secs_f64(2.0 * pace.seconds),
        "the connection carries",
        || true,
    )?;
    let batches = batches(&told);
    told.istiod.lags();
    let before = Used::by(&pids)?;
    pinger.begin();
    let begin = Instant::now();
    let count = send(&told, &batches, pace.updates_seconds);
    let sent = begin.elapsed();
    told.taken()?;
    let served = begin.elapsed();
    let [cpu, _] = Used::by(&pids)?.since(&before);
    let pings = pinger.end()?;
    told.is_whole()?;
    let mut lags = told.istiod.lags();
    lags.sort_unstable();
    let (settled, is_still) = Resident::settled(pids, still(pace))?;
    let mut row = Row::new(NAME.0, NAME.1);
    let mut figure = |name: &str, unit: &str, better: Better, value: f64| {
        row.figures.push(Figure::ours(name, unit, better, vec![value]));
    };
    let updates = (count * BATCH) as f64;
    figure("sent", "updates/s", Better::Higher, updates / sent.as_secs_f64());
    figure("served", "updates/s", Better::Higher, updates / served.as_secs_f64());
    for (name, share) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        let at = (lags.len() * share / 100).min(lags.len().saturating_sub(1));
        let lag = lags.get(at).copied().unwrap_or_default();
        figure(
            &format!("from sent to served, {name}"),
            "ms",
            Better::Lower,
            lag.as_secs_f64() * 1e3,
        );
    }
    figure("agent's CPU", "s/s", Better::Lower, cpu / served.as_secs_f64());
    figure("agent's CPU by update", "µs", Better::Lower, cpu * 1e6 / updates);
    let share: u64 = settled.iter().map(|one| one.share).sum();
    let [_, worker] = settled;
    figure("settled, both processes, PSS", "MB", Better::Lower, megabytes(share));
    figure("peak, worker, RSS", "MB", Better::Lower, megabytes(worker.peak));
    row.figures.extend(pings);
    row.notes.push(format!(
        "{} responses of {BATCH} workloads each, in a mesh of {}; istiod's own work for them is on the same processors",
        count, told.many.workloads
    ));
    row.notes.extend((!is_still).then(unsettled));
    Ok(row)
}

/// Two rounds over all that change: unhealthy, healthy again.
fn batches(told: &Told) -> Vec<Vec<Resource>> {
    let changing = told.many.workloads.min(CHANGING);
    let mut batches = Vec::new();
    for round in [1, 2] {
        let all: Vec<Resource> = (0..changing).map(|index| told.many.workload(index, round)).collect();
        batches.extend(all.chunks(BATCH).map(<[Resource]>::to_vec));
    }
    batches
}

/// Sends them in turn at their pace; answers how many.
fn send(told: &Told, batches: &[Vec<Resource>], seconds: f64) -> usize {
    let begin = Instant::now();
    let mut count = 0;
    for batch in batches.iter().cycle() {
        let due = Duration::from_secs_f64(count as f64 / BATCHES);
        if due.as_secs_f64() >= seconds {
            break;
        }
        while let Some(left) = due.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
            thread::park_timeout(left);
        }
        told.istiod.put(Kind::Address, batch.clone());
        count += 1;
    }
    count
}
