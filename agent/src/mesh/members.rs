//! Which addresses belong to the mesh. All others are strangers: [`super::route::decide`] sends a connection to one of
//! them on as it is, so whoever knows the members need not ask.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Service, Snapshot,
    service::Vip,
    workload::{NetworkMode, Workload},
};

/// Members that came from one snapshot to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Came {
    /// Addresses which may not have been members before.
    pub addresses: Vec<IpAddr>,
    /// Ranges that were none before.
    pub ranges: Vec<IpNet>,
    /// Something that was a member may be none any more.
    pub some_went: bool,
}

impl Snapshot {
    /// Who is a member now and may not have been one in `old`. None when these are more than `most`: then
    /// [`Snapshot::member_addresses`] is the shorter way. What both snapshots share is not looked at.
    pub fn members_since(&self, old: &Self, most: usize) -> Option<Came> {
        let mut came = Came::default();
        for (before, now) in self.workloads.changes(&old.workloads) {
            let before = before.into_iter().flat_map(|workload| own(workload));
            came.add(before, || now.into_iter().flat_map(|workload| own(workload)));
            if came.addresses.len() > most {
                return None;
            }
        }
        for (before, now) in self.services.changes(&old.services) {
            let (before, now) = (
                before.and_then(|served| served.service.as_ref()),
                now.and_then(|served| served.service.as_ref()),
            );
            // A service that has other endpoints is the same service.
            if !before.zip(now).is_some_and(|(before, now)| Arc::ptr_eq(before, now)) {
                let before = before.into_iter().flat_map(|service| singles(service));
                came.add(before, || now.into_iter().flat_map(|service| singles(service)));
            }
            if came.addresses.len() > most {
                return None;
            }
        }
        if !Arc::ptr_eq(&self.ranges, &old.ranges) {
            let (before, now): (BTreeSet<_>, BTreeSet<_>) =
                (old.member_ranges().collect(), self.member_ranges().collect());
            came.ranges = now.difference(&before).copied().collect();
            came.some_went |= !before.is_subset(&now);
        }
        Some(came)
    }

    /// Addresses of workloads and single virtual addresses of services, of every network: where two networks use an address
    /// each, it is still for [`super::route::decide`] to say what is meant. An address may come several times.
    pub fn member_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.numbered_workloads().flat_map(|(_, workload)| own(workload));
        own.chain(self.numbered_services().flat_map(|(_, service)| singles(service)))
    }

    /// Ranges of virtual addresses of services.
    pub fn member_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.ranges.iter().map(|vip| vip.range)
    }
}

impl Came {
    /// At one place `before` stood and `now` stands.
    fn add<N: Iterator<Item = IpAddr>>(&mut self, before: impl Iterator<Item = IpAddr>, now: impl Fn() -> N) {
        let before: Vec<IpAddr> = before.collect();
        self.addresses.extend(now().filter(|address| !before.contains(address)));
        self.some_went |= before.iter().any(|address| now().all(|other| other != *address));
    }
}

fn own(workload: &Workload) -> impl Iterator<Item = IpAddr> {
    let standard = workload.network_mode == NetworkMode::Standard;
    let addresses = workload.addresses.iter().filter(move |_| standard);
    addresses.map(|address| address.to_canonical())
}

fn singles(service: &Service) -> impl Iterator<Item = IpAddr> {
    let singles = service.vips.iter().filter_map(Vip::single);
    singles.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::mesh::{
        Builder, Draft,
        draw::Draw,
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

    /// What members there were and those that came are at least those there are, and all of them when nothing went.
    #[test]
    fn members_that_came_are_found_whatever_happens() {
        let mut draw = Draw::new(7);
        let mut builder = Builder::new();
        let mut below = |n: u64| draw.below(n);
        let all = |mesh: &Snapshot| {
            let ranges = mesh.member_ranges().map(|range| range.to_string());
            let members = mesh.member_addresses().map(|address| address.to_string());
            members.chain(ranges).collect::<BTreeSet<_>>()
        };
        let (mut old, mut steady) = (builder.build(), 0);
        for _ in 0..2_000 {
            for _ in 0..=below(3) {
                let name = format!("w{}", below(300));
                let addresses = [format!("10.0.0.{}", below(200)), format!("fd00::{}", below(200))];
                let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
                match below(5) {
                    0 => {
                        builder.remove_workload(&format!("uid-{name}"));
                    }
                    1 => builder.add_service(service(
                        "demo",
                        &format!("s{}", below(20)),
                        &[
                            &format!("net1/10.1.0.{}", below(9)),
                            &format!("net1/10.{}.0.0/16", below(9)),
                        ],
                        &[],
                    )),
                    2 => builder.add_workload(Draft {
                        network_mode: NetworkMode::HostNetwork,
                        ..with(&name, &addresses)
                    }),
                    _ => builder.add_workload(with(&name, &addresses)),
                }
            }
            let new = builder.build();
            let came = new.members_since(&old, usize::MAX).unwrap();
            let (before, now) = (all(&old), all(&new));
            let ranges = came.ranges.iter().map(ToString::to_string);
            let told: BTreeSet<_> = came.addresses.iter().map(ToString::to_string).chain(ranges).collect();
            let known: BTreeSet<_> = before.union(&told).cloned().collect();
            assert!(known.is_superset(&now) && told.is_subset(&now));
            if !came.some_went {
                assert_eq!(known, now);
                steady += 1;
            }
            old = new;
        }
        assert!(
            (100..1_900).contains(&steady),
            "{steady} of 2000 steps took nothing away"
        );
        assert_eq!(old.members_since(&old.clone(), 0), Some(Came::default()));
        assert_eq!(old.members_since(&Snapshot::empty(), 10), None);
    }

    #[test]
    fn a_change_of_health_or_of_endpoints_makes_no_member() {
        let mut builder = Builder::new();
        builder.add_service(service("demo", "echo.demo", &["net1/10.1.0.1"], &[(80, 80)]));
        builder.add_workload(with("peer", &["10.0.0.2"]));
        let old = builder.build();
        builder.add_workload(Draft {
            status: crate::mesh::workload::Health::Unhealthy,
            services: vec![crate::mesh::fixture::on("demo/echo.demo", &[(80, 80)])],
            ..with("peer", &["10.0.0.2"])
        });
        let new = builder.build();
        assert!(!Arc::ptr_eq(
            &old.workload("uid-peer").unwrap(),
            &new.workload("uid-peer").unwrap()
        ));
        assert_eq!(new.members_since(&old, 0), Some(Came::default()));
    }
}
