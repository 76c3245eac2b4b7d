//! Equal things kept once.
//!
//! Nearly all text of a mesh is said again and again: a namespace by every workload, a host name by every endpoint. What
//! a [`Builder`](super::Builder) takes in passes through here, so that equal texts, keys, ports and whole
//! [`Kin`](super::workload::Kin) are one allocation, in one snapshot and from one snapshot to the next. What nobody holds
//! any longer is let go of whenever there has come to be twice as much as at the last look.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use super::address::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceKey};
use super::draft::Draft;
use super::service::Service;
use super::workload::{Kin, Locality, Membership, Ports, Workload};

/// Fewest things at which it is worth looking for what nobody holds.
const FEWEST: usize = 1024;

/// What is kept once.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: Pool<str>,
    lists: Pool<[Arc<str>]>,
    keys: Pool<ServiceKey>,
    ports: Pool<[(u16, u16)]>,
    memberships: Pool<[Membership]>,
    localities: Pool<Locality>,
    kin: Pool<Kin>,
    /// How many things there may be before the next look.
    limit: usize,
}

#[derive(Debug)]
struct Pool<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(held) = self.0.get(value.borrow()) {
            return Arc::clone(held);
        }
        let value = value.into();
        self.0.insert(Arc::clone(&value));
        value
    }

    fn forget_unheld(&mut self) {
        self.0.retain(|value| Arc::strong_count(value) > 1);
        self.0.shrink_to(2 * self.0.len());
    }
}

impl Interner {
    /// The workload of a draft, sharing with others whatever is equal.
    pub(super) fn workload(&mut self, draft: Draft) -> Workload {
        let (uid_prefix, text, split) = super::workload::split_uid(&draft.uid, &draft.name);
        let text = text.into();
        let is_pod = super::workload::is_pod_uid(&draft.uid);
        let is_gateway = super::workload::is_gateway_uid(&draft.uid);
        let uid_prefix = self.text(uid_prefix.into());
        let services = draft.services.into_iter().map(|membership| self.membership(membership));
        let services: Vec<_> = services.collect();
        let policies = draft.authorization_policies.into_iter().map(|key| self.text(key));
        let policies: Vec<_> = policies.collect();
        let kin = Kin {
            uid_prefix,
            namespace: self.text(draft.namespace),
            network: self.text(draft.network),
            trust_domain: self.text(draft.trust_domain),
            service_account: self.text(draft.service_account),
            waypoint: draft.waypoint.map(|gateway| self.gateway(gateway)),
            network_gateway: draft.network_gateway.map(|gateway| self.gateway(gateway)),
            canonical_name: self.text(draft.canonical_name),
            canonical_revision: self.text(draft.canonical_revision),
            workload_name: self.text(draft.workload_name),
            workload_type: self.text(draft.workload_type),
            native_tunnel: draft.native_tunnel,
            application_tunnel: draft.application_tunnel,
            authorization_policies: self.lists.share(policies),
            cluster_id: self.text(draft.cluster_id),
            hostname: self.text(draft.hostname),
            network_mode: draft.network_mode,
            capacity: draft.capacity,
        };
        let locality = Locality {
            region: self.text(draft.locality.region),
            zone: self.text(draft.locality.zone),
            subzone: self.text(draft.locality.subzone),
            node: self.text(draft.locality.node),
        };
        Workload {
            text,
            kin: self.kin.share(kin),
            locality: self.localities.share(locality),
            services: self.memberships.share(services),
            addresses: draft.addresses.as_slice().into(),
            split,
            protocol: draft.protocol,
            status: draft.status,
            is_pod,
            is_gateway,
        }
    }

    /// The service, sharing its texts with everything else.
    pub(super) fn service(&mut self, mut service: Service) -> Service {
        service.name = self.text(service.name);
        service.key = (*self.key(&service.key)).clone();
        service.ports = self.ports(service.ports);
        for vip in &mut service.vips {
            vip.network = self.text(Arc::clone(&vip.network));
        }
        service
    }

    /// The one key equal to this.
    pub(super) fn key(&mut self, key: &ServiceKey) -> Arc<ServiceKey> {
        if let Some(held) = self.keys.0.get(key) {
            return Arc::clone(held);
        }
        let key = ServiceKey {
            namespace: self.text(Arc::clone(&key.namespace)),
            hostname: self.text(Arc::clone(&key.hostname)),
        };
        self.keys.share(key)
    }

    /// Lets go of what nobody else holds, if much has come since the last time.
    pub(super) fn tidy(&mut self) {
        if self.len() > self.limit.max(FEWEST) {
            self.forget_unheld();
            self.limit = 2 * self.len();
        }
    }

    /// Lets go of what nobody else holds: what holds others first.
    fn forget_unheld(&mut self) {
        self.kin.forget_unheld();
        self.localities.forget_unheld();
        self.memberships.forget_unheld();
        self.ports.forget_unheld();
        self.keys.forget_unheld();
        self.lists.forget_unheld();
        self.texts.forget_unheld();
    }

    pub(super) fn len(&self) -> usize {
        self.texts.0.len()
            + self.lists.0.len()
            + self.keys.0.len()
            + self.ports.0.len()
            + self.memberships.0.len()
            + self.localities.0.len()
            + self.kin.0.len()
    }

    fn text(&mut self, text: Arc<str>) -> Arc<str> {
        self.texts.share(text)
    }

    fn ports(&mut self, ports: Ports) -> Ports {
        Ports(self.ports.share(ports.0))
    }

    fn membership(&mut self, membership: Membership) -> Membership {
        Membership {
            service: self.key(&membership.service),
            ports: self.ports(membership.ports),
        }
    }

    fn gateway(&mut self, gateway: GatewayAddress) -> GatewayAddress {
        let destination = match gateway.destination {
            GatewayDestination::Address(address) => GatewayDestination::Address(NetworkAddress {
                network: self.text(address.network),
                ip: address.ip,
            }),
            GatewayDestination::Hostname(key) => GatewayDestination::Hostname((*self.key(&key)).clone()),
        };
        GatewayAddress { destination, ..gateway }
    }
}

#[cfg(test)]
mod tests;
