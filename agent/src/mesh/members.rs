//! Which addresses belong to the mesh. All others are strangers: [`super::route::decide`] sends a connection to one of
//! them on as it is, so whoever knows the members need not ask.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Snapshot, workload::NetworkMode};

impl Snapshot {
    /// Addresses of workloads and single virtual addresses of services, of every network: where two networks use an address
    /// each, it is still for [`super::route::decide`] to say what is meant. An address may come several times.
    pub fn member_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let workloads = self.workloads.iter().map(|(_, workload)| workload);
        let own = workloads
            .filter(|workload| workload.network_mode == NetworkMode::Standard)
            .flat_map(|workload| workload.addresses.iter());
        let services = self.services.iter().filter_map(|(_, served)| served.service.as_ref());
        let vips = services.flat_map(|service| &service.vips).map(|vip| vip.range);
        own.chain(vips.filter(is_single).map(|vip| vip.addr()))
            .map(|address| address.to_canonical())
    }

    /// Ranges of virtual addresses of services.
    pub fn member_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.ranges.iter().map(|vip| vip.range)
    }
}

fn is_single(range: &IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr};

    use super::*;
    use crate::mesh::{
        Builder, Draft,
        fixture::{ip, service, workload},
        route::{Experience, Flow, Route, decide},
    };

    fn with(name: &str, addresses: &[&str]) -> Draft {
        Draft {
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            ..workload(name)
        }
    }

    /// What the kernel leaves alone is what the agent would only have passed on.
    #[test]
    fn whoever_is_no_member_would_have_been_sent_on_as_it_is_and_every_other_is_a_member() {
        let source = with("curl", &["10.0.0.1", "fd00::1"]);
        let mut builder = Builder::new();
        builder.add_workload(source.clone());
        builder.add_workload(with("peer", &["10.0.0.2", "::ffff:10.0.0.3"]));
        builder.add_workload(Draft {
            network: "net2".into(),
            ..with("far", &["10.9.0.1"])
        });
        builder.add_workload(Draft {
            network_mode: NetworkMode::HostNetwork,
            ..with("node", &["192.168.0.1"])
        });
        let vips = ["net1/10.1.0.1", "net1/fd01::1", "net1/240.1.0.0/16", "net1/fd02::/112"];
        builder.add_service(service("demo", "echo.demo", &vips, &[(80, 80)]));
        let mesh = builder.build();
        let singles: BTreeSet<IpAddr> = mesh.member_addresses().collect();
        let ranges: Vec<IpNet> = mesh.member_ranges().collect();
        let is_member = |ip: IpAddr| singles.contains(&ip) || ranges.iter().any(|range| range.contains(&ip));
        let source = source.into();
        let is_passed_on = |ip: IpAddr| {
            let flow = Flow {
                source: &source,
                destination: SocketAddr::new(ip, 80),
                entropy: 1,
                experience: Experience::default(),
            };
            matches!(decide(&mesh, &flow), Route::Plain { to, workload: None, service: None } if to.ip() == ip)
        };
        for member in [
            "10.0.0.2",
            "10.0.0.3",
            "10.9.0.1",
            "10.1.0.1",
            "fd01::1",
            "240.1.7.7",
            "fd02::77",
        ] {
            assert!(is_member(ip(member)) && !is_passed_on(ip(member)), "{member}");
        }
        for stranger in [
            "10.0.0.4",
            "192.168.0.1",
            "fd00::2",
            "240.2.0.0",
            "fd02::1:0",
            "1.1.1.1",
        ] {
            assert!(!is_member(ip(stranger)) && is_passed_on(ip(stranger)), "{stranger}");
        }
    }
}
