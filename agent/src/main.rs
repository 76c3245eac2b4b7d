//! The `isthmus` binary: arguments in, exit code out.

use std::{
    env,
    error::Error,
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use isthmus::{
    app, check, cleanup,
    cli::{Cli, Command},
    config::{GatewayConfig, Mistakes, NodeConfig, Order},
    operator,
    parent::{self, Worker},
    status,
};

/// Returns freed memory to the kernel, and can be asked what holds it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of what cannot start as it was asked to.
const CANNOT_START: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(serve) => run(serve.arguments),
        Command::Proxy(proxy) => run(proxy.flags()),
        Command::Worker(worker) => ordered(NodeConfig::read(worker.arguments, env::vars_os()), |config| {
            let ended = status::worker_end(worker.ended_at, worker.ended_how.clone());
            app::worker(config, worker.restarts, ended)?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Gateway(serve) => ordered(GatewayConfig::read(serve.arguments, env::vars_os()), |config| {
            Ok(app::gateway(config)?)
        }),
        Command::Version => say(&format!("isthmus {}", env!("CARGO_PKG_VERSION"))),
        Command::Pod(command) => done(operator::pod(command)),
        Command::Status(arguments) => operator::status(&arguments),
        Command::Check(arguments) => check::run(&arguments).map(code),
        Command::Cleanup(arguments) => cleanup::run(&arguments).map(code),
        Command::Ca(command) => done(operator::ca(command)),
        Command::Mesh(command) => done(operator::mesh(command)),
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

fn run(arguments: Vec<OsString>) -> Result<ExitCode, Box<dyn Error>> {
    ordered(NodeConfig::read(arguments.clone(), env::vars_os()), |config| {
        // No thread may be there when the parent blocks its signals, so its few lines are written at once.
        drop(app::start_parents_log(&config.common.log));
        config.common.say_notes();
        app::raise_descriptor_limit();
        let worker = Worker {
            arguments,
            drain_deadline: config.common.drain_deadline,
            run_dir: config.run_dir,
        };
        Ok(parent::run(&worker)?)
    })
}

/// Serves, or says what was asked for, or lists the mistakes.
fn ordered<C>(
    read: Result<Order<C>, Mistakes>,
    serve: impl FnOnce(C) -> Result<ExitCode, Box<dyn Error>>,
) -> Result<ExitCode, Box<dyn Error>> {
    match read {
        Ok(Order::Serve(config)) => serve(*config),
        Ok(Order::Say(text)) => say(&text),
        Err(mistakes) => {
            for mistake in mistakes.iter() {
                eprintln!("isthmus: {mistake}");
            }
            Ok(ExitCode::from(CANNOT_START))
        }
    }
}

/// Whoever reads may go away in the middle.
fn say(text: &str) -> Result<ExitCode, Box<dyn Error>> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn done(outcome: Result<(), Box<dyn Error>>) -> Result<ExitCode, Box<dyn Error>> {
    outcome.map(|()| ExitCode::SUCCESS)
}
