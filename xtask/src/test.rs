//! `cargo xtask test`: every promise, from unit tests to the lab.

use std::{path::PathBuf, process::Command};

use clap::Args;

use crate::{
    Failure, Step, Tree, build, cluster, demo, ebpf, fuzz, kind, lint,
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
    /// Run only what is promised of clusters, on two of yours that are one mesh of two networks, with Isthmus installed
    /// (docs/install.md): told twice. Pods of isthmus-test/busybox:1 must start there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["files", "unit"])]
    kubeconfig: Vec<PathBuf>,
    /// The same on two clusters of kind, which are made for it and left up; needs docker, kind and images from the internet
    #[arg(long, conflicts_with_all = ["files", "unit", "kubeconfig"])]
    kind: bool,
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
        if self.kind {
            return self.given(tree, tally, &kind::up(tree)?);
        }
        if !self.kubeconfig.is_empty() {
            return self.given(tree, tally, &self.kubeconfig);
        }
        let only_lab = !self.files.is_empty();
        let mut purposes = vec![
            Purpose::Build,
            Purpose::Lab,
            Purpose::Peers,
            Purpose::ControlPlane,
            Purpose::Nodes,
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
        cluster::images_for_tests(tree)?;
        self.lab(tree, tally)?;
        if !only_lab && !self.no_fuzz {
            fuzz::run_all(tree, FUZZ_SECONDS, |target, ended| {
                tally.record(&format!("fuzz target {target}"), ended);
            })?;
        }
        Ok(())
    }

    /// What is promised of clusters, on clusters that are there.
    fn given(&self, tree: &Tree, tally: &mut Tally, kubeconfigs: &[PathBuf]) -> Result<(), Failure> {
        let [first, second] = kubeconfigs else {
            return Err(Failure::new("--kubeconfig is told twice, once for each cluster"));
        };
        setup::prepare(tree, &[Purpose::ControlPlane, Purpose::Charts])?;
        let paths = [first, second].map(|path| {
            path.canonicalize()
                .map_err(|cause| Failure::io("finding", path, &cause))
        });
        let [first, second] = paths;
        let mut cargo = tree.cargo();
        cargo
            .args(["test", "--package=isthmus-tests", "--test=cluster", "--"])
            .args(&self.arguments)
            .env("LAB_KUBECONFIGS", format!("{}:{}", first?.display(), second?.display()));
        count(tally, "promises of clusters", cargo)
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
    // One that has several files is a folder with a main.rs.
    let test = |path: PathBuf| {
        let path = if path.ends_with("main.rs") {
            path.parent()?.to_owned()
        } else {
            path
        };
        (path.parent()? == folder).then(|| Some(path.file_stem()?.to_string_lossy().into_owned()))?
    };
    let all: Vec<String> = tree::files(&folder, "rs")?.into_iter().filter_map(test).collect();
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
