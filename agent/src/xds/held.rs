//! Everything istiod told, and in which versions: applies resources, and knows what to resume with and what has gone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use isthmus_istio::discovery;

use super::decode::{self, Entry, Mistake, service_key};
use super::kind::{Kind, Rejected};
use super::versions::Versions;
use crate::mesh::{Builder, Draft, Publisher, Service, Snapshot};

/// Most workloads, services and policies: several times the largest mesh there is. Each takes memory here.
const MOST: usize = 4_000_000;
/// Bytes of the shortest entry of a request worth looking for.
const LEAST_ENTRY: usize = 16;

/// Everything istiod told. Changes are published once a response, by [`Held::finish`], from [`Held::release`] on.
///
/// A resource that cannot be taken leaves the one held under its name as it is. Where none is held and it is a policy, a
/// stricter one stands in for it ([`decode::stand_in`]), so that nobody is let in because a policy could not be read.
#[derive(Debug)]
pub struct Held {
    builder: Builder,
    publisher: Publisher,
    told: Names,
    changed: bool,
    /// Until it is whole: workloads without the policies that hold for them would let everybody in.
    withheld: bool,
}

/// Names and versions of all that is held. The names of workloads and services are those of the objects.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// By the builder's numbers.
    pub(super) workloads: Versions,
    /// By the builder's numbers.
    pub(super) services: Versions,
    pub(super) policies: BTreeMap<Arc<str>, Noted>,
}

/// A policy's version, and when it was heard of.
#[derive(Debug, Clone, Default)]
pub(super) struct Noted {
    pub(super) version: Box<str>,
    seen: bool,
    fresh: bool,
}

impl Held {
    /// Nothing yet; what comes is published through `publisher`.
    #[must_use]
    pub fn new(publisher: Publisher) -> Self {
        Self {
            builder: Builder::new(),
            publisher,
            told: Names::default(),
            changed: false,
            withheld: true,
        }
    }

    /// A new stream begins. Gives the names and versions to resume with, as many as fit into `most_bytes` of an encoded
    /// request; these count as seen on it, because istiod will say if one of them is no more.
    pub fn open_stream(&mut self, kind: Kind, most_bytes: usize) -> Vec<(String, String)> {
        let mut list = List {
            left: most_bytes,
            entries: Vec::new(),
        };
        let Self { builder, told, .. } = self;
        match kind {
            Kind::Address => {
                told.services.unsee();
                told.workloads.unsee();
                for (slot, service) in builder.mesh().numbered_services() {
                    if told.services.is_held(slot) && list.add(&service.key, || told.services.version(slot)) {
                        told.services.see(slot);
                    }
                }
                for (slot, workload) in builder.mesh().numbered_workloads() {
                    if told.workloads.is_held(slot) && list.add(&workload.uid(), || told.workloads.version(slot)) {
                        told.workloads.see(slot);
                    }
                }
            }
            Kind::Authorization => {
                for (name, noted) in &mut told.policies {
                    noted.fresh = false;
                    noted.seen = list.add(name, || noted.version.to_string());
                }
            }
        }
        list.entries
    }

    /// Takes a resource, in place of the one of the same name. It counts as seen on this stream, taken or not.
    ///
    /// # Errors
    /// When it is not understood or too much.
    pub fn upsert(&mut self, kind: Kind, resource: discovery::Resource) -> Result<(), Rejected> {
        let discovery::Resource {
            name,
            version,
            resource,
            ..
        } = resource;
        let taken = match &resource {
            None => Err(Mistake::whole("resource: missing")),
            Some(any) if any.type_url != kind.url() => Err(Mistake::whole(format!(
                "resource.type_url: {:?} is not {}",
                any.type_url,
                kind.url()
            ))),
            Some(any) => self.take(kind, Some(&name), &version, &any.value),
        };
        let Err(mistake) = taken else { return Ok(()) };
        self.refuse(kind, &name, resource.map(|any| any.value).unwrap_or_default().as_ref());
        Err(Rejected {
            name,
            reason: mistake.to_string(),
        })
    }

    /// Forgets a resource, unless it came in the same response: there removals come first (wire-facts §1.7).
    pub fn remove(&mut self, kind: Kind, name: &str) {
        let told = &self.told;
        match kind {
            Kind::Authorization => {
                if told.policies.get(name).is_some_and(|noted| !noted.fresh) {
                    self.forget_policy(name);
                }
            }
            Kind::Address => match self.workload(name) {
                Some(slot) => {
                    if !told.workloads.is_fresh(slot) {
                        self.forget_workload(slot);
                    }
                }
                None => match self.service(name) {
                    Some(slot) if !told.services.is_fresh(slot) => self.forget_service(slot),
                    Some(_) => {}
                    None => tracing::debug!(name, "istiod removes an address that is not held"),
                },
            },
        }
    }

