//! How fast, how cheap and how small: ours, raw TCP and a plain relay in one run.

use std::{
    io::{IsTerminal as _, stderr},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use isthmus_tests::{Because as _, Failure, Result, sweep};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mod case;
mod census;
mod compare;
mod cpu;
mod enrolment;
mod goal;
mod istiod_churn;
mod item;
mod load;
mod machine;
mod memory;
mod mesh_churn;
mod mesh_load;
mod pace;
mod pinger;
mod report;
mod resident;
mod restart;
mod stage;
mod table;
mod told;
mod traffic;

use item::Item;
use machine::Machine;
use pace::Pace;
use report::{FORMAT, Report, Row, Side};
use stage::Stage;

/// Open files that the load of the widest row needs.
const OPEN_FILES: u64 = 4096;

/// Measures the agent beside raw TCP and a plain relay, with unmodified load in network namespaces.
///
/// A goal that is missed is marked in the table and is no failure; a row that could not be measured is one.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", max_term_width = 110)]
struct Options {
    /// Only rows whose names contain one of these, separated by commas; --list tells them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,
    /// Lists the rows and ends
    #[arg(long)]
    list: bool,
    /// Length of each run of bulk and ping-pong; a churn takes 40 times as long
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// One short round of everything: shows that it works, measures little
    #[arg(long)]
    quick: bool,
    /// Writes the report there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shows what changed since the report in this file
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Runs our side of the traffic that --rows picks for so many seconds each, and tells the agents' process ids
    #[arg(long, value_name = "SECONDS", requires = "rows", value_parser = seconds)]
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
    let items = item::picked(&options.rows);
    if items.is_empty() {
        return Err(Failure::new(format!(
            "no row's name contains any of {}; --list tells the names",
            options.rows.join(", ")
        )));
    }
    if options.list {
        for item in items {
            println!("{:<20}  {}", item.name(), item.title());
        }
        return Ok(true);
    }
    let earlier = options.compare.as_deref().map(Report::read).transpose()?;
    options.json.as_deref().map_or(Ok(()), Report::try_path)?;
    allow_open_files()?;
    sweep::when_interrupted()?;
    if let Some(seconds) = options.hold {
        return hold(&items, seconds);
    }
    let begin = Instant::now();
    let report = measure(&items, options.pace())?;
    if let Some(earlier) = &earlier {
        println!();
        compare::lines(earlier, &report)
            .iter()
            .for_each(|line| println!("{line}"));
    }
    if let Some(path) = &options.json {
        report.write(path)?;
        println!("\nwritten to {}", path.display());
    }
    println!("took {:.0} s", begin.elapsed().as_secs_f64());
    let failed: Vec<&str> = report
        .rows
        .iter()
        .filter_map(|row| row.failed.as_ref().map(|_| row.name.as_str()))
        .collect();
    if !failed.is_empty() {
        eprintln!("bench: could not measure {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn measure(items: &[Item], pace: Pace) -> Result<Report> {
    let mut report = Report {
        format: FORMAT,
        machine: Machine::this(),
        agent: std::env::var("ISTHMUS_BIN").ok(),
        pace,
        rows: Vec::new(),
    };
    println!("{}", report.machine);
    if report.machine.is_busy() {
        println!("note: this machine has other things to do; the figures tell of them too");
    }
    if let Some(agent) = &report.agent {
        println!("measuring {agent}");
    }
    println!("{}", table::head());
    let mut stage = None;
    for item in items {
        under_way(item.name());
        if !matches!(item, Item::Traffic(_)) {
            // Nothing else runs beside other rows.
            stage = None;
        }
        let row = match item {
            Item::Traffic(case) => {
                let built = stage.take().map_or_else(Stage::build, Ok)?;
                traffic::row(stage.insert(built), case, &pace, &[Side::Raw, Side::Ours, Side::Relay])
            }
            Item::Mesh(mesh) => memory::of_mesh(mesh, &pace),
            Item::Connections => memory::of_connections(&pace),
            Item::Enrolment => enrolment::row(&pace),
            Item::MeshLoad => mesh_load::row(&pace),
            Item::MeshChurn => mesh_churn::row(&pace),
            Item::IstiodChurn => istiod_churn::row(&pace),
            Item::Restart => restart::row(&pace),
        };
        sweep::leave_to_interrupt();
        under_way("");
        let mut row = row.unwrap_or_else(|failure| Row {
            failed: Some(failure.to_string()),
            ..Row::new(item.name(), item.title())
        });
        row.figures.extend(traffic::double_by_single(&row, &report.rows));
        table::lines(&row).iter().for_each(|line| println!("{line}"));
        report.rows.push(row);
    }
    Ok(report)
}

/// Tells who waits at a terminal what is being measured; a row of the table takes the place of it.
fn under_way(name: &str) {
    if stderr().is_terminal() {
        let text = if name.is_empty() {
            String::new()
        } else {
            format!("measuring {name} ...")
        };
        eprint!("\r{text:<40}\r");
    }
}

/// Keeps our side of some rows under load, for whoever looks at the agents meanwhile.
fn hold(items: &[Item], seconds: f64) -> Result<bool> {
    let stage = Stage::build()?;
    for agent in stage.agents() {
        let [parent, worker] = agent.pids()?;
        println!("agent of {}: parent {parent}, worker {worker}", agent.node().name());
    }
    println!("gateway: {}", stage.gateway_pid()?);
    let pace = Pace {
        rounds: 1,
        seconds,
        churn_seconds: seconds,
        churn_window_seconds: seconds,
        ..Pace::FULL
    };
    println!("{}", table::head());
    for item in items {
        let Item::Traffic(case) = item else {
            println!("{}: no traffic to hold", item.name());
            continue;
        };
        println!("{}: our side for {seconds} s", case.name);
        let row = traffic::row(&stage, case, &pace, &[Side::Ours])?;
        table::lines(&row).iter().for_each(|line| println!("{line}"));
    }
    Ok(true)
}

/// Raises the limit that load and agents inherit, if it is low.
fn allow_open_files() -> Result {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).because("reading the limit of open files")?;
    if soft >= OPEN_FILES {
        return Ok(());
    }
    let raised = OPEN_FILES.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, raised, hard).because(format!("raising the limit of open files to {raised}"))
}

impl Options {
    fn pace(&self) -> Pace {
        let pace = if self.quick { Pace::QUICK } else { Pace::FULL };
        self.seconds.map_or(pace, |seconds| pace.with_seconds(seconds))
    }
}

/// A time to run for: a fraction of a second to an hour.
fn seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("must be from 0.1 to 3600".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "3601", "NaN", "inf", "x", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_are_picked_by_parts_of_their_names() {
        let options = Options::parse_from(["bench", "--rows", "bulk-1,enrol"]);
        let names: Vec<_> = item::picked(&options.rows).iter().map(Item::name).collect();
        assert_eq!(names, ["bulk-1", "enrol"]);
    }
}
