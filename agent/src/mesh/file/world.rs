//! The file as a whole: every entry converted, checked against the others, and given to a builder.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde_saphyr::Location;

use super::claim::{Claim, gateway_uid, uid};
use super::convert;
use super::field::Extent;
use super::problem::{Problem, claim, contradiction, fault, taken};
use super::schema::{At, GatewayEntry, PolicyEntry, Root, ServiceEntry, WorkloadEntry};
use crate::identity::SpiffeId;
use crate::mesh::HBONE_PORT;
use crate::mesh::address::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceKey};
use crate::mesh::builder::Builder;
use crate::mesh::draft::Draft;
use crate::mesh::service::{Service, Vip};
use crate::mesh::workload::{
    DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Locality, Membership, NetworkMode, Protocol,
};

/// What stands in a file but for its workloads, checked and taken over. Workloads come one by one after it, so that a file
/// of a hundred thousand is never held as a whole.
pub(super) struct World<'a> {
    builder: &'a mut Builder,
    trust_domain: Arc<str>,
    /// All networks there are, where the file lists them.
    networks: Option<BTreeSet<String>>,
    services: HashMap<ServiceKey, (Service, Location)>,
    vips: HashMap<Vip, Location>,
    policies: HashMap<Arc<str>, Location>,
    gateways: HashMap<(Arc<str>, IpAddr, u16), Location>,
    gateway_identities: HashMap<(Arc<str>, IpAddr), (SpiffeId, Location)>,
    /// By the builder's numbers: the workloads of this file. The others are those of the file before.
    seen: Vec<bool>,
    /// Networks that have a workload.
    populated: BTreeSet<Arc<str>>,
}

impl<'a> World<'a> {
    /// Takes over everything but workloads.
    pub(super) fn new(root: Root, builder: &'a mut Builder) -> Result<Self, Problem> {
        builder.forget_policies_and_gateways();
        let mut world = Self::empty(root.trust_domain.as_ref(), root.networks, builder)?;
        for entry in root.policies {
            world.add_policy(entry)?;
        }
        for entry in root.services {
            world.add_service(entry)?;
        }
        for entry in root.gateways {
            world.add_gateway(&entry.value)?;
        }
        Ok(world)
    }

    fn empty(
        trust_domain: Option<&At<String>>,
        networks: Option<Vec<String>>,
        builder: &'a mut Builder,
    ) -> Result<Self, Problem> {
        let trust_domain = match trust_domain.filter(|given| !given.value.is_empty()) {
            None => DEFAULT_TRUST_DOMAIN.into(),
            Some(given) => {
                let named = SpiffeId::new(&given.value, "any", "any");
                named.map_err(|error| fault(given.referenced, error.to_string()))?;
                given.value.as_str().into()
            }
        };
        Ok(Self {
            builder,
            trust_domain,
            networks: networks.map(|networks| networks.into_iter().collect()),
            services: HashMap::new(),
            vips: HashMap::new(),
            policies: HashMap::new(),
            gateways: HashMap::new(),
            gateway_identities: HashMap::new(),
            seen: Vec::new(),
            populated: BTreeSet::new(),
        })
    }

    fn add_policy(&mut self, entry: At<PolicyEntry>) -> Result<(), Problem> {
        let location = entry.value.name.referenced;
        let policy = convert::policy(entry.value)?;
        let key = policy.key();
        claim(&mut self.policies, Arc::clone(&key), location, || {
            format!("policy {key} is given twice")
        })?;
        self.builder.add_policy(policy);
        Ok(())
    }

