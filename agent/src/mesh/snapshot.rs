//! The indexed whole that decisions are made on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{GatewayAddress, GatewayDestination, ServiceKey};
use super::policy::Policy;
use super::service::Service;
use super::workload::{Ports, Workload};

/// Something for each name.
pub(super) type Named<T> = HashMap<Arc<str>, T>;

/// Everything known of the mesh at one moment. Made by a [`Builder`](super::Builder), never changed.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(super) workloads: usize,
    /// Network, then address.
    pub(super) addresses: Named<HashMap<IpAddr, Arc<Workload>>>,
    /// Namespace, then name.
    pub(super) pods: Named<Named<Vec<Arc<Workload>>>>,
    /// Namespace and host name of workloads that have one.
    pub(super) named: HashMap<(Arc<str>, Arc<str>), Arc<Workload>>,
    /// Namespace, then host name.
    pub(super) services: Named<Named<Indexed>>,
    /// Host name alone.
    pub(super) hostnames: Named<Vec<Arc<Service>>>,
    /// Network.
    pub(super) vips: Named<VipTable>,
    /// `NAMESPACE/NAME`.
    pub(super) policies: Named<Arc<Policy>>,
    pub(super) namespace_policies: Named<Vec<Arc<Policy>>>,
    pub(super) global_policies: Vec<Arc<Policy>>,
    /// Network.
    pub(super) gateways: Named<Vec<GatewayAddress>>,
}

/// A service and who serves it.
#[derive(Debug)]
pub(super) struct Indexed {
    pub(super) service: Arc<Service>,
    /// Without those whose health rules them out.
    pub(super) endpoints: Vec<Endpoint>,
}

/// A workload as endpoint of one service.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The service's ports on it.
    pub ports: Ports,
}

/// What the address of a waypoint or network gateway turned out to be.
#[derive(Debug, Clone)]
pub enum GatewayTarget {
    /// One workload.
    Workload(Arc<Workload>),
    /// A service, any endpoint of which will do.
    Service(Arc<Service>),
}

/// The virtual addresses of one network.
#[derive(Debug, Default)]
pub(super) struct VipTable {
    pub(super) exact: HashMap<IpAddr, Vec<Arc<Service>>>,
    /// Longest prefix first.
    pub(super) ranges: Vec<(IpNet, Arc<Service>)>,
}

impl Snapshot {
    /// A mesh without anything.
    pub fn empty() -> Self {
        Self::default()
    }

    /// How many workloads, services and policies there are.
    pub fn sizes(&self) -> [usize; 3] {
        let services = self.services.values().map(HashMap::len).sum();
        [self.workloads, services, self.policies.len()]
    }

    /// The workload of a pod, by its name and, where that is known, its service account.
    ///
    /// Several workloads may bear one name: the first one made from a pod is taken. Where pods of two networks do, ask
    /// [`Snapshot::workload_of_pod_in`].
    pub fn workload_of_pod(&self, namespace: &str, name: &str, service_account: Option<&str>) -> Option<Arc<Workload>> {
        self.pod(None, namespace, name, service_account)
    }

    /// The same within one network, which a mesh file of several needs: its networks may use a name each.
    pub fn workload_of_pod_in(
        &self,
        network: &str,
        namespace: &str,
        name: &str,
        service_account: Option<&str>,
    ) -> Option<Arc<Workload>> {
        self.pod(Some(network), namespace, name, service_account)
    }

    fn pod(
        &self,
        network: Option<&str>,
        namespace: &str,
        name: &str,
        service_account: Option<&str>,
    ) -> Option<Arc<Workload>> {
        let named = self.pods.get(namespace)?.get(name)?;
        let fits = |workload: &&Arc<Workload>| {
            service_account.is_none_or(|account| *workload.service_account == *account)
                && network.is_none_or(|network| *workload.network == *network)
                && !workload.is_network_gateway()
        };
        let pod = named.iter().filter(fits).find(|workload| workload.is_pod());
        pod.or_else(|| named.iter().find(fits)).map(Arc::clone)
    }

    /// The workload that has an address of its own in a network.
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<Arc<Workload>> {
        self.addresses.get(network)?.get(&ip.to_canonical()).map(Arc::clone)
    }

    /// A workload that has this address in another network. Gateways do not count: they are there to be reached.
    pub fn workload_elsewhere(&self, network: &str, ip: IpAddr) -> Option<Arc<Workload>> {
        let ip = ip.to_canonical();
        self.addresses
            .iter()
            .filter(|(other, _)| ***other != *network)
            .filter_map(|(_, table)| table.get(&ip))
            .filter(|workload| !workload.is_network_gateway())
            // Hash order is not the same in two runs; an answer should be.
            .min_by_key(|workload| &workload.uid)
            .map(Arc::clone)
    }

    /// The workload of a namespace that has this host name.
    pub fn workload_named(&self, key: &ServiceKey) -> Option<Arc<Workload>> {
        self.named
            .get(&(Arc::clone(&key.namespace), Arc::clone(&key.hostname)))
            .map(Arc::clone)
    }

