//! One command with a line that says what it does and how long it took.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use crate::Tree;

/// How long a quiet step may say nothing.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How many of a failed step's last lines are shown; the rest is in its log.
const SHOWN_LINES: usize = 60;

/// Why a verb ended without success, for the developer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(String);

/// A command about to run.
#[derive(Debug)]
pub(crate) struct Step {
    title: String,
    command: Command,
}

impl Failure {
    /// A failure with its explanation.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A file that could not be read or written.
    pub(crate) fn io(doing: &str, path: &Path, cause: &io::Error) -> Self {
        Self(format!("{doing} {}: {cause}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Step {
    /// A step called `title`.
    pub(crate) fn new(title: impl Into<String>, command: Command) -> Self {
        Self {
            title: title.into(),
            command,
        }
    }

    /// Runs the command with its output in `target/xtask/*.log`, shown only on failure.
    pub(crate) fn quiet(self, tree: &Tree) -> Result<(), Failure> {
        self.quiet_with_log(tree).map(drop)
    }

    /// Like [`Step::quiet`], and tells where the output is.
    pub(crate) fn quiet_with_log(mut self, tree: &Tree) -> Result<PathBuf, Failure> {
        let log = self.log(tree)?;
        let mut file = File::create(&log).map_err(|cause| Failure::io("writing", &log, &cause))?;
        let mut line = ProgressLine::start(&self.title);
        let (output, child) = self.spawn_piped()?;
        let last = drain(output, &mut file, &mut line).map_err(|cause| Failure::io("writing", &log, &cause))?;
        let status = wait(child, &self.title)?;
        if status.success() {
            line.end("");
            return Ok(log);
        }
        line.end(" FAILED");
        for text in last {
            eprintln!("    {text}");
        }
        Err(Failure::new(format!(
            "{} failed ({status}); all of its output: {}",
            self.title,
            log.display()
        )))
    }

    /// Runs the command with its output shown as it comes.
    pub(crate) fn shown(mut self) -> Result<(), Failure> {
        println!("==> {}", self.title);
        let start = Instant::now();
        let status = self.command.status().map_err(|cause| self.unstarted(&cause))?;
        println!("    {} ... {}", self.title, elapsed(start));
        if status.success() {
            Ok(())
        } else {
            Err(Failure::new(format!("{} failed ({status})", self.title)))
        }
    }

    /// Runs the command, shows its output as it comes and gives each line of standard output to `read`.
    /// Returns how the command ended.
    pub(crate) fn read(mut self, mut read: impl FnMut(&str)) -> Result<ExitStatus, Failure> {
        println!("==> {}", self.title);
        let start = Instant::now();
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|cause| self.unstarted(&cause))?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                read(&line);
            }
        }
        let status = wait(child, &self.title)?;
        println!("    {} ... {}", self.title, elapsed(start));
        Ok(status)
    }

    fn log(&self, tree: &Tree) -> Result<PathBuf, Failure> {
        let folder = tree.target("xtask");
        fs::create_dir_all(&folder).map_err(|cause| Failure::io("making", &folder, &cause))?;
        let name: String = self
            .title
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        Ok(folder.join(format!("{}.log", name.trim_matches('-'))))
    }

    /// Starts the command with standard output and error in one pipe, so that the log keeps their order.
    fn spawn_piped(&mut self) -> Result<(io::PipeReader, Child), Failure> {
        let pipe = || -> io::Result<_> {
            let (reader, writer) = io::pipe()?;
            Ok((reader, writer.try_clone()?, writer))
        };
        let (reader, stdout, stderr) = pipe().map_err(|cause| self.unstarted(&cause))?;
        self.command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = self.command.spawn().map_err(|cause| self.unstarted(&cause))?;
        // Our own copies of the pipe's write end would keep it open for ever.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok((reader, child))
    }

    fn unstarted(&self, cause: &io::Error) -> Failure {
        Failure::new(format!(
            "{}: cannot start {:?}: {cause}",
            self.title,
            self.command.get_program()
        ))
    }
}

/// The line of a quiet step: its title first, its time at the end, and now and then a sign of life.
struct ProgressLine {
    title: String,
    start: Instant,
    is_open: bool,
}

impl ProgressLine {
    fn start(title: &str) -> Self {
        print!("==> {title} ... ");
        flush();
        Self {
            title: title.to_owned(),
            start: Instant::now(),
            is_open: true,
        }
    }

    fn beat(&mut self, last: &str) {
        if self.is_open {
            println!();
            self.is_open = false;
        }
        println!("    {}: {}", elapsed(self.start), last.trim());
    }

    fn end(&self, word: &str) {
        if !self.is_open {
            print!("==> {} ... ", self.title);
        }
        println!("{}{word}", elapsed(self.start));
        flush();
    }
}

fn flush() {
    // A closed standard output is noticed by the next println.
    if io::stdout().flush().is_err() && io::stderr().is_terminal() {
        eprintln!("cargo xtask: standard output is closed");
    }
}

/// Copies a step's output to its log until it ends, and returns its last lines.
fn drain(output: io::PipeReader, log: &mut File, line: &mut ProgressLine) -> io::Result<Vec<String>> {
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for text in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&text).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut last = Vec::new();
    let mut next_beat = Instant::now() + HEARTBEAT;
    loop {
        match lines.recv_timeout(next_beat.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                writeln!(log, "{text}")?;
                if last.len() == SHOWN_LINES {
                    last.remove(0);
                }
                last.push(text);
            }
            Err(RecvTimeoutError::Timeout) => {
                line.beat(
                    last.iter()
                        .rev()
                        .find(|text| !text.trim().is_empty())
                        .map_or("", String::as_str),
                );
                next_beat = Instant::now() + HEARTBEAT;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    reader
        .join()
        .map_err(|_| io::Error::other("the reader of the output panicked"))?;
    Ok(last)
}

fn wait(mut child: Child, title: &str) -> Result<ExitStatus, Failure> {
    child
        .wait()
        .map_err(|cause| Failure::new(format!("{title}: waiting for it: {cause}")))
}

fn elapsed(start: Instant) -> String {
    let passed = start.elapsed();
    if passed < Duration::from_secs(10) {
        format!("{:.1}s", passed.as_secs_f64())
    } else {
        format!("{}s", passed.as_secs())
    }
}
