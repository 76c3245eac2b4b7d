//! Isthmus, the node agent of an ambient service mesh. ARCHITECTURE.md tells the house; this is its module map.
//!
//! | module | what it knows |
//! |---|---|
//! | [`proxy`] | connections: outbound, inbound, gateway, pool, relay |
//! | [`hbone`] | CONNECT over HTTP/2 over mTLS |
//! | [`tls`] | TLS configurations and the check of a peer's identity |
//! | [`identity`] | SPIFFE IDs, certificates and where they come from |
//! | [`mesh`] | workloads, services, policies, gateways; pure decisions on them |
//! | [`drain`] | graceful, deadline, force |

pub mod drain;
pub mod hbone;
pub mod identity;
pub mod mesh;
pub mod proxy;
pub mod tls;