    /// The service whose own virtual address this is, as a client of a namespace sees it: of several, one in its
    /// namespace, then a canonical one, then the first (wire-facts §5).
    pub fn service_at_address(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        let services = self.vips.get(network)?.exact.get(&ip.to_canonical())?;
        prefer(services, client_namespace)
    }

    /// The service within whose range of virtual addresses this one lies: of several, one in the client's namespace,
    /// then that of the longest prefix, then a canonical one (wire-facts §5).
    pub fn service_of_range(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        let ip = ip.to_canonical();
        let table = self.vips.get(network)?;
        let matching = table
            .ranges
            .iter()
            .filter(|(range, service)| range.contains(&ip) && service.visible_to(client_namespace));
        let rank = |range: &IpNet, service: &Service| {
            (
                *service.key.namespace == *client_namespace,
                range.prefix_len(),
                service.canonical,
            )
        };
        // The first of equals stays, hence a strict comparison.
        let mut best: Option<&(IpNet, Arc<Service>)> = None;
        for candidate in matching {
            if best.is_none_or(|held| rank(&candidate.0, &candidate.1) > rank(&held.0, &held.1)) {
                best = Some(candidate);
            }
        }
        best.map(|(_, service)| Arc::clone(service))
    }

    /// The service of a virtual address, by itself or as part of a range.
    pub fn service_at(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        self.service_at_address(network, ip, client_namespace)
            .or_else(|| self.service_of_range(network, ip, client_namespace))
    }

    /// The service of this namespace and host name.
    pub fn service_named(&self, namespace: &str, hostname: &str) -> Option<Arc<Service>> {
        self.indexed(namespace, hostname)
            .map(|entry| Arc::clone(&entry.service))
    }

    /// All services of a host name, whatever their namespace, in the order of that.
    pub fn services_of_hostname(&self, hostname: &str) -> &[Arc<Service>] {
        self.hostnames.get(hostname).map(Vec::as_slice).unwrap_or_default()
    }

    /// The endpoints of a service that its health policy admits, in the order of their uid.
    pub fn endpoints(&self, key: &ServiceKey) -> &[Endpoint] {
        self.indexed(&key.namespace, &key.hostname)
            .map(|entry| entry.endpoints.as_slice())
            .unwrap_or_default()
    }

    /// The policy of a key `NAMESPACE/NAME`.
    pub fn policy(&self, key: &str) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// All policies in force for a workload: its namespace's, the global ones, and those which select it (wire-facts
    /// §6.1). A reference to a policy that is not there yet is passed over.
    pub fn policies_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Arc<Policy>> + Clone {
        let namespace = self
            .namespace_policies
            .get(&workload.namespace)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let selecting = workload
            .authorization_policies
            .iter()
            .filter_map(|key| self.policies.get(key));
        namespace.iter().chain(&self.global_policies).chain(selecting)
    }

    /// Gateways of a network, for workloads there that name none themselves.
    pub fn gateways(&self, network: &str) -> &[GatewayAddress] {
        self.gateways.get(network).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whom the address of a waypoint or network gateway means: by address a workload or else a service, by name a
    /// service or else a workload (wire-facts §4.1). `client_namespace` decides which services are seen.
    pub fn find_gateway(&self, gateway: &GatewayAddress, client_namespace: &str) -> Option<GatewayTarget> {
        match &gateway.destination {
            GatewayDestination::Address(address) => {
                let workload = self
                    .workload_at(&address.network, address.ip)
                    .map(GatewayTarget::Workload);
                let service = || self.service_at(&address.network, address.ip, client_namespace);
                workload.or_else(|| service().map(GatewayTarget::Service))
            }
            GatewayDestination::Hostname(key) => {
                let service = self
                    .service_named(&key.namespace, &key.hostname)
                    .map(GatewayTarget::Service);
                service.or_else(|| self.workload_named(key).map(GatewayTarget::Workload))
            }
        }
    }

    /// All services whose own virtual address this is, whoever may see them.
    pub fn services_claiming(&self, network: &str, ip: IpAddr) -> &[Arc<Service>] {
        let services = self
            .vips
            .get(network)
            .and_then(|table| table.exact.get(&ip.to_canonical()));
        services.map(Vec::as_slice).unwrap_or_default()
    }

    fn indexed(&self, namespace: &str, hostname: &str) -> Option<&Indexed> {
        self.services.get(namespace)?.get(hostname)
    }
}

/// Of the services a client may see: one in its namespace, then a canonical one, then the first.
pub(super) fn prefer(services: &[Arc<Service>], client_namespace: &str) -> Option<Arc<Service>> {
    let visible = || services.iter().filter(|service| service.visible_to(client_namespace));
    visible()
        .find(|service| *service.key.namespace == *client_namespace)
        .or_else(|| visible().find(|service| service.canonical))
        .or_else(|| visible().next())
        .map(Arc::clone)
}

#[cfg(test)]
mod tests;
