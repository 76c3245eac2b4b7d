//! The machine that a report is of.

use std::{fmt, fs, process::Command};

use serde::{Deserialize, Serialize};

/// What must be the same for two reports to be compared without a grain of salt, and when and of what each was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    /// UTC, RFC 3339.
    pub(crate) date: String,
    /// Of the work tree this bench was built in, with `+` when it has changes; empty when git does not say.
    pub(crate) commit: String,
    /// Load average of a minute as the bench began: what else the machine did.
    pub(crate) load: String,
}

impl Machine {
    /// This machine now. What cannot be learned stays empty.
    pub(crate) fn this() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let first_word = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
        let commit = said(
            "git",
            &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short=12", "HEAD"],
        );
        let changes = said(
            "git",
            &[
                "-C",
                env!("CARGO_MANIFEST_DIR"),
                "status",
                "--porcelain",
                "--untracked-files=no",
            ],
        );
        Self {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            cpu: model(&text("/proc/cpuinfo")),
            date: said("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: if commit.is_empty() || changes.is_empty() {
                commit
            } else {
                commit + "+"
            },
            load: first_word(text("/proc/loadavg")),
        }
    }

    /// Whether something has kept more than half a processor at work in the minute before.
    pub(crate) fn is_busy(&self) -> bool {
        self.load.parse::<f64>().is_ok_and(|load| load > 0.5)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            cores,
            cpu,
            date,
            commit,
            load,
        } = self;
        write!(
            f,
            "Linux {kernel}, {cores} cores of {cpu}; {date}, commit {commit}, load average {load} before"
        )
    }
}

fn model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or_default().to_owned()
}

/// What a program prints, without the end of the line; nothing when it fails.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().filter(|output| output.status.success());
    text.map_or_else(String::new, |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_first_cores() {
        let info = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags: x\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(model(info), "Some CPU @ 2 GHz");
        assert_eq!(model(""), "");
    }

    #[test]
    fn a_load_of_half_a_processor_is_busy() {
        let with = |load: &str| Machine {
            load: load.to_owned(),
            ..Machine::default()
        };
        assert!(with("0.51").is_busy() && !with("0.5").is_busy() && !with("").is_busy());
    }

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::this();
        assert!(
            !machine.kernel.is_empty() && machine.cores > 0 && machine.date.ends_with('Z'),
            "{machine:?}"
        );
    }
}
