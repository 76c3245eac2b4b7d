//! Nobody home: a small process that outlives its worker.
//!
//! `isthmus run` is this parent. It holds the listening sockets, so that SYNs queue while no worker lives, and the
//! certificates with their keys, in memory that it never reads; it starts the
//! worker again when it ends, passes signals on, kills a worker that does not end in time, and does nothing else: no
//! runtime, no threads, no parsing of anything but the worker's own short notes. The worker talks to it over its standard input, a `SOCK_SEQPACKET` pair; a note
//! may carry one descriptor (`SCM_RIGHTS`).
//!
//! A successor (the same agent of another version, in another container) asks this parent for what it holds, and serves in
//! its place: see [`handover`].

mod ending;
pub mod handover;
pub mod keeper;
pub mod note;
pub mod sealed;

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    io,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{AddressFamily, SockFlag, SockType, socketpair},
    },
    unistd::Pid,
};

use crate::start_code;
pub(crate) use ending::CUT_SHORT;
use ending::{Ending, MARGIN};
use note::{Note, receive};

/// How the worker's memory allocator behaves. Freed pages return to the kernel after a second, because a node agent's
/// memory is the pods' otherwise; two arenas serve a handful of threads; heap profiles can be asked for at run time and
/// cost nothing until then.
const MALLOC: (&str, &str) = (
    "_RJEM_MALLOC_CONF",
    "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:2,prof:true,prof_active:false,lg_prof_sample:19",
);

/// A worker that ends sooner than this after its start is started again with growing delay.
const STEADY: Duration = Duration::from_secs(10);
/// Longest wait before a worker is started again.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How long a worker may take to stop changing the node when a successor takes over.
const QUIET: Duration = Duration::from_secs(4);

/// Why the parent cannot do its work.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct ParentError {
    step: &'static str,
    #[source]
    cause: io::Error,
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ParentError {
    move |cause| ParentError {
        step,
        cause: cause.into(),
    }
}

/// What the parent starts.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The worker's flags.
    pub arguments: Vec<OsString>,
    /// How long it may take to end when it is told to.
    pub drain_deadline: Duration,
    /// Where successors find this agent.
    pub run_dir: PathBuf,
}

/// Runs until told to stop, or until a worker cannot be started at all.
///
/// The exit code is the worker's last one; 3 when it had to be killed because it did not end in time, 4 when a second
/// signal killed it.
///
/// # Errors
/// When the kernel refuses what this needs.
pub fn run(worker: &Worker) -> Result<ExitCode, ParentError> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().map_err(failed("blocking signals"))?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(failed("opening a signal descriptor"))?;
    let mut parent = Parent {
        worker,
        held: HashMap::new(),
        restarts: 0,
        ended: None,
        was_ready: false,
        ending: Ending::Serving,
        successors: None,
        quiet: false,
    };
    loop {
        let started = Instant::now();
        let (mut worker, link) = parent.start()?;
        let code = parent.attend(&mut worker, &link, &signal_fd)?;
        if matches!(parent.ending, Ending::HandedOver { .. }) {
            // Started again, it would take over from its successor.
            tracing::info!("the successor serves; waiting to be ended");
            while !pause(&signal_fd, Duration::from_secs(3600))? {}
            return Ok(code);
        }
        if parent.ending != Ending::Serving {
            return Ok(code);
        }
        if !parent.was_ready {
            tracing::error!("the worker ended before it was ready; see its last message");
            return Ok(code);
        }
        parent.restarts += 1;
        let delay = back_off(parent.restarts, started.elapsed());
        tracing::error!(
            restarts = parent.restarts,
            ?delay,
            "the worker ended; pods' SYNs queue until the next one"
        );
        if pause(&signal_fd, delay)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

struct Parent<'a> {
    worker: &'a Worker,
    held: HashMap<String, OwnedFd>,
    restarts: u64,
    /// When and how the last worker ended.
    ended: Option<(SystemTime, ExitStatus)>,
    was_ready: bool,
    ending: Ending,
    /// Where a successor asks, once there is something to hand over.
    successors: Option<OwnedFd>,
    /// The worker changes nothing on the node any more.
    quiet: bool,
}

