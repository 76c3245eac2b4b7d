//! How fast, how cheap and how small: ours, raw TCP and a plain relay in one run.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use isthmus_tests::{Failure, Result, sweep};

mod case;
mod census;
mod cpu;
mod goal;
mod load;
mod machine;
mod report;
mod stage;
mod table;
mod traffic;

use case::{CHURNS, Case, FLOWS};
use machine::Machine;
use report::{FORMAT, Pace, Report, Row, Side};
use stage::Stage;

/// Measures the agent beside raw TCP and a plain relay, with unmodified load in network namespaces.
///
/// A goal that is missed is marked in the table and is no failure; a row that could not be measured is one.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", max_term_width = 110)]
struct Options {
    /// Only rows whose names contain one of these, separated by commas; --list tells them
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Lists the rows and ends
    #[arg(long)]
    list: bool,
    /// Length of each run of bulk and ping-pong; of a churn this times 30
    #[arg(long)]
    seconds: Option<f64>,
    /// One short round of everything: shows that it works, measures little
    #[arg(long)]
    quick: bool,
    /// Writes the report there
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs our side of the rows of traffic that --rows picks for so many seconds each and tells the agents' process ids
    #[arg(long, value_name = "SECONDS", requires = "rows")]
    hold: Option<f64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let ended = bench(&options);
    sweep::leave_to_interrupt();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("bench: {failure:?}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether every row could be measured.
fn bench(options: &Options) -> Result<bool> {
    let wanted = |name: &str| options.rows.is_empty() || options.rows.iter().any(|part| name.contains(part));
    let cases: Vec<&Case> = FLOWS.iter().chain(&CHURNS).filter(|case| wanted(case.name)).collect();
    if options.list {
        cases
            .iter()
            .for_each(|case| println!("{:<16}  {}", case.name, case.title));
        return Ok(true);
    }
    if cases.is_empty() {
        return Err(Failure::new(format!(
            "no row's name contains any of {:?} (--list)",
            options.rows
        )));
    }
    sweep::when_interrupted()?;
    let begin = Instant::now();
    let mut report = Report {
        format: FORMAT,
        machine: Machine::this(),
        pace: options.pace(),
        rows: Vec::new(),
    };
    let stage = Stage::build()?;
    if let Some(seconds) = options.hold {
        return hold(&stage, &cases, seconds);
    }
    println!("{}", table::head());
    for case in cases {
        let row = traffic::row(&stage, case, &report.pace, &[Side::Raw, Side::Ours, Side::Relay]);
        let row = row.unwrap_or_else(|failure| failed(case.name, case.title, &failure));
        table::lines(&row).iter().for_each(|line| println!("{line}"));
        report.rows.push(row);
    }
    drop(stage);
    println!("took {:.0} s", begin.elapsed().as_secs_f64());
    Ok(report.rows.iter().all(|row| row.failed.is_none()))
}

/// Keeps our side of some rows under load, for whoever looks at the agents meanwhile.
fn hold(stage: &Stage, cases: &[&Case], seconds: f64) -> Result<bool> {
    for agent in stage.agents() {
        let [parent, worker] = agent.pids()?;
        println!("agent of {}: parent {parent}, worker {worker}", agent.node().name());
    }
    println!("all of ours: {:?}", stage.pids()?);
    let pace = Pace {
        rounds: 1,
        seconds,
        churn_seconds: seconds,
        ..Pace::FULL
    };
    println!("{}", table::head());
    for case in cases {
        println!("{} for {seconds} s", case.name);
        let row = traffic::row(stage, case, &pace, &[Side::Ours])?;
        table::lines(&row).iter().for_each(|line| println!("{line}"));
    }
    Ok(true)
}

fn failed(name: &str, title: &str, failure: &Failure) -> Row {
    Row {
        name: name.to_owned(),
        title: title.to_owned(),
        figures: Vec::new(),
        notes: Vec::new(),
        failed: Some(failure.to_string()),
    }
}

impl Options {
    fn pace(&self) -> Pace {
        let pace = if self.quick { Pace::QUICK } else { Pace::FULL };
        let Some(seconds) = self.seconds else { return pace };
        Pace {
            seconds,
            churn_seconds: seconds * 30.0,
            churn_window_seconds: (seconds * 5.0).min(pace.churn_window_seconds),
            ..pace
        }
    }
}

impl Pace {
    /// What is reported to others.
    const FULL: Self = Self {
        rounds: 3,
        seconds: 2.0,
        churn_seconds: 60.0,
        churn_window_seconds: 10.0,
        pods: 500,
        workloads: 100_000,
        settled_seconds: 5.0,
    };
    /// Shows that every row works.
    const QUICK: Self = Self {
        rounds: 1,
        seconds: 0.7,
        churn_seconds: 4.0,
        churn_window_seconds: 2.0,
        pods: 100,
        workloads: 10_000,
        settled_seconds: 1.0,
    };
}
