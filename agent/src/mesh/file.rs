//! The mesh file: workloads, services, policies and gateways in YAML, for a mesh without a control plane. ztunnel's local
//! format (wire-facts §10) is a part of it. docs/mesh-file.md tells it to users.
//!
//! A file is taken whole or not at all: whatever is wrong with it is an error that names the place and what was expected
//! there, and so is what contradicts itself.

mod claim;
mod convert;
mod field;
mod input;
mod look;
mod problem;
mod scalar;
mod schema;
mod world;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use serde_saphyr::Location;

use self::field::Extent;
use self::input::Input;
use self::problem::{Other, Problem};
use self::world::World;
use super::builder::Builder;
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
    let mut builder = Builder::new();
    look::at(text.as_bytes()).map_err(|problem| whole(origin, problem))?;
    take(Input::Text(text), &mut builder).map_err(|problem| placed(text, origin, problem))?;
    Ok(builder.build())
}

/// Reads a mesh file into a builder, in place of what was read into it before; on an error the builder stays as it was.
///
/// What is equal in both files stays the same object. The text is read as a stream: what is needed besides the objects is
/// a few megabytes for a hundred thousand workloads. Only to say where an error stands the text is read as a whole.
///
/// # Errors
/// Those of [`parse`], and when the file cannot be read.
pub fn load(file: &File, origin: &Path, builder: &mut Builder) -> Result<(), MeshFileError> {
    let unread = |error: io::Error| whole(origin, error.to_string());
    let rewound = || -> io::Result<Take<&File>> {
        let mut start = file;
        start.seek(SeekFrom::Start(0))?;
        // One byte more than allowed, so that too large a file is seen to be.
        Ok(file.take(u64::try_from(LARGEST_FILE).unwrap_or(u64::MAX).saturating_add(1)))
    };
    look::at(rewound().map_err(unread)?).map_err(|problem| whole(origin, problem))?;
    let before = builder.checkpoint();
    let Err(problem) = take(Input::File(file), builder) else {
        return Ok(());
    };
    builder.roll_back(before);
    let mut text = String::new();
    rewound()
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(unread)?;
    Err(placed(&text, origin, problem))
}

fn take(input: Input<'_>, builder: &mut Builder) -> Result<(), Problem> {
    let mut world = World::new(input.root()?, builder)?;
    input.workloads(&mut |entry| world.add_workload(entry))?;
    world.finish();
    Ok(())
}

fn whole(origin: &Path, problem: String) -> MeshFileError {
    MeshFileError {
        file: origin.to_owned(),
        place: None,
        problem,
    }
}

fn placed(text: &str, origin: &Path, problem: Problem) -> MeshFileError {
    match place(text, problem.location, problem.extent) {
        Some(place) => MeshFileError {
            file: origin.to_owned(),
            problem: with_hints(text, &problem),
            place: Some(place),
        },
        None => whole(origin, problem.text),
    }
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
    let other = match &problem.other {
        Some(Other::At(location)) => Some(*location),
        Some(Other::Claim(claim)) => claim::first(text, claim),
        None => None,
    };
    if let Some(other) = other.and_then(|other| place(text, other, problem.extent)) {
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

/// Is this line the last one with anything on it, or beyond?
fn at_end(text: &str, line: u64) -> bool {
    let last = text.trim_end().lines().count();
    u64::try_from(last).is_ok_and(|last| line > last)
}

#[cfg(test)]
mod tests;
