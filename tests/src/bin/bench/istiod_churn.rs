//! Pods become ready and unready as fast as a real apiserver takes it, and istiod tells of it at its own pace.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use isthmus_tests::{Agent, Because as _, Cluster, Failure, Lab, Result, wait::throughout, within};

use crate::{
    cpu::Used,
    memory::{megabytes, still, unsettled},
    pace::Pace,
    pinger::Pinger,
    report::{Better, Figure, Row},
    resident::Resident,
    stage::ECHO_THREADS,
};

pub(crate) const NAME: (&str, &str) = (
    "istiod-churn",
    "pods of a real cluster become ready and unready as fast as its apiserver takes it, under a ping-pong",
);

const UP: Duration = Duration::from_secs(10);
/// istiod collects changes for up to 10 s while they do not end (`PILOT_DEBOUNCE_MAX`).
const TOLD: Duration = Duration::from_secs(60);
const PODS: u16 = 500;
const WRITERS: u16 = 24;

pub(crate) fn row(pace: &Pace) -> Result<Row> {
    let lab = Lab::with("bench", false)?;
    let cluster = &Cluster::alone(&lab)?;
    let nodes = [cluster.node("node1", "r1/z1")?, cluster.node("node2", "r1/z1")?];
    let [near, far] = &nodes;
    let client = cluster.pod(near, "client").start()?;
    let server = cluster.pod(far, "server").start()?;
    for number in 0..PODS {
        cluster.only_told(far, &name(number), &[address(number)])?;
    }
    let agents = [cluster.agent(near)?, cluster.agent(far)?];
    let [near, _] = &agents;
    client.enrol()?;
    server.enrol()?;
    let echo = server.load(&["echo", &format!("0.0.0.0:{ECHO_THREADS}"), "--threads"])?;
    echo.output().wait_from(0, UP, |line| line.get("listening").is_some())?;
    cluster.settled(near)?;

    let pids = near.pids()?;
    let pinger = Pinger::start(client.connect(server.at(ECHO_THREADS))?);
    throughout(
        Duration::from_secs_f64(2.0 * pace.seconds),
        "the connection carries",
        || true,
    )?;
    let responses = responses(near)?;
    let used = Used::by(&pids)?;
    pinger.begin();
    let begin = Instant::now();
    let writes = write(cluster, Duration::from_secs_f64(pace.updates_seconds))?;
    let written = begin.elapsed();
    // One more pod is the last thing that istiod hears of.
    let [before, ..] = near.status()?.mesh_size;
    cluster.only_told(far, "last", &[address(PODS)])?;
    within(TOLD, "istiod has told of the last pod", || {
        let [workloads, ..] = near.status().ok()?.mesh_size;
        (workloads > before).then_some(())
    })
    .because(near.last_words())?;
    let told = begin.elapsed();
    let [cpu, machine] = Used::by(&pids)?.since(&used);
    let pings = pinger.end()?;
    let (settled, is_still) = Resident::settled(pids, still(pace))?;

    let mut row = Row::new(NAME.0, NAME.1);
    let mut figure = |name: &str, unit: &str, better: Better, value: f64| {
        row.figures.push(Figure::ours(name, unit, better, vec![value]));
    };
    let seconds = told.as_secs_f64();
    figure(
        "written",
        "pods/s",
        Better::Higher,
        writes as f64 / written.as_secs_f64(),
    );
    figure(
        "told",
        "responses/s",
        Better::Higher,
        (self::responses(near)? - responses) as f64 / seconds,
    );
    figure(
        "from the last write until served",
        "s",
        Better::Lower,
        (told - written).as_secs_f64(),
    );
    figure("agent's CPU", "s/s", Better::Lower, cpu / seconds);
    figure("everybody's CPU", "s/s", Better::Lower, machine / seconds);
    let share: u64 = settled.iter().map(|one| one.share).sum();
    figure("settled, both processes, PSS", "MB", Better::Lower, megabytes(share));
    row.figures.extend(pings);
    row.notes.push(format!(
        "{PODS} pods, {WRITERS} writers; etcd, apiserver and istiod are on the same processors, and istiod merges what changes while it waits"
    ));
    row.notes.extend((!is_still).then(unsettled));
    Ok(row)
}

/// Writes the readiness of all pods again and again; answers how often.
fn write(cluster: &Cluster, span: Duration) -> Result<u64> {
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let write = |first: u16| -> Result {
        let mut ready = false;
        while !over.load(Ordering::Relaxed) {
            for number in (first..PODS).step_by(WRITERS.into()) {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                cluster.set_readiness(&name(number), &[address(number)], ready)?;
                written.fetch_add(1, Ordering::Relaxed);
            }
            ready = !ready;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|first| scope.spawn(move || write(first))).collect();
        thread::park_timeout(span);
        over.store(true, Ordering::Relaxed);
        writers.into_iter().try_for_each(|writer| {
            writer
                .join()
                .map_err(|_| Failure::new("a writer panicked"))
                .and_then(|ended| ended)
        })
    })?;
    Ok(written.load(Ordering::Relaxed))
}

fn name(number: u16) -> String {
    format!("many-{number}")
}

/// Addresses that nobody has: 10.77/16.
fn address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low).into()
}

/// Responses with workloads that the agent has had.
fn responses(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    Ok(status.istiod.because("it is under istiod")?.addresses.responses)
}
