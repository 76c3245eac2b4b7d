//! What the agent knows of the mesh, and the decisions that follow from it.
//!
//! A [`Snapshot`] is immutable and indexed; a source (the mesh file now, istiod next) fills a [`Builder`] and publishes
//! what it builds. Every decision is a pure function of a snapshot and of the connection at hand: no clock, no socket,
//! no lock, and randomness comes in as a number. Whoever holds a [`Mesh`] reads the newest snapshot without a lock.
//!
//! # How a large mesh is held
//!
//! Every node holds the whole mesh, so a workload must be small: a hundred thousand of them, each an endpoint of two
//! services and with an address of each family, take 20 MB, indexes included (`cargo run --release -p isthmus --example
//! mesh_memory` measures it), and a change of one of them leaves the others where they are.
//!
//! - A source describes a workload as a [`Draft`], with every field. A [`Builder`] keeps a [`Workload`]: its addresses, its
//!   name, and pointers to what it shares. What the pods of a Deployment have in common is one
//!   [`Kin`](workload::Kin), read as if its fields were the workload's own. The uid is not kept: it is the kin's prefix and
//!   the name. Equal texts, kin, localities and lists of services are one allocation, within a snapshot and from one to the
//!   next (`interner`), and are let go of when nobody holds them.
//! - Objects have numbers (`slab`), and tables hold numbers: of endpoints, and of what has a certain hash (`index`). A
//!   table has no keys of its own; who looks something up compares the objects.
//! - Slab and indexes are cut into small pieces, each behind a pointer. A snapshot *is* the builder's tables; what the
//!   builder changes afterwards it copies first: a chunk of 64 pointers, a leaf of some 100 entries, and the lists of these.
//!   So a change of one workload and the new snapshot for it cost 20 to 120 microseconds. Trees that persist by node (HAMT)
//!   cost less for one change and three times the memory for all that does not change; maps made anew for every snapshot
//!   cost the time, and twice the memory for as long as somebody holds the old one.
//! - A mesh file is read as a stream, entry by entry, into the builder that holds the version before: what both have in
//!   common stays as it is, what only the old one has goes when the new one was found good.
//!
//! | file | what it knows |
//! |---|---|
//! | [`address`] | how objects name each other: network addresses, service keys, gateways |
//! | [`addresses`] | the addresses of a workload |
//! | [`authority`] | the target a CONNECT asks for |
//! | [`builder`] | collecting objects into a snapshot |
//! | [`demand`] | asking for what a source does not tell by itself |
//! | [`draft`] | workloads as sources describe them |
//! | [`draw`] | picking among equals from one number |
//! | [`mod@file`] | the mesh file |
//! | [`gateway`] | what an east-west gateway does with a CONNECT |
//! | [`inbound`] | whether a CONNECT is for this pod, and for which port |
//! | [`members`] | which addresses belong to the mesh |
//! | `index` | from hashes to numbers of objects |
//! | `interner` | equal things kept once |
//! | `listing` | everything there is, in order |
//! | [`policy`] | authorisation policies and their verdict |
//! | [`route`] | where an outbound connection goes |
//! | [`service`] | services, their ports and balancing |
//! | `slab` | objects by number |
//! | [`snapshot`] | the indexed whole |
//! | `tag` | hashes of keys |
//! | [`wants`] | what a decision depends on, by name |
//! | [`watch`] | following the mesh file |
//! | [`waypoint`] | which waypoint stands before a service or workload |
//! | [`workload`] | workloads: pods, virtual machines, network gateways |

use std::sync::Arc;

use arc_swap::ArcSwap;

pub mod address;
pub mod addresses;
pub mod authority;
pub mod builder;
pub mod demand;
pub mod draft;
pub mod draw;
pub mod file;
pub mod gateway;
pub mod inbound;
mod index;
mod interner;
mod listing;
pub mod members;
pub mod policy;
pub mod route;
pub mod service;
mod slab;
pub mod snapshot;
mod tag;
pub mod wants;
pub mod watch;
pub mod waypoint;
pub mod workload;

#[cfg(test)]
mod fixture;

pub use address::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceKey};
pub use authority::Authority;
pub use builder::{Builder, Placed};
pub use demand::{Asks, Demand, Unanswered};
pub use draft::Draft;
pub use listing::Entrances;
pub use policy::Policy;
pub use service::Service;
pub use snapshot::{PolicySet, Snapshot};
pub use workload::Workload;

/// The port on which HBONE is spoken, by agents and by gateways unless they say otherwise (wire-facts §3.1).
pub const HBONE_PORT: u16 = 15008;

/// Ports of the agent's own listeners, never a target of anybody's traffic (wire-facts §3.1).
pub const OWN_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// The newest snapshot, and word of newer ones. Clones are cheap and each remembers by itself what it has seen.
#[derive(Debug, Clone)]
pub struct Mesh {
    current: Arc<ArcSwap<Snapshot>>,
    version: tokio::sync::watch::Receiver<u64>,
    demand: Option<Demand>,
}

/// The writing end of a [`Mesh`].
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    version: tokio::sync::watch::Sender<u64>,
}

impl Mesh {
    /// A mesh that starts with `first`.
    pub fn new(first: Snapshot) -> (Publisher, Self) {
        let current = Arc::new(ArcSwap::from_pointee(first));
        let (sender, receiver) = tokio::sync::watch::channel(0);
        let publisher = Publisher {
            current: Arc::clone(&current),
            version: sender,
        };
        let mesh = Self {
            current,
            version: receiver,
            demand: None,
        };
        (publisher, mesh)
    }

    /// The same of a source that tells only what it is asked for, and where it hears of that.
    pub fn on_demand(first: Snapshot) -> (Publisher, Self, Asks) {
        let (publisher, mesh) = Self::new(first);
        let (demand, asks) = Demand::new();
        let mesh = Self {
            demand: Some(demand),
            ..mesh
        };
        (publisher, mesh, asks)
    }

    /// Where to ask for what this mesh lacks; none when it has all there is.
    pub fn demand(&self) -> Option<&Demand> {
        self.demand.as_ref()
    }

    /// The newest snapshot. Never blocks.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Waits until a snapshot was published that this clone was not told of yet. Never resolves once the publisher is
    /// gone: the end of a source is no change.
    pub async fn changed(&mut self) {
        if self.version.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Publisher {
    /// Replaces what readers see, then tells them.
    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::mesh::fixture::workload;

    #[tokio::test]
    async fn a_reader_is_told_of_a_newer_snapshot_once() {
        let (publisher, mut mesh) = Mesh::new(Snapshot::empty());
        let mut other = mesh.clone();
        assert!(mesh.changed().now_or_never().is_none(), "nothing was published yet");

        let mut builder = Builder::new();
        builder.add_workload(workload("a"));
        publisher.publish(builder.build());
        mesh.changed().await;
        assert_eq!(mesh.current().sizes(), [1, 0, 0]);
        assert!(mesh.changed().now_or_never().is_none(), "one publication, one notice");
        other.changed().await;
    }

    #[tokio::test]
    async fn the_end_of_the_source_is_not_a_change() {
        let (publisher, mut mesh) = Mesh::new(Snapshot::empty());
        drop(publisher);
        assert!(mesh.changed().now_or_never().is_none());
        assert_eq!(mesh.current().sizes(), [0, 0, 0]);
    }
}
