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
