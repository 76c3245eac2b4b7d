//! Which addresses belong to the mesh. All others are strangers: [`super::route::decide`] sends a connection to one of
//! them on as it is, so whoever knows the members need not ask.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Snapshot;

impl Snapshot {
    /// Addresses of workloads and virtual addresses of services, of every network: where two networks use an address each,
    /// it is still for [`super::route::decide`] to say what is meant. An address may come several times.
    pub fn member_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let workloads = self.addresses.values().flat_map(|table| table.keys());
        let services = self.vips.values().flat_map(|table| table.exact.keys());
        workloads.chain(services).copied()
    }

    /// Ranges of virtual addresses of services.
    pub fn member_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.vips
            .values()
            .flat_map(|table| table.ranges.iter().map(|(range, _)| *range))
    }
}
