//! Collecting objects into a snapshot.
//!
//! A source keeps one builder for as long as it lives, applies what it learns and builds after every batch: objects are
//! shared between the snapshots that hold them, only the indexes are made anew. Everything is kept in the order of its
//! key, so that the same objects make the same snapshot whatever the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::address::{GatewayAddress, ServiceKey};
use super::policy::{self, Policy};
use super::service::{HealthPolicy, Service};
use super::snapshot::{Endpoint, Indexed, Snapshot, VipTable};
use super::workload::{Health, NetworkMode, Workload};

/// Workloads, services, policies and gateways on their way into a [`Snapshot`].
#[derive(Debug, Clone, Default)]
pub struct Builder {
    workloads: BTreeMap<Arc<str>, Arc<Workload>>,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    policies: BTreeMap<Arc<str>, Arc<Policy>>,
    gateways: BTreeMap<Arc<str>, Vec<GatewayAddress>>,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a workload, or replaces the one of the same uid.
    pub fn add_workload(&mut self, workload: Workload) {
        self.workloads.insert(Arc::clone(&workload.uid), Arc::new(workload));
    }

    /// Forgets a workload. Says whether there was one.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        self.workloads.remove(uid).is_some()
    }

    /// Adds a service, or replaces the one of the same namespace and host name.
    pub fn add_service(&mut self, service: Service) {
        self.services.insert(service.key.clone(), Arc::new(service));
    }

    /// Forgets a service. Says whether there was one.
    pub fn remove_service(&mut self, key: &ServiceKey) -> bool {
        self.services.remove(key).is_some()
    }

    /// Adds a policy, or replaces the one of the same namespace and name.
    pub fn add_policy(&mut self, policy: Policy) {
        self.policies.insert(policy.key(), Arc::new(policy));
    }

    /// Forgets a policy by its key `NAMESPACE/NAME`. Says whether there was one.
    pub fn remove_policy(&mut self, key: &str) -> bool {
        self.policies.remove(key).is_some()
    }

    /// Adds a gateway of a network, for workloads there that name none.
    pub fn add_gateway(&mut self, network: &Arc<str>, gateway: GatewayAddress) {
        self.gateways.entry(Arc::clone(network)).or_default().push(gateway);
    }

    /// Indexes what is there.
    pub fn build(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            workloads: self.workloads.len(),
            gateways: self
                .gateways
                .iter()
                .map(|(network, gateways)| (Arc::clone(network), gateways.clone()))
                .collect(),
            ..Snapshot::empty()
        };
        for service in self.services.values() {
            index_service(&mut snapshot, service);
        }
        for table in snapshot.vips.values_mut() {
            // The longest prefix first; the rest of the order depends on who asks.
            table
                .ranges
                .sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
        }
        for workload in self.workloads.values() {
            index_workload(&mut snapshot, workload);
        }
        for (key, policy) in &self.policies {
            index_policy(&mut snapshot, key, policy);
        }
        snapshot
    }
}

fn index_service(snapshot: &mut Snapshot, service: &Arc<Service>) {
    let key = &service.key;
    let entry = Indexed {
        service: Arc::clone(service),
        endpoints: Vec::new(),
    };
    let namespace = snapshot.services.entry(Arc::clone(&key.namespace)).or_default();
    namespace.insert(Arc::clone(&key.hostname), entry);
    snapshot
        .hostnames
        .entry(Arc::clone(&key.hostname))
        .or_default()
        .push(Arc::clone(service));
    for vip in &service.vips {
        let table: &mut VipTable = snapshot.vips.entry(Arc::clone(&vip.network)).or_default();
        match vip.single() {
            Some(ip) => table
                .exact
                .entry(ip.to_canonical())
                .or_default()
                .push(Arc::clone(service)),
            None => table.ranges.push((vip.range, Arc::clone(service))),
        }
    }
}

fn index_workload(snapshot: &mut Snapshot, workload: &Arc<Workload>) {
    if workload.network_mode == NetworkMode::Standard {
        let table = snapshot.addresses.entry(Arc::clone(&workload.network)).or_default();
        for ip in &workload.addresses {
            index_address(table, ip.to_canonical(), workload);
        }
    }
    let pods = snapshot.pods.entry(Arc::clone(&workload.namespace)).or_default();
    pods.entry(Arc::clone(&workload.name))
        .or_default()
        .push(Arc::clone(workload));
    if !workload.hostname.is_empty() {
        let key = (Arc::clone(&workload.namespace), Arc::clone(&workload.hostname));
        snapshot.named.entry(key).or_insert_with(|| Arc::clone(workload));
    }
    for membership in &workload.services {
        let key = &membership.service;
        let Some(entry) = snapshot
            .services
            .get_mut(&key.namespace)
            .and_then(|names| names.get_mut(&key.hostname))
        else {
            continue;
        };
        let usable =
            workload.status == Health::Healthy || entry.service.load_balancing.health == HealthPolicy::AllowAll;
        if usable {
            entry.endpoints.push(Endpoint {
                workload: Arc::clone(workload),
                ports: membership.ports.clone(),
            });
        }
    }
}

/// An address shared by several workloads is a pod's, then a tunnelled one's, then the first one's (wire-facts §5).
fn index_address(table: &mut HashMap<IpAddr, Arc<Workload>>, ip: IpAddr, workload: &Arc<Workload>) {
    let rank = |workload: &Workload| (workload.is_pod(), workload.protocol == super::workload::Protocol::Hbone);
    table
        .entry(ip)
        .and_modify(|held| {
            if rank(workload) > rank(held) {
                *held = Arc::clone(workload);
            }
        })
        .or_insert_with(|| Arc::clone(workload));
}

fn index_policy(snapshot: &mut Snapshot, key: &Arc<str>, policy: &Arc<Policy>) {
    snapshot.policies.insert(Arc::clone(key), Arc::clone(policy));
    match policy.scope {
        policy::Scope::Global => snapshot.global_policies.push(Arc::clone(policy)),
        policy::Scope::Namespace => {
            let namespace = snapshot
                .namespace_policies
                .entry(Arc::clone(&policy.namespace))
                .or_default();
            namespace.push(Arc::clone(policy));
        }
        policy::Scope::WorkloadSelector => {}
    }
}
