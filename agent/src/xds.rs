//! The mesh as istiod tells it: workload xDS (wire-facts §1).
//!
//! | file | what it knows |
//! |---|---|
//! | [`held`] | everything istiod told |
//! | [`kind`] | the kinds of resources |
//! | [`told`] | what the client says of itself |

pub mod held;
pub mod kind;
pub mod told;

pub use self::{
    kind::{Kind, Rejected},
    told::{Received, State, Told},
};
