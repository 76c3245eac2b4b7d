//! Resources as istiod sends them, for tests: plain ones, and any.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use isthmus_istio::{discovery, security, workload as proto};
use prost::Message as _;

use super::{Held, Kind};
use crate::mesh::draw::Draw;
use crate::mesh::{Mesh, Snapshot};

/// Nothing told yet, and who reads what is, at once.
pub(super) fn held() -> (Held, Mesh) {
    let (mut held, mut mesh) = withholding();
    held.release();
    // The empty mesh that this was news of.
    assert!(mesh.changed().now_or_never().is_some());
    (held, mesh)
}

/// Nothing told yet, and nothing published before [`Held::release`].
pub(super) fn withholding() -> (Held, Mesh) {
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    (Held::new(publisher), mesh)
}

pub(super) fn resource(kind: Kind, name: &str, version: &str, value: Vec<u8>) -> discovery::Resource {
    discovery::Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(prost_types::Any {
            type_url: kind.url().to_owned(),
            value,
        }),
        aliases: Vec::new(),
    }
}

pub(super) fn workload(message: proto::Workload, version: &str) -> discovery::Resource {
    let name = message.uid.clone();
    let address = proto::Address {
        r#type: Some(proto::address::Type::Workload(message)),
    };
    resource(Kind::Address, &name, version, address.encode_to_vec())
}

pub(super) fn service(message: proto::Service, version: &str) -> discovery::Resource {
    let name = format!("{}/{}", message.namespace, message.hostname);
    let address = proto::Address {
        r#type: Some(proto::address::Type::Service(message)),
    };
    resource(Kind::Address, &name, version, address.encode_to_vec())
}

pub(super) fn policy(message: &security::Authorization) -> discovery::Resource {
    let name = format!("{}/{}", message.namespace, message.name);
    resource(Kind::Authorization, &name, "", message.encode_to_vec())
}

/// A pod of demo and net1 with this address, an endpoint of these services on port 80.
pub(super) fn pod(name: &str, address: [u8; 4], services: &[&str]) -> proto::Workload {
    let port = proto::Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 0,
    };
    let ports = || proto::PortList { ports: vec![port] };
    proto::Workload {
        uid: uid(name),
        name: name.into(),
        namespace: "demo".into(),
        network: "net1".into(),
        addresses: vec![address.to_vec()],
        services: services.iter().map(|key| ((*key).to_owned(), ports())).collect(),
        ..proto::Workload::default()
    }
}

pub(super) fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/demo/{name}")
}

/// A service of demo with a virtual address in net1.
pub(super) fn serving(hostname: &str, vip: [u8; 4]) -> proto::Service {
    proto::Service {
        name: hostname.into(),
        namespace: "demo".into(),
        hostname: hostname.into(),
        addresses: vec![proto::NetworkAddress {
            network: "net1".into(),
            address: vip.to_vec(),
            length: None,
        }],
        ..proto::Service::default()
    }
}

/// A policy of demo that denies everything.
pub(super) fn deny(name: &str, scope: security::Scope) -> security::Authorization {
    security::Authorization {
        name: name.into(),
        namespace: "demo".into(),
        scope: scope.into(),
        action: security::Action::Deny.into(),
        rules: vec![security::Rule::default()],
        dry_run: false,
    }
}

/// Resources with anything in them that may be, but few names, so that they meet.
pub(super) struct Any(pub(super) Draw);

