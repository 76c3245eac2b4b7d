//! The mesh as istiod tells it: workload xDS (wire-facts §1).
//!
//! | file | what it knows |
//! |---|---|
//! | [`held`] | everything istiod told |
//! | [`kind`] | the kinds of resources |
//! | [`node`] | who the agent says it is |
//! | [`response`] | responses as they arrive, piece by piece |
//! | [`told`] | what the client says of itself |

pub mod held;
pub mod kind;
pub mod node;
pub mod response;
pub mod told;

pub use self::{
    kind::{Kind, Rejected},
    told::{Received, State, Told},
};
