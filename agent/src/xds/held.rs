//! Placeholder: the real one is being built on branch wds.

use std::collections::BTreeMap;

use isthmus_istio::discovery;

use super::kind::{Kind, Rejected};
use crate::mesh::{Builder, Publisher};

/// Everything istiod told.
#[derive(Debug)]
pub struct Held {
    publisher: Publisher,
    names: [BTreeMap<String, (String, bool)>; 2],
}

impl Held {
    /// Nothing yet.
    #[must_use]
    pub fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            names: Default::default(),
        }
    }

    fn of(&mut self, kind: Kind) -> &mut BTreeMap<String, (String, bool)> {
        let [addresses, authorizations] = &mut self.names;
        match kind {
            Kind::Address => addresses,
            Kind::Authorization => authorizations,
        }
    }

    /// Names and versions to resume with.
    pub fn open_stream(&mut self, kind: Kind, most_bytes: usize) -> Vec<(String, String)> {
        let mut left = most_bytes;
        let mut listed = Vec::new();
        for (name, (version, seen)) in self.of(kind) {
            let bytes = name.len() + version.len() + 16;
            *seen = left >= bytes;
            if *seen {
                left -= bytes;
                listed.push((name.clone(), version.clone()));
            }
        }
        listed
    }

    /// Takes a resource.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn upsert(&mut self, kind: Kind, resource: discovery::Resource) -> Result<(), Rejected> {
        if resource.resource.is_none() {
            return Err(Rejected {
                name: resource.name,
                reason: "resource: missing".to_owned(),
            });
        }
        self.of(kind).insert(resource.name, (resource.version, true));
        Ok(())
    }

    /// Forgets a resource.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        self.of(kind).remove(name);
    }

    /// A response is complete.
    pub fn finish(&mut self, _kind: Kind) {
        self.publisher.publish(Builder::new().build());
    }

    /// Drops what was not seen on this stream.
    pub fn sweep(&mut self, kind: Kind) -> usize {
        let held = self.of(kind);
        let before = held.len();
        held.retain(|_, (_, seen)| *seen);
        before - held.len()
    }

    /// How many workloads, services and policies.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        let [addresses, authorizations] = &self.names;
        [addresses.len(), 0, authorizations.len()]
    }
}
