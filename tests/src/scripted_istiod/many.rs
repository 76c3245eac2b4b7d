//! A large mesh, with names, lengths and numbers as a cluster has them: the one of the bench's mesh file.

use isthmus_istio::{
    discovery::Resource,
    workload::{NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, WorkloadStatus},
};

use super::resource;

const NAMESPACES: usize = 100;
const NODES: usize = 1000;

/// So many workloads in so many services.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// Workloads; each has an address of its own and is in two services.
    pub workloads: usize,
    /// Services; at least one.
    pub services: usize,
}

impl Many {
    /// All of it: services first.
    pub fn resources(self) -> Vec<Resource> {
        let services = (0..self.services).map(|index| self.service(index));
        let workloads = (0..self.workloads).map(|index| self.workload(index, 0));
        services.chain(workloads).collect()
    }

    /// One service.
    pub fn service(self, index: usize) -> Resource {
        let [high, mid, low] = bytes_of(index);
        resource::service(Service {
            name: name(index),
            namespace: namespace(index),
            hostname: hostname(index),
            addresses: vec![NetworkAddress {
                network: "net1".to_owned(),
                address: vec![100, 112_u8.wrapping_add(high), mid, low],
                length: None,
            }],
            ports: vec![port()],
            canonical: true,
            ..Service::default()
        })
    }

    /// One workload. Another `round` of it differs in whether it is healthy.
    pub fn workload(self, index: usize, round: usize) -> Resource {
        let own = index % self.services.max(1);
        let other = (own + 1) % self.services.max(1);
        let [high, mid, low] = bytes_of(index);
        let pod = format!("{}-{:010x}-{index:06}", name(own), own * 7919 % 0xff_ffff);
        let list = || PortList { ports: vec![port()] };
        let key = |service: usize| format!("{}/{}", namespace(service), hostname(service));
        let status = if round.is_multiple_of(2) {
            WorkloadStatus::Healthy
        } else {
            WorkloadStatus::Unhealthy
        };
        resource::workload(Workload {
            uid: format!("Kubernetes//Pod/{}/{pod}", namespace(own)),
            name: pod,
            namespace: namespace(own),
            service_account: name(own),
            canonical_name: name(own),
            canonical_revision: "v1".to_owned(),
            workload_name: name(own),
            network: "net1".to_owned(),
            node: format!("node-{:04}", index % NODES),
            addresses: vec![vec![100, 64_u8.wrapping_add(high), mid, low]],
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            status: status.into(),
            cluster_id: super::convert::CLUSTER.to_owned(),
            services: [(key(own), list()), (key(other), list())].into(),
            ..Workload::default()
        })
    }
}

fn name(service: usize) -> String {
    format!("service-{service:05}")
}

fn namespace(service: usize) -> String {
    format!("team-{:02}", service % NAMESPACES)
}

fn hostname(service: usize) -> String {
    format!("{}.{}.svc.cluster.local", name(service), namespace(service))
}

fn port() -> Port {
    Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 0,
    }
}

/// The last three bytes of an address.
fn bytes_of(number: usize) -> [u8; 3] {
    let byte = |shift: u32| u8::try_from(number >> shift & 255).unwrap_or_default();
    [byte(16), byte(8), byte(0)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_of_it_has_names_of_its_own_and_a_round_changes_what_it_must() {
        let many = Many {
            workloads: 3000,
            services: 100,
        };
        let all = many.resources();
        let names: BTreeSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
        let versions: BTreeSet<&str> = all.iter().map(|one| one.version.as_str()).collect();
        assert_eq!((names.len(), versions.len()), (3100, 3100));
        let (before, after) = (many.workload(7, 0), many.workload(7, 1));
        assert_eq!(before.name, after.name);
        assert_ne!(before.version, after.version);
        assert_eq!(before, many.workload(7, 2));
    }
}