impl Any {
    fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.0.below(n.into())).unwrap()
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn enumerator(&mut self, below: u32) -> i32 {
        i32::try_from(self.below(below)).unwrap()
    }

    fn text(&mut self, what: &str) -> String {
        match self.below(3) {
            0 => String::new(),
            n => format!("{what}{n}"),
        }
    }

    fn list<T>(&mut self, most: u32, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }

    fn maybe<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flag() { Some(one(self)) } else { None }
    }

    fn ip(&mut self) -> Vec<u8> {
        let last = u8::try_from(self.below(8)).unwrap();
        if self.flag() {
            return vec![10, 0, 0, last];
        }
        let mut ip = vec![0xfd; 16];
        ip[15] = last;
        ip
    }

    fn port(&mut self) -> proto::Port {
        proto::Port {
            service_port: 80 + self.below(3),
            target_port: self.below(2) * 8080,
            app_protocol: self.enumerator(6),
        }
    }

    fn gateway(&mut self) -> proto::GatewayAddress {
        use proto::gateway_address::Destination;
        proto::GatewayAddress {
            destination: Some(if self.flag() {
                Destination::Address(proto::NetworkAddress {
                    network: self.text("net"),
                    address: self.ip(),
                    length: None,
                })
            } else {
                Destination::Hostname(proto::NamespacedHostname {
                    namespace: self.text("ns"),
                    hostname: self.text("host"),
                })
            }),
            hbone_mtls_port: 15008 + self.below(2),
        }
    }

    pub(super) fn workload(&mut self, n: u32) -> proto::Workload {
        let services: BTreeMap<_, _> = self
            .list(3, |any| {
                let key = format!("demo/host{}", any.below(4));
                let ports = any.list(2, Self::port);
                (key, proto::PortList { ports })
            })
            .into_iter()
            .collect();
        proto::Workload {
            uid: if n.is_multiple_of(5) {
                format!("NetworkGateway/{n}")
            } else {
                uid(&n.to_string())
            },
            name: n.to_string(),
            namespace: ["demo", "other"][usize::from(self.flag())].into(),
            addresses: self.list(3, Self::ip),
            hostname: self.text("host"),
            network: self.text("net"),
            tunnel_protocol: self.enumerator(2),
            trust_domain: self.text("td"),
            service_account: self.text("sa"),
            waypoint: self.maybe(Self::gateway),
            network_gateway: self.maybe(Self::gateway),
            node: self.text("node"),
            canonical_name: self.text("name"),
            canonical_revision: self.text("rev"),
            workload_type: self.enumerator(4),
            workload_name: self.text("deploy"),
            native_tunnel: self.flag(),
            application_tunnel: self.maybe(|any| proto::ApplicationTunnel {
                protocol: any.enumerator(2),
                port: any.below(2) * 15088,
            }),
            services,
            authorization_policies: self.list(2, |any| format!("demo/{}", any.below(6))),
            status: self.enumerator(2),
            cluster_id: self.text("c"),
            locality: self.maybe(|any| proto::Locality {
                region: any.text("r"),
                zone: any.text("z"),
                subzone: any.text("s"),
            }),
            network_mode: self.enumerator(2),
            extensions: Vec::new(),
            capacity: self.maybe(|any| any.below(3)),
        }
    }

    pub(super) fn service(&mut self, n: u32) -> proto::Service {
        proto::Service {
            name: self.text("name"),
            namespace: "demo".into(),
            hostname: format!("host{n}"),
            addresses: self.list(3, |any| {
                let address = any.ip();
                let length = any.maybe(|any| 24 + any.below(9));
                proto::NetworkAddress {
                    network: any.text("net"),
                    address,
                    length,
                }
            }),
            ports: self.list(2, Self::port),
            subject_alt_names: self.list(2, |any| format!("spiffe://td/ns/demo/sa/{}", any.below(3))),
            waypoint: self.maybe(Self::gateway),
            load_balancing: self.maybe(|any| proto::LoadBalancing {
                routing_preference: any.list(3, |any| 1 + any.enumerator(6)),
                mode: any.enumerator(4),
                health_policy: any.enumerator(2),
            }),
            ip_families: self.enumerator(4),
            extensions: Vec::new(),
            canonical: self.flag(),
            ingress_use_waypoint: self.flag(),
            weighted_waypoints: self.list(2, |any| proto::WeightedWaypoint {
                destination: Some(any.gateway()),
                weight: any.below(3),
            }),
            visibility: self.enumerator(2),
        }
    }

    pub(super) fn policy(&mut self, n: u32) -> security::Authorization {
        security::Authorization {
            name: n.to_string(),
            namespace: "demo".into(),
            scope: self.enumerator(3),
            action: self.enumerator(2),
            rules: self.list(2, |any| security::Rule {
                clauses: any.list(2, |any| security::Clause {
                    matches: any.list(2, Self::conditions),
                }),
            }),
            dry_run: self.flag(),
        }
    }

    fn conditions(&mut self) -> security::Match {
        use security::string_match::MatchType;
        let string = |any: &mut Self| security::StringMatch {
            match_type: Some(match any.below(4) {
                0 => MatchType::Exact(any.text("a")),
                1 => MatchType::Prefix(any.text("b")),
                2 => MatchType::Suffix(any.text("c")),
                _ => MatchType::Presence(security::Presence {}),
            }),
        };
        let account = |any: &mut Self| security::ServiceAccountMatch {
            namespace: any.text("ns"),
            service_account: any.text("sa"),
        };
        let range = |any: &mut Self| security::Address {
            address: any.ip(),
            length: any.below(33),
        };
        let port = |any: &mut Self| 80 + any.below(3);
        security::Match {
            namespaces: self.list(1, string),
            not_namespaces: self.list(1, string),
            principals: self.list(1, string),
            not_principals: self.list(1, string),
            source_ips: self.list(1, range),
            not_source_ips: self.list(1, range),
            destination_ips: self.list(1, range),
            not_destination_ips: self.list(1, range),
            destination_ports: self.list(1, port),
            not_destination_ports: self.list(1, port),
            service_accounts: self.list(1, account),
            not_service_accounts: self.list(1, account),
        }
    }

    /// Puts a list into any order.
    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            let other = usize::try_from(self.0.below(at as u64 + 1)).unwrap();
            list.swap(at, other);
        }
    }
}
