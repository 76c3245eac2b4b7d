//! How long an agent takes from its start until a pod's connection carries.

use std::{
    fs,
    time::{Duration, Instant},
};

use isthmus_tests::{Agent, Because as _, Failure, Result, ScriptedIstiod, echo::roundtrip, within};

use crate::{
    pace::Pace,
    report::{Better, Figure, Row},
    stage::ECHO_THREADS,
    told::Told,
};

pub(crate) const NAME: (&str, &str) = (
    "restart",
    "an agent starts: until it is ready and until a new connection of its pod carries",
);

const PATIENCE: Duration = Duration::from_secs(60);
/// A connect to a pod whose agent is not there yet waits; it is tried anew, so that no retransmission is waited for.
const TRY: Duration = Duration::from_millis(50);

/// In which state the world is when the agent starts.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    /// istiod's CA signs; otherwise the embedded one, which is always there.
    signs: bool,
    istiod: bool,
    disk: bool,
    /// Only the worker dies.
    worker: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "with istiod and the mesh on disk",
        signs: true,
        istiod: true,
        disk: true,
        worker: false,
    },
    Case {
        name: "with istiod and nothing on disk",
        signs: true,
        istiod: true,
        disk: false,
        worker: false,
    },
    Case {
        name: "without istiod, embedded CA, from disk",
        signs: false,
        istiod: false,
        disk: true,
        worker: false,
    },
    Case {
        name: "killed worker, without istiod and its CA",
        signs: true,
        istiod: false,
        disk: true,
        worker: true,
    },
];

pub(crate) fn row(pace: &Pace) -> Result<Row> {
    let mut row = Row::new(NAME.0, NAME.1);
    for signs in [true, false] {
        let told = Told::build(pace.workloads, signs)?;
        told.load()?;
        told.connection()?;
        for case in CASES.iter().filter(|case| case.signs == signs) {
            let (mut ready, mut carried) = (Vec::new(), Vec::new());
            for _ in 0..pace.rounds {
                let took = once(&told, *case).because(case.name)?;
                ready.push(took.ready.as_secs_f64() * 1e3);
                carried.push(took.carried.as_secs_f64() * 1e3);
            }
            for (what, runs) in [("ready", ready), ("a connection carries", carried)] {
                let name = format!("{what}, {}", case.name);
                row.figures.push(Figure::ours(&name, "ms", Better::Lower, runs));
            }
        }
        row.notes.push(format!(
            "{}: {} workloads, {} services",
            if signs {
                "under istiod's CA"
            } else {
                "under the embedded CA"
            },
            told.many.workloads,
            told.many.services
        ));
    }
    Ok(row)
}

/// Times since the start.
struct Took {
    ready: Duration,
    carried: Duration,
}

fn once(told: &Told, case: Case) -> Result<Took> {
    let snapshot = told.near.node().run_dir().join("mesh.snapshot");
    within(PATIENCE, "the mesh is on disk", || snapshot.exists().then_some(()))?;
    let _back = Away::when(!case.istiod, &told.istiod);
    let begin;
    let ready;
    let carried;
    if case.worker {
        begin = Instant::now();
        let before = told.near.kill_worker()?;
        carried = first_connection(told, begin)?;
        ready = within(PATIENCE, "another worker answers", || {
            let status = told.near.status().ok()?;
            (status.worker_pid != before).then(|| begin.elapsed())
        })?;
    } else {
        told.near.stop()?;
        if !case.disk {
            fs::remove_file(&snapshot).because("removing the stored mesh")?;
        }
        begin = Instant::now();
        (ready, carried) = started(told, &told.near, begin)?;
    }
    if case.istiod {
        told.taken()?;
    }
    told.is_whole()?;
    Ok(Took { ready, carried })
}

/// Starts an agent and connects at the same time.
fn started(told: &Told, agent: &Agent, begin: Instant) -> Result<(Duration, Duration)> {
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| first_connection(told, begin));
        agent.restart()?;
        let ready = begin.elapsed();
        let carried = connecting
            .join()
            .map_err(|_| Failure::new("the connecting thread panicked"))??;
        Ok((ready, carried))
    })
}

fn first_connection(told: &Told, begin: Instant) -> Result<Duration> {
    let to = told.server.at(ECHO_THREADS);
    within(PATIENCE, "a connection carries", || {
        let mut stream = told.client.connect_within(to, TRY).ok()?;
        roundtrip(&mut stream, b"first").ok()
    })?;
    Ok(begin.elapsed())
}

/// istiod is away until this is dropped.
struct Away<'a>(&'a ScriptedIstiod);

impl<'a> Away<'a> {
    fn when(away: bool, istiod: &'a ScriptedIstiod) -> Option<Self> {
        away.then(|| {
            istiod.kill();
            Self(istiod)
        })
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Err(failure) = self.0.restart() {
            eprintln!("bench: {failure}");
        }
    }
}
