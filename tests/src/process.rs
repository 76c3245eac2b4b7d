//! A child process that is ended, and waited for, when it is dropped.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use crate::{
    failure::{Because as _, Failure, Result},
    lab::World,
    log::Log,
    wait::within,
};

/// A program running in the lab; its standard output and error are followed as logs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: Log,
    errors: Log,
    // Keeps the namespaces until the process is gone.
    world: Arc<World>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub errors: String,
}

impl Process {
    /// Starts `command`, with its output in files of the lab's directory.
    pub(crate) fn start(world: &Arc<World>, name: &str, mut command: Command) -> Result<Self> {
        let stem = world.file_for(name);
        let (output, errors) = (stem.with_extension("out"), stem.with_extension("err"));
        Self::start_into(world, name, &mut command, &output, &errors)
    }

    /// Starts `command` with its output appended to these files.
    pub(crate) fn start_into(
        world: &Arc<World>,
        name: &str,
        command: &mut Command,
        output: &Path,
        errors: &Path,
    ) -> Result<Self> {
        let open = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .because(format!("opening {}", path.display()))
        };
        command
            .stdin(Stdio::piped())
            .stdout(open(output)?)
            .stderr(open(errors)?);
        let child = command.spawn().because(format!("starting {name}"))?;
        let (output, errors) = (Log::new(output), Log::new(errors));
        Ok(Self {
            child,
            name: name.to_owned(),
            output,
            errors,
            world: Arc::clone(world),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to standard output.
    pub fn output(&self) -> &Log {
        &self.output
    }

    /// What it writes to standard error.
    pub fn errors(&self) -> &Log {
        &self.errors
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result {
        let pid = i32::try_from(self.pid()).because("the pid is a positive i32")?;
        nix::sys::signal::kill(Pid::from_raw(pid), signal).because(format!("sending {signal} to {}", self.name))
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result {
        let stdin = self.child.stdin.as_mut().because("standard input was closed before")?;
        writeln!(stdin, "{line}").because(format!("writing to {}", self.name))
    }

    /// Closes its standard input; the lab's own `peer` ends then and reports.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        within(bound, &what, || self.child.try_wait().ok().flatten())
    }

    /// Waits for its end and reads what it wrote.
    #[track_caller]
    pub fn finish(&mut self, bound: Duration) -> Result<Ended> {
        let status = self.wait(bound)?;
        let text = |log: &Log| std::fs::read(log.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Ended {
            status,
            output: text(&self.output)?,
            errors: text(&self.errors)?,
        })
    }

    /// Waits for a successful end and parses the last line of its output as JSON.
    #[track_caller]
    pub fn report(&mut self, bound: Duration) -> Result<Value> {
        let ended = self.finish(bound)?;
        ended.report().because(format!("reading the report of {}", self.name))
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.world.keeps() {
            self.kill();
        }
    }
}

/// Runs a program to its end, given this on its standard input, and answers what it writes; what it says when it fails is
/// the failure.
#[track_caller]
pub(crate) fn answer(command: &mut Command, input: &str) -> Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .because(format!("starting {}", command.get_program().display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing has ended by itself and says why.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Failure::new(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&said).trim()
    )))
}

impl Ended {
    /// The last line of the output as JSON, when the program succeeded.
    #[track_caller]
    pub fn report(&self) -> std::result::Result<Value, String> {
        let last = self.output.lines().last().unwrap_or_default();
        if !self.status.success() {
            return Err(format!("{}: {}", self.status, self.errors.trim()));
        }
        serde_json::from_str(last).map_err(|error| format!("{error} in {last:?}"))
    }

    /// Fails unless the program succeeded.
    #[track_caller]
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        Err(Failure::new(format!(
            "{}: {}{}",
            self.status,
            self.output.trim(),
            self.errors.trim()
        )))
    }
}
