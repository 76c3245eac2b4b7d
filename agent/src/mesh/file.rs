//! The mesh file: workloads, services, policies and gateways in YAML, for a mesh without a control plane. ztunnel's local
//! format (wire-facts §10) is a part of it. docs/mesh-file.md tells it to users.
//!
//! A file is taken whole or not at all: whatever is wrong with it is an error that names the place and what was expected
//! there, and so is what contradicts itself.

mod convert;
mod field;
mod problem;
mod scalar;
mod schema;
mod world;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_saphyr::Location;

use self::field::Extent;
use self::problem::Problem;
use super::snapshot::Snapshot;

/// Largest file in bytes.
pub const LARGEST_FILE: usize = 64 * 1024 * 1024;
/// Deepest nesting; what the format needs is less than a third of it.
const DEEPEST_NESTING: usize = 32;
/// Most YAML nodes: more than a file of the largest size has when it is written with any sense.
const MOST_NODES: usize = 16 * 1024 * 1024;

/// What is wrong with a mesh file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshFileError {
    /// The file.
    pub file: PathBuf,
    /// Where in it; none when it is about the file as a whole.
    pub place: Option<Place>,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// A place in a mesh file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: u64,
    /// Counted from 1, in characters.
    pub column: u64,
    /// Such as `workloads[2].namespace`; empty for the document.
    pub field: String,
}

impl std::error::Error for MeshFileError {}

impl fmt::Display for MeshFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
            if !place.field.is_empty() {
                write!(f, ": {}", place.field)?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}

/// Reads a mesh file's text; `origin` is what errors call it.
///
/// # Errors
/// When it is empty, too large, no YAML, not of the format, or contradicts itself.
pub fn parse(text: &str, origin: &Path) -> Result<Snapshot, MeshFileError> {
    let whole = |problem: String| MeshFileError {
        file: origin.to_owned(),
        place: None,
        problem,
    };
    if text.len() > LARGEST_FILE {
        let size = text.len();
        return Err(whole(format!(
            "{size} bytes are more than the {LARGEST_FILE} a mesh file may have"
        )));
    }
    if is_blank(text) {
        return Err(whole(
            "the file is empty; write `workloads: []` for a mesh without anything".to_owned(),
        ));
    }
    let read = serde_saphyr::from_str_with_options::<schema::Root>(text, options())
        .map_err(|error| problem::of_parser(&error));
    let built = read.and_then(world::build);
    built.map_err(|problem| match place(text, problem.location, problem.extent) {
        Some(place) => MeshFileError {
            file: origin.to_owned(),
            problem: with_hints(text, &problem),
            place: Some(place),
        },
        None => whole(problem.text),
    })
}

fn place(text: &str, location: Location, extent: Extent) -> Option<Place> {
    let (line, column) = (location.line(), location.column());
    (line != 0).then(|| Place {
        line,
        column,
        field: field::at(text, line, column, extent),
    })
}

fn with_hints(text: &str, problem: &Problem) -> String {
    let mut hinted = problem.text.clone();
    if let Some(other) = problem.other.and_then(|other| place(text, other, problem.extent)) {
        hinted.push_str(&format!(
            "; the other is at {}:{} ({})",
            other.line, other.column, other.field
        ));
    }
    if at_end(text, problem.location.line()) {
        hinted.push_str("; the file ends here: is it only half written?");
    }
    hinted
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST_NESTING,
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_documents: 2,
        },
    }
}

/// Is there nothing but space and comments?
fn is_blank(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let blank = |line: &str| line.is_empty() || line.starts_with('#') || line == "---" || line == "...";
    text.lines().all(|line| blank(line.trim()))
}

/// Is this line the last one with anything on it, or beyond?
fn at_end(text: &str, line: u64) -> bool {
    let last = text.trim_end().lines().count();
    u64::try_from(last).is_ok_and(|last| line > last)
}

#[cfg(test)]
mod tests;