impl Parent<'_> {
    fn start(&self) -> Result<(Child, OwnedFd), ParentError> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(failed("making a socket pair"))?;
        let is_chosen = env::var_os(MALLOC.0).is_some();
        let child = command(&self.worker.arguments, self.restarts, self.ended, is_chosen)
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(failed("starting the worker"))?;
        Ok((child, ours))
    }

    /// Serves one worker until it has ended.
    fn attend(&mut self, worker: &mut Child, link: &OwnedFd, signals: &SignalFd) -> Result<ExitCode, ParentError> {
        let mut listening = true;
        loop {
            let mut events = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if listening {
                events.push(PollFd::new(link.as_fd(), PollFlags::POLLIN));
            }
            let at = events.len();
            if let Some(successors) = self.successors.as_ref() {
                events.push(PollFd::new(successors.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut events, timeout(self.ending.left(Instant::now()))) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(failed("waiting for the worker")(error)),
            }
            let seen = |at: usize| {
                events
                    .get(at)
                    .and_then(PollFd::revents)
                    .is_some_and(|seen| !seen.is_empty())
            };
            let (noted, asked) = (listening && seen(1), seen(at));
            if noted {
                listening = self.note(link);
            }
            if asked && self.ending == Ending::Serving {
                listening = self.hand_over_node(worker, link, listening);
            }
            while let Some(signal) = signals.read_signal().map_err(failed("reading a signal"))? {
                let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
                if number == Signal::SIGCHLD as i32 {
                    continue;
                }
                // Nobody will take what still comes, and refused now it is better off than reset later. First, so that
                // it is the worker who closes the listeners, having taken what waits there.
                self.held.clear();
                let passed = self.ending.asked(Instant::now(), self.worker.drain_deadline);
                if let Some(passed) = passed {
                    pass_on(worker, passed);
                }
            }
            if let Some(status) = worker.try_wait().map_err(failed("waiting for the worker"))? {
                while listening {
                    listening = self.note(link);
                }
                tracing::info!(%status, "worker ended");
                self.ended = Some((SystemTime::now(), status));
                return Ok(ExitCode::from(self.ending.code(status)));
            }
            if self.ending.is_overdue(Instant::now()) {
                let deadline = self.worker.drain_deadline;
                tracing::error!(?deadline, margin = ?MARGIN, "the worker does not end; it is killed, its connections are cut");
                pass_on(worker, Signal::SIGKILL);
            }
        }
    }

    /// Takes one note of the worker; false when the link has ended.
    fn note(&mut self, link: &OwnedFd) -> bool {
        match receive(link.as_fd()) {
            Ok(Some((Note::Hello, _))) => self.hand_over(link),
            Ok(Some((Note::Hold { name }, Some(socket)))) => {
                // Until it is quiet the worker may still open something that its successor needs.
                if self.ending == Ending::Serving || matches!(self.ending, Ending::HandedOver { .. }) && !self.quiet {
                    self.held.insert(name, socket);
                }
                true
            }
            Ok(Some((Note::Drop { prefix }, _))) => {
                self.held.retain(|name, _| !name.starts_with(&prefix));
                true
            }
            Ok(Some((Note::Ready, _))) => {
                start_code::let_go();
                self.was_ready = true;
                match handover::listener(&self.worker.run_dir) {
                    Ok(successors) => self.successors = Some(successors),
                    Err(error) => tracing::warn!(%error, "no successor can take over without a gap"),
                }
                true
            }
            Ok(Some((Note::Takeover, _))) => {
                self.take_over();
                self.hand_over(link)
            }
            Ok(Some((Note::Quiet, _))) => {
                self.quiet = true;
                true
            }
            Ok(Some((note, _))) => {
                tracing::warn!(?note, "a note of the worker makes no sense");
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "the link to the worker failed");
                false
            }
        }
    }

    /// Takes from the agent before what a first worker needs. A later one has it already.
    fn take_over(&mut self) {
        if self.was_ready {
            return;
        }
        let (held, outcome) = handover::ask(&self.worker.run_dir);
        if let Err(error) = outcome {
            tracing::warn!(%error, taken = held.len(), "the agent before did not hand over to the end");
        } else if !held.is_empty() {
            tracing::info!(sockets = held.len(), "took over from the agent before");
        }
        self.held.extend(held);
    }

    /// Hands the node over to whoever asks, if it is a successor; whether the worker's link still stands.
    fn hand_over_node(&mut self, worker: &Child, link: &OwnedFd, mut listening: bool) -> bool {
        let asked = match &self.successors {
            Some(successors) => handover::successor(successors.as_fd()),
            None => Ok(None),
        };
        let successor = match asked {
            Ok(Some(successor)) => successor,
            Ok(None) => return listening,
            Err(error) => {
                tracing::warn!(%error, "somebody asked for what this agent holds, and gets nothing");
                return listening;
            }
        };
        tracing::info!("a successor takes over; open connections are drained");
        self.ending.hand_over(Instant::now(), self.worker.drain_deadline);
        pass_on(worker, Signal::SIGUSR2);
        let until = Instant::now() + QUIET;
        while listening && !self.quiet {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!(bound = ?QUIET, "the worker does not let go of the node; it is killed");
                pass_on(worker, Signal::SIGKILL);
                break;
            }
            let mut events = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
            if matches!(poll(&mut events, timeout(Some(left))), Ok(1..)) {
                listening = self.note(link);
            }
        }
        if let Err(error) = handover::give(successor.as_fd(), &self.held) {
            tracing::error!(%error, "the successor did not take everything");
        }
        self.held.clear();
        self.successors = None;
        listening
    }

    fn hand_over(&self, link: &OwnedFd) -> bool {
        match handover::give(link.as_fd(), &self.held) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "handing the listeners to the worker failed");
                false
            }
        }
    }
}