    /// A response is complete: publishes what there is now, if anything changed.
    pub fn finish(&mut self, kind: Kind) {
        match kind {
            Kind::Address => {
                self.told.workloads.settle();
                self.told.services.settle();
            }
            Kind::Authorization => self.told.policies.values_mut().for_each(|noted| noted.fresh = false),
        }
        self.publish();
    }

    /// Drops and publishes what was not seen on this stream, and says how much that was.
    pub fn sweep(&mut self, kind: Kind) -> usize {
        let dropped = match kind {
            Kind::Address => {
                let (workloads, services) = (self.told.workloads.unseen(), self.told.services.unseen());
                workloads.iter().for_each(|slot| self.forget_workload(*slot));
                services.iter().for_each(|slot| self.forget_service(*slot));
                workloads.len() + services.len()
            }
            Kind::Authorization => {
                let policies = self.told.policies.iter().filter(|(_, noted)| !noted.seen);
                let policies: Vec<_> = policies.map(|(name, _)| Arc::clone(name)).collect();
                policies.iter().for_each(|name| self.forget_policy(name));
                policies.len()
            }
        };
        self.publish();
        dropped
    }

    /// Whether a resource that is held is called so.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.workload(name).is_some() || self.service(name).is_some()
    }

    /// Whether there is anything under a name that istiod may be asked for.
    pub(super) fn has(&self, name: &str) -> bool {
        !self.builder.mesh().meant_by(name).workloads.is_empty()
    }

    /// The workloads that come with a name, and their versions.
    pub(super) fn endpoints_of(&self, name: &str) -> Vec<(String, String)> {
        let (mesh, told) = (self.builder.mesh(), &self.told.workloads);
        let slots = mesh.meant_by(name).workloads.into_iter();
        let held = slots.filter(|slot| told.is_held(*slot));
        held.filter_map(|slot| Some((mesh.workload_of_slot(slot)?.uid().to_string(), told.version(slot))))
            .collect()
    }

    /// Drops and publishes all workloads and services but those that one of `names` means, and workloads of `node`. Gives
    /// the names of what is dropped.
    pub(super) fn keep_only<'a>(&mut self, names: impl Iterator<Item = &'a str>, node: &str) -> Vec<String> {
        let mesh = self.builder.build();
        let (mut workloads, mut services) = (HashSet::new(), HashSet::new());
        for name in names {
            let meant = mesh.meant_by(name);
            workloads.extend(meant.workloads);
            services.extend(meant.services);
        }
        let mut dropped = Vec::new();
        for (slot, workload) in mesh.numbered_workloads() {
            let is_here = !node.is_empty() && *workload.locality.node == *node;
            if !is_here && !workloads.contains(&slot) && self.told.workloads.is_held(slot) {
                dropped.push(workload.uid().to_string());
                self.forget_workload(slot);
            }
        }
        for (slot, service) in mesh.numbered_services() {
            if !services.contains(&slot) && self.told.services.is_held(slot) {
                dropped.push(service.key.to_string());
                self.forget_service(slot);
            }
        }
        self.publish();
        dropped
    }

    /// How many workloads, services and policies.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        self.builder.mesh().sizes()
    }

    /// What is held, to be stored. It shares the objects with the mesh, and costs ten bytes a resource.
    #[must_use]
    pub fn contents(&self) -> Contents {
        Contents {
            mesh: self.builder.build(),
            told: self.told.clone(),
        }
    }

    /// Takes an encoded resource. `name` is what it must be called, where that was said.
    pub(super) fn take(&mut self, kind: Kind, name: Option<&str>, version: &str, bytes: &[u8]) -> Result<(), Mistake> {
        if self.sizes().iter().sum::<usize>() >= MOST {
            return Err(Mistake::whole(format!("more than {MOST} resources are not taken")));
        }
        match kind {
            Kind::Authorization => {
                let policy = decode::authorization(bytes)?;
                let key = policy.key();
                must_be_called(name, &key, "namespace and name")?;
                self.changed |= self.builder.place_policy(policy);
                self.note_policy(key, version);
            }
            Kind::Address => match decode::address(bytes)? {
                Entry::Workload(draft) => {
                    must_be_called(name, &draft.uid, "uid")?;
                    self.take_workload(*draft, version);
                }
                Entry::Service(service) => {
                    let own = service.key.to_string();
                    must_be_called(name, &own, "namespace and hostname")?;
                    self.take_service(*service, &own, version);
                }
            },
        }
        Ok(())
    }

    /// Everything that was stored has been taken.
    pub(super) fn loaded(&mut self) {
        Kind::ALL.into_iter().for_each(|kind| self.finish(kind));
        self.release();
    }

    /// Forgets everything without publishing that.
    pub(super) fn forget_all(&mut self) {
        self.builder = Builder::new();
        self.told = Names::default();
        self.changed = false;
    }

    fn take_workload(&mut self, draft: Draft, version: &str) {
        // A name is one resource: what it was before, if that was a service, has gone.
        if let Some(slot) = self.service(&draft.uid) {
            self.forget_service(slot);
        }
        let placed = self.builder.place_workload(draft);
        self.changed |= placed.changed;
        self.told.workloads.note(placed.slot, version);
    }

    fn take_service(&mut self, service: Service, name: &str, version: &str) {
        if let Some(slot) = self.workload(name) {
            self.forget_workload(slot);
        }
        let placed = self.builder.place_service(service);
        self.changed |= placed.changed;
        self.told.services.note(placed.slot, version);
    }

    fn note_policy(&mut self, key: Arc<str>, version: &str) {
        let noted = Noted {
            version: version.into(),
            seen: true,
            fresh: true,
        };
        self.told.policies.insert(key, noted);
    }

    /// istiod has a resource that cannot be taken: what is held under its name is not swept.
    fn refuse(&mut self, kind: Kind, name: &str, bytes: &[u8]) {
        match kind {
            Kind::Address => {
                if let Some(slot) = self.workload(name) {
                    self.told.workloads.see(slot);
                } else if let Some(slot) = self.service(name) {
                    self.told.services.see(slot);
                }
            }
            Kind::Authorization => match self.told.policies.get_mut(name) {
                Some(noted) => noted.seen = true,
                None => {
                    let Some(policy) = decode::stand_in(name, bytes) else {
                        return;
                    };
                    tracing::warn!(name, "a stricter policy stands in for one that cannot be read");
                    let key = policy.key();
                    self.changed |= self.builder.place_policy(policy);
                    // Without a version, so that istiod sends it again.
                    self.note_policy(key, "");
                }
            },
        }
    }

    fn workload(&self, uid: &str) -> Option<u32> {
        let slot = self.builder.workload_slot(uid)?;
        self.told.workloads.is_held(slot).then_some(slot)
    }

    fn service(&self, name: &str) -> Option<u32> {
        // Most uids have more of them.
        if name.bytes().filter(|byte| *byte == b'/').count() != 1 {
            return None;
        }
        let slot = self.builder.service_slot(&service_key(name)?)?;
        self.told.services.is_held(slot).then_some(slot)
    }

    fn forget_workload(&mut self, slot: u32) {
        self.told.workloads.forget(slot);
        self.changed |= self.builder.remove_workload_at(slot);
    }

    fn forget_service(&mut self, slot: u32) {
        self.told.services.forget(slot);
        self.changed |= self.builder.remove_service_at(slot);
    }

    fn forget_policy(&mut self, name: &str) {
        self.told.policies.remove(name);
        self.changed |= self.builder.remove_policy(name);
    }

    /// All kinds are known now: from here on what is held is published as it changes. Also what was loaded from disk is
    /// whole.
    pub fn release(&mut self) {
        // An empty mesh that is known to be empty is news as well.
        self.changed |= std::mem::take(&mut self.withheld);
        self.publish();
    }

    fn publish(&mut self) {
        if !self.withheld && std::mem::take(&mut self.changed) {
            self.publisher.publish(self.builder.build());
        }
    }
}

