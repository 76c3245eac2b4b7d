//! The mesh as istiod tells it: workload xDS (wire-facts §1).
//!
//! | file | what it knows |
//! |---|---|
//! | `back_off` | how long to wait before istiod is tried again |
//! | [`client`] | one stream after the other, for the life of the agent |
//! | [`counters`] | metrics |
//! | [`decode`] | what istiod's messages mean |
//! | [`disk`] | what istiod told, on disk |
//! | `encode` | the reverse of `decode` |
//! | [`held`] | everything istiod told |
//! | [`kind`] | the kinds of resources |
//! | [`node`] | who the agent says it is |
//! | [`response`] | responses as they arrive, piece by piece |
//! | [`session`] | what is said on one stream |
//! | [`store`] | when what istiod told is written to disk |
//! | `stream` | one call of istiod, as bytes |
//! | [`told`] | what the client says of itself |
//! | `wanted` | names that istiod is asked for one by one |
//! | `versions` | which resources in which versions |

mod back_off;
pub mod client;
pub mod counters;
pub mod decode;
pub mod disk;
mod encode;
#[cfg(test)]
mod fixture;
pub mod held;
pub mod kind;
pub mod node;
pub mod response;
pub mod session;
pub mod store;
mod stream;
pub mod told;
mod versions;
mod wanted;

#[cfg(test)]
mod scripted;

pub use self::{
    client::{Client, ClientParts, News},
    counters::Counters,
    disk::{Disk, DiskError},
    held::{Contents, Held},
    kind::{Kind, Rejected},
    node::Node,
    store::Store,
    told::{OnDemand, Received, State, Told},
};
