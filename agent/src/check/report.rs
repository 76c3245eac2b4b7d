//! What was found, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

/// What is looked at, in the order of the report. docs/check.md has a section of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Does an agent answer?
    Agent,
    /// Capabilities of this process.
    Capabilities,
    /// A BPF file system to pin on.
    Bpffs,
    /// The root of the cgroup2 hierarchy.
    Cgroup,
    /// The node's network namespace.
    NodeNetns,
    /// The node's programs load and attach.
    NodePrograms,
    /// `claim` loads and attaches.
    Claim,
    /// The guard attaches.
    Guard,
    /// Sysctls, listeners, rules and routes in a pod.
    Routing,
    /// Programs of others on the node's hooks.
    Hooks,
    /// Programs of others in pods.
    PodHooks,
    /// Settings of the kernel.
    Sysctls,
    /// Open files.
    Limits,
    /// Pins and records.
    Pins,
    /// istio-cni in CNI configuration and binaries.
    CniConfig,
    /// Sockets of istio-cni and ztunnel.
    IstioAgents,
    /// istio-cni's rules on the host.
    HostRules,
    /// istio-cni's rules in pods.
    PodRules,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Agent,
        Self::Capabilities,
        Self::Bpffs,
        Self::Cgroup,
        Self::NodeNetns,
        Self::NodePrograms,
        Self::Claim,
        Self::Guard,
        Self::Routing,
        Self::Hooks,
        Self::PodHooks,
        Self::Sysctls,
        Self::Limits,
        Self::Pins,
        Self::CniConfig,
        Self::IstioAgents,
        Self::HostRules,
        Self::PodRules,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Capabilities => "capabilities",
            Self::Bpffs => "bpffs",
            Self::Cgroup => "cgroup",
            Self::NodeNetns => "node-netns",
            Self::NodePrograms => "node-programs",
            Self::Claim => "claim",
            Self::Guard => "guard",
            Self::Routing => "routing",
            Self::Hooks => "hooks",
            Self::PodHooks => "pod-hooks",
            Self::Sysctls => "sysctls",
            Self::Limits => "limits",
            Self::Pins => "pins",
            Self::CniConfig => "cni-config",
            Self::IstioAgents => "istio-agents",
            Self::HostRules => "host-rules",
            Self::PodRules => "pod-rules",
        }
    }
}

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Good,
    /// The agent works, but something is lost or will surprise.
    Warning,
    /// The agent cannot work here, or not safely.
    Bad,
}

impl Level {
    fn sign(self) -> char {
        match self {
            Self::Good => '✓',
            Self::Warning => '!',
            Self::Bad => '✗',
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How good it is.
    pub level: Level,
    /// What is there.
    pub found: String,
    /// What follows from it; empty when it is good.
    pub means: String,
    /// What to do; empty when it is good.
    pub fix: String,
}

impl Finding {
    /// As it should be.
    pub fn good(check: Check, found: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Good,
            found: found.into(),
            means: String::new(),
            fix: String::new(),
        }
    }

    /// The agent works all the same.
    pub fn warning(check: Check, found: impl Into<String>, means: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Warning,
            found: found.into(),
            means: means.into(),
            fix: fix.into(),
        }
    }

    /// The agent cannot work so.
    pub fn bad(check: Check, found: impl Into<String>, means: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Bad,
            ..Self::warning(check, found, means, fix)
        }
    }

    /// It was not looked at, because something else is bad that is told of already.
    pub fn skipped(check: Check, why: impl std::fmt::Display) -> Self {
        Self::warning(
            check,
            format!("not looked at: {why}"),
            "it is not known whether there is something amiss",
            "mend what is bad above and check again",
        )
    }

    /// It could not be looked at.
    pub fn closed(check: Check, found: impl Into<String>) -> Self {
        Self::bad(
            check,
            found,
            "it was not looked at",
            "run `isthmus check` as root, with the capabilities of the agent",
        )
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    fit: bool,
    warnings: usize,
    bad: usize,
    findings: Vec<Finding>,
}

impl Report {
    /// Puts findings in order.
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.check);
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (warnings, bad) = (count(Level::Warning), count(Level::Bad));
        Self {
            fit: bad == 0,
            warnings,
            bad,
            findings,
        }
    }

    /// Is the node fit? Warnings count only when `strict`.
    pub fn passes(&self, strict: bool) -> bool {
        self.fit && !(strict && self.warnings > 0)
    }

    /// A line for each finding, two more below those that are not good, and the sum.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let width = Check::ALL.iter().map(|check| check.name().len()).max().unwrap_or(0);
        for finding in &self.findings {
            let (sign, name) = (finding.level.sign(), finding.check.name());
            writeln!(out, "{sign} {name:<width$}  {}", finding.found)?;
            if finding.level != Level::Good {
                writeln!(out, "  {:<width$}  means: {}", "", finding.means)?;
                writeln!(out, "  {:<width$}  fix:   {}", "", finding.fix)?;
            }
        }
        let verdict = if self.fit { "fit" } else { "unfit" };
        writeln!(
            out,
            "\nthis node is {verdict}: {} bad, {} to look at",
            self.bad, self.warnings
        )
    }

    /// One JSON object: `fit`, `warnings`, `bad`, `findings`.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Finding::bad(Check::Cgroup, "none", "nothing is redirected", "mount one"),
            Finding::good(Check::Agent, "none runs"),
            Finding::warning(Check::Hooks, "two", "order matters", "look"),
        ])
    }

    #[test]
    fn findings_are_in_the_order_of_checks_with_meaning_and_fix_below_what_is_not_good() {
        let mut text = Vec::new();
        report().write_text(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "✓ agent          none runs\n\
             ✗ cgroup         none\n\
             \x20                means: nothing is redirected\n\
             \x20                fix:   mount one\n\
             ! hooks          two\n\
             \x20                means: order matters\n\
             \x20                fix:   look\n\
             \nthis node is unfit: 1 bad, 1 to look at\n"
        );
    }

    #[test]
    fn json_has_the_names_of_the_text() {
        let mut text = Vec::new();
        report().write_json(&mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["fit"], false);
        assert_eq!(value["findings"][1]["check"], "cgroup");
        assert_eq!(value["findings"][1]["level"], "bad");
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.name());
        }
    }

    #[test]
    fn warnings_fail_only_when_strict() {
        let warned = Report::new(vec![Finding::warning(Check::Hooks, "x", "y", "z")]);
        assert!(warned.passes(false) && !warned.passes(true));
        let good = Report::new(vec![Finding::good(Check::Hooks, "x")]);
        assert!(good.passes(true));
        assert!(!report().passes(false));
    }

    #[test]
    fn the_document_has_a_section_of_every_check_and_of_nothing_else() {
        let document = include_str!("../../../docs/check.md");
        let sections: Vec<&str> = document.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let names: Vec<&str> = Check::ALL.iter().map(|check| check.name()).collect();
        assert_eq!(sections, names);
    }
}