/// What was held at one moment, and in which versions.
#[derive(Debug, Clone)]
pub struct Contents {
    pub(super) mesh: Snapshot,
    pub(super) told: Names,
}

/// Names and versions that fit into a request.
struct List {
    left: usize,
    entries: Vec<(String, String)>,
}

impl List {
    /// Adds one, if there is room.
    fn add(&mut self, name: &impl ToString, version: impl FnOnce() -> String) -> bool {
        if self.left < LEAST_ENTRY {
            return false;
        }
        let (name, version) = (name.to_string(), version());
        let fits = self.left.checked_sub(encoded(&name, &version));
        self.left = fits.unwrap_or(self.left);
        if fits.is_some() {
            self.entries.push((name, version));
        }
        fits.is_some()
    }
}

/// Bytes of an entry of `initial_resource_versions`: two texts in a message in a field, each with its tag and length.
fn encoded(name: &str, version: &str) -> usize {
    let framed = |bytes: usize| 1 + prost::length_delimiter_len(bytes) + bytes;
    framed(framed(name.len()) + framed(version.len()))
}

fn must_be_called(name: Option<&str>, own: &str, fields: &str) -> Result<(), Mistake> {
    if name.is_none_or(|name| name == own) {
        return Ok(());
    }
    Err(Mistake::whole(format!(
        "{fields}: {own:?} is not what the resource is named"
    )))
}

#[cfg(test)]
mod tests;
