//! Collecting objects into a snapshot.
//!
//! A source keeps one builder for as long as it lives, applies what it learns and builds after every batch. The builder's
//! tables are those of the snapshot: building shares them, and what changes later is copied piece by piece (one chunk of
//! objects, one leaf of an index). The same objects make the same snapshot whatever the order in which they came.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use super::address::{GatewayAddress, ServiceKey};
use super::draft::Draft;
use super::interner::Interner;
use super::policy::{self, Policy};
use super::service::Service;
use super::slab::{Slab, Slots};
use super::snapshot::{self, Policies, Served, Snapshot, VipRange};
use super::workload::{NetworkMode, Protocol, Workload};

/// Workloads, services, policies and gateways on their way into a [`Snapshot`].
#[derive(Debug, Default)]
pub struct Builder {
    mesh: Snapshot,
    workload_slots: Slots,
    service_slots: Slots,
    interner: Interner,
}

/// Where an object came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its number among its like, until it is forgotten; then another may have it.
    pub slot: u32,
    /// It is not what stood there before.
    pub changed: bool,
}

/// What a builder held at one moment.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    mesh: Snapshot,
    workload_slots: Slots,
    service_slots: Slots,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a workload, or replaces the one of the same uid.
    pub fn add_workload(&mut self, draft: Draft) {
        self.place_workload(draft);
    }

    /// Forgets a workload. Says whether there was one.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        let slot = self.workload_slot(uid);
        slot.is_some_and(|slot| self.remove_workload_at(slot))
    }

    /// Adds a service, or replaces the one of the same namespace and host name.
    pub fn add_service(&mut self, service: Service) {
        self.place_service(service);
    }

    /// Adds or replaces a service and gives its number. One that is there already just as it is stays what it is.
    pub fn place_service(&mut self, service: Service) -> Placed {
        let service = self.interner.service(service);
        let key = self.interner.key(&service.key);
        let slot = self.served(&key);
        let held = self.mesh.services.get(slot).and_then(|served| served.service.as_ref());
        if held.is_some_and(|held| **held == service) {
            return Placed { slot, changed: false };
        }
        let service = Arc::new(service);
        self.withdraw_service(slot);
        let mesh = &mut self.mesh;
        if let Some(served) = mesh.services.change(slot) {
            served.service = Some(Arc::clone(&service));
        }
        mesh.service_count += 1;
        let before = |other: u32| mesh.services.get(other).is_some_and(|other| other.key < key);
        mesh.hostnames.insert(mesh.tagger.text(&key.hostname), slot, before);
        for ip in single_vips(&service) {
            mesh.vips.insert(mesh.tagger.ip(ip), slot, before);
        }
        add_ranges(&mut mesh.ranges, &service);
        self.interner.tidy();
        Placed { slot, changed: true }
    }

    /// Forgets a service. Says whether there was one.
    pub fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let slot = self.service_slot(key);
        slot.is_some_and(|slot| self.remove_service_at(slot))
    }

    /// Forgets the service of a number. Says whether there was one.
    pub fn remove_service_at(&mut self, slot: u32) -> bool {
        let known = self.withdraw_service(slot);
        self.drop_if_unused(slot);
        known
    }

    /// Adds a policy, or replaces the one of the same namespace and name.
    pub fn add_policy(&mut self, policy: Policy) {
        self.place_policy(policy);
    }

    /// The same; says whether that changed anything. One that is there already just as it is stays what it is.
    pub fn place_policy(&mut self, policy: Policy) -> bool {
        let key = policy.key();
        if self.mesh.policy(&key).is_some_and(|held| **held == policy) {
            return false;
        }
        self.remove_policy(&key);
        Arc::make_mut(&mut self.mesh.policies).add(key, policy);
        true
    }

    /// Forgets a policy by its key `NAMESPACE/NAME`. Says whether there was one.
    pub fn remove_policy(&mut self, key: &str) -> bool {
        self.mesh.policies.by_key.contains_key(key) && Arc::make_mut(&mut self.mesh.policies).remove(key)
    }

    /// Adds a gateway of a network, for workloads there that name none.
    pub fn add_gateway(&mut self, network: &Arc<str>, gateway: GatewayAddress) {
        let gateways = Arc::make_mut(&mut self.mesh.gateways);
        gateways.entry(Arc::clone(network)).or_default().push(gateway);
    }

    /// What is there, as it is now.
    pub fn build(&self) -> Snapshot {
        self.mesh.clone()
    }

    /// What is there, to be looked at.
    pub fn mesh(&self) -> &Snapshot {
        &self.mesh
    }

    /// The number of a workload.
    pub fn workload_slot(&self, uid: &str) -> Option<u32> {
        Some(self.mesh.workload_slot(uid.into())?.0)
    }

    /// The number of a service, which may be known by its endpoints alone.
    pub fn service_slot(&self, key: &ServiceKey) -> Option<u32> {
        Some(self.mesh.service_slot(&key.namespace, &key.hostname)?.0)
    }

    /// Forgets the workload of a number. Says whether there was one.
    pub fn remove_workload_at(&mut self, slot: u32) -> bool {
        let held = self.mesh.workloads.get(slot).is_some();
        self.remove_slot(slot);
        held
    }

    /// Adds or replaces a workload and gives its number. One that is there already just as it is stays what it is.
    pub fn place_workload(&mut self, draft: Draft) -> Placed {
        let workload = self.interner.workload(draft);
        let held = self.mesh.workload_slot(workload.uid());
        let (slot, changed) = match held.map(|(slot, held)| (slot, Arc::clone(held))) {
            None => {
                let slot = self.workload_slots.take();
                self.put(slot, Arc::new(workload));
                self.mesh.workload_count += 1;
                (slot, true)
            }
            Some((slot, held)) if *held == workload => (slot, false),
            Some((slot, held)) if same_place(&held, &workload) => {
                self.weigh(&workload);
                self.mesh.workloads.put(slot, Some(Arc::new(workload)));
                (slot, true)
            }
            Some((slot, held)) => {
                self.take_out(slot, &held);
                self.put(slot, Arc::new(workload));
                (slot, true)
            }
        };
        self.interner.tidy();
        Placed { slot, changed }
    }

    /// Forgets all workloads but those for whose number `stays` holds, and all services for whose key it does not.
    pub(super) fn keep_only(&mut self, stays: impl Fn(u32) -> bool, known: impl Fn(&ServiceKey) -> bool) {
        let gone: Vec<u32> = self
            .mesh
            .workloads
            .iter()
            .map(|(slot, _)| slot)
            .filter(|slot| !stays(*slot))
            .collect();
        for slot in gone {
            self.remove_slot(slot);
        }
        let services = self.mesh.services.iter().map(|(_, served)| &served.key);
        let gone: Vec<_> = services.filter(|key| !known(key)).map(Arc::clone).collect();
        for key in gone {
            self.remove_service(&key);
        }
    }

    /// Forgets policies and gateways.
    pub(super) fn forget_policies_and_gateways(&mut self) {
        self.mesh.policies = Arc::default();
        self.mesh.gateways = Arc::default();
    }

    /// What is there now, to come back to.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            mesh: self.mesh.clone(),
            workload_slots: self.workload_slots.clone(),
            service_slots: self.service_slots.clone(),
        }
    }

    /// Comes back to a checkpoint of its own.
    pub(super) fn roll_back(&mut self, to: Checkpoint) {
        self.mesh = to.mesh;
        self.workload_slots = to.workload_slots;
        self.service_slots = to.service_slots;
        self.interner.tidy();
    }

    #[cfg(test)]
    pub(super) fn interned(&self) -> usize {
        self.interner.len()
    }

    fn remove_slot(&mut self, slot: u32) {
        let Some(held) = self.mesh.workloads.get(slot).map(Arc::clone) else {
            return;
        };
        self.take_out(slot, &held);
        self.workload_slots.give_back(slot);
        self.mesh.workload_count = self.workload_slots.used();
    }

    /// Puts a workload at its number and into every index.
    fn put(&mut self, slot: u32, workload: Arc<Workload>) {
        for membership in workload.services.iter() {
            let at = self.served(&membership.service);
            let workloads = &self.mesh.workloads;
            let before = |other: &u32| uid_order(workloads, *other, &workload).is_lt();
            if let Some(served) = self.mesh.services.change(at) {
                let place = served.members.partition_point(before);
                served.members.insert(place, slot);
            }
        }
        self.weigh(&workload);
        self.announce(&workload);
        let mesh = &mut self.mesh;
        let workloads = &mesh.workloads;
        let by_uid = |other: u32| uid_order(workloads, other, &workload).is_lt();
        let by_rank = |other: u32| {
            workloads.get(other).is_some_and(|other| {
                let order = rank(&workload).cmp(&rank(other));
                order.then_with(|| other.uid().cmp(&workload.uid())).is_lt()
            })
        };
        mesh.uids.insert(mesh.tagger.uid(workload.uid()), slot, by_uid);
        let name = mesh.tagger.name(&workload.namespace, workload.name());
        mesh.pods.insert(name, slot, by_uid);
        if !workload.hostname.is_empty() {
            let hostname = mesh.tagger.name(&workload.namespace, &workload.hostname);
            mesh.named.insert(hostname, slot, by_uid);
        }
        for ip in own_addresses(&workload) {
            mesh.addresses.insert(mesh.tagger.ip(ip), slot, by_rank);
        }
        mesh.workloads.put(slot, Some(workload));
    }

    /// The reverse of [`Self::put`].
    fn take_out(&mut self, slot: u32, workload: &Workload) {
        let mesh = &mut self.mesh;
        mesh.uids.remove(mesh.tagger.uid(workload.uid()), slot);
        mesh.pods
            .remove(mesh.tagger.name(&workload.namespace, workload.name()), slot);
        if !workload.hostname.is_empty() {
            mesh.named
                .remove(mesh.tagger.name(&workload.namespace, &workload.hostname), slot);
        }
        for ip in own_addresses(workload) {
            mesh.addresses.remove(mesh.tagger.ip(ip), slot);
        }
        for membership in workload.services.iter() {
            let key = &membership.service;
            let Some((at, _)) = self.mesh.service_slot(&key.namespace, &key.hostname) else {
                continue;
            };
            if let Some(served) = self.mesh.services.change(at) {
                served.members.retain(|member| *member != slot);
            }
            self.drop_if_unused(at);
        }
        self.silence(workload);
        self.mesh.workloads.put(slot, None);
    }

    /// Lets no service of a workload have a bound below its capacity.
    fn weigh(&mut self, workload: &Workload) {
        for membership in workload.services.iter() {
            let key = &membership.service;
            let Some((at, served)) = self.mesh.service_slot(&key.namespace, &key.hostname) else {
                continue;
            };
            if served.heaviest < workload.capacity
                && let Some(served) = self.mesh.services.change(at)
            {
                served.heaviest = workload.capacity;
            }
        }
    }

    /// A workload that stands for a gateway makes it known.
    fn announce(&mut self, workload: &Workload) {
        if let Some(gateway) = snapshot::gateway_of(workload) {
            let announced = Arc::make_mut(&mut self.mesh.announced);
            let list = announced.entry(Arc::clone(&workload.network)).or_default();
            if !list.contains(&gateway) {
                list.push(gateway);
                list.sort_unstable_by_key(ToString::to_string);
            }
        }
    }

    /// The reverse of [`Self::announce`].
    fn silence(&mut self, workload: &Workload) {
        if let Some(gateway) = snapshot::gateway_of(workload) {
            let announced = Arc::make_mut(&mut self.mesh.announced);
            if let Some(list) = announced.get_mut(&workload.network) {
                list.retain(|other| *other != gateway);
                if list.is_empty() {
                    announced.remove(&workload.network);
                }
            }
        }
    }

    /// The number of a service, which is made room for if it is not known yet.
    fn served(&mut self, key: &Arc<ServiceKey>) -> u32 {
        if let Some((slot, _)) = self.mesh.service_slot(&key.namespace, &key.hostname) {
            return slot;
        }
        let slot = self.service_slots.take();
        let served = Served {
            key: Arc::clone(key),
            service: None,
            members: Vec::new(),
            heaviest: 0,
        };
        let mesh = &mut self.mesh;
        mesh.services.put(slot, Some(Arc::new(served)));
        mesh.keys
            .insert(mesh.tagger.name(&key.namespace, &key.hostname), slot, |_| true);
        slot
    }

    /// Takes a service out of every index but that of its key. Says whether it was known.
    fn withdraw_service(&mut self, slot: u32) -> bool {
        let mesh = &mut self.mesh;
        let known = mesh.services.get(slot).is_some_and(|served| served.service.is_some());
        let Some(service) = mesh
            .services
            .change(slot)
            .filter(|_| known)
            .and_then(|served| served.service.take())
        else {
            return false;
        };
        mesh.service_count = mesh.service_count.saturating_sub(1);
        mesh.hostnames.remove(mesh.tagger.text(&service.key.hostname), slot);
        for ip in single_vips(&service) {
            mesh.vips.remove(mesh.tagger.ip(ip), slot);
        }
        if mesh.ranges.iter().any(|vip| Arc::ptr_eq(&vip.service, &service)) {
            Arc::make_mut(&mut mesh.ranges).retain(|vip| !Arc::ptr_eq(&vip.service, &service));
        }
        true
    }

    fn drop_if_unused(&mut self, slot: u32) {
        let mesh = &mut self.mesh;
        let unused = |served: &&Arc<Served>| served.service.is_none() && served.members.is_empty();
        let Some(key) = mesh
            .services
            .get(slot)
            .filter(unused)
            .map(|served| Arc::clone(&served.key))
        else {
            return;
        };
        mesh.keys.remove(mesh.tagger.name(&key.namespace, &key.hostname), slot);
        mesh.services.put(slot, None);
        self.service_slots.give_back(slot);
    }
}

