//! Two networks, one mesh: unmodified programs on both sides, redirected by eBPF, carried over HBONE and two
//! east-west gateways, with proof of what did and did not cross the wires.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use isthmus_tests::{Result, sweep};

mod istiod;
mod page;
mod proof;
mod traffic;
mod world;

use page::Page;
use world::World;

/// Shows a mesh of two networks at work, and proves what it says.
#[derive(Parser)]
struct Options {
    /// Shows two clusters instead, with a stock apiserver and a stock istiod each.
    #[arg(long)]
    istiod: bool,
    /// Leaves the world up at the end, with hints how to look around.
    #[arg(long)]
    keep: bool,
    /// Removes what earlier demos left up, and nothing else.
    #[arg(long)]
    sweep: bool,
    /// Length of each upload.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut page = Page::new();
    let shown = if options.sweep {
        swept(&mut page)
    } else if options.istiod {
        sweep::when_interrupted().and_then(|()| istiod::show(&mut page, options.keep))
    } else {
        show(&mut page, &options)
    };
    sweep::leave_to_interrupt();
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            page.failed(&failure);
            ExitCode::FAILURE
        }
    }
}

fn swept(page: &mut Page) -> Result {
    let labs = sweep::dead(true)?;
    page.note(&format!("removed {} worlds that earlier runs left", labs.len()));
    Ok(())
}

fn show(page: &mut Page, options: &Options) -> Result {
    let begin = Instant::now();
    page.title("Isthmus: two networks, one mesh, all on this kernel");
    // A user who interrupts the demo does not get to keep its namespaces.
    sweep::when_interrupted()?;
    let mut world = World::build(options.keep)?;
    page.done(&format!(
        "{} networks, 4 nodes, 8 pods and 2 east-west gateways stand after {:.1} s",
        2,
        begin.elapsed().as_secs_f64()
    ));
    world.serve()?;

    page.title("Not enrolled: the captures hear everything");
    let captures = proof::Captures::start(&world)?;
    proof::positive_control(page, &world, &captures)?;

    page.title("Enrolled: the same pods, the same processes");
    world.start_agents()?;
    world.enrol(page)?;
    captures.enrolled();

    page.title("Traffic");
    traffic::run(page, &world, &captures, options.seconds)?;

    page.title("Proofs");
    proof::nothing_in_clear(page, &world, &captures, "all of the above")?;
    proof::plaintext_refused(page, &world)?;
    proof::worker_killed(page, &world, &captures)?;
    proof::nothing_in_clear(page, &world, &captures, "the killed worker too")?;
    if !options.keep {
        drop(captures);
        drop(world);
        page.done("everything is taken down");
    } else {
        world.hints(page);
    }
    page.note(&format!("took {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}
