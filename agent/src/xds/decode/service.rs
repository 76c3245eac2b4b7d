//! Services.

use isthmus_istio::workload as proto;

use super::{Mistake, gateway, ip_families, known, ports, range, text};
use crate::identity::SpiffeId;
use crate::mesh::service::{HealthPolicy, LoadBalancing, Mode, Scope, Vip, Visibility, WeightedWaypoint};
use crate::mesh::{GatewayAddress, Service, ServiceKey};

pub(super) fn service(message: proto::Service) -> Result<Service, Mistake> {
    if message.hostname.is_empty() {
        return Err(Mistake::new("hostname", "missing"));
    }
    // The resource's name could be read in two ways.
    for (field, text) in [("namespace", &message.namespace), ("hostname", &message.hostname)] {
        if text.contains('/') {
            return Err(Mistake::new(field, format!("{text:?} has a slash")));
        }
    }
    let waypoint = message.waypoint.map(gateway).transpose();
    let load_balancing = message.load_balancing.as_ref().map(load_balancing).transpose();
    let load_balancing = load_balancing.map_err(|mistake| mistake.within("load_balancing"))?;
    Ok(Service {
        vips: vips(message.addresses)?,
        ports: ports(&message.ports)?,
        // A name of another form is no peer's name either: without it fewer are accepted, never more.
        subject_alt_names: message
            .subject_alt_names
            .iter()
            .filter_map(|name| name.parse::<SpiffeId>().ok())
            .collect(),
        waypoint: waypoint.map_err(|mistake| mistake.within("waypoint"))?,
        weighted_waypoints: weighted(message.weighted_waypoints)?,
        load_balancing: load_balancing.unwrap_or_default(),
        ip_families: ip_families(known(message.ip_families, "ip_families")?),
        canonical: message.canonical,
        // The one enum of which another value is no mistake (wire-facts §1.8).
        visibility: match proto::Visibility::try_from(message.visibility) {
            Ok(proto::Visibility::Namespace) => Visibility::Namespace,
            Ok(proto::Visibility::Public) | Err(_) => Visibility::Public,
        },
        name: text(message.name),
        key: ServiceKey {
            namespace: text(message.namespace),
            hostname: text(message.hostname),
        },
    })
}

fn vips(messages: Vec<proto::NetworkAddress>) -> Result<Vec<Vip>, Mistake> {
    let vip = |(place, message): (usize, proto::NetworkAddress)| {
        let range = range(&message.address, message.length).map_err(|mistake| mistake.at(place).within("addresses"))?;
        Ok(Vip {
            network: text(message.network),
            range,
        })
    };
    messages.into_iter().enumerate().map(vip).collect()
}

fn weighted(messages: Vec<proto::WeightedWaypoint>) -> Result<Vec<WeightedWaypoint>, Mistake> {
    let one = |(place, message): (usize, proto::WeightedWaypoint)| {
        let within = |mistake: Mistake| mistake.at(place).within("weighted_waypoints");
        let missing = || within(Mistake::new("destination", "missing"));
        let destination: GatewayAddress = gateway(message.destination.ok_or_else(missing)?)
            .map_err(|mistake| within(mistake.within("destination")))?;
        Ok(WeightedWaypoint {
            waypoint: destination,
            weight: message.weight,
        })
    };
    messages.into_iter().enumerate().map(one).collect()
}

fn load_balancing(message: &proto::LoadBalancing) -> Result<LoadBalancing, Mistake> {
    use proto::load_balancing as lb;
    let scope = |(place, number): (usize, &i32)| {
        let field = format!("routing_preference[{place}]");
        match known(*number, &field)? {
            lb::Scope::UnspecifiedScope => Err(Mistake::new(&field, "UNSPECIFIED_SCOPE says nothing")),
            lb::Scope::Region => Ok(Scope::Region),
            lb::Scope::Zone => Ok(Scope::Zone),
            lb::Scope::Subzone => Ok(Scope::Subzone),
            lb::Scope::Node => Ok(Scope::Node),
            lb::Scope::Cluster => Ok(Scope::Cluster),
            lb::Scope::Network => Ok(Scope::Network),
        }
    };
    Ok(LoadBalancing {
        mode: match known(message.mode, "mode")? {
            lb::Mode::UnspecifiedMode => Mode::Standard,
            lb::Mode::Strict => Mode::Strict,
            lb::Mode::Failover => Mode::Failover,
            lb::Mode::Passthrough => Mode::Passthrough,
        },
        preferences: message
            .routing_preference
            .iter()
            .enumerate()
            .map(scope)
            .collect::<Result<_, _>>()?,
        health: match known(message.health_policy, "health_policy")? {
            lb::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            lb::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}
