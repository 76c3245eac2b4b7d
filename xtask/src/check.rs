//! `cargo xtask check`: the structure that compilers and linters do not see.

use std::{fmt, fs, path::Path};

use clap::{Args, CommandFactory as _};

use crate::{Cli, Failure, Tree, tree};

mod names;
mod packages;
mod source;
mod unsafety;
mod verbs;
mod walls;

/// Checks walls between packages and modules, names, where `unsafe` may stand, and commands named in documents.
#[derive(Debug, Args)]
pub(crate) struct Check {}

/// Something that breaks a rule, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    place: String,
    text: String,
}

impl Check {
    /// Runs all checks and lists every complaint.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        run(tree)
    }
}

impl Complaint {
    /// A complaint about line `line` of `file`.
    fn at(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            place: format!("{file}:{line}"),
            text: text.into(),
        }
    }

    /// A complaint about a whole file or package.
    fn about(place: &str, text: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.text)
    }
}

/// Runs every check over the work tree.
pub(crate) fn run(tree: &Tree) -> Result<(), Failure> {
    let mut complaints = packages::complaints(tree)?;
    let mut files = 0;
    for (name, text) in texts(tree, tree.root(), "rs")? {
        files += 1;
        let tokens = source::tokens(&text);
        complaints.extend(names::complaints(&name, &tokens));
        complaints.extend(unsafety::complaints(&name, &tokens));
        complaints.extend(walls::complaints(&name, &tokens));
    }
    let known: Vec<String> = Cli::command()
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect();
    for (name, text) in texts(tree, tree.root(), "md")? {
        files += 1;
        complaints.extend(verbs::complaints(&name, &text, &known));
    }
    if complaints.is_empty() {
        println!("==> structure of {files} files ... as it should be");
        return Ok(());
    }
    for complaint in &complaints {
        eprintln!("    {complaint}");
    }
    Err(Failure::new(format!("structure: {} complaint(s)", complaints.len())))
}

/// Names, relative to the root, and texts of the files with this extension.
fn texts(tree: &Tree, folder: &Path, extension: &str) -> Result<Vec<(String, String)>, Failure> {
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).map_err(|cause| Failure::io("reading", &path, &cause))?;
        let name = path
            .strip_prefix(tree.root())
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        Ok((name, text))
    };
    tree::files(folder, extension)?.into_iter().map(read).collect()
}