    fn add_service(&mut self, entry: At<ServiceEntry>) -> Result<(), Problem> {
        let entry = entry.value;
        let key = ServiceKey {
            namespace: convert::check_name(&entry.namespace.value, entry.namespace.referenced)?,
            hostname: entry.hostname.value.0.0.as_str().into(),
        };
        let location = entry.hostname.referenced;
        let ranges = entry.cidr_vips.iter().map(|vip| {
            let range = Vip {
                network: vip.value.network.as_str().into(),
                range: vip.value.cidr.0.0,
            };
            (range, vip.referenced)
        });
        let vips: Vec<_> = entry
            .vips
            .iter()
            .map(|vip| (vip.value.0.clone(), vip.referenced))
            .chain(ranges)
            .collect();
        for (vip, location) in &vips {
            self.check_network(&vip.network, *location)?;
            claim(&mut self.vips, vip.clone(), *location, || {
                format!("virtual address {}/{} is given twice", vip.network, vip.range)
            })?;
        }
        if let Some((_, other)) = self.services.get(&key) {
            return Err(contradiction(location, format!("service {key} is given twice"), *other));
        }
        let service = Service {
            name: convert::check_name(&entry.name.value, entry.name.referenced)?,
            key: key.clone(),
            vips: vips.into_iter().map(|(vip, _)| vip).collect(),
            ports: convert::ports(&entry.ports)?,
            subject_alt_names: entry.subject_alt_names.into_iter().map(|name| name.0).collect(),
            waypoint: entry.waypoint.map(convert::gateway_address),
            weighted_waypoints: entry
                .weighted_waypoints
                .into_iter()
                .map(convert::weighted_waypoint)
                .collect(),
            load_balancing: convert::load_balancing(&entry.load_balancer),
            ip_families: convert::ip_families(entry.ip_families),
            canonical: entry.canonical,
            visibility: convert::visibility(entry.visibility),
        };
        self.services.insert(key, (service, location));
        Ok(())
    }

    fn add_gateway(&mut self, entry: &GatewayEntry) -> Result<(), Problem> {
        let location = entry.address.referenced;
        let network: Arc<str> = entry.network.value.as_str().into();
        self.check_network(&network, entry.network.referenced)?;
        let ip = entry.address.value.0.0;
        let port = entry.port.as_ref().map_or(HBONE_PORT, |port| port.0.0);
        claim(&mut self.gateways, (Arc::clone(&network), ip, port), location, || {
            format!("gateway {ip} port {port} of network {network:?} is given twice")
        })?;
        let uid = gateway_uid(entry);
        let draft = Draft {
            addresses: vec![ip],
            network: Arc::clone(&network),
            service_account: entry.service_account.value.as_str().into(),
            trust_domain: self.trust_domain(entry.trust_domain.as_ref().map(|given| given.value.as_str())),
            ..Draft::new(&uid, &entry.namespace.value, &uid)
        };
        let identity = identity(&draft, entry.namespace.referenced)?;
        self.add_gateway_workload(draft, identity, ip, location)?;
        let destination = GatewayDestination::Address(NetworkAddress {
            network: Arc::clone(&network),
            ip,
        });
        self.builder.add_gateway(
            &network,
            GatewayAddress {
                destination,
                hbone_port: port,
            },
        );
        Ok(())
    }

    /// A second port on the same address is the same machine, for which one workload stands.
    fn add_gateway_workload(
        &mut self,
        draft: Draft,
        identity: SpiffeId,
        ip: IpAddr,
        location: Location,
    ) -> Result<(), Problem> {
        let address = (Arc::clone(&draft.network), ip);
        if let Some((held, other)) = self.gateway_identities.get(&address) {
            if *held == identity {
                return Ok(());
            }
            let text = format!("gateway {ip} of network {:?} is given another identity", draft.network);
            return Err(contradiction(location, text, *other));
        }
        self.gateway_identities.insert(address, (identity, location));
        self.place(draft);
        Ok(())
    }

