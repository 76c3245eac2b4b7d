//! Log lines go to standard error through a bounded queue: one that nobody reads stops no connection.

use std::{
    cell::RefCell,
    fmt, io,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    layer::{Context, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

pub use super::line::LineFormat;
use super::{Exposition, line, metric};

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 8192;

/// What is written at once. Up to this size a pipe takes a write whole (POSIX PIPE_BUF on Linux), so that the lines of
/// parent and worker do not mix.
const WRITE_BYTES: usize = 4096;

/// A line's buffer is kept up to this size.
const BUFFER_BYTES: usize = 64 << 10;

/// Our modules: in filters they may be named without `isthmus::`, as they are in lines.
const SCOPES: &[&str] = &[
    "admin",
    "app",
    "check",
    "cleanup",
    "cli",
    "config",
    "control",
    "drain",
    "hbone",
    "identity",
    "mesh",
    "operator",
    "parent",
    "pods",
    "proxy",
    "redirect",
    "shards",
    "telemetry",
    "tls",
];

/// The log of this process. Clones are the same log.
#[derive(Clone)]
pub struct LogHandle(Arc<Shared>);

struct Shared {
    filter: reload::Handle<EnvFilter, Registry>,
    original: String,
    /// None where lines are written at once.
    dropped: Option<ErrorCounter>,
    writer: Mutex<Option<WorkerGuard>>,
}

/// Why the filter stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The text is no filter.
    #[error("{text:?} is no log filter: write LEVEL or SCOPE=LEVEL, several with commas, e.g. info,access=debug")]
    Syntax {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: ParseError,
    },
    /// The log is no longer there.
    #[error("the log has ended")]
    Ended(#[source] reload::Error),
}

/// Starts the log of this process. `filter` is in the form of `RUST_LOG`: levels, or `SCOPE=LEVEL`, with commas.
/// One that is not understood is told in the log, and `info` is used.
///
/// Only the first log of a process is written to.
#[must_use = "what is queued is written when the last handle is dropped or finished"]
pub fn start(format: LineFormat, filter: &str) -> LogHandle {
    let out = io::BufWriter::with_capacity(WRITE_BYTES, io::stderr());
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(out);
    begin(format, filter, Sink::Queue(writer), Some(guard))
}

/// The same without a thread and without a queue: who logs waits until the line is written.
pub fn start_at_once(format: LineFormat, filter: &str) -> LogHandle {
    begin(format, filter, Sink::Stderr, None)
}

fn begin(format: LineFormat, filter: &str, sink: Sink, guard: Option<WorkerGuard>) -> LogHandle {
    let (parsed, original, complaint) = match parse(filter) {
        Ok(parsed) => (parsed, filter, None),
        Err(error) => (EnvFilter::new("info"), "info", Some(error)),
    };
    let (filter, handle) = reload::Layer::new(parsed);
    let dropped = match &sink {
        Sink::Queue(writer) => Some(writer.error_counter()),
        Sink::Stderr => None,
    };
    let log = LogHandle(Arc::new(Shared {
        filter: handle,
        original: original.to_owned(),
        dropped,
        writer: Mutex::new(guard),
    }));
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(Lines { format, sink })
        .try_init();
    if let Err(error) = started {
        tracing::warn!(%error, "the log was started before");
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, "RUST_LOG is not used");
    }
    log
}

impl LogHandle {
    /// Changes the filter, from the next line on.
    ///
    /// # Errors
    /// When the text is no filter. The filter then stays as it was.
    pub fn set(&self, filter: &str) -> Result<(), FilterError> {
        let parsed = parse(filter)?;
        self.0.filter.reload(parsed).map_err(FilterError::Ended)
    }

    /// Goes back to the filter the log was started with.
    ///
    /// # Errors
    /// When the log has ended.
    pub fn reset(&self) -> Result<(), FilterError> {
        self.set(&self.0.original)
    }

    /// The filter as it is now.
    #[must_use]
    pub fn current(&self) -> String {
        self.0.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Lines that were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.as_ref().map_or(0, ErrorCounter::dropped_lines) as u64
    }

    /// Tells the metrics how many lines were dropped.
    pub fn describe_in(&self, exposition: &Exposition) {
        // Not the handle itself: it writes what is queued when the last one is dropped.
        let counter = self.0.dropped.clone();
        exposition.add(move |families| {
            let dropped = counter.as_ref().map_or(0, ErrorCounter::dropped_lines);
            families.value(&metric::LOG_DROPPED, dropped as u64);
        });
    }

    /// Writes what is queued, for a second at most. Lines that come later are lost.
    pub fn finish(&self) {
        let guard = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(guard);
    }
}

fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    let full: Vec<String> = text.split(',').map(directive).collect();
    EnvFilter::builder()
        .parse(full.join(","))
        .map_err(|cause| FilterError::Syntax {
            text: text.chars().take(200).collect(),
            cause,
        })
}

