//! `cargo xtask fuzz`: random input against everything that reads from outside.
//!
//! libFuzzer with the coverage instrumentation of stable compilers: only LLVM passes are named, no sanitizer, so that
//! neither nightly nor clang is needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;

use crate::{Failure, Step, Tree, tree};

/// What cargo-fuzz would ask of the compiler too.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Memory a target may use before that counts as a crash, in MiB.
const MEMORY_LIMIT: u32 = 1024;
/// Longest input that is tried, in bytes.
const LONGEST_INPUT: u32 = 16 << 10;
/// Seconds one input may take before that counts as a crash.
const SLOWEST_INPUT: u32 = 5;

/// Feeds random input to the parsers that read from outside; a crash fails with the path of its input.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// One target of fuzz/targets; all of them when left out
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Give TARGET this one input, such as the reproducer of a crash
    #[arg(long, requires = "target", value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Fuzz {
    /// Builds and runs the targets.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        let Some(target) = &self.target else {
            let mut failures = Vec::new();
            run_all(tree, self.seconds, |_, ended| {
                failures.extend(ended.err().map(|failure| failure.to_string()));
            })?;
            return if failures.is_empty() {
                Ok(())
            } else {
                Err(Failure::new(failures.join("\n")))
            };
        };
        let all = targets(tree)?;
        if !all.contains(target) {
            return Err(Failure::new(format!(
                "no fuzz target {target}; there are {}",
                all.join(", ")
            )));
        }
        let programs = build(tree)?;
        match &self.input {
            Some(input) => {
                let mut command = Command::new(programs.join(target));
                command.arg(input);
                Step::new(format!("fuzz target {target} with {}", input.display()), command).shown()
            }
            None => run_one(tree, &programs, target, self.seconds),
        }
    }
}

/// Builds all targets, runs each for so many seconds and tells `record` how each ended.
pub(crate) fn run_all(
    tree: &Tree,
    seconds: u32,
    mut record: impl FnMut(&str, Result<(), Failure>),
) -> Result<(), Failure> {
    let programs = build(tree)?;
    for target in targets(tree)? {
        record(&target, run_one(tree, &programs, &target, seconds));
    }
    Ok(())
}

fn targets(tree: &Tree) -> Result<Vec<String>, Failure> {
    let files = tree::files(&tree.path("fuzz/targets"), "rs")?;
    Ok(files
        .iter()
        .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
        .collect())
}

/// Builds the targets and returns their folder. Naming the host as the target keeps the flags from build scripts.
fn build(tree: &Tree) -> Result<PathBuf, Failure> {
    let host = host()?;
    let folder = tree.target("fuzz");
    let mut cargo = tree.cargo();
    cargo.args([
        "build",
        "--release",
        "--bins",
        "--manifest-path=fuzz/Cargo.toml",
        "--target",
        &host,
    ]);
    cargo.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", COVERAGE);
    Step::new("building fuzz targets", cargo).quiet(tree)?;
    Ok(folder.join(host).join("release"))
}

fn run_one(tree: &Tree, programs: &Path, target: &str, seconds: u32) -> Result<(), Failure> {
    let corpus = tree.path("fuzz/corpus").join(target);
    let artifacts = tree.path("fuzz/artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).map_err(|cause| Failure::io("making", folder, &cause))?;
    }
    let mut command = Command::new(programs.join(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT}"))
        .arg(format!("-max_len={LONGEST_INPUT}"))
        .arg(format!("-timeout={SLOWEST_INPUT}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus);
    let seeds = tree.path("fuzz/seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let log = Step::new(format!("fuzz target {target}"), command)
        .quiet_with_log(tree)
        .map_err(|failure| {
            let hint = newest(&artifacts).map_or_else(String::new, |input| {
                format!(
                    "; to see it again: cargo xtask fuzz {target} --input {}",
                    input.display()
                )
            });
            Failure::new(format!("{failure}{hint}"))
        })?;
    let said = fs::read(&log).map_err(|cause| Failure::io("reading", &log, &cause))?;
    let (inputs, edges) = counts(&String::from_utf8_lossy(&said)).ok_or_else(|| {
        Failure::new(format!(
            "fuzz target {target} ran without coverage; see COVERAGE in xtask/src/fuzz.rs"
        ))
    })?;
    println!("    {inputs} inputs, {edges} edges covered");
    Ok(())
}

/// Inputs and edges in the closing line of libFuzzer, `#1505170 DONE cov: 292 ft: ...`.
fn counts(said: &str) -> Option<(u64, u64)> {
    let line = said
        .lines()
        .find(|line| line.starts_with('#') && line.contains("DONE"))?;
    let mut words = line.split_whitespace();
    let inputs = words.next()?.strip_prefix('#')?.parse().ok()?;
    let edges = words.skip_while(|word| *word != "cov:").nth(1)?.parse().ok()?;
    Some((inputs, edges))
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .max_by_key(|entry| entry.metadata().and_then(|facts| facts.modified()).ok())
        .map(|entry| entry.path())
}

/// The compiler's own target, as `rustc` names it.
fn host() -> Result<String, Failure> {
    let output = Command::new("rustc")
        .arg("--version")
        .arg("--verbose")
        .stdin(Stdio::null())
        .output();
    let said = output
        .map_err(|cause| Failure::new(format!("cannot start rustc: {cause}")))?
        .stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| Failure::new("`rustc -vV` names no host"))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn a_run_without_coverage_is_noticed() {
        let done = "INFO: x\n#17\tNEW    cov: 9\n#1505170\tDONE   cov: 292 ft: 1328 corp: 863/173Kb lim: 2875\nDone";
        assert_eq!(counts(done), Some((1_505_170, 292)));
        assert_eq!(counts("#1505170\tDONE   exec/s: 136833 rss: 28Mb"), None);
        assert_eq!(counts("#7\tNEW    cov: 292"), None);
    }
}