/// Starts this binary as a worker; `malloc_is_chosen` when an operator has configured its allocator.
fn command(
    arguments: &[OsString],
    restarts: u64,
    ended: Option<(SystemTime, ExitStatus)>,
    malloc_is_chosen: bool,
) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("isthmus");
    if !malloc_is_chosen {
        command.env(MALLOC.0, MALLOC.1);
    }
    command.args(["worker", "--restarts", &restarts.to_string()]);
    if let Some((time, how)) = ended {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since_1970.as_secs().to_string();
        command.args(["--ended-at", &seconds, "--ended-how", &how.to_string()]);
    }
    command.arg("--").args(arguments);
    command
}

/// To the millisecond, and never less than what is left.
fn timeout(left: Option<Duration>) -> PollTimeout {
    match left {
        Some(left) => PollTimeout::try_from(left.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    }
}

fn pass_on(worker: &Child, signal: Signal) {
    let pid = i32::try_from(worker.id()).map_err(|_| Errno::ESRCH);
    if let Err(error) = pid.and_then(|pid| kill(Pid::from_raw(pid), signal)) {
        tracing::debug!(%error, "the worker has ended already");
    }
}

/// None for the first end of a steady worker, then 50 ms doubling.
fn back_off(restarts: u64, lived: Duration) -> Duration {
    if lived > STEADY || restarts <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(restarts.min(16)).unwrap_or(16);
    Duration::from_millis(25)
        .saturating_mul(1 << doublings)
        .min(LONGEST_DELAY)
}

/// Waits; true when told to stop meanwhile.
fn pause(signals: &SignalFd, delay: Duration) -> Result<bool, ParentError> {
    let until = Instant::now() + delay;
    loop {
        while let Some(signal) = signals.read_signal().map_err(failed("reading a signal"))? {
            if i32::try_from(signal.ssi_signo).unwrap_or_default() != Signal::SIGCHLD as i32 {
                return Ok(true);
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        match poll(
            &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)],
            timeout(Some(left)),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failed("waiting")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gets_its_arguments_and_an_allocator_that_an_operator_may_choose() {
        let told = |chosen| {
            let command = command(&["--node".into(), "a".into()], 3, None, chosen);
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            assert_eq!(arguments, ["worker", "--restarts", "3", "--", "--node", "a"]);
            let variables: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
            variables
        };
        assert_eq!(told(false), ["_RJEM_MALLOC_CONF"]);
        assert!(told(true).is_empty());
    }

    #[test]
    fn a_steady_worker_is_replaced_at_once_and_a_failing_one_ever_later() {
        assert_eq!(back_off(1, Duration::from_millis(1)), Duration::ZERO);
        assert_eq!(back_off(40, Duration::from_secs(60)), Duration::ZERO);
        let delays: Vec<_> = (2..12).map(|restarts| back_off(restarts, Duration::ZERO)).collect();
        assert!(delays.is_sorted());
        assert_eq!(delays.first(), Some(&Duration::from_millis(100)));
        assert_eq!(delays.last(), Some(&LONGEST_DELAY));
    }
}
