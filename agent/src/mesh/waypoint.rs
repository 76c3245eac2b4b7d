//! Which waypoint stands before a service or workload, and who is one.

use super::address::{GatewayAddress, GatewayDestination};
use super::draw::Draw;
use super::service::Service;
use super::snapshot::Snapshot;
use super::workload::Workload;

/// The waypoint this connection to a service goes through: by their shares where several have one, else the only one.
pub fn of_service<'a>(service: &'a Service, draw: &mut Draw) -> Option<&'a GatewayAddress> {
    draw.weighted(service.weighted_waypoints.iter(), |share| share.weight)
        .map(|share| &share.waypoint)
        .or(service.waypoint.as_ref())
}

/// All waypoints a service may go through.
pub fn all_of_service(service: &Service) -> impl Iterator<Item = &GatewayAddress> {
    service
        .waypoint
        .iter()
        .chain(service.weighted_waypoints.iter().map(|share| &share.waypoint))
}

/// Does the address of a waypoint mean this workload, healthy or not?
pub fn is(mesh: &Snapshot, waypoint: &GatewayAddress, workload: &Workload) -> bool {
    match &waypoint.destination {
        GatewayDestination::Hostname(key) => {
            let named = *workload.namespace == *key.namespace && *workload.hostname == *key.hostname;
            named || workload.ports_for(key).is_some()
        }
        GatewayDestination::Address(address) => {
            let own = *workload.network == *address.network && workload.addresses.contains(&address.ip);
            let mut services = mesh.services_claiming(&address.network, address.ip);
            own || services.any(|service| workload.ports_for(&service.key).is_some())
        }
    }
}
