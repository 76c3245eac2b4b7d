//! What a decision depends on, by the names under which istiod may be asked for it (wire-facts §1.4).
//!
//! [`super::route`] and [`super::inbound`] look these up; whatever of it the mesh lacks may only not have been told yet.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{GatewayAddress, GatewayDestination, ServiceKey};
use super::authority::Authority;
use super::demand::{Need, Want};
use super::service::Service;
use super::snapshot::{GatewayTarget, Snapshot};
use super::waypoint;
use super::workload::Workload;

/// What it takes to decide where a connection of `source` to these addresses goes. Of several, all but the first are what
/// DNS said of names.
pub fn of_connection(mesh: &Snapshot, source: &Workload, to: impl IntoIterator<Item = IpAddr>) -> Vec<Want> {
    let mut wants = Wants {
        mesh,
        source,
        list: Vec::new(),
        services: Vec::new(),
        gateways: Vec::new(),
    };
    to.into_iter().for_each(|ip| wants.address(ip.to_canonical()));
    wants.list
}

/// What it takes to decide whether a CONNECT that reached `pod` at an address is for it.
pub fn of_request(mesh: &Snapshot, pod: &Workload, at: IpAddr, authority: &Authority) -> Vec<Want> {
    match authority {
        Authority::Ip(to) if to.ip().to_canonical() == at.to_canonical() => Vec::new(),
        // A waypoint is asked for what is behind it.
        Authority::Ip(to) => of_connection(mesh, pod, [to.ip()]),
        Authority::Host { host, .. } => {
            let services = pod.services.iter().map(|membership| &membership.service);
            let named = services.filter(|key| *key.hostname == **host);
            named.map(|key| of_service(mesh, key)).collect()
        }
    }
}

/// The workload of a pod that is served here, by its addresses.
pub fn of_own_pod(network: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Want> {
    let names = addresses.into_iter().map(|ip| at(network, ip.to_canonical()));
    names.map(|name| Want { name, need: Need::Own }).collect()
}

/// The workload at an address, whoever asks: nothing is decided by it.
pub fn of_workload(mesh: &Snapshot, network: &str, ip: IpAddr) -> Want {
    let need = match mesh.workload_at(network, ip) {
        Some(_) => Need::Held,
        None => Need::Missing,
    };
    Want {
        name: at(network, ip.to_canonical()),
        need,
    }
}

fn of_service(mesh: &Snapshot, key: &ServiceKey) -> Want {
    let need = match mesh.service_named(&key.namespace, &key.hostname) {
        Some(_) => Need::Endpoints,
        None => Need::Missing,
    };
    Want {
        name: key.to_string(),
        need,
    }
}

fn at(network: &str, ip: IpAddr) -> String {
    format!("{network}/{ip}")
}

struct Wants<'a> {
    mesh: &'a Snapshot,
    source: &'a Workload,
    list: Vec<Want>,
    /// Services and gateways that were gone into: they may name each other in a circle.
    services: Vec<ServiceKey>,
    gateways: Vec<GatewayDestination>,
}

impl Wants<'_> {
    fn add(&mut self, want: Want) {
        match self.list.iter_mut().find(|other| other.name == want.name) {
            Some(held) if held.need == Need::Held => held.need = want.need,
            Some(_) => {}
            None => self.list.push(want),
        }
    }

    fn address(&mut self, ip: IpAddr) {
        let (mesh, network, client) = (self.mesh, &self.source.network, &self.source.namespace);
        let name = at(network, ip);
        let need = Need::Held;
        if let Some(service) = mesh.service_at_address(network, ip, client) {
            self.add(Want { name, need });
            self.service(&service);
        } else if let Some(workload) = mesh.workload_at(network, ip) {
            self.add(Want { name, need });
            if let Some(waypoint) = &workload.waypoint {
                self.gateway(waypoint);
            }
        } else {
            // Who has the address itself comes before a range that it lies in.
            let need = Need::Missing;
            self.add(Want { name, need });
            if let Some(service) = mesh.service_of_range(network, ip, client) {
                self.service(&service);
            }
        }
    }

    fn service(&mut self, service: &Service) {
        if self.services.contains(&service.key) {
            return;
        }
        self.services.push(service.key.clone());
        self.add(of_service(self.mesh, &service.key));
        let mut waypoints = waypoint::all_of_service(service).peekable();
        if waypoints.peek().is_none() {
            self.endpoints(&service.key);
        }
        waypoints.for_each(|waypoint| self.gateway(waypoint));
    }

    /// Endpoints of other networks are behind their gateways.
    fn endpoints(&mut self, key: &ServiceKey) {
        let mesh = self.mesh;
        let mut networks: Vec<(&Arc<str>, Option<&GatewayAddress>)> = Vec::new();
        for endpoint in mesh.endpoints(key) {
            let of = (&endpoint.workload.network, endpoint.workload.network_gateway.as_ref());
            if *of.0 != self.source.network && !networks.contains(&of) {
                networks.push(of);
            }
        }
        for (network, named) in networks {
            let gateways = named.into_iter().chain(mesh.gateways(network));
            gateways.for_each(|gateway| self.gateway(gateway));
        }
    }

    fn gateway(&mut self, gateway: &GatewayAddress) {
        if self.gateways.contains(&gateway.destination) {
            return;
        }
        self.gateways.push(gateway.destination.clone());
        let found = self.mesh.find_gateway(gateway, &self.source.namespace);
        let need = if found.is_some() { Need::Held } else { Need::Missing };
        let name = gateway.destination.to_string();
        self.add(Want { name, need });
        match found {
            // The services of a gateway say who may answer there.
            Some(GatewayTarget::Workload(workload)) => {
                let services = workload.services.iter();
                services.for_each(|membership| self.add(of_service(self.mesh, &membership.service)));
            }
            Some(GatewayTarget::Service(service)) => {
                self.add(of_service(self.mesh, &service.key));
                self.endpoints(&service.key);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
