//! The indexed whole that decisions are made on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::HBONE_PORT;
use super::address::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceKey};
use super::index::Index;
use super::policy::Policy;
use super::service::{HealthPolicy, Service};
use super::slab::Slab;
use super::tag::Tagger;
use super::workload::{Health, NetworkMode, Ports, Uid, Workload};

/// Everything known of the mesh at one moment. Made by a [`Builder`](super::Builder), never changed. A clone costs a few
/// pointers, and so does a snapshot that differs from the one before in one object.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(super) tagger: Tagger,
    pub(super) workloads: Slab<Workload>,
    pub(super) workload_count: usize,
    /// Of workloads.
    pub(super) uids: Index,
    /// Of workloads with addresses of their own, by address alone: pods first, then those with tunnels, then by uid.
    pub(super) addresses: Index,
    /// Of workloads by namespace and name, in the order of their uid.
    pub(super) pods: Index,
    /// Of workloads by namespace and host name, in the order of their uid.
    pub(super) named: Index,
    pub(super) services: Slab<Served>,
    pub(super) service_count: usize,
    /// Of services by namespace and host name.
    pub(super) keys: Index,
    /// Of services by host name alone, in the order of their key.
    pub(super) hostnames: Index,
    /// Of services by single virtual addresses, in the order of their key.
    pub(super) vips: Index,
    /// Longest prefix first, then in the order of the services' keys.
    pub(super) ranges: Arc<Vec<VipRange>>,
    pub(super) policies: Arc<Policies>,
    /// By network.
    pub(super) gateways: Arc<BTreeMap<Arc<str>, Vec<GatewayAddress>>>,
    /// By network, of the workloads that stand for gateways (wire-facts §1.10).
    pub(super) announced: Arc<BTreeMap<Arc<str>, Vec<GatewayAddress>>>,
}

/// A service and who serves it. It may be named by endpoints before it is known itself.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) key: Arc<ServiceKey>,
    pub(super) service: Option<Arc<Service>>,
    /// Workloads that name it, in the order of their uid, whatever their health.
    pub(super) members: Vec<u32>,
    /// No member has more capacity. It may be more than any has now.
    pub(super) heaviest: u32,
}

/// Whoever may be an endpoint of a service, by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd<'a> {
    mesh: &'a Snapshot,
    served: &'a Served,
    service: &'a Service,
}

/// A range of virtual addresses.
#[derive(Debug, Clone)]
pub(super) struct VipRange {
    pub(super) network: Arc<str>,
    pub(super) range: IpNet,
    pub(super) service: Arc<Service>,
}

/// All policies.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    /// `NAMESPACE/NAME`.
    pub(super) by_key: BTreeMap<Arc<str>, Arc<Policy>>,
    pub(super) of_namespaces: BTreeMap<Arc<str>, Vec<Arc<Policy>>>,
    pub(super) global: Vec<Arc<Policy>>,
}

/// All policies of a snapshot, to be told from those of another: equal when no policy has come, changed or gone between
/// the two.
#[derive(Debug, Clone)]
pub struct PolicySet(Arc<Policies>);

/// A workload as endpoint of one service.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// The service's ports on it.
    pub ports: &'a Ports,
}

/// Whom a name means, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meant {
    /// Workloads, also those that serve `services`.
    pub workloads: Vec<u32>,
    /// Services, also those that are known by their endpoints alone.
    pub services: Vec<u32>,
}

/// What the address of a waypoint or network gateway turned out to be.
#[derive(Debug, Clone)]
pub enum GatewayTarget {
    /// One workload.
    Workload(Arc<Workload>),
    /// A service, any endpoint of which will do.
    Service(Arc<Service>),
}

impl Snapshot {
    /// A mesh without anything.
    pub fn empty() -> Self {
        Self::default()
    }

    /// How many workloads, services and policies there are.
    pub fn sizes(&self) -> [usize; 3] {
        [self.workload_count, self.service_count, self.policies.by_key.len()]
    }

