//! What only one entry of a file may have, and who had it first.

use std::net::IpAddr;
use std::sync::Arc;

use serde_saphyr::Location;

use super::field::Extent;
use super::input::Input;
use super::problem::{Problem, fault};
use super::schema::{At, GatewayEntry, NetworkModeEntry, WorkloadEntry};
use crate::mesh::HBONE_PORT;
use crate::mesh::workload::DEFAULT_CLUSTER;

/// What only one workload or gateway may have.
#[derive(Debug)]
pub(super) enum Claim {
    /// A uid.
    Uid(Arc<str>),
    /// An address in a network.
    Address(Arc<str>, IpAddr),
}

/// Where something was claimed first: gateways come before workloads, wherever they stand.
pub(super) fn first(text: &str, claim: &Claim) -> Option<Location> {
    let input = Input::Text(text);
    for gateway in input.root().ok()?.gateways {
        let entry = gateway.value;
        let ip = entry.address.value.0.0;
        let claims = match claim {
            Claim::Uid(uid) => **uid == *gateway_uid(&entry),
            Claim::Address(network, wanted) => **network == *entry.network.value && *wanted == ip,
        };
        if claims {
            return Some(entry.address.referenced);
        }
    }
    // The first that claims it ends the reading; so does whatever is wrong with an entry before it.
    let mut found = None;
    let ended = input.workloads(&mut |entry| {
        found = place_in(&entry, claim);
        found.map_or(Ok(()), |location| Err(fault(location, String::new())))
    });
    found.filter(|_| ended.is_err())
}

/// The uid of the workload that stands for a gateway (wire-facts §1.10).
pub(super) fn gateway_uid(entry: &GatewayEntry) -> String {
    let port = entry.port.as_ref().map_or(HBONE_PORT, |port| port.0.0);
    format!(
        "NetworkGateway/{}/{}/{port}",
        entry.network.value, entry.address.value.0.0
    )
}

/// Where an entry claims something, if it does.
fn place_in(entry: &At<WorkloadEntry>, claim: &Claim) -> Option<Location> {
    let (start, entry) = (entry.referenced, &entry.value);
    match claim {
        Claim::Uid(wanted) => {
            let own = uid(entry, start).ok()?;
            (own == *wanted).then(|| entry.uid.as_ref().map_or(start, |uid| uid.referenced))
        }
        Claim::Address(network, wanted) => {
            let own = entry.network.as_ref().map_or("", |network| network.value.as_str());
            let standard = matches!(entry.network_mode, NetworkModeEntry::Standard);
            let mut ips = entry.workload_ips.iter().filter(|_| standard && *own == **network);
            ips.find(|ip| ip.value.0.0 == *wanted).map(|ip| ip.referenced)
        }
    }
}

/// The uid given, or one made up as a pod's.
pub(super) fn uid(entry: &WorkloadEntry, start: Location) -> Result<Arc<str>, Problem> {
    if let Some(uid) = entry.uid.as_ref().filter(|uid| !uid.value.is_empty()) {
        return Ok(uid.value.as_str().into());
    }
    if entry.name.is_empty() {
        return Err(Problem {
            extent: Extent::Whole,
            ..fault(start, "a workload needs a `uid` or a `name`".to_owned())
        });
    }
    // Pods of two clusters may share namespace and name; so they differ at least by network.
    let cluster = entry.cluster_id.as_deref().filter(|cluster| !cluster.is_empty());
    let network = entry
        .network
        .as_ref()
        .map(|network| network.value.as_str())
        .filter(|network| !network.is_empty());
    let cluster = cluster.or(network).unwrap_or(DEFAULT_CLUSTER);
    Ok(format!("{cluster}//Pod/{}/{}", entry.namespace.value, entry.name).into())
}
