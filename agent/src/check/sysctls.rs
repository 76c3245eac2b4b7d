//! Settings of the kernel that redirection depends on, and no others.
//!
//! Not looked at, on purpose: `rp_filter` (a redirected SYN keeps its route over `lo`, which knows no reverse path),
//! `route_localnet` (no packet to 127/8 leaves `lo`), `unprivileged_bpf_disabled` (the agent is not unprivileged).

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use super::{
    pods::Pod,
    report::{Check, Finding},
};
use crate::redirect::{grace, policy_routing};

const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
const EXPEDITE: &str = "/sys/kernel/rcu_expedited";

/// Ports of deliveries end here (`redirect::sockets`); a pod's clients are expected above.
const CLIENTS_BEGIN: u16 = 32_768;
/// Fewer ports than this are soon used up by the application and its tunnels.
const FEW_PORTS: u16 = 4_096;

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether the agent may set sysctls in pods, or why not.
    pub(super) settable: Result<(), String>,
    /// `net.core.bpf_jit_enable`; none when the kernel always compiles.
    pub(super) jit: Option<u32>,
    /// Whether grace periods can be expedited, or why not.
    pub(super) expedite: Result<(), String>,
    /// They are expedited all the time.
    pub(super) stays_short: bool,
    /// Pods whose ports are looked at: name, first and last port.
    pub(super) ports: Vec<(String, u16, u16)>,
}

impl Facts {
    /// Looks.
    pub(super) fn gather(pods: &[Pod]) -> Self {
        Self {
            settable: writable(&policy_routing::sysctl_in_pods()),
            jit: fs::read_to_string(JIT).ok().and_then(|text| text.trim().parse().ok()),
            expedite: writable(Path::new(EXPEDITE)),
            stays_short: grace::stays_short(),
            ports: pods
                .iter()
                .filter_map(|pod| pod.ports.map(|(first, last)| (pod.name.clone(), first, last)))
                .collect(),
        }
    }
}

/// Opened and not written.
fn writable(path: &Path) -> Result<(), String> {
    let opened: io::Result<_> = OpenOptions::new().write(true).open(path);
    opened.map(drop).map_err(|error| format!("{}: {error}", path.display()))
}

/// Two numbers: the first and the last port.
pub(super) fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Some((first, last)),
        _ => None,
    }
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = &facts.settable {
        findings.push(Finding::bad(
            Check::Sysctls,
            error,
            "tcp_fwmark_accept and fwmark_reflect cannot be set in pods, without which replies to deliveries go astray; no pod \
             can be enrolled",
            "run as root; in a container mount the node's /proc/sys/net at /host/proc/sys/net, read-write (hostPath, as \
             deploy/helm/isthmus does)",
        ));
    }
    if facts.jit == Some(0) {
        findings.push(Finding::warning(
            Check::Sysctls,
            "net.core.bpf_jit_enable is 0",
            "programs are interpreted: every connect and every SYN of the node costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    if let Err(error) = &facts.expedite {
        findings.push(Finding::warning(
            Check::Sysctls,
            error,
            "grace periods of the kernel cannot be expedited: enrolling a pod waits 10 to 30 ms for each of its links, one pod \
             after the other",
            "run as root; in a container mount the node's /sys/kernel/rcu_expedited there, read-write (hostPath, as \
             deploy/helm/isthmus does)",
        ));
    }
    if facts.stays_short {
        findings.push(Finding::warning(
            Check::Sysctls,
            format!("{EXPEDITE} is on"),
            "all grace periods of the kernel are short, which costs every processor interrupts; an agent that was killed while it \
             enrolled a pod leaves it so",
            "unless somebody set it on purpose: echo 0 > /sys/kernel/rcu_expedited",
        ));
    }
    for (pod, first, last) in &facts.ports {
        findings.extend(judge_ports(pod, *first, *last));
    }
    if findings.is_empty() {
        findings.push(Finding::good(Check::Sysctls, "as the agent needs them"));
    }
    findings
}

fn judge_ports(pod: &str, first: u16, last: u16) -> Option<Finding> {
    let found = format!("pod {pod}: net.ipv4.ip_local_port_range is {first} {last}");
    let fix = "leave the pod the default of 32768 60999 (securityContext.sysctls)";
    if last.saturating_sub(first) < FEW_PORTS {
        return Some(Finding::warning(
            Check::Sysctls,
            found,
            "the application's connections and the pod's tunnels share few ports; connects fail when they are used up",
            fix,
        ));
    }
    (first < CLIENTS_BEGIN).then(|| {
        Finding::warning(
            Check::Sysctls,
            found,
            "the pod's clients may be given ports that deliveries use (10240 to 32767); such a delivery is redialled, which \
             costs 200 ms",
            fix,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn good() -> Facts {
        Facts {
            settable: Ok(()),
            jit: Some(1),
            expedite: Ok(()),
            stays_short: false,
            ports: vec![("demo/a".into(), 32_768, 60_999)],
        }
    }

    fn only(facts: &Facts) -> Finding {
        let mut findings = judge(facts);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn defaults_are_good_also_where_the_kernel_always_compiles() {
        assert_eq!(only(&good()).level, Level::Good);
        assert_eq!(only(&Facts { jit: None, ..good() }).level, Level::Good);
    }

    #[test]
    fn each_setting_that_is_wrong_is_told() {
        let readonly = only(&Facts {
            settable: Err("EROFS".into()),
            ..good()
        });
        assert_eq!((readonly.level, readonly.found.as_str()), (Level::Bad, "EROFS"));
        let slow = only(&Facts { jit: Some(0), ..good() });
        assert_eq!(slow.level, Level::Warning);
        assert!(slow.fix.contains("bpf_jit_enable=1"));
        let late = only(&Facts {
            expedite: Err("EACCES".into()),
            ..good()
        });
        assert_eq!((late.level, late.found.as_str()), (Level::Warning, "EACCES"));
    }

    #[test]
    fn a_switch_that_was_left_on_is_told() {
        let left = only(&Facts {
            stays_short: true,
            ..good()
        });
        assert_eq!(left.level, Level::Warning);
        assert!(left.fix.contains("echo 0 > /sys/kernel/rcu_expedited"));
    }

    #[test]
    fn ports_of_a_pod_that_are_few_or_low_are_told() {
        let few = only(&Facts {
            ports: vec![("demo/a".into(), 40_000, 40_100)],
            ..good()
        });
        assert!(
            few.means.contains("few ports") && few.found.contains("demo/a"),
            "{few:?}"
        );
        let low = only(&Facts {
            ports: vec![("demo/a".into(), 1_024, 65_535)],
            ..good()
        });
        assert!(low.means.contains("deliveries"), "{low:?}");
    }

    #[test]
    fn a_port_range_is_read_and_nonsense_is_not() {
        assert_eq!(port_range("32768\t60999\n"), Some((32_768, 60_999)));
        for wrong in ["", "1", "1 2 3", "a b", "1 99999"] {
            assert_eq!(port_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_written_says_which() {
        assert!(
            writable(Path::new("/proc/sys/isthmus"))
                .unwrap_err()
                .starts_with("/proc/sys/isthmus")
        );
    }
}
