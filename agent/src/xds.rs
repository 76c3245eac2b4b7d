//! The mesh as istiod tells it: workload xDS (wire-facts §1).
//!
//! | file | what it knows |
//! |---|---|
//! | [`decode`] | what istiod's messages mean |
//! | [`held`] | everything istiod told |
//! | [`kind`] | the kinds of resources |
//! | [`node`] | who the agent says it is |
//! | [`response`] | responses as they arrive, piece by piece |
//! | [`told`] | what the client says of itself |
//! | `versions` | which resources in which versions |

pub mod decode;
pub mod held;
pub mod kind;
pub mod node;
pub mod response;
pub mod told;
mod versions;

pub use self::{
    held::Held,
    kind::{Kind, Rejected},
    told::{Received, State, Told},
};
