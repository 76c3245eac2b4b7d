//! A file that grows by lines, read as it grows.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;

use crate::{failure::Result, wait::within};

/// Lines of JSON (or of text, which become JSON strings) in a file that another process writes.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    offset: u64,
    unfinished: Vec<u8>,
    lines: Vec<Value>,
}

impl Log {
    /// Follows the file at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: Mutex::default(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many lines there are now; give it to [`Log::wait_from`] to ignore them.
    pub fn mark(&self) -> usize {
        self.read().lines.len()
    }

    /// The first line after `mark` that `wanted` accepts, waiting for it no longer than `bound`.
    #[track_caller]
    pub fn wait_from(&self, mark: usize, bound: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut next = mark;
        within(bound, &format!("a line in {}", self.path.display()), || {
            let seen = self.read();
            let found = seen.lines.iter().skip(next).find(|line| wanted(line)).cloned();
            next = seen.lines.len();
            found
        })
    }

    /// All lines after `mark` that `wanted` accepts, as far as they are written.
    pub fn all_from(&self, mark: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.read()
            .lines
            .iter()
            .skip(mark)
            .filter(|line| wanted(line))
            .cloned()
            .collect()
    }

    fn read(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(seen.offset)).is_ok()
            && let Ok(length) = file.read_to_end(&mut fresh)
        {
            seen.offset += length as u64;
        }
        for piece in fresh.split_inclusive(|byte| *byte == b'\n') {
            seen.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let text = String::from_utf8_lossy(&seen.unfinished).trim_end().to_owned();
                seen.unfinished.clear();
                seen.lines
                    .push(serde_json::from_str(&text).unwrap_or(Value::String(text)));
            }
        }
        seen
    }
}

/// A field of a log line as text; empty when it is absent.
pub fn field(line: &Value, name: &str) -> String {
    match line.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Is this an access-log line of that direction (`inbound` or `outbound`)?
pub fn is_access(line: &Value, direction: &str) -> bool {
    field(line, "scope") == "access" && field(line, "direction") == direction
}

/// The text of a line that is no JSON, or the message of one that is.
pub fn message(line: &Value) -> String {
    match line {
        Value::String(text) => text.clone(),
        _ => [field(line, "message"), field(line, "msg")].concat(),
    }
}