impl Policies {
    fn add(&mut self, key: Arc<str>, policy: Policy) {
        let policy = Arc::new(policy);
        let list = match policy.scope {
            policy::Scope::Global => Some(&mut self.global),
            policy::Scope::Namespace => Some(self.of_namespaces.entry(Arc::clone(&policy.namespace)).or_default()),
            policy::Scope::WorkloadSelector => None,
        };
        if let Some(list) = list {
            // In the order of their keys, whatever the order in which they came.
            let place = list.partition_point(|other| other.name_in_order() < policy.name_in_order());
            list.insert(place, Arc::clone(&policy));
        }
        self.by_key.insert(key, policy);
    }

    fn remove(&mut self, key: &str) -> bool {
        let Some(gone) = self.by_key.remove(key) else {
            return false;
        };
        self.global.retain(|policy| !Arc::ptr_eq(policy, &gone));
        if let Some(list) = self.of_namespaces.get_mut(&gone.namespace) {
            list.retain(|policy| !Arc::ptr_eq(policy, &gone));
            if list.is_empty() {
                self.of_namespaces.remove(&gone.namespace);
            }
        }
        true
    }
}

/// May the one take the other's place without any index being told? True where only health, ports or the like differ.
fn same_place(held: &Workload, new: &Workload) -> bool {
    held.protocol == new.protocol
        && held.name() == new.name()
        && held.namespace == new.namespace
        && held.hostname == new.hostname
        && held.addresses == new.addresses
        && held.network_mode == new.network_mode
        && Arc::ptr_eq(&held.services, &new.services)
}