    /// The workload of a uid.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        let (_, workload) = self.workload_slot(uid.into())?;
        Some(Arc::clone(workload))
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
        let fits = |workload: &&Arc<Workload>| {
            *workload.namespace == *namespace
                && workload.name() == name
                && service_account.is_none_or(|account| *workload.service_account == *account)
                && network.is_none_or(|network| *workload.network == *network)
                && !workload.is_network_gateway()
        };
        let tag = self.tagger.name(namespace, name);
        let mut fitting = self.workloads_of(&self.pods, tag).filter(fits);
        let pod = fitting.clone().find(|workload| workload.is_pod());
        pod.or_else(|| fitting.next()).map(Arc::clone)
    }

    /// The workload that has an address of its own in a network.
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<Arc<Workload>> {
        let mut having = self.workloads_having(ip.to_canonical());
        having.find(|workload| *workload.network == *network).map(Arc::clone)
    }

    /// A workload that has this address in another network. Gateways do not count: they are there to be reached.
    pub fn workload_elsewhere(&self, network: &str, ip: IpAddr) -> Option<Arc<Workload>> {
        self.workloads_having(ip.to_canonical())
            .filter(|workload| *workload.network != *network && !workload.is_network_gateway())
            .min_by_key(|workload| workload.uid())
            .map(Arc::clone)
    }

    /// The workload of a namespace that has this host name.
    pub fn workload_named(&self, key: &ServiceKey) -> Option<Arc<Workload>> {
        let tag = self.tagger.name(&key.namespace, &key.hostname);
        self.workloads_of(&self.named, tag)
            .find(|workload| workload.namespace == key.namespace && workload.hostname == key.hostname)
            .map(Arc::clone)
    }

    /// The service whose own virtual address this is, as a client of a namespace sees it: of several, one in its
    /// namespace, then a canonical one, then the first (wire-facts §5).
    pub fn service_at_address(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        prefer(self.services_claiming(network, ip), client_namespace)
    }

    /// The service within whose range of virtual addresses this one lies: of several, one in the client's namespace,
    /// then that of the longest prefix, then a canonical one (wire-facts §5).
    pub fn service_of_range(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        let ip = ip.to_canonical();
        let matching = self.ranges.iter().filter(|vip| {
            *vip.network == *network && vip.range.contains(&ip) && vip.service.visible_to(client_namespace)
        });
        let rank = |vip: &VipRange| {
            (
                *vip.service.key.namespace == *client_namespace,
                vip.range.prefix_len(),
                vip.service.canonical,
            )
        };
        // The first of equals stays, hence a strict comparison.
        let mut best: Option<&VipRange> = None;
        for candidate in matching {
            if best.is_none_or(|held| rank(candidate) > rank(held)) {
                best = Some(candidate);
            }
        }
        best.map(|vip| Arc::clone(&vip.service))
    }

    /// The service of a virtual address, by itself or as part of a range.
    pub fn service_at(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<Arc<Service>> {
        self.service_at_address(network, ip, client_namespace)
            .or_else(|| self.service_of_range(network, ip, client_namespace))
    }

    /// The service of this namespace and host name.
    pub fn service_named(&self, namespace: &str, hostname: &str) -> Option<Arc<Service>> {
        let (_, served) = self.service_slot(namespace, hostname)?;
        served.service.as_ref().map(Arc::clone)
    }

    /// All services of a host name, whatever their namespace, in the order of that.
    pub fn services_of_hostname<'a>(&'a self, hostname: &'a str) -> impl Iterator<Item = &'a Arc<Service>> + Clone {
        self.services_of(&self.hostnames, self.tagger.text(hostname))
            .filter(move |service| *service.key.hostname == *hostname)
    }

    /// The endpoints of a service that its health policy admits, in the order of their uid.
    pub fn endpoints<'a>(&'a self, key: &'a ServiceKey) -> impl Iterator<Item = Endpoint<'a>> + Clone {
        let crowd = self.crowd(key);
        let count = crowd.map_or(0, |crowd| crowd.len());
        (0..count).filter_map(move |at| crowd?.get(at))
    }

    /// The same endpoints by number, for who does not want to see all of them; none when the service is not known.
    pub(super) fn crowd<'a>(&'a self, key: &ServiceKey) -> Option<Crowd<'a>> {
        let (_, served) = self.service_slot(&key.namespace, &key.hostname)?;
        let service = served.service.as_ref()?;
        Some(Crowd {
            mesh: self,
            served,
            service,
        })
    }

    /// The policy of a key `NAMESPACE/NAME`.
    pub fn policy(&self, key: &str) -> Option<&Arc<Policy>> {
        self.policies.by_key.get(key)
    }

    /// All policies in force for a workload: its namespace's, the global ones, and those which select it (wire-facts
    /// §6.1). A reference to a policy that is not there yet is passed over.
    pub fn policies_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Arc<Policy>> + Clone {
        let namespace = self
            .policies
            .of_namespaces
            .get(&workload.namespace)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let selecting = workload
            .authorization_policies
            .iter()
            .filter_map(|key| self.policies.by_key.get(key));
        namespace.iter().chain(&self.policies.global).chain(selecting)
    }

    /// Gateways of a network, for workloads there that name none themselves.
    pub fn gateways(&self, network: &str) -> &[GatewayAddress] {
        self.gateways.get(network).map(Vec::as_slice).unwrap_or_default()
    }

    /// Gateways of a network which workloads stand for, whoever names them.
    pub fn announced_gateways(&self, network: &str) -> &[GatewayAddress] {
        self.announced.get(network).map(Vec::as_slice).unwrap_or_default()
    }

    /// Is there any gateway to this workload of another network? One without HBONE is none.
    pub(super) fn has_gateway(&self, workload: &Workload) -> bool {
        let network = &workload.network;
        let named = workload.network_gateway.iter();
        named
            .chain(self.gateways(network))
            .chain(self.announced_gateways(network))
            .any(|gateway| gateway.hbone_port != 0)
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

    /// All services whose own virtual address this is, whoever may see them, in the order of their key.
    pub fn services_claiming<'a>(
        &'a self,
        network: &'a str,
        ip: IpAddr,
    ) -> impl Iterator<Item = &'a Arc<Service>> + Clone {
        let ip = ip.to_canonical();
        let claims = move |service: &&Arc<Service>| {
            let mut vips = service.vips.iter();
            vips.any(|vip| *vip.network == *network && vip.single().is_some_and(|own| own.to_canonical() == ip))
        };
        self.services_of(&self.vips, self.tagger.ip(ip)).filter(claims)
    }

    /// All workloads with their numbers, in the order of these.
    pub fn numbered_workloads(&self) -> impl Iterator<Item = (u32, &Arc<Workload>)> {
        self.workloads.iter()
    }

    /// All services that are known by more than their endpoints, with their numbers, in the order of these.
    pub fn numbered_services(&self) -> impl Iterator<Item = (u32, &Arc<Service>)> {
        let services = self.services.iter();
        services.filter_map(|(slot, served)| Some((slot, served.service.as_ref()?)))
    }

    /// What tells whether policies changed.
    pub fn policy_set(&self) -> PolicySet {
        PolicySet(Arc::clone(&self.policies))
    }

    /// All policies, in the order of their keys.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.by_key.values()
    }

    /// The workload of a number.
    pub fn workload_of_slot(&self, slot: u32) -> Option<&Arc<Workload>> {
        self.workloads.get(slot)
    }

    /// The numbers of all workloads and services that istiod tells of when it is asked for a name: `NETWORK/IP`,
    /// `NAMESPACE/HOSTNAME` or the uid of a workload.
    pub fn meant_by(&self, name: &str) -> Meant {
        let mut meant = Meant::default();
        meant
            .workloads
            .extend(self.workload_slot(name.into()).map(|(slot, _)| slot));
        let Some((first, second)) = name.split_once('/') else {
            return meant;
        };
        if let Ok(ip) = second.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            let here = self
                .slots_having(ip)
                .filter(|(_, workload)| *workload.network == *first);
            meant.workloads.extend(here.map(|(slot, _)| slot));
            for service in self.services_claiming(first, ip) {
                meant.add_service(self.service_slot(&service.key.namespace, &service.key.hostname));
            }
        } else {
            meant.add_service(self.service_slot(first, second));
            let named = self.named.slots(self.tagger.name(first, second)).filter(|slot| {
                self.workloads
                    .get(*slot)
                    .is_some_and(|workload| *workload.namespace == *first && *workload.hostname == *second)
            });
            meant.workloads.extend(named);
        }
        meant
    }

    /// Number and workload of a uid.
    pub(super) fn workload_slot(&self, uid: Uid<'_>) -> Option<(u32, &Arc<Workload>)> {
        let mut slots = self.uids.slots(self.tagger.uid(uid));
        slots.find_map(|slot| Some((slot, self.workloads.get(slot).filter(|workload| workload.uid() == uid)?)))
    }

    /// Number of a service and what is known of it.
    pub(super) fn service_slot(&self, namespace: &str, hostname: &str) -> Option<(u32, &Served)> {
        let mut slots = self.keys.slots(self.tagger.name(namespace, hostname));
        let is = |served: &&Arc<Served>| *served.key.namespace == *namespace && *served.key.hostname == *hostname;
        slots.find_map(|slot| Some((slot, &**self.services.get(slot).filter(is)?)))
    }

    /// Workloads that have an address, in whatever network, and their numbers, the one to be preferred first.
    pub(super) fn slots_having(&self, ip: IpAddr) -> impl Iterator<Item = (u32, &Arc<Workload>)> + Clone {
        let slots = self.addresses.slots(self.tagger.ip(ip));
        let workloads = slots.filter_map(|slot| Some((slot, self.workloads.get(slot)?)));
        workloads.filter(move |(_, workload)| {
            workload.network_mode == NetworkMode::Standard && workload.addresses.contains(&ip)
        })
    }

    /// Workloads that name a service, whatever their health, in the order of their uid.
    pub(super) fn members(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> {
        let served = self.service_slot(&key.namespace, &key.hostname);
        let members = served.map(|(_, served)| served.members.as_slice()).unwrap_or_default();
        members.iter().filter_map(|slot| self.workloads.get(*slot))
    }

    fn workloads_having(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Workload>> + Clone {
        self.slots_having(ip).map(|(_, workload)| workload)
    }

    fn workloads_of<'a>(&'a self, index: &'a Index, tag: u32) -> impl Iterator<Item = &'a Arc<Workload>> + Clone {
        index.slots(tag).filter_map(|slot| self.workloads.get(slot))
    }

    fn services_of<'a>(&'a self, index: &'a Index, tag: u32) -> impl Iterator<Item = &'a Arc<Service>> + Clone {
        let served = index.slots(tag).filter_map(|slot| self.services.get(slot));
        served.filter_map(|served| served.service.as_ref())
    }
}

impl Meant {
    fn add_service(&mut self, found: Option<(u32, &Served)>) {
        if let Some((slot, served)) = found {
            self.services.push(slot);
            self.workloads.extend(&served.members);
        }
    }
}

impl PartialEq for PolicySet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for PolicySet {}
impl<'a> Crowd<'a> {
    /// How many workloads name the service.
    pub(super) fn len(&self) -> usize {
        self.served.members.len()
    }

    /// No endpoint has more capacity.
    pub(super) fn heaviest(&self) -> u32 {
        self.served.heaviest
    }

    /// The endpoint of a number below [`Crowd::len`], if the service's health policy admits it.
    pub(super) fn get(&self, at: usize) -> Option<Endpoint<'a>> {
        let workload = self.mesh.workloads.get(*self.served.members.get(at)?)?;
        let health = self.service.load_balancing.health;
        let admitted = workload.status == Health::Healthy || health == HealthPolicy::AllowAll;
        let ports = workload.ports_for(&self.served.key).filter(|_| admitted)?;
        Some(Endpoint { workload, ports })
    }
}

