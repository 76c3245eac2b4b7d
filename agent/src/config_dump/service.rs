//! Services and who serves them.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    Text,
    workload::{Gateway, health},
};
use crate::mesh::{
    Service, ServiceKey, Snapshot,
    service::{HealthPolicy, IpFamilies, LoadBalancing, Mode, Scope, Vip, Visibility},
    snapshot::Endpoint,
    workload::{Ports, Uid},
};

/// A service with its endpoints: all that name it, because istioctl counts the healthy among them.
pub(super) struct View<'a> {
    pub(super) mesh: &'a Snapshot,
    pub(super) service: &'a Service,
}

/// Endpoints of services that nobody has told of, by service.
pub(super) struct Staged<'a>(pub(super) &'a Snapshot);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    name: &'a str,
    namespace: &'a str,
    hostname: &'a str,
    vips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidr_vips: Vec<CidrVip<'a>>,
    ports: PortMap<'a>,
    endpoints: Endpoints<'a>,
    subject_alt_names: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<Gateway<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weighted_waypoints: Vec<Weighted<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<Balancer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_families: Option<&'static str>,
    canonical: bool,
    visibility: &'static str,
}

#[derive(Serialize)]
struct CidrVip<'a> {
    network: &'a str,
    cidr: Text<ipnet::IpNet>,
}

#[derive(Serialize)]
struct Weighted<'a> {
    destination: Gateway<'a>,
    weight: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Balancer {
    routing_preferences: Vec<&'static str>,
    mode: &'static str,
    health_policy: &'static str,
}

/// By uid of the workload.
struct Endpoints<'a> {
    mesh: &'a Snapshot,
    key: &'a ServiceKey,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView<'a> {
    workload_uid: Text<Uid<'a>>,
    port: PortMap<'a>,
    status: &'static str,
}

struct PortMap<'a>(&'a Ports);

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Service {
            name,
            key,
            vips,
            ports,
            subject_alt_names,
            waypoint,
            weighted_waypoints,
            load_balancing,
            ip_families,
            canonical,
            visibility,
        } = self.service;
        let single = |vip: &Vip| Some(format!("{}/{}", vip.network, vip.single()?));
        let fields = Fields {
            name,
            namespace: &key.namespace,
            hostname: &key.hostname,
            vips: vips.iter().filter_map(single).collect(),
            cidr_vips: vips
                .iter()
                .filter(|vip| vip.single().is_none())
                .map(CidrVip::of)
                .collect(),
            ports: PortMap(ports),
            endpoints: Endpoints { mesh: self.mesh, key },
            subject_alt_names: subject_alt_names.iter().map(|id| id.as_str()).collect(),
            waypoint: waypoint.as_ref().map(Gateway::of),
            weighted_waypoints: weighted_waypoints
                .iter()
                .map(|share| Weighted {
                    destination: Gateway::of(&share.waypoint),
                    weight: share.weight,
                })
                .collect(),
            load_balancer: Balancer::of(load_balancing),
            ip_families: families(*ip_families),
            canonical: *canonical,
            visibility: match visibility {
                Visibility::Public => "Public",
                Visibility::Namespace => "Namespace",
            },
        };
        fields.serialize(serializer)
    }
}

impl Serialize for Staged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for key in self.0.staged_services() {
            map.serialize_entry(&Text(key), &Endpoints { mesh: self.0, key })?;
        }
        map.end()
    }
}

impl<'a> CidrVip<'a> {
    fn of(vip: &'a Vip) -> Self {
        Self {
            network: &vip.network,
            cidr: Text(vip.range),
        }
    }
}

impl Balancer {
    /// Nothing where nothing was asked for, as with ztunnel.
    fn of(balancing: &LoadBalancing) -> Option<Self> {
        let scope = |scope: &Scope| match scope {
            Scope::Region => "Region",
            Scope::Zone => "Zone",
            Scope::Subzone => "Subzone",
            Scope::Node => "Node",
            Scope::Cluster => "Cluster",
            Scope::Network => "Network",
        };
        (*balancing != LoadBalancing::default()).then(|| Self {
            routing_preferences: balancing.preferences.iter().map(scope).collect(),
            mode: match balancing.mode {
                Mode::Standard => "Standard",
                Mode::Strict => "Strict",
                Mode::Failover => "Failover",
                Mode::Passthrough => "Passthrough",
            },
            health_policy: match balancing.health {
                HealthPolicy::OnlyHealthy => "OnlyHealthy",
                HealthPolicy::AllowAll => "AllowAll",
            },
        })
    }
}

impl Serialize for Endpoints<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for Endpoint { workload, ports } in self.mesh.claimants(self.key) {
            let view = EndpointView {
                workload_uid: Text(workload.uid()),
                port: PortMap(ports),
                status: health(workload.status),
            };
            map.serialize_entry(&view.workload_uid, &view)?;
        }
        map.end()
    }
}

impl Serialize for PortMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

fn families(families: IpFamilies) -> Option<&'static str> {
    match families {
        IpFamilies::Automatic => None,
        IpFamilies::V4 => Some("IPv4"),
        IpFamilies::V6 => Some("IPv6"),
        IpFamilies::Dual => Some("Dual"),
    }
}
