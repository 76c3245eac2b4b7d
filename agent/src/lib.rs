//! Isthmus, the node agent of an ambient service mesh. ARCHITECTURE.md tells the house; this is its module map.
//!
//! | module | what it knows |
//! |---|---|
//! | [`app`] | the composition root: builds every part and hands each what it needs |
//! | [`check`] | `isthmus check`: is this node fit, and if not, what is to be done |
//! | [`cleanup`] | `isthmus cleanup`: takes every trace of the agent off the node |
//! | [`cli`] | the command line |
//! | [`cni`] | the CNI plugin on this node: its binary, its configuration, what it reads while the agent is away |
//! | [`config`] | flags and variables of what serves, checked as a whole |
//! | [`config_dump`] | what the agent holds, as istioctl reads it |
//! | [`operator`] | short commands on a terminal: `pod`, `status`, `ca`, `mesh` |
//! | [`status`] | what the agent says of itself: collected, judged, written down |
//! | [`admin`] | the HTTP ports: state, logging, profiles, metrics, readiness |
//! | [`parent`] | nobody home: holds listeners while the worker restarts |
//! | [`kubernetes`] | which pods belong to the mesh, as the API server tells it |
//! | [`control`] | the unix socket on which pods are enrolled and state is read |
//! | [`pods`] | which pods are enrolled, and bringing them in and out |
//! | [`shards`] | the data threads |
//! | [`redirect`] | eBPF programs, links, maps, rules and routes |
//! | [`proxy`] | connections: outbound, inbound, gateway, pool, relay |
//! | [`hbone`] | CONNECT over HTTP/2 over mTLS |
//! | [`tls`] | TLS configurations and the check of a peer's identity |
//! | [`istio_cni`] | what istio-cni left: finding it, taking it away |
//! | [`istiod`] | reaching istiod: TLS, roots, token, headers |
//! | [`xds`] | the mesh as istiod tells it |
//! | [`dns`] | addresses of host names |
//! | [`identity`] | SPIFFE IDs, certificates and where they come from |
//! | [`mesh`] | workloads, services, policies, gateways; pure decisions on them |
//! | [`telemetry`] | metrics, log lines, recent failures, spans |
//! | [`file_stamp`] | what tells one version of a file from another |
//! | [`start_code`] | letting go of code that only the start needed |
//! | [`drain`] | graceful, deadline, force |

pub mod admin;
pub mod app;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod cni;
pub mod config;
pub mod config_dump;
pub mod control;
pub mod dns;
pub mod drain;
pub mod file_stamp;
pub mod hbone;
pub mod identity;
pub mod istio_cni;
pub mod istiod;
pub mod kubernetes;
pub mod mesh;
pub mod operator;
pub mod parent;
pub mod pods;
pub mod proxy;
pub mod redirect;
pub mod shards;
pub mod start_code;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod xds;
