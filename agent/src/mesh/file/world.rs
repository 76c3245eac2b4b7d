//! The file as a whole: every entry converted, checked against the others, and put into a snapshot.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use serde_saphyr::Location;

use super::convert;
use super::field::Extent;
use super::problem::{Problem, claim, contradiction, fault};
use super::schema::{At, GatewayEntry, PolicyEntry, Root, ServiceEntry, WorkloadEntry};
use crate::identity::SpiffeId;
use crate::mesh::HBONE_PORT;
use crate::mesh::address::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceKey};
use crate::mesh::builder::Builder;
use crate::mesh::service::{Service, Vip};
use crate::mesh::snapshot::Snapshot;
use crate::mesh::workload::{
    DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Membership, NetworkMode, Protocol, Workload,
};

/// Makes a snapshot of a file that was read.
pub(super) fn build(root: Root) -> Result<Snapshot, Problem> {
    let mut world = World::new(root.trust_domain.as_ref(), root.networks)?;
    for entry in root.policies {
        world.add_policy(entry)?;
    }
    for entry in root.services {
        world.add_service(entry)?;
    }
    for entry in root.gateways {
        world.add_gateway(&entry.value)?;
    }
    for entry in root.workloads {
        world.add_workload(entry)?;
    }
    Ok(world.finish())
}

/// What was taken over so far, and where it stood.
struct World {
    builder: Builder,
    trust_domain: Arc<str>,
    /// All networks there are, where the file lists them.
    networks: Option<BTreeSet<String>>,
    services: HashMap<ServiceKey, (Service, Location)>,
    vips: HashMap<Vip, Location>,
    policies: HashMap<Arc<str>, Location>,
    uids: HashMap<Arc<str>, Location>,
    addresses: HashMap<(Arc<str>, IpAddr), Location>,
    gateways: HashMap<(Arc<str>, IpAddr, u16), Location>,
    gateway_identities: HashMap<(Arc<str>, IpAddr), (Option<SpiffeId>, Location)>,
    /// Networks that have a workload.
    populated: BTreeSet<Arc<str>>,
    /// Who answers for a service in a tunnel.
    identities: HashMap<ServiceKey, BTreeSet<SpiffeId>>,
}

