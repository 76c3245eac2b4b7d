//! Does this kernel take what redirection is made of? Found out by loading and attaching it, not by its version.

use std::{error::Error, io};

use super::report::{Check, Finding};
use crate::redirect::{RedirectError, trial::Piece};

/// What came of the trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything was taken.
    Passed,
    /// This piece was not.
    Failed(Failure),
    /// It was not held; why.
    NotHeld(String),
}

/// What the kernel did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The piece.
    pub(super) piece: Piece,
    /// The program, where it was one.
    pub(super) program: Option<&'static str>,
    /// What was done with it: `loading`, `attaching` …
    pub(super) step: Option<&'static str>,
    /// The kernel's error number, where there is one.
    pub(super) errno: Option<i32>,
    /// Everything that was said, verifier's last words included.
    pub(super) text: String,
}

/// Longest text of an error that is shown, in characters: a verifier's log has thousands of lines.
const LONGEST: usize = 600;

impl Failure {
    /// Reads what is needed from an error.
    pub(super) fn read(piece: Piece, error: &RedirectError) -> Self {
        let (program, step) = match error {
            RedirectError::Program { program, step, .. } => (Some(*program), Some(*step)),
            _ => (None, None),
        };
        Self {
            piece,
            program,
            step,
            errno: errno(error),
            text: ending(&crate::pods::registry::chain(error)),
        }
    }

    /// What this kernel lacks, as far as the failure tells.
    fn lacks(&self) -> &'static str {
        let attaching = self.step.is_some_and(|step| step != "loading");
        match (self.piece, self.program) {
            (Piece::Place, _) => "a place to try in: pins, a cgroup or a network namespace could not be made",
            (Piece::Claim, Some(_)) if attaching => "sk_lookup links on network namespaces (Linux 5.9)",
            (Piece::Claim, _) => {
                "sk_lookup programs that see the ingress interface (Linux 5.17), or sockmaps of listeners"
            }
            (Piece::Guard, _) => "tcx links (Linux 6.6, CONFIG_NET_XGRESS)",
            (Piece::Routing, _) => {
                "policy routing by mark (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES), transparent sockets, or a \
                 writable /proc/sys"
            }
            (Piece::Node, Some("guard_ether" | "guard_ip")) => {
                "socket storage in tc programs (Linux 5.9, CONFIG_BPF_SYSCALL)"
            }
            (Piece::Node, Some("probes")) => "sockops programs on cgroups (CONFIG_CGROUP_BPF)",
            (Piece::Node, Some("setsockopt")) => "setsockopt programs on cgroups (Linux 5.3, CONFIG_CGROUP_BPF)",
            (Piece::Node, Some(_)) => {
                "connect programs on cgroups that read a socket's storage and namespace cookie and set its mark (Linux 5.14, \
                 CONFIG_CGROUP_BPF)"
            }
            (Piece::Node, None) => {
                "maps described by BTF, among them socket storage (CONFIG_DEBUG_INFO_BTF, Linux 5.2)"
            }
        }
    }

    fn fix(&self) -> &'static str {
        match self.errno {
            Some(libc::EPERM | libc::EACCES) => {
                "it is a matter of rights: run as root with the agent's capabilities, in the initial user namespace, without a \
                 seccomp profile that forbids bpf(2), and with kernel lockdown below confidentiality"
            }
            Some(libc::EROFS) => "the place is mounted read-only: mount it read-write into the agent's container",
            Some(libc::ENOMEM | libc::ENOSPC) => "memory or a quota of the node is used up; look at dmesg",
            _ => "use Linux 6.6 or newer with the options named; README.md says what it has been run on",
        }
    }
}

/// The first error number in a chain of causes.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// The end of a text is where a verifier says what it did not like.
fn ending(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = line.chars().count();
    if length <= LONGEST {
        return line;
    }
    let start: String = line.chars().take(LONGEST / 3).collect();
    let end: String = line.chars().skip(length - LONGEST * 2 / 3).collect();
    format!("{start} … {end}")
}

/// The check that tells of a piece.
fn check(piece: Piece) -> Check {
    match piece {
        Piece::Place | Piece::Node => Check::NodePrograms,
        Piece::Claim => Check::Claim,
        Piece::Guard => Check::Guard,
        Piece::Routing => Check::Routing,
    }
}

fn passed(check: Check) -> Finding {
    Finding::good(
        check,
        match check {
            Check::NodePrograms => {
                "connect4, connect6, probes, setsockopt and the guards load, and attach to a scratch cgroup"
            }
            Check::Claim => "claim loads, and attaches to a scratch network namespace",
            Check::Guard => "the guard attaches to a link by tcx",
            _ => "listeners, sysctls, rules and routes can be set in a pod",
        },
    )
}

/// Judges.
pub(super) fn judge(outcome: &Outcome) -> Vec<Finding> {
    const TOLD: [Check; 4] = [Check::NodePrograms, Check::Claim, Check::Guard, Check::Routing];
    match outcome {
        Outcome::Passed => TOLD.into_iter().map(passed).collect(),
        Outcome::NotHeld(why) => TOLD.into_iter().map(|told| Finding::skipped(told, why)).collect(),
        Outcome::Failed(failure) => {
            let failed = check(failure.piece);
            let why = format!("it needs {}", failed.name());
            let told = |told: Check| match told.cmp(&failed) {
                std::cmp::Ordering::Less => passed(told),
                std::cmp::Ordering::Equal => Finding::bad(
                    told,
                    &failure.text,
                    format!("not to be had here: {}; the agent does not start", failure.lacks()),
                    failure.fix(),
                ),
                std::cmp::Ordering::Greater => Finding::skipped(told, &why),
            };
            TOLD.into_iter().map(told).collect()
        }
    }
}

#[cfg(test)]
mod tests;
