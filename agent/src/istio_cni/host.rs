//! Taking what istio-cni and ztunnel left off the node itself: rules by which the kubelet's probes were rewritten, their
//! sets, CNI configuration, plugin, files and sockets. Only once they have gone, and only by an operator's wish.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    SETS, files,
    netfilter::{self, Ruleset},
    plan::{self, Stage},
};
use crate::{cni, redirect::Netns};

/// Files that are only there for istio-cni.
const OWN_CONFIGURATIONS: [&str; 2] = ["02-istio-cni.conflist", "YYY-istio-cni.conf"];

/// Why nothing may be taken away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lives {
    /// Somebody listens.
    #[error(
        "somebody listens on {}: istio-cni serves this node, and would put back what is removed. Take it off this node first (its node \
         selector or affinity, or helm uninstall)",
        .0.display()
    )]
    Listens(PathBuf),
    /// Its sockets are not where they could be seen.
    #[error(
        "{} is not there, so whether istio-cni lives cannot be told: mount the node's /var/run/istio-cni and /var/run/ztunnel there, or \
         run this on the node itself",
        .0.display()
    )]
    Unseen(PathBuf),
}

/// What is removed, and why it is not when it is not.
pub type Told<'a> = &'a mut dyn FnMut(String, Option<io::Error>);

/// Has istio-cni gone from the node whose file system is seen below `root`?
pub fn is_gone(root: &Path) -> Result<(), Lives> {
    // On the node itself what is not there is not there. In a container it may just not be mounted.
    if root != Path::new("/") {
        let seen = files::DIRECTORIES.iter().map(|path| root.join(path));
        if let Some(unseen) = seen.into_iter().find(|path| !path.is_dir()) {
            return Err(Lives::Unseen(unseen));
        }
    }
    let facts = files::Facts::gather(root);
    match facts.sockets.into_iter().find(|(_, listens)| *listens) {
        Some((path, _)) => Err(Lives::Listens(path)),
        None => Ok(()),
    }
}

/// Removes all of it. Ask [`is_gone`] first.
pub fn remove(root: &Path, node: &Netns, told: Told<'_>) {
    remove_rules(node, told);
    let mut is_called = false;
    for directory in files::CONFIG_DIRECTORIES.iter().map(|path| root.join(path)) {
        cni::remove_others(&directory, files::PLUGIN, &OWN_CONFIGURATIONS, &mut |what, failure| {
            is_called |= failure.is_some();
            told(what, failure);
        });
        remove_file("kubeconfig", &directory.join(files::OLD_KUBECONFIG), told);
    }
    let still_called = files::Facts::gather(root).configurations;
    for binary in files::BINARIES.iter().map(|path| root.join(path)) {
        if is_called || !still_called.is_empty() {
            // A runtime that finds the name and not the binary starts no pod at all.
            if binary.exists() {
                let why = io::Error::other("a CNI configuration still names it");
                told(format!("CNI plugin {}", binary.display()), Some(why));
            }
        } else {
            remove_file("CNI plugin", &binary, told);
        }
    }
    remove_file("kubeconfig", &root.join(files::KUBECONFIG), told);
    remove_file("log", &root.join(files::LOG), told);
    for socket in files::SOCKETS {
        remove_file("socket", &root.join(socket), told);
    }
    // Seen from a container they stay: they tell that what is not in them is not there.
    for directory in files::DIRECTORIES
        .iter()
        .filter(|_| root == Path::new("/"))
        .map(|path| root.join(path))
    {
        // Others may have something in it.
        if fs::remove_dir(&directory).is_ok() {
            told(format!("directory {}", directory.display()), None);
        }
    }
}

fn remove_rules(node: &Netns, told: Told<'_>) {
    let ruleset = match Ruleset::read(node, plan::is_asked) {
        Ok(ruleset) => ruleset,
        Err(error) => return told("rules of the node".to_owned(), Some(error)),
    };
    let removals = plan::removals(&ruleset, Stage::All);
    let failure = netfilter::remove(node, &removals).err();
    let named: Vec<String> = removals.iter().filter_map(netfilter::Removal::title).collect();
    if !named.is_empty() {
        told(named.join(", "), failure);
    }
    let sets = match netfilter::sets(node) {
        Ok(sets) => sets,
        Err(error) => return told("ipsets of the node".to_owned(), Some(error)),
    };
    for set in sets.iter().filter(|set| SETS.contains(&set.as_str())) {
        let failure = netfilter::destroy_set(node, set).err().map(|_| still_used(set));
        told(format!("ipset {set}"), failure);
    }
}

/// The sets are used by rules in `ISTIO_POSTRT` only; when it is not nftables that has these, iptables-legacy has.
fn still_used(set: &str) -> io::Error {
    let iptables = if set.ends_with("v6") {
        "ip6tables-legacy"
    } else {
        "iptables-legacy"
    };
    io::Error::other(format!(
        "a rule uses it that is not in nftables; run {iptables} -t nat -D POSTROUTING -j ISTIO_POSTRT; {iptables} -t nat -F ISTIO_POSTRT; \
         {iptables} -t nat -X ISTIO_POSTRT; ipset destroy {set}"
    ))
}

fn remove_file(what: &str, path: &Path, told: Told<'_>) {
    if fs::symlink_metadata(path).is_ok() {
        told(format!("{what} {}", path.display()), fs::remove_file(path).err());
    }
}
