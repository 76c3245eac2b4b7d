//! The lab's mesh, written as istiod would send it.

use std::{collections::BTreeMap, net::IpAddr};

use isthmus_istio::{
    discovery::Resource,
    security::{self, Authorization, Clause, Match, Rule, ServiceAccountMatch, StringMatch, string_match::MatchType},
    workload::{
        GatewayAddress, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, WorkloadStatus,
        gateway_address::Destination,
    },
};
use serde::Deserialize;
use serde_json::Value;

use super::resource::{self, Kind};
use crate::{
    failure::{Because as _, Result},
    mesh_file::MeshFile,
};

/// The cluster of everything in the lab.
pub(super) const CLUSTER: &str = "Kubernetes";

/// All resources of one kind.
pub fn resources(mesh: &MeshFile, kind: Kind) -> Result<Vec<Resource>> {
    match kind {
        Kind::Address => {
            let mut all = mesh.services.values().map(service).collect::<Result<Vec<_>>>()?;
            for value in mesh.workloads.values() {
                all.push(workload(&mesh.with_gateway(value))?);
            }
            Ok(all)
        }
        Kind::Authorization => mesh.policies.values().map(policy).collect(),
    }
}

/// A policy written as the mesh file has it.
pub fn policy(value: &Value) -> Result<Resource> {
    let entry: PolicyEntry = read(value)?;
    let rules = entry.rules.into_iter().map(|clauses| Rule {
        clauses: clauses
            .into_iter()
            .map(|matches| Clause {
                matches: matches.into_iter().map(MatchEntry::message).collect(),
            })
            .collect(),
    });
    Ok(resource::policy(&Authorization {
        name: entry.name,
        namespace: entry.namespace,
        scope: match entry.scope {
            ScopeEntry::Global => security::Scope::Global,
            ScopeEntry::Namespace => security::Scope::Namespace,
            ScopeEntry::WorkloadSelector => security::Scope::WorkloadSelector,
        }
        .into(),
        action: match entry.action {
            ActionEntry::Allow => security::Action::Allow,
            ActionEntry::Deny => security::Action::Deny,
        }
        .into(),
        rules: rules.collect(),
        dry_run: false,
    }))
}

/// A workload written as the mesh file has it.
pub fn workload(value: &Value) -> Result<Resource> {
    let entry: WorkloadEntry = read(value)?;
    let elided = |text: String, usual: &str| if text == usual { String::new() } else { text };
    let network_gateway = entry
        .network_gateway
        .map(|gateway| {
            Ok::<_, crate::Failure>(GatewayAddress {
                destination: Some(Destination::Address(address(&gateway.destination)?)),
                hbone_mtls_port: gateway.hbone_mtls_port.into(),
            })
        })
        .transpose()?;
    Ok(resource::workload(Workload {
        uid: entry.uid,
        canonical_name: entry.name.clone(),
        workload_name: entry.name.clone(),
        name: entry.name,
        namespace: entry.namespace,
        addresses: entry.workload_ips.into_iter().map(bytes).collect(),
        network: entry.network.unwrap_or_default(),
        tunnel_protocol: if entry.protocol == "HBONE" {
            TunnelProtocol::Hbone
        } else {
            TunnelProtocol::None
        }
        .into(),
        trust_domain: elided(entry.trust_domain, "cluster.local"),
        service_account: elided(entry.service_account, "default"),
        network_gateway,
        node: entry.node.unwrap_or_default(),
        services: entry
            .services
            .into_iter()
            .map(|(key, list)| (key, PortList { ports: ports(list) }))
            .collect(),
        authorization_policies: entry.authorization_policies,
        status: if entry.status == "Unhealthy" {
            WorkloadStatus::Unhealthy
        } else {
            WorkloadStatus::Healthy
        }
        .into(),
        cluster_id: CLUSTER.to_owned(),
        ..Workload::default()
    }))
}

