//! What istiod speaks, generated from `proto/`: the parts of discovery, of the workload API and of the certificate
//! service that an agent needs. `server` adds the serving sides, for tests.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated code, whose documentation is the .proto files"
)]

/// Aggregated discovery, incremental.
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Workloads and services.
pub mod workload {
    tonic::include_proto!("istio.workload");
}

/// Authorisation policies.
pub mod security {
    tonic::include_proto!("istio.security");
}

/// The certificate authority.
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// Type URL of [`workload::Address`].
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";

/// Type URL of [`security::Authorization`].
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
