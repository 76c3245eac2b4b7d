//! `isthmus cleanup --istio-cni`: takes what istio-cni and ztunnel left off a node that they have gone from. Ours stays, and an
//! agent may run: what is in pods it removes as it enrols them.

use std::{error::Error, io};

use super::{CleanupArgs, ledger::Ledger};
use crate::{
    cni,
    istio_cni::host,
    redirect::{Netns, netns},
};

/// Removes it and prints each thing. Answers whether nothing is left.
pub(super) fn run(arguments: &CleanupArgs) -> Result<bool, Box<dyn Error>> {
    let root = arguments.host_root.clone().unwrap_or_else(cni::node_root);
    host::is_gone(&root)?;
    netns::remember_home()?;
    let node = Netns::open(&arguments.node_netns)?;
    let mut ledger = Ledger::new(io::stdout().lock(), "istio-cni");
    host::remove(&root, &node, &mut |what, failure| match failure {
        None => ledger.removed(what),
        Some(error) => ledger.failed(what, error),
    });
    Ok(ledger.close()?)
}
