//! What the agent holds in the form in which `istioctl ztunnel-config` reads a node agent (wire-facts §9.2; field names
//! and values as istioctl's and ztunnel's own). Pure: a snapshot and what else is told in, JSON out.
//!
//! A mesh of a hundred thousand workloads makes some 60 MB. They are written as they are read, object by object, and lie in
//! memory nowhere.
//!
//! | file | what it shows |
//! |---|---|
//! | `workload`, `service`, `policy` | the mesh |
//! | `certificate` | certificates, without keys |
//! | `pod` | pods and their open connections |
//! | `settings` | the configuration as it holds |
//! | `version` | which build this is |

mod certificate;
mod pod;
mod policy;
mod service;
mod settings;
mod version;
mod workload;

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap as _, SerializeSeq as _},
};
use serde_json::{Map, Value};

pub use self::{
    certificate::{Availability, Credential},
    settings::{of_gateway, of_node},
};
use crate::{mesh::Snapshot, pods::ask::PodConnections};

/// Everything that is dumped, as of one moment.
#[derive(Debug)]
pub struct Dump {
    /// The mesh.
    pub mesh: Arc<Snapshot>,
    /// Certificates by identity, in the order to be told.
    pub credentials: Vec<Credential>,
    /// Enrolled pods by UID.
    pub pods: BTreeMap<String, PodConnections>,
    /// The configuration as it holds, without secrets.
    pub config: Arc<Map<String, Value>>,
    /// Istio's version as this agent was told it; empty when it was not.
    pub istio_version: String,
}

impl Dump {
    /// Writes it down as JSON.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn write(&self, out: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(out, self).map_err(io::Error::from)
    }
}

impl Serialize for Dump {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mesh = &*self.mesh;
        let mut dump = serializer.serialize_map(None)?;
        let workloads = mesh.workloads_in_order();
        dump.serialize_entry(
            "workloads",
            &Each(|| workloads.iter().map(|one| workload::View::of(one))),
        )?;
        let services = mesh.services_in_order();
        let service = |one| service::View { mesh, service: one };
        dump.serialize_entry("services", &Each(|| services.iter().map(|one| service(one))))?;
        dump.serialize_entry(
            "policies",
            &Each(|| mesh.policies_in_order().map(|one| policy::View(one))),
        )?;
        dump.serialize_entry("stagedServices", &service::Staged(mesh))?;
        // A mesh file is a mesh like another here: what it says stands above.
        dump.serialize_entry("staticConfig", &NothingStatic::default())?;
        dump.serialize_entry("version", &version::Version::of(&self.istio_version))?;
        dump.serialize_entry("config", &*self.config)?;
        dump.serialize_entry("certificates", &Each(|| self.credentials.iter().map(certificate::View)))?;
        dump.serialize_entry("workloadState", &Pods(&self.pods))?;
        dump.end()
    }
}

/// What ztunnel was configured with in a file instead of by istiod.
#[derive(Default, Serialize)]
struct NothingStatic {
    workloads: [(); 0],
    services: [(); 0],
    policies: [(); 0],
}

/// By UID.
struct Pods<'a>(&'a BTreeMap<String, PodConnections>);

impl Serialize for Pods<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(uid, pod)| (uid, pod::View(pod))))
    }
}

/// A list that is made while it is written.
struct Each<F>(F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in (self.0)() {
            list.serialize_element(&item)?;
        }
        list.end()
    }
}

/// A value by its text.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

// By reference, as serde asks.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests;
