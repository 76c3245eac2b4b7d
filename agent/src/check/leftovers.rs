//! What istio-cni and ztunnel left on the node (wire-facts §12), or still do there.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    netfilter,
    report::{Check, Finding},
};

/// Where CNI configuration lies, by platform (wire-facts §12.10), below the node's root.
const CONFIG_DIRECTORIES: [&str; 4] = [
    "etc/cni/net.d",
    "etc/cni/multus/net.d",
    "var/lib/rancher/k3s/agent/etc/cni/net.d",
    "var/snap/microk8s/current/args/cni-network",
];

/// Where CNI plugins lie.
const BINARIES: [&str; 6] = [
    "opt/cni/bin/istio-cni",
    "home/kubernetes/bin/istio-cni",
    "var/lib/cni/bin/istio-cni",
    "bin/istio-cni",
    "var/lib/rancher/k3s/data/cni/istio-cni",
    "var/snap/microk8s/current/opt/cni/bin/istio-cni",
];

/// Sockets of istio-cni's agent and of ztunnel (wire-facts §12.3, §12.8).
const SOCKETS: [&str; 3] = [
    "var/run/istio-cni/pluginevent.sock",
    "var/run/istio-cni/log.sock",
    "var/run/ztunnel/ztunnel.sock",
];

/// Sets of addresses of pods that the kubelet's probes are rewritten for (wire-facts §12.6).
const SETS: [&str; 2] = ["istio-inpod-probes-v4", "istio-inpod-probes-v6"];

/// Files of one directory that are looked at, and bytes of each.
const MOST_FILES: usize = 256;
const MOST_BYTES: u64 = 1 << 20;

/// What was found on the node's file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// CNI configurations that call the plugin `istio-cni`.
    pub(super) configurations: Vec<PathBuf>,
    /// Its binaries.
    pub(super) binaries: Vec<PathBuf>,
    /// Its sockets, and whether somebody listens.
    pub(super) sockets: Vec<(PathBuf, bool)>,
}

impl Facts {
    /// Looks below the root of the node's file system.
    pub(super) fn gather(root: &Path) -> Self {
        let below = |path: &&str| root.join(path);
        Self {
            configurations: CONFIG_DIRECTORIES
                .iter()
                .map(below)
                .flat_map(|directory| configurations(&directory))
                .collect(),
            binaries: BINARIES.iter().map(below).filter(|path| path.exists()).collect(),
            sockets: SOCKETS
                .iter()
                .map(below)
                .filter(|path| path.exists())
                .map(|path| {
                    let listens = UnixStream::connect(&path).is_ok();
                    (path, listens)
                })
                .collect(),
        }
    }
}

fn configurations(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).take(MOST_FILES).collect();
    files.sort();
    files.retain(|file| calls_istio(file));
    files
}

/// Would a container runtime that reads this file run istio-cni?
fn calls_istio(file: &Path) -> bool {
    let is_configuration = file
        .extension()
        .is_some_and(|end| end == "conf" || end == "conflist" || end == "json");
    let mut text = Vec::new();
    let read = || File::open(file)?.take(MOST_BYTES).read_to_end(&mut text);
    if !is_configuration || { read }().is_err() {
        return false;
    }
    let Ok(configuration) = serde_json::from_slice::<Value>(&text) else {
        return false;
    };
    let is_istio = |plugin: &Value| plugin.get("type").is_some_and(|kind| kind == "istio-cni");
    is_istio(&configuration)
        || configuration
            .get("plugins")
            .and_then(Value::as_array)
            .is_some_and(|plugins| plugins.iter().any(is_istio))
}

/// Judges configurations and binaries.
pub(super) fn judge_config(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.configurations.is_empty() {
        findings.push(Finding::bad(
            Check::CniConfig,
            format!("istio-cni is called by {}", listed(&facts.configurations)),
            "while its agent runs, pods are captured twice; once it is gone, no pod of the node can start, because its plugin \
             fails",
            "helm uninstall istio-cni -n istio-system; then take the plugin of type istio-cni out of these files (a file named \
             02-istio-cni.conflist or YYY-istio-cni.conf goes whole)",
        ));
    }
    if !facts.binaries.is_empty() {
        findings.push(Finding::warning(
            Check::CniConfig,
            format!("the plugin is still there: {}", listed(&facts.binaries)),
            "it does nothing as long as no configuration calls it",
            "remove the file",
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
            "remove /var/run/istio-cni and /var/run/ztunnel from the node",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good(Check::IstioAgents, "no socket of istio-cni or ztunnel"));
    }
    findings
}

/// What netfilter holds in the node's namespace: chains and sets, or why they cannot be told.
pub(super) type Netfilter = Result<(Vec<String>, Vec<String>), String>;

/// Judges rules on the host.
pub(super) fn judge_host(netfilter: &Netfilter) -> Finding {
    let (chains, sets) = match netfilter {
        Ok(found) => found,
        Err(error) => return Finding::closed(Check::HostRules, format!("netfilter of the node: {error}")),
    };
    let chains = chains.iter().filter(|chain| netfilter::is_istio(chain)).cloned();
    let sets = sets.iter().filter(|set| SETS.contains(&set.as_str()));
    let found: Vec<String> = chains.chain(sets.map(|set| format!("ipset {set}"))).collect();
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
        "iptables -t nat -D POSTROUTING -j ISTIO_POSTRT; iptables -t nat -F ISTIO_POSTRT; iptables -t nat -X ISTIO_POSTRT; ipset \
         destroy istio-inpod-probes-v4 (ip6tables and -v6 alike); nft delete table for tables istio-ambient-*; or reboot",
    )
}

fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