/// An address shared by several workloads is a pod's, then a tunnelled one's, then the first one's (wire-facts §5).
fn rank(workload: &Workload) -> (bool, bool) {
    (workload.is_pod(), workload.protocol == Protocol::Hbone)
}

fn uid_order(workloads: &Slab<Workload>, slot: u32, than: &Workload) -> Ordering {
    workloads
        .get(slot)
        .map_or(Ordering::Greater, |workload| workload.uid().cmp(&than.uid()))
}

fn own_addresses(workload: &Workload) -> impl Iterator<Item = IpAddr> {
    let own = workload.network_mode == NetworkMode::Standard;
    workload.addresses.iter().filter(move |_| own)
}

fn single_vips(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.vips.iter().filter_map(|vip| Some(vip.single()?.to_canonical()))
}

fn add_ranges(ranges: &mut Arc<Vec<VipRange>>, service: &Arc<Service>) {
    for vip in service.vips.iter().filter(|vip| vip.single().is_none()) {
        let added = VipRange {
            network: Arc::clone(&vip.network),
            range: vip.range,
            service: Arc::clone(service),
        };
        let ranges = Arc::make_mut(ranges);
        let place = ranges.partition_point(|other| {
            let order = added.range.prefix_len().cmp(&other.range.prefix_len());
            order.then_with(|| other.service.key.cmp(&service.key)).is_lt()
        });
        ranges.insert(place, added);
    }
}

#[cfg(test)]
mod tests;