    /// Takes over one workload.
    pub(super) fn add_workload(&mut self, entry: At<WorkloadEntry>) -> Result<(), Problem> {
        let start = entry.referenced;
        let ips = entry.value.workload_ips.iter();
        let locations: Vec<_> = ips.map(|ip| (ip.value.0.0, ip.referenced)).collect();
        let uid_location = entry.value.uid.as_ref().map(|uid| uid.referenced);
        let draft = self.draft(entry.value, start)?;
        let namespaced = || format!("workload {}/{}", draft.namespace, draft.name);
        if self.is_seen(
            self.builder
                .mesh()
                .workload_slot((&*draft.uid).into())
                .map(|(slot, _)| slot),
        ) {
            let text = format!("{}: uid {:?} is given twice", namespaced(), draft.uid);
            let problem = taken(uid_location.unwrap_or(start), text, Claim::Uid(Arc::clone(&draft.uid)));
            // A uid that was made up stands for the entry as a whole.
            let extent = uid_location.map_or(Extent::Whole, |_| problem.extent);
            return Err(Problem { extent, ..problem });
        }
        if draft.network_mode == NetworkMode::Standard {
            for (at, (ip, location)) in locations.iter().enumerate() {
                let twice_here = locations.iter().take(at).find(|(other, _)| other == ip);
                if twice_here.is_none() && !self.is_address_seen(&draft.network, *ip) {
                    continue;
                }
                let network = &draft.network;
                let text = format!("{}: address {ip} of network {network:?} is given twice", namespaced());
                return Err(match twice_here {
                    Some((_, other)) => contradiction(*location, text, *other),
                    None => taken(*location, text, Claim::Address(Arc::clone(network), *ip)),
                });
            }
        }
        if !self.populated.contains(&draft.network) {
            self.populated.insert(Arc::clone(&draft.network));
        }
        self.place(draft);
        Ok(())
    }

    fn place(&mut self, draft: Draft) {
        let slot = self.builder.place_workload(draft).slot;
        let Ok(slot) = usize::try_from(slot) else { return };
        if self.seen.len() <= slot {
            self.seen.resize(slot + 1, false);
        }
        if let Some(seen) = self.seen.get_mut(slot) {
            *seen = true;
        }
    }

    fn is_seen(&self, slot: Option<u32>) -> bool {
        let slot = slot.and_then(|slot| usize::try_from(slot).ok());
        slot.and_then(|slot| self.seen.get(slot)).is_some_and(|seen| *seen)
    }

    fn is_address_seen(&self, network: &str, ip: IpAddr) -> bool {
        let mut having = self.builder.mesh().slots_having(ip);
        having.any(|(slot, workload)| *workload.network == *network && self.is_seen(Some(slot)))
    }

    fn draft(&self, entry: WorkloadEntry, start: Location) -> Result<Draft, Problem> {
        let network: Arc<str> = entry
            .network
            .as_ref()
            .map_or("", |network| network.value.as_str())
            .into();
        if let Some(given) = &entry.network {
            self.check_network(&network, given.referenced)?;
        }
        self.check_policies(&entry.authorization_policies)?;
        let uid = uid(&entry, start)?;
        let given = |text: Option<String>, default: &str| -> Arc<str> {
            text.filter(|text| !text.is_empty())
                .map_or_else(|| default.into(), Into::into)
        };
        let draft = Draft {
            uid,
            name: entry.name.into(),
            namespace: convert::check_name(&entry.namespace.value, entry.namespace.referenced)?,
            addresses: entry.workload_ips.iter().map(|ip| ip.value.0.0).collect(),
            network,
            protocol: convert::protocol(entry.protocol),
            trust_domain: self.trust_domain(entry.trust_domain.as_deref()),
            service_account: given(entry.service_account, DEFAULT_SERVICE_ACCOUNT),
            waypoint: entry.waypoint.map(convert::gateway_address),
            network_gateway: entry.network_gateway.map(convert::gateway_address),
            canonical_name: entry.canonical_name.into(),
            canonical_revision: entry.canonical_revision.into(),
            workload_name: entry.workload_name.into(),
            workload_type: given(Some(entry.workload_type), "pod"),
            native_tunnel: entry.native_tunnel,
            application_tunnel: entry.application_tunnel.as_ref().map(convert::application_tunnel),
            authorization_policies: entry
                .authorization_policies
                .iter()
                .map(|key| key.value.as_str().into())
                .collect(),
            status: convert::health(entry.status),
            cluster_id: given(entry.cluster_id, DEFAULT_CLUSTER),
            hostname: entry.hostname.map_or_else(String::new, |hostname| hostname.0.0).into(),
            services: self.memberships(&entry.services.0)?,
            locality: Locality {
                region: entry.locality.region.into(),
                zone: entry.locality.zone.into(),
                subzone: entry.locality.subzone.into(),
                node: entry.node.into(),
            },
            network_mode: convert::network_mode(entry.network_mode),
            capacity: entry.capacity.map_or(1, |capacity| capacity.0.0),
        };
        identity(&draft, entry.namespace.referenced)?;
        Ok(draft)
    }

