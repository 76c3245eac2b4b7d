//! The `isthmus` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use isthmus::{
    app, check, cleanup,
    cli::{Cli, Command, own_arguments},
    operator, parent,
};

/// Returns freed memory to the kernel, and can be asked what holds it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of what cannot start as it was asked to.
const CANNOT_START: u8 = 2;

fn main() -> ExitCode {
    let outcome: Result<ExitCode, Box<dyn std::error::Error>> = match Cli::parse().command {
        Command::Run(arguments) => {
            app::start_log(arguments.mesh.log_format);
            parent::run(&own_arguments()).map_err(Into::into)
        }
        Command::Worker(arguments) => {
            app::start_log(arguments.run.mesh.log_format);
            app::worker(arguments).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Command::Gateway(arguments) => {
            app::start_log(arguments.mesh.log_format);
            app::gateway(arguments).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Command::Pod(command) => operator::pod(command).map(|()| ExitCode::SUCCESS),
        Command::Status(arguments) => operator::status(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Check(arguments) => check::run(&arguments).map(code),
        Command::Cleanup(arguments) => cleanup::run(&arguments).map(code),
        Command::Ca(command) => operator::ca(command).map(|()| ExitCode::SUCCESS),
        Command::Mesh(command) => operator::mesh(command).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        tracing::error!(error = app::chain(error.as_ref()), "cannot go on");
        eprintln!("isthmus: {}", app::chain(error.as_ref()));
        ExitCode::from(CANNOT_START)
    })
}

/// Exit code of a command that answers yes or no.
fn code(yes: bool) -> ExitCode {
    if yes { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