/// Where the gateway is that a workload stands for; none when it stands for none. Its uid ends with address and port, the
/// port being 0 where the source was not told (wire-facts §1.10, §4.2).
pub(super) fn gateway_of(workload: &Workload) -> Option<GatewayAddress> {
    if !workload.is_network_gateway() {
        return None;
    }
    let uid = workload.uid().to_string();
    let mut parts = uid.rsplit('/');
    let port = parts.next().and_then(|port| port.parse().ok());
    let told = parts.next().and_then(|address| address.parse::<IpAddr>().ok());
    let own = told.filter(|ip| workload.addresses.contains(ip));
    let destination = match own.or_else(|| workload.addresses.first()) {
        Some(ip) => GatewayDestination::Address(NetworkAddress {
            network: Arc::clone(&workload.network),
            ip,
        }),
        None if workload.hostname.is_empty() => return None,
        None => GatewayDestination::Hostname(ServiceKey {
            namespace: Arc::clone(&workload.namespace),
            hostname: Arc::clone(&workload.hostname),
        }),
    };
    Some(GatewayAddress {
        destination,
        hbone_port: port.filter(|port| *port != 0).unwrap_or(HBONE_PORT),
    })
}

/// Of the services a client may see: one in its namespace, then a canonical one, then the first.
pub(super) fn prefer<'a>(
    services: impl Iterator<Item = &'a Arc<Service>> + Clone,
    client_namespace: &str,
) -> Option<Arc<Service>> {
    let mut visible = services.filter(|service| service.visible_to(client_namespace));
    let own = |service: &&Arc<Service>| *service.key.namespace == *client_namespace;
    let found = visible.clone().find(own);
    found
        .or_else(|| visible.clone().find(|service| service.canonical))
        .or_else(|| visible.next())
        .map(Arc::clone)
}

#[cfg(test)]
mod tests;
