//! Starts two whole clusters and leaves them up, or takes them down.

use std::{process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use isthmus_tests::{Lab, Result, fleet::Fleet, sweep};

/// Two clusters on two networks, with real kubelets.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts them.
    Up {
        /// Nodes of the first cluster.
        first: u8,
        /// Nodes of the second cluster.
        second: u8,
        /// Nothing of Isthmus is installed.
        #[arg(long)]
        bare: bool,
    },
    /// Takes down all that were left up.
    Down,
}

fn main() -> ExitCode {
    let done = match Options::parse().verb {
        Verb::Up { first, second, bare } => sweep::when_interrupted()
            .and_then(|()| up([first, second], bare))
            // Half a world is of no use.
            .inspect_err(|_| sweep::own()),
        Verb::Down => sweep::dead(true).map(|labs| println!("{} taken down", labs.len())),
    };
    sweep::leave_to_interrupt();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn up(nodes: [u8; 2], bare: bool) -> Result {
    let begin = Instant::now();
    let fleet = Fleet::start(Lab::with("clusters", true)?, nodes)?;
    println!("nodes are ready after {:.1} s", begin.elapsed().as_secs_f64());
    if !bare {
        fleet.install()?;
        println!("Isthmus is installed after {:.1} s", begin.elapsed().as_secs_f64());
    }
    for site in fleet.sites() {
        println!("\n{}:\n    {}", site.name(), site.kubectl().words()?);
        println!(
            "{}",
            site.kubectl()
                .run(&["get", "pods", "--all-namespaces", "--output=wide"])?
        );
    }
    Ok(())
}
