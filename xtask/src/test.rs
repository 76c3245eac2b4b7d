//! `cargo xtask test`: every promise, from unit tests to the lab.

use std::process::Command;

use clap::Args;

use crate::{
    Failure, Step, Tree, build, demo, ebpf, fuzz, lint,
    setup::{self, Purpose},
    test::{leftovers::Leftovers, tally::Tally},
    tree,
};

mod leftovers;
mod tally;

/// How long each fuzz target runs here, in seconds. `cargo xtask fuzz --seconds N` runs longer.
const FUZZ_SECONDS: u32 = 10;

/// Sets up, lints, and runs unit tests, lab tests (as root) and a short run of every fuzz target.
///
/// With FILES, only the lab tests in tests/tests whose file name contains one of them, and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Parts of file names of lab tests, such as `redirect`
    files: Vec<String>,
    /// Run unit tests only: no root, no eBPF toolchain
    #[arg(long, conflicts_with = "files")]
    unit: bool,
    /// Leave out `lint`
    #[arg(long)]
    no_lint: bool,
    /// Leave out the fuzz targets
    #[arg(long)]
    no_fuzz: bool,
    /// Given to the lab's test binaries as they are, after `--`: a part of a test's name, --nocapture, ...
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Test {
    /// Runs the tests and closes with one line that counts them.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        let mut tally = Tally::default();
        if let Err(failure) = self.stages(tree, &mut tally) {
            tally.record("stopped", Err(failure));
        }
        tally.close()
    }

    /// Goes on after a stage that failed, unless nothing after it can work.
    fn stages(&self, tree: &Tree, tally: &mut Tally) -> Result<(), Failure> {
        if self.unit {
            return unit(tree, tally);
        }
        let only_lab = !self.files.is_empty();
        let mut purposes = vec![
            Purpose::Build,
            Purpose::Lab,
            Purpose::Peers,
            Purpose::ControlPlane,
            Purpose::Charts,
        ];
        if !only_lab && !self.no_lint {
            purposes.push(Purpose::Lint);
        }
        demo::need_root("test")?;
        setup::prepare(tree, &purposes)?;
        // First, so that what embeds the programs is not built twice.
        ebpf::build(tree)?;
        if !only_lab {
            if !self.no_lint {
                tally.record("lint", lint::run(tree));
            }
            unit(tree, tally)?;
        }
        build::build(tree)?;
        build::build_lab(tree)?;
        self.lab(tree, tally)?;
        if !only_lab && !self.no_fuzz {
            fuzz::run_all(tree, FUZZ_SECONDS, |target, ended| {
                tally.record(&format!("fuzz target {target}"), ended);
            })?;
        }
        Ok(())
    }

    fn lab(&self, tree: &Tree, tally: &mut Tally) -> Result<(), Failure> {
        // A test that was interrupted is nobody's fault now; what is left after that belongs to a living process.
        let mut sweep = Command::new(tree.target("release/demo"));
        sweep.arg("--sweep");
        Step::new("sweeping labs whose process is dead", sweep).quiet(tree)?;
        Leftovers::find(tree).none_or("before the lab tests")?;
        let mut cargo = tree.cargo();
        cargo.args(["test", "--release", "--package=isthmus-tests", "--no-fail-fast"]);
        if self.files.is_empty() {
            cargo.arg("--tests");
        } else {
            for file in lab_files(tree, &self.files)? {
                cargo.args(["--test", &file]);
            }
        }
        cargo.arg("--").args(&self.arguments);
        count(tally, "lab tests", cargo)?;
        tally.record(
            "nothing left behind by the lab tests",
            Leftovers::find(tree).none_or("after the lab tests"),
        );
        Ok(())
    }
}

fn unit(tree: &Tree, tally: &mut Tally) -> Result<(), Failure> {
    let mut cargo = tree.cargo();
    cargo.args(["test", "--workspace", "--exclude=isthmus-tests", "--no-fail-fast"]);
    count(tally, "unit tests", cargo)
}

/// Runs a `cargo test` and counts what it reports.
fn count(tally: &mut Tally, title: &str, cargo: Command) -> Result<(), Failure> {
    let failed_before = tally.failed();
    let status = Step::new(title, cargo).read(|line| tally.read(line))?;
    if !status.success() && tally.failed() == failed_before {
        // It did not compile, or a test binary died before it could report.
        tally.record(
            title,
            Err(Failure::new(format!("{title}: {status}, and no test reported it"))),
        );
    }
    Ok(())
}

/// Names of the lab's test files that contain one of `parts`.
fn lab_files(tree: &Tree, parts: &[String]) -> Result<Vec<String>, Failure> {
    let folder = tree.path("tests/tests");
    let is_test = |path: &std::path::PathBuf| path.parent() == Some(folder.as_path());
    let name = |path: std::path::PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
    let all: Vec<String> = tree::files(&folder, "rs")?
        .into_iter()
        .filter(is_test)
        .filter_map(name)
        .collect();
    let chosen: Vec<String> = all
        .iter()
        .filter(|file| parts.iter().any(|part| file.contains(part)))
        .cloned()
        .collect();
    if chosen.is_empty() {
        return Err(Failure::new(format!(
            "no lab test matches {}; there are {}",
            parts.join(", "),
            all.join(", ")
        )));
    }
    Ok(chosen)
}
