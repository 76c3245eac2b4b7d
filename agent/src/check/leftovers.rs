//! What istio-cni and ztunnel left on the node (wire-facts §12), or still do there.

use std::path::PathBuf;

use super::report::{Check, Finding};
use crate::istio_cni::{SETS, files::Facts, netfilter::Ruleset, plan};

/// Judges configurations and binaries.
pub(super) fn judge_config(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.configurations.is_empty() {
        findings.push(Finding::bad(
            Check::CniConfig,
            format!("istio-cni is called by {}", listed(&facts.configurations)),
            "while its agent runs, pods are captured twice; once it is gone, no pod of the node can start, because its plugin \
             fails",
            "take istio-cni off this node (helm uninstall istio-cni -n istio-system, or its node selector); then `isthmus cleanup \
             --istio-cni` takes it out of these files",
        ));
    }
    if !facts.binaries.is_empty() {
        findings.push(Finding::warning(
            Check::CniConfig,
            format!("the plugin is still there: {}", listed(&facts.binaries)),
            "it does nothing as long as no configuration calls it",
            "`isthmus cleanup --istio-cni` removes it",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            Check::CniConfig,
            "istio-cni is in no CNI configuration and no plugin directory",
        ));
    }
    findings
}

/// Judges sockets.
pub(super) fn judge_sockets(facts: &Facts) -> Vec<Finding> {
    let of = |alive: bool| -> Vec<PathBuf> {
        let matching = facts.sockets.iter().filter(|(_, listens)| *listens == alive);
        matching.map(|(path, _)| path.clone()).collect()
    };
    let (alive, dead) = (of(true), of(false));
    let mut findings = Vec::new();
    if !alive.is_empty() {
        findings.push(Finding::bad(
            Check::IstioAgents,
            format!("somebody listens on {}", listed(&alive)),
            "istio-cni or ztunnel serves this node: pods would be captured by both",
            "helm uninstall ztunnel istio-cni -n istio-system, then start the captured pods anew",
        ));
    }
    if !dead.is_empty() {
        findings.push(Finding::warning(
            Check::IstioAgents,
            format!("nobody listens on {}", listed(&dead)),
            "what is left of istio-cni or ztunnel; it does nothing",
            "`isthmus cleanup --istio-cni` removes them",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good(Check::IstioAgents, "no socket of istio-cni or ztunnel"));
    }
    findings
}

/// What netfilter holds in the node's namespace: tables with their chains, and sets; or why they cannot be told.
pub(super) type Netfilter = Result<(Ruleset, Vec<String>), String>;

/// Judges rules on the host.
pub(super) fn judge_host(netfilter: &Netfilter) -> Finding {
    let (ruleset, sets) = match netfilter {
        Ok(found) => found,
        Err(error) => return Finding::closed(Check::HostRules, format!("netfilter of the node: {error}")),
    };
    let sets = sets.iter().filter(|set| SETS.contains(&set.as_str()));
    let mut found = plan::found(ruleset);
    found.extend(sets.map(|set| format!("ipset {set}")));
    if found.is_empty() {
        return Finding::good(
            Check::HostRules,
            "no chain and no ipset of istio-cni in the node's namespace",
        );
    }
    Finding::bad(
        Check::HostRules,
        found.join(", "),
        "connections of the kubelet to the addresses in the set leave as 169.254.7.127, so they are not known as probes: pods \
         that require mutual TLS refuse them and are restarted",
        "once istio-cni has gone from this node, `isthmus cleanup --istio-cni` removes them; rules of iptables-legacy it names, with \
         the command",
    )
}

fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