/// A directive with our modules' names in full.
fn directive(text: &str) -> String {
    let text = text.trim();
    let scope = text.split(['=', ':', '[']).next().unwrap_or_default();
    if SCOPES.contains(&scope) {
        format!("isthmus::{text}")
    } else {
        text.to_owned()
    }
}

/// Writes events as lines.
struct Lines {
    format: LineFormat,
    sink: Sink,
}

/// Where lines go.
enum Sink {
    Queue(NonBlocking),
    Stderr,
}

thread_local! {
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        BUFFER.with(|buffer| {
            // A value that logs while it is written finds the buffer taken.
            let mut fresh = String::new();
            let mut kept = buffer.try_borrow_mut();
            let line = match &mut kept {
                Ok(kept) => &mut **kept,
                Err(_) => &mut fresh,
            };
            line.clear();
            line::write(line, self.format, event, SystemTime::now());
            // A queue never fails, what finds no room is counted; and who would be told that standard error is closed?
            drop(match &self.sink {
                Sink::Queue(queue) => queue.clone().write_all(line.as_bytes()),
                Sink::Stderr => io::stderr().write_all(line.as_bytes()),
            });
            if line.capacity() > BUFFER_BYTES {
                *line = String::new();
            }
        });
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle")
            .field("filter", &self.current())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_may_be_named_as_lines_name_them() {
        let parsed = |text| parse(text).unwrap().to_string();
        assert_eq!(parsed("proxy::pool=debug"), "isthmus::proxy::pool=debug");
        assert_eq!(parsed("access=debug"), "access=debug");
        let mixed = parsed("info, mesh=trace");
        assert!(
            mixed.contains("isthmus::mesh=trace") && mixed.contains("info"),
            "{mixed}"
        );
    }

    #[test]
    fn nonsense_is_an_error_that_says_what_to_write() {
        let error = parse("access=loud").unwrap_err().to_string();
        assert!(
            error.contains("access=loud") && error.contains("SCOPE=LEVEL"),
            "{error}"
        );
    }

    /// A process has one log, so it is tried in a process of its own.
    #[test]
    fn the_filter_changes_while_it_runs_and_nothing_queued_is_lost() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "telemetry::log::tests::alone", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{text}");
        let messages: Vec<&str> = text.lines().filter(|line| line.contains("\ttest\t")).collect();
        let said: Vec<&str> = messages.iter().filter_map(|line| line.split('\t').nth(3)).collect();
        assert_eq!(said, ["one", "three", "five"], "{text}");
        assert!(messages[0].ends_with("\tnumber=1 text=\"a\\nb\""), "{text}");
    }

    #[test]
    #[ignore = "starts the log of its process; run by the_filter_changes_while_it_runs_and_nothing_queued_is_lost"]
    fn alone() {
        let log = start(LineFormat::Plain, "info");
        tracing::info!(target: "test", number = 1, text = "a\nb", "one");
        tracing::debug!(target: "test", "two");
        log.set("test=debug").unwrap();
        assert_eq!(log.current(), "test=debug");
        tracing::debug!(target: "test", "three");
        assert!(log.set("test=nonsense").is_err());
        assert_eq!(log.current(), "test=debug", "a refused filter changed it");
        log.reset().unwrap();
        assert_eq!(log.current(), "info");
        tracing::debug!(target: "test", "four");
        tracing::info!(target: "test", "five");
        log.finish();
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_reader_that_is_stuck_stops_nobody_and_what_is_dropped_is_counted() {
        /// Takes a write only when it is told to.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl io::Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Also when nobody is left who could tell.
                self.0.recv().unwrap_or_default();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(4)
            .lossy(true)
            .finish(Stuck(stuck));
        let dropped = writer.error_counter();
        let lines = Lines {
            format: LineFormat::Json,
            sink: Sink::Queue(writer),
        };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100 {
                tracing::info!(number, "line");
            }
        });
        // Four wait, one may be in the writer's hands.
        assert!(
            (95..=96).contains(&dropped.dropped_lines()),
            "{}",
            dropped.dropped_lines()
        );
        drop(release);
        drop(guard);
    }
}
