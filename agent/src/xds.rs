//! The mesh as istiod tells it: workload xDS (wire-facts §1).
//!
//! | file | what it knows |
//! |---|---|
//! | [`decode`] | what istiod's messages mean |
//! | [`disk`] | what istiod told, on disk |
//! | `encode` | the reverse of `decode` |
//! | [`held`] | everything istiod told |
//! | [`kind`] | the kinds of resources |
//! | [`told`] | what the client says of itself |
//! | `versions` | which resources in which versions |

pub mod decode;
pub mod disk;
mod encode;
pub mod held;
pub mod kind;
pub mod told;
mod versions;

pub use self::{
    disk::{Disk, DiskError},
    held::{Contents, Held},
    kind::{Kind, Rejected},
    told::{Received, State, Told},
};
