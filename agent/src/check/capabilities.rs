//! Capabilities of this process, which are the agent's when it is run as the agent is.

use std::fs;

use super::report::{Check, Finding};

/// linux/capability.h: number, name, and what the agent does with it. `CAP_SYS_ADMIN` holds `CAP_BPF` and `CAP_PERFMON`.
const NEEDED: [(u32, &str, &str); 2] = [
    (
        12,
        "CAP_NET_ADMIN",
        "attach programs, set rules, routes, marks and transparent sockets",
    ),
    (
        21,
        "CAP_SYS_ADMIN",
        "enter network namespaces of pods, load programs, create maps and links",
    ),
];

/// Those without which some nodes work and others do not.
const USEFUL: [(u32, &str, &str); 2] = [
    (19, "CAP_SYS_PTRACE", "open /proc/PID/ns/net of other processes"),
    (1, "CAP_DAC_OVERRIDE", "open namespace files of other users"),
];

/// The effective set (proc_pid_status(5), `CapEff`); nothing when it cannot be read.
pub fn effective() -> u64 {
    fs::read_to_string("/proc/self/status").map_or(0, |status| parse(&status))
}

fn parse(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

/// Does the set hold all that is needed?
pub fn suffice(set: u64) -> bool {
    NEEDED.iter().all(|(number, ..)| has(set, *number))
}

fn has(set: u64, number: u32) -> bool {
    set & (1 << number) != 0
}

fn missing(set: u64, of: &[(u32, &str, &str)]) -> Option<(String, String)> {
    let gone: Vec<_> = of.iter().filter(|(number, ..)| !has(set, *number)).collect();
    let names: Vec<&str> = gone.iter().map(|(_, name, _)| *name).collect();
    let uses: Vec<&str> = gone.iter().map(|(.., needed_for)| *needed_for).collect();
    (!gone.is_empty()).then(|| (names.join(", "), uses.join("; ")))
}

/// Judges.
pub(super) fn judge(set: u64) -> Finding {
    let fix = "run as root; in Kubernetes add them to securityContext.capabilities.add, under systemd to \
               CapabilityBoundingSet";
    if let Some((names, uses)) = missing(set, &NEEDED) {
        return Finding::bad(
            Check::Capabilities,
            format!("missing: {names}"),
            format!("the agent cannot: {uses}"),
            fix,
        );
    }
    match missing(set, &USEFUL) {
        Some((names, uses)) => Finding::warning(
            Check::Capabilities,
            format!("missing: {names}"),
            format!("where the node's settings ask for them, the agent cannot: {uses}"),
            fix,
        ),
        None => Finding::good(Check::Capabilities, "all that the agent needs"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    #[test]
    fn each_capability_that_is_missing_is_named() {
        assert_eq!(judge(u64::MAX).level, Level::Good);
        for (number, name, _) in NEEDED {
            let finding = judge(!(1u64 << number));
            assert_eq!(finding.level, Level::Bad);
            assert_eq!(finding.found, format!("missing: {name}"));
            assert!(!suffice(!(1u64 << number)));
        }
        for (number, name, _) in USEFUL {
            let finding = judge(!(1u64 << number));
            assert_eq!(finding.level, Level::Warning);
            assert_eq!(finding.found, format!("missing: {name}"));
        }
        assert!(judge(0).found.contains("CAP_NET_ADMIN, CAP_SYS_ADMIN"));
    }

    #[test]
    fn the_effective_set_is_read() {
        assert_eq!(
            parse("Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t000001fffeffffff\n"),
            0x1ff_feff_ffff
        );
        assert_eq!(parse("Name:\tx\n"), 0);
    }
}
