//! Everything a snapshot holds, in order: for who shows the mesh, not for who decides on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::address::{GatewayAddress, ServiceKey};
use super::policy::Policy;
use super::service::Service;
use super::snapshot::{Endpoint, Served, Snapshot};
use super::workload::Workload;

/// How a network is entered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entrances {
    /// Gateways which its workloads name, and those of the network itself, each once.
    pub named: Vec<GatewayAddress>,
    /// Workloads that stand for its gateways, in the order of their uid.
    pub gateways: Vec<Arc<Workload>>,
}

impl Snapshot {
    /// All workloads, in the order of their uid. Sorts, which takes a tenth of a second for a hundred thousand.
    pub fn workloads_in_order(&self) -> Vec<&Arc<Workload>> {
        let mut workloads: Vec<_> = self.workloads.iter().map(|(_, workload)| workload).collect();
        workloads.sort_by(|one, other| one.uid().cmp(&other.uid()));
        workloads
    }

    /// All services that are known, in the order of host name and namespace.
    pub fn services_in_order(&self) -> Vec<&Arc<Service>> {
        let served = self.services.iter().filter_map(|(_, served)| served.service.as_ref());
        let mut services: Vec<_> = served.collect();
        services.sort_by(|one, other| {
            let by_host = one.key.hostname.cmp(&other.key.hostname);
            by_host.then_with(|| one.key.namespace.cmp(&other.key.namespace))
        });
        services
    }

    /// Services that workloads name and nobody has told of yet, in the order of their key.
    pub fn staged_services(&self) -> Vec<&ServiceKey> {
        let unknown = |served: &&Arc<Served>| served.service.is_none();
        let staged = self.services.iter().map(|(_, served)| served).filter(unknown);
        let mut keys: Vec<&ServiceKey> = staged.map(|served| &*served.key).collect();
        keys.sort_unstable();
        keys
    }

    /// All workloads that name a service, whatever their health and whether or not the service is known.
    pub fn claimants<'a>(&'a self, key: &'a ServiceKey) -> impl Iterator<Item = Endpoint<'a>> {
        self.members(key).filter_map(|workload| {
            let ports = workload.ports_for(key)?;
            Some(Endpoint { workload, ports })
        })
    }

    /// All policies, in the order of their key.
    pub fn policies_in_order(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.by_key.values()
    }

    /// The gateways of every network that has any. Looks at every workload.
    pub fn entrances(&self) -> BTreeMap<Arc<str>, Entrances> {
        let mut networks: BTreeMap<Arc<str>, Entrances> = BTreeMap::new();
        let mut seen: BTreeSet<(Arc<str>, String)> = BTreeSet::new();
        let mut name = |network: &Arc<str>, gateway: &GatewayAddress| {
            if seen.insert((Arc::clone(network), gateway.to_string())) {
                let entry = networks.entry(Arc::clone(network)).or_default();
                entry.named.push(gateway.clone());
            }
        };
        for (network, gateways) in self.gateways.iter() {
            gateways.iter().for_each(|gateway| name(network, gateway));
        }
        // Workloads of one kin share the gateway; that of the one before is looked at once.
        let mut last: Option<(&Arc<str>, &GatewayAddress)> = None;
        for (_, workload) in self.workloads.iter() {
            let Some(gateway) = &workload.network_gateway else {
                continue;
            };
            if last != Some((&workload.network, gateway)) {
                last = Some((&workload.network, gateway));
                name(&workload.network, gateway);
            }
        }
        for (_, workload) in self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.is_network_gateway())
        {
            let entry = networks.entry(Arc::clone(&workload.network)).or_default();
            entry.gateways.push(Arc::clone(workload));
        }
        for entry in networks.values_mut() {
            entry.gateways.sort_by(|one, other| one.uid().cmp(&other.uid()));
            entry
                .named
                .sort_by(|one, other| one.destination.cmp(&other.destination));
        }
        networks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::fixture::{gateway_at, ip, key, on, service, workload};
    use crate::mesh::policy::{Action, Scope};
    use crate::mesh::{Builder, Draft};

    #[test]
    fn everything_is_listed_once_and_in_order_however_it_came() {
        let mut builder = Builder::new();
        for name in ["b", "c", "a"] {
            builder.add_workload(workload(name));
        }
        builder.add_service(service("z", "a.example", &[], &[]));
        builder.add_service(service("a", "b.example", &[], &[]));
        builder.add_service(service("a", "a.example", &[], &[]));
        for name in ["second", "first"] {
            builder.add_policy(Policy {
                name: name.into(),
                namespace: "demo".into(),
                scope: Scope::Global,
                action: Action::Deny,
                rules: Vec::new(),
                dry_run: false,
            });
        }
        let mesh = builder.build();
        let uids: Vec<_> = mesh
            .workloads_in_order()
            .iter()
            .map(|one| one.uid().to_string())
            .collect();
        assert_eq!(uids, ["uid-a", "uid-b", "uid-c"]);
        let services: Vec<_> = mesh.services_in_order().iter().map(|one| one.key.to_string()).collect();
        assert_eq!(services, ["a/a.example", "z/a.example", "a/b.example"]);
        let policies: Vec<_> = mesh.policies_in_order().map(|one| one.key()).collect();
        assert_eq!(policies, ["demo/first".into(), Arc::<str>::from("demo/second")]);
    }

    #[test]
    fn a_service_is_staged_until_it_is_told_and_its_claimants_count_whatever_their_health() {
        let mut builder = Builder::new();
        for name in ["up", "down"] {
            builder.add_workload(Draft {
                services: vec![on("demo/web.example", &[(80, 8080)])],
                status: if name == "up" {
                    Default::default()
                } else {
                    crate::mesh::workload::Health::Unhealthy
                },
                ..workload(name)
            });
        }
        let web = key("demo/web.example");
        let staged = builder.build();
        assert_eq!(staged.staged_services(), [&web]);
        assert_eq!((staged.claimants(&web).count(), staged.endpoints(&web).count()), (2, 0));
        builder.add_service(service("demo", "web.example", &[], &[(80, 8080)]));
        let told = builder.build();
        assert!(told.staged_services().is_empty());
        assert_eq!((told.claimants(&web).count(), told.endpoints(&web).count()), (2, 1));
    }

    #[test]
    fn a_network_is_entered_by_what_its_workloads_name_and_by_the_workloads_that_are_its_gateways() {
        let mut builder = Builder::new();
        for (name, gateway) in [("a", "net2/10.0.0.1"), ("b", "net2/10.0.0.1"), ("c", "net2/10.0.0.2")] {
            builder.add_workload(Draft {
                network: "net2".into(),
                network_gateway: Some(gateway_at(gateway)),
                ..workload(name)
            });
        }
        builder.add_workload(workload("here"));
        builder.add_workload(Draft {
            network: "net2".into(),
            addresses: vec![ip("10.0.0.1")],
            ..Draft::new("NetworkGateway/net2/10.0.0.1/15008", "istio-system", "gateway")
        });
        let entrances = builder.build().entrances();
        assert_eq!(entrances.keys().map(|network| &**network).collect::<Vec<_>>(), ["net2"]);
        let net2 = &entrances["net2"];
        assert_eq!(net2.named, [gateway_at("net2/10.0.0.1"), gateway_at("net2/10.0.0.2")]);
        assert_eq!(net2.gateways.len(), 1);
    }
}
