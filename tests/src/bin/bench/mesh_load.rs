//! A large mesh arrives in one response while a connection carries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use isthmus_tests::{Result, wait::throughout};

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
    "mesh-load",
    "100 000 workloads and 1000 services from istiod in one response, under a ping-pong",
);

/// How often memory is looked at while the mesh arrives.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn row(pace: &Pace) -> Result<Row> {
    let told = Told::build(pace.workloads, true)?;
    let pids = told.near.pids()?;
    let pinger = Pinger::start(told.connection()?);
    throughout(
        Duration::from_secs_f64(2.0 * pace.seconds),
        "the connection carries",
        || true,
    )?;
    let before = Used::by(&pids)?;
    let watch = Watch::start(pids);
    pinger.begin();
    let took = told.load()?;
    let pings = pinger.end()?;
    let peak = watch.end();
    let [cpu, _] = Used::by(&pids)?.since(&before);
    let (settled, is_still) = Resident::settled(pids, still(pace))?;
    let mut row = Row::new(NAME.0, NAME.1);
    let mut figure = |name: &str, unit: &str, value: f64| {
        row.figures.push(Figure::ours(name, unit, Better::Lower, vec![value]));
    };
    figure("from sent to served", "s", took.as_secs_f64());
    figure("agent's CPU meanwhile", "s", cpu);
    let share: u64 = settled.iter().map(|one| one.share).sum();
    let [_, worker] = settled;
    figure("settled, both processes, PSS", "MB", megabytes(share));
    figure("peak, both processes, PSS", "MB", megabytes(peak));
    figure("peak, worker, RSS", "MB", megabytes(worker.peak));
    row.figures.extend(pings);
    row.notes.push(format!(
        "{} workloads, {} services; istiod's own work for them is on the same processors",
        told.many.workloads, told.many.services
    ));
    row.notes.extend((!is_still).then(unsettled));
    Ok(row)
}

/// Looks at memory all the time.
struct Watch {
    over: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(pids: [u32; 2]) -> Self {
        let (over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, seen) = (Arc::clone(&over), Arc::clone(&most));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let all: u64 = pids.iter().filter_map(|pid| Some(Resident::of(*pid).ok()?.share)).sum();
                seen.fetch_max(all, Ordering::Relaxed);
                thread::park_timeout(LOOK);
            }
        });
        Self { over, most, thread }
    }

    /// The most there was, in bytes.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let _panicked = self.thread.join();
        self.most.load(Ordering::Relaxed)
    }
}