/// A service written as the mesh file has it.
pub fn service(value: &Value) -> Result<Resource> {
    let entry: ServiceEntry = read(value)?;
    Ok(resource::service(Service {
        name: entry.name,
        namespace: entry.namespace,
        hostname: entry.hostname,
        addresses: entry.vips.iter().map(|vip| address(vip)).collect::<Result<_>>()?,
        ports: ports(entry.ports),
        subject_alt_names: entry.subject_alt_names,
        canonical: true,
        ..Service::default()
    }))
}

fn read<T: for<'a> Deserialize<'a>>(value: &Value) -> Result<T> {
    T::deserialize(value).because(format!("telling istiod's way what the lab's mesh says: {value}"))
}

/// `NETWORK/IP`.
fn address(text: &str) -> Result<NetworkAddress> {
    let (network, ip) = text.split_once('/').because(format!("NETWORK/IP, not {text:?}"))?;
    let ip: IpAddr = ip.parse().because(format!("NETWORK/IP, not {text:?}"))?;
    Ok(NetworkAddress {
        network: network.to_owned(),
        address: bytes(ip),
        length: None,
    })
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ports(entries: BTreeMap<String, u16>) -> Vec<Port> {
    let port = |(service, target): (String, u16)| {
        Some(Port {
            service_port: service.parse().ok()?,
            target_port: target.into(),
            app_protocol: 0,
        })
    };
    entries.into_iter().filter_map(port).collect()
}

/// The part of the mesh file's workloads that the lab writes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WorkloadEntry {
    uid: String,
    name: String,
    namespace: String,
    service_account: String,
    trust_domain: String,
    workload_ips: Vec<IpAddr>,
    network: Option<String>,
    node: Option<String>,
    protocol: String,
    #[serde(default)]
    services: BTreeMap<String, BTreeMap<String, u16>>,
    network_gateway: Option<GatewayEntry>,
    #[serde(default)]
    authorization_policies: Vec<String>,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GatewayEntry {
    destination: String,
    hbone_mtls_port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceEntry {
    name: String,
    namespace: String,
    hostname: String,
    #[serde(default)]
    vips: Vec<String>,
    #[serde(default)]
    ports: BTreeMap<String, u16>,
    #[serde(default)]
    subject_alt_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyEntry {
    name: String,
    namespace: String,
    scope: ScopeEntry,
    action: ActionEntry,
    #[serde(default)]
    rules: Vec<Vec<Vec<MatchEntry>>>,
}

#[derive(Deserialize)]
enum ScopeEntry {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Deserialize)]
enum ActionEntry {
    Allow,
    Deny,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct MatchEntry {
    namespaces: Vec<TextEntry>,
    principals: Vec<TextEntry>,
    not_principals: Vec<TextEntry>,
    service_accounts: Vec<AccountEntry>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
}

#[derive(Deserialize)]
enum TextEntry {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AccountEntry {
    namespace: String,
    service_account: String,
}

impl MatchEntry {
    fn message(self) -> Match {
        let texts = |entries: Vec<TextEntry>| entries.into_iter().map(TextEntry::message).collect();
        let ports = |entries: Vec<u16>| entries.into_iter().map(u32::from).collect();
        Match {
            namespaces: texts(self.namespaces),
            principals: texts(self.principals),
            not_principals: texts(self.not_principals),
            service_accounts: self
                .service_accounts
                .into_iter()
                .map(|account| ServiceAccountMatch {
                    namespace: account.namespace,
                    service_account: account.service_account,
                })
                .collect(),
            destination_ports: ports(self.destination_ports),
            not_destination_ports: ports(self.not_destination_ports),
            ..Match::default()
        }
    }
}

impl TextEntry {
    fn message(self) -> StringMatch {
        StringMatch {
            match_type: Some(match self {
                Self::Exact(text) => MatchType::Exact(text),
                Self::Prefix(text) => MatchType::Prefix(text),
                Self::Suffix(text) => MatchType::Suffix(text),
            }),
        }
    }
}
