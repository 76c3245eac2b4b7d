//! The bench measures what it is asked to, and leaves nothing behind. How fast anything is, is no matter of a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use isthmus_tests::{Because as _, Result, within};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");
const SOON: Duration = Duration::from_secs(30);

fn report(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bench-{}-{name}.json", std::process::id()))
}

/// Runs it to its end; whatever it says, it leaves nothing.
fn run(arguments: &[&str]) -> Result<Output> {
    let bench = Command::new(BENCH)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = bench.id();
    let ended = bench.wait_with_output()?;
    assert_eq!(traces(pid), [""; 0]);
    Ok(ended)
}

/// What there is of the labs of a process: namespaces, pins, files, and programs running among them.
fn traces(pid: u32) -> Vec<String> {
    let lab = format!("isth{pid}x");
    let mut found = Vec::new();
    for folder in [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), &std::env::temp_dir()] {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.starts_with(&lab)));
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // Agents name their lab in their arguments; load writes to a file of it.
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let output = fs::read_link(process.path().join("fd/1")).unwrap_or_default();
        if text(&arguments).contains(&format!("/{lab}")) || output.to_string_lossy().contains(&format!("/{lab}")) {
            found.push(format!("process {}", process.file_name().to_string_lossy()));
        }
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value(row: &Value, figure: &str, side: &str) -> Option<f64> {
    let mut figures = row.get("figures")?.as_array()?.iter();
    let figure = figures.find(|one| one.get("name").is_some_and(|name| name == figure))?;
    figure.get(side)?.get("value")?.as_f64()
}

#[test]
fn every_row_that_is_asked_for_is_measured_and_written() -> Result {
    let file = report("rows");
    let name = file.display().to_string();
    let asked = ["--quick", "--rows", "ping-1,churn-rst", "--json", &name];
    let ended = run(&asked)?;
    let said = text(&ended.stdout);
    assert!(ended.status.success(), "{said}{}", text(&ended.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let rows = report["rows"].as_array().because("the report has rows")?;
    let names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["ping-1", "churn-rst"]);
    for row in rows {
        for figure in ["rate", "p50", "p99", "p99.9"] {
            for side in ["raw", "ours", "relay", "ratio", "relay_ratio"] {
                assert!(value(row, figure, side) > Some(0.0), "{figure} of {side} in {row}");
            }
        }
        assert!(value(row, "agents' CPU", "ours") > Some(0.0), "{row}");
        assert_eq!(value(row, "agents' CPU", "raw"), None, "{row}");
        assert_eq!(row.get("failed"), None, "{row}");
        let title = format!("[{}]", row["name"].as_str().unwrap_or_default());
        assert!(said.contains(&title), "{said}");
    }
    assert!(report["machine"]["cores"].as_u64() > Some(0), "{report}");

    let compared = run(&["--quick", "--rows", "ping-1", "--compare", &name])?;
    let said = text(&compared.stdout);
    assert!(compared.status.success() && said.contains(" → "), "{said}");
    fs::remove_file(&file)?;
    Ok(())
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_measured() -> Result {
    for (arguments, reason) in [
        (["--rows", "no-such-row"].as_slice(), "no-such-row"),
        (
            &["--quick", "--compare", "/no/such/report.json"],
            "/no/such/report.json",
        ),
        (
            &["--quick", "--json", "/no/such/folder/new.json"],
            "/no/such/folder/new.json",
        ),
    ] {
        let ended = run(arguments)?;
        let said = text(&ended.stderr);
        assert!(
            !ended.status.success() && said.contains(reason),
            "{arguments:?}: {said}"
        );
        assert_eq!(text(&ended.stdout), "", "{arguments:?}");
    }
    Ok(())
}

#[test]
fn an_interrupted_bench_takes_everything_down() -> Result {
    let mut bench = Command::new(BENCH)
        .args(["--rows", "bulk-1", "--hold", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = bench.id();
    // A client's load is there long after namespaces and agents are.
    let client = format!("{}/isth{pid}x0/client-load-", std::env::temp_dir().display());
    within(SOON, "the load runs", || {
        let links = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut outputs = links.filter_map(|process| fs::read_link(process.path().join("fd/1")).ok());
        outputs
            .any(|output| output.to_string_lossy().starts_with(&client))
            .then_some(())
    })?;
    assert!(traces(pid).len() > 10, "{:?}", traces(pid));
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
    let status = within(SOON, "the bench ends", || bench.try_wait().ok().flatten())?;
    assert_eq!(status.code(), Some(130));
    within(SOON, "nothing of it is left", || traces(pid).is_empty().then_some(()))
}