    fn check_policies(&self, keys: &[At<String>]) -> Result<(), Problem> {
        match keys.iter().find(|key| !self.policies.contains_key(key.value.as_str())) {
            None => Ok(()),
            Some(key) => {
                let text = format!("there is no policy {:?}; expected NAMESPACE/NAME of one", key.value);
                Err(fault(key.referenced, text))
            }
        }
    }

    fn memberships(
        &self,
        entries: &[(super::schema::AtScalar<ServiceKey>, super::schema::PortsEntry)],
    ) -> Result<Vec<Membership>, Problem> {
        let mut memberships: Vec<Membership> = Vec::with_capacity(entries.len());
        for (key, ports) in entries {
            let service = &key.value.0;
            if !self.services.contains_key(service) {
                let text = format!("there is no service {service}; expected NAMESPACE/HOSTNAME of one");
                return Err(fault(key.referenced, text));
            }
            if memberships.iter().any(|membership| *membership.service == *service) {
                return Err(fault(key.referenced, format!("service {service} is given twice")));
            }
            memberships.push(Membership {
                service: Arc::new(service.clone()),
                ports: convert::ports(ports)?,
            });
        }
        Ok(memberships)
    }

    /// Puts the services in, now that it is known who serves them, and forgets what only the file before had.
    pub(super) fn finish(self) {
        let (builder, seen) = (self.builder, self.seen);
        let is_seen = |slot| usize::try_from(slot).is_ok_and(|slot: usize| seen.get(slot).is_some_and(|seen| *seen));
        builder.keep_only(is_seen, |key| self.services.contains_key(key));
        // Within one network an endpoint's own identity is expected, which is narrower.
        let crosses = self.populated.len() > 1;
        for (key, (mut service, _)) in self.services {
            if crosses && service.subject_alt_names.is_empty() {
                let members = builder
                    .mesh()
                    .members(&key)
                    .filter(|member| member.protocol == Protocol::Hbone);
                let ids: BTreeSet<SpiffeId> = members.filter_map(|member| member.identity()).collect();
                service.subject_alt_names = ids.into_iter().collect();
            }
            builder.add_service(service);
        }
    }

    fn trust_domain(&self, given: Option<&str>) -> Arc<str> {
        match given.filter(|given| !given.is_empty()) {
            Some(given) => given.into(),
            None => Arc::clone(&self.trust_domain),
        }
    }

    fn check_network(&self, network: &str, location: Location) -> Result<(), Problem> {
        match &self.networks {
            Some(known) if !known.contains(network) => {
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                let text = format!(
                    "network {network:?} is not in `networks`; expected one of {}",
                    known.join(", ")
                );
                Err(fault(location, text))
            }
            _ => Ok(()),
        }
    }
}

fn identity(draft: &Draft, location: Location) -> Result<SpiffeId, Problem> {
    SpiffeId::new(&draft.trust_domain, &draft.namespace, &draft.service_account)
        .map_err(|error| fault(location, format!("no identity can be made of this entry: {error}")))
}
