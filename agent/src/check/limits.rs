//! How many files the agent may open.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::{
    agent::Agent,
    report::{Check, Finding},
};

/// Below this a busy node is refused connections.
const COMFORTABLE: u64 = 65_536;
/// Below this hardly anything but the agent's own files is open.
const LEAST: u64 = 1_024;
/// Descriptors of the agent that are no connections (`proxy::descriptors`).
const RESERVE: u64 = 256;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Most descriptors: the hard limit, which the agent makes its own.
    pub(super) descriptors: u64,
    /// They are the running agent's, not those of this process.
    pub(super) of_agent: bool,
    /// `fs.file-max`: most open files of the whole node; none when it cannot be read.
    pub(super) node: Option<u64>,
}

impl Facts {
    /// Asks the running agent's process, or else looks at this one.
    pub(super) fn gather(agent: &Agent) -> Self {
        let of_agent = match agent {
            Agent::Runs { pid, .. } => of_process(*pid),
            _ => None,
        };
        let own = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
        Self {
            descriptors: of_agent.unwrap_or(own),
            of_agent: of_agent.is_some(),
            node: fs::read_to_string("/proc/sys/fs/file-max")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// The hard limit of an agent, if the process of that number is one: it may be told from another pid namespace.
fn of_process(pid: u32) -> Option<u64> {
    let name = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let is_agent = name.split('\0').nth(1) == Some("worker");
    is_agent
        .then(|| fs::read_to_string(format!("/proc/{pid}/limits")).ok())
        .flatten()
        .and_then(|limits| hard(&limits))
}

/// proc_pid_limits(5).
fn hard(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Judges.
pub(super) fn judge(facts: Facts) -> Vec<Finding> {
    let whose = if facts.of_agent { "the agent" } else { "this process" };
    let found = format!("{whose} may open {} files", facts.descriptors);
    let at_once = facts.descriptors.saturating_sub(RESERVE) / 2;
    let means = format!("about {at_once} connections at a time; those beyond are refused");
    let fix =
        "LimitNOFILE=1048576 in the unit, or the container runtime's own limit (for containerd its unit's LimitNOFILE)";
    let mut findings = vec![match facts.descriptors {
        0..LEAST => Finding::bad(Check::Limits, found, means, fix),
        LEAST..COMFORTABLE => Finding::warning(Check::Limits, found, means, fix),
        _ => Finding::good(Check::Limits, found),
    }];
    if let Some(node) = facts.node.filter(|node| *node < COMFORTABLE) {
        findings.push(Finding::warning(
            Check::Limits,
            format!("the whole node may open {node} files (fs.file-max)"),
            "the agent and all pods share them; when they are used up, connections are refused everywhere",
            "sysctl -w fs.file-max=1048576",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn levels(descriptors: u64, node: Option<u64>) -> Vec<Level> {
        let facts = Facts {
            descriptors,
            of_agent: false,
            node,
        };
        judge(facts).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn few_files_are_a_warning_and_hardly_any_are_bad() {
        assert_eq!(levels(1 << 20, Some(1 << 20)), [Level::Good]);
        assert_eq!(levels(20_000, None), [Level::Warning]);
        assert_eq!(levels(512, None), [Level::Bad]);
        assert_eq!(levels(1 << 20, Some(8_192)), [Level::Good, Level::Warning]);
    }

    #[test]
    fn the_limits_of_a_process_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             127235               127235               processes \n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(hard(text), Some(20_000));
        assert_eq!(hard(&text.replace("20000", "unlimited")), Some(u64::MAX));
        assert_eq!(hard("Max cpu time unlimited unlimited seconds"), None);
        assert_eq!(of_process(std::process::id()), None, "a test is no worker");
    }
}
