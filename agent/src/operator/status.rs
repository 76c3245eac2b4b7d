//! `isthmus status`.

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use isthmus_wire::{Request, Response, SOCKET_NAME, Status, ask};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::{
    cli::{Output, StatusArgs},
    status,
};

/// The agent answers in milliseconds unless its node is in trouble.
const PATIENCE: Duration = Duration::from_secs(15);
/// While watching, an interrupt waits for the answer.
const WATCHER_PATIENCE: Duration = Duration::from_secs(3);
/// Cursor to the upper left, then clear the screen and what was scrolled off it (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Shows what the agent holds, once or again and again; 1 when no agent answers.
pub fn status(arguments: &StatusArgs) -> Result<ExitCode, Box<dyn Error>> {
    let outcome = match arguments.watch {
        None => look(arguments).and_then(|shown| Ok(print(&shown)?)),
        Some(seconds) => watch(arguments, Duration::from_secs(seconds)),
    };
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if is_broken_pipe(&*error) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("isthmus: {}", with_causes(&*error));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The first look must succeed; later ones show that the agent is away, and go on.
fn watch(arguments: &StatusArgs, pause: Duration) -> Result<(), Box<dyn Error>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let ended = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut shown = look(arguments)?;
    let clears = io::stdout().is_terminal() && arguments.output == Output::Text;
    loop {
        let end = match arguments.output {
            Output::Text if !clears => "\n----\n\n",
            _ => "",
        };
        print(&format!("{}{shown}{end}", if clears { CLEAR } else { "" }))?;
        if wait(&ended, pause)? {
            return Ok(());
        }
        shown = look(arguments).unwrap_or_else(|error| {
            let said = format!("isthmus: {}\n", with_causes(&*error));
            if arguments.output == Output::Text {
                return said;
            }
            eprint!("{said}");
            String::new()
        });
    }
}

/// Waits; true when told to end meanwhile.
fn wait(ended: &SignalFd, pause: Duration) -> Result<bool, Errno> {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

fn look(arguments: &StatusArgs) -> Result<String, Box<dyn Error>> {
    let held = held(arguments)?;
    Ok(match arguments.output {
        Output::Json => status::json(&held, arguments.watch.is_some())?,
        Output::Text => status::text(&held),
    })
}

fn held(arguments: &StatusArgs) -> Result<Status, Box<dyn Error>> {
    let socket = arguments.socket.run_dir.join(SOCKET_NAME);
    let patience = if arguments.watch.is_some() {
        WATCHER_PATIENCE
    } else {
        PATIENCE
    };
    match ask(&socket, &Request::Status, patience)? {
        Response::Status(status) => Ok(status),
        Response::Refused { reason, .. } => Err(reason.into()),
        Response::Done => Err("the agent answered something else than was asked".into()),
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whoever read the output has seen enough.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