impl World {
    fn new(trust_domain: Option<&At<String>>, networks: Option<Vec<String>>) -> Result<Self, Problem> {
        let trust_domain = match trust_domain.filter(|given| !given.value.is_empty()) {
            None => DEFAULT_TRUST_DOMAIN.into(),
            Some(given) => {
                let named = SpiffeId::new(&given.value, "any", "any");
                named.map_err(|error| fault(given.referenced, error.to_string()))?;
                given.value.as_str().into()
            }
        };
        Ok(Self {
            builder: Builder::new(),
            trust_domain,
            networks: networks.map(|networks| networks.into_iter().collect()),
            services: HashMap::new(),
            vips: HashMap::new(),
            policies: HashMap::new(),
            uids: HashMap::new(),
            addresses: HashMap::new(),
            gateways: HashMap::new(),
            gateway_identities: HashMap::new(),
            populated: BTreeSet::new(),
            identities: HashMap::new(),
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
        let uid = format!("NetworkGateway/{network}/{ip}/{port}");
        let mut workload = Workload::new(&uid, &entry.namespace.value, &uid);
        workload.addresses = vec![ip];
        workload.network = Arc::clone(&network);
        workload.service_account = entry.service_account.value.as_str().into();
        workload.trust_domain = self.trust_domain(entry.trust_domain.as_ref().map(|given| given.value.as_str()));
        check_identity(&workload, entry.namespace.referenced)?;
        self.add_gateway_workload(workload, ip, location)?;
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
    fn add_gateway_workload(&mut self, workload: Workload, ip: IpAddr, location: Location) -> Result<(), Problem> {
        let address = (Arc::clone(&workload.network), ip);
        if let Some((identity, other)) = self.gateway_identities.get(&address) {
            if *identity == workload.identity() {
                return Ok(());
            }
            let text = format!(
                "gateway {ip} of network {:?} is given another identity",
                workload.network
            );
            return Err(contradiction(location, text, *other));
        }
        self.gateway_identities
            .insert(address.clone(), (workload.identity(), location));
        self.uids.insert(Arc::clone(&workload.uid), location);
        self.addresses.insert(address, location);
        self.builder.add_workload(workload);
        Ok(())
    }

    fn add_workload(&mut self, entry: At<WorkloadEntry>) -> Result<(), Problem> {
        let start = entry.referenced;
        let addresses: Vec<_> = entry
            .value
            .workload_ips
            .iter()
            .map(|ip| (ip.value.0.0, ip.referenced))
            .collect();
        let uid_location = entry.value.uid.as_ref().map(|uid| uid.referenced);
        let workload = self.workload(entry.value, start)?;
        let namespaced = format!("workload {}/{}", workload.namespace, workload.name);
        claim_at(&mut self.uids, Arc::clone(&workload.uid), uid_location, start, || {
            format!("{namespaced}: uid {:?} is given twice", workload.uid)
        })?;
        if workload.network_mode == NetworkMode::Standard {
            for (ip, location) in addresses {
                claim(
                    &mut self.addresses,
                    (Arc::clone(&workload.network), ip),
                    location,
                    || {
                        let network = &workload.network;
                        format!("{namespaced}: address {ip} of network {network:?} is given twice")
                    },
                )?;
            }
        }
        self.populated.insert(Arc::clone(&workload.network));
        if workload.protocol == Protocol::Hbone
            && let Some(id) = workload.identity()
        {
            for membership in &workload.services {
                self.identities
                    .entry(membership.service.clone())
                    .or_default()
                    .insert(id.clone());
            }
        }
        self.builder.add_workload(workload);
        Ok(())
    }

    fn workload(&self, entry: WorkloadEntry, start: Location) -> Result<Workload, Problem> {
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
        let workload = Workload {
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
            node: entry.node.into(),
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
            locality: crate::mesh::workload::Locality {
                region: entry.locality.region.into(),
                zone: entry.locality.zone.into(),
                subzone: entry.locality.subzone.into(),
            },
            network_mode: convert::network_mode(entry.network_mode),
            capacity: entry.capacity.map_or(1, |capacity| capacity.0.0),
        };
        check_identity(&workload, entry.namespace.referenced)?;
        Ok(workload)
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
            if memberships.iter().any(|membership| membership.service == *service) {
                return Err(fault(key.referenced, format!("service {service} is given twice")));
            }
            memberships.push(Membership {
                service: service.clone(),
                ports: convert::ports(ports)?,
            });
        }
        Ok(memberships)
    }

    /// Puts the services in, now that it is known who serves them.
    fn finish(mut self) -> Snapshot {
        // Within one network an endpoint's own identity is expected, which is narrower.
        let crosses = self.populated.len() > 1;
        for (key, (mut service, _)) in self.services {
            if crosses && service.subject_alt_names.is_empty() {
                let ids = self.identities.remove(&key).unwrap_or_default();
                service.subject_alt_names = ids.into_iter().collect();
            }
            self.builder.add_service(service);
        }
        self.builder.build()
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

/// The uid given, or one made up as a pod's.
fn uid(entry: &WorkloadEntry, start: Location) -> Result<Arc<str>, Problem> {
    if let Some(uid) = entry.uid.as_ref().filter(|uid| !uid.value.is_empty()) {
        return Ok(uid.value.as_str().into());
    }
    if entry.name.is_empty() {
        return Err(Problem {
            extent: Extent::Whole,
            ..fault(start, "a workload needs a `uid` or a `name`".to_owned())
        });
    }
    // Pods of two clusters may share namespace and name; so they differ at least by network.
    let cluster = entry.cluster_id.as_deref().filter(|cluster| !cluster.is_empty());
    let network = entry
        .network
        .as_ref()
        .map(|network| network.value.as_str())
        .filter(|network| !network.is_empty());
    let cluster = cluster.or(network).unwrap_or(DEFAULT_CLUSTER);
    Ok(format!("{cluster}//Pod/{}/{}", entry.namespace.value, entry.name).into())
}

fn check_identity(workload: &Workload, location: Location) -> Result<(), Problem> {
    SpiffeId::new(&workload.trust_domain, &workload.namespace, &workload.service_account)
        .map(|_| ())
        .map_err(|error| fault(location, format!("no identity can be made of this entry: {error}")))
}

/// [`claim`] for something that may have been made up for the entry that begins at `start`.
fn claim_at<K: Eq + Hash>(
    seen: &mut HashMap<K, Location>,
    key: K,
    location: Option<Location>,
    start: Location,
    text: impl FnOnce() -> String,
) -> Result<(), Problem> {
    claim(seen, key, location.unwrap_or(start), text).map_err(|problem| Problem {
        extent: if location.is_none() {
            Extent::Whole
        } else {
            problem.extent
        },
        ..problem
    })
}
