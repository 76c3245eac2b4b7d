//! Isthmus, the node agent of an ambient service mesh. ARCHITECTURE.md tells the house; this is its module map.
//!
//! | module | what it knows |
//! |---|---|
//! | [`tls`] | TLS configurations and the check of a peer's identity |
//! | [`identity`] | SPIFFE IDs, certificates and where they come from |
//! | [`mesh`] | workloads, services, policies, gateways; pure decisions on them |
//! | [`drain`] | graceful, deadline, force |

pub mod drain;
pub mod identity;
pub mod mesh;
pub mod tls;
