//! What istiod's messages mean (wire-facts §1.8, §1.9): pure, one resource at a time. Nothing is applied here.
//!
//! A resource with a field that cannot be taken for what it says is refused as a whole, with the name of that field; one
//! with fields that are not known is taken. Where a number does not fit, ztunnel cuts it to the lower 16 bits; here it is
//! refused, because a port that was cut is another port: traffic would go to it, or a policy would speak of it.

mod policy;
mod service;
mod workload;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_istio::{security, workload as proto};
use prost::Message as _;

use crate::mesh::{
    Draft, GatewayAddress, GatewayDestination, HBONE_PORT, NetworkAddress, Policy, Service, ServiceKey,
    service::IpFamilies, workload::Ports,
};

pub use self::policy::stand_in;

/// What an Address turned out to be.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A workload.
    Workload(Box<Draft>),
    /// A service.
    Service(Box<Service>),
}

/// Why a resource is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{problem}", .field, if .field.is_empty() { "" } else { ": " })]
pub struct Mistake {
    /// Such as `services["demo/echo"].ports[1].target_port`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Mistake {
    fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// One about the resource as a whole.
    pub(super) fn whole(problem: impl Into<String>) -> Self {
        Self::new("", problem)
    }

    fn within(mut self, outer: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field = format!("{outer}{dot}{}", self.field);
        self
    }

    fn at(self, place: usize) -> Self {
        self.within(&format!("[{place}]"))
    }
}

/// An Address from its bytes.
///
/// # Errors
/// When they are no such message, or a field is wrong.
pub fn address(bytes: &[u8]) -> Result<Entry, Mistake> {
    let message = proto::Address::decode(bytes).map_err(|error| Mistake::whole(format!("no Address: {error}")))?;
    match message.r#type {
        Some(proto::address::Type::Workload(message)) => Ok(Entry::Workload(Box::new(workload::draft(message)?))),
        Some(proto::address::Type::Service(message)) => Ok(Entry::Service(Box::new(service::service(message)?))),
        None => Err(Mistake::new("type", "neither a workload nor a service")),
    }
}

/// An Authorization from its bytes.
///
/// # Errors
/// When they are no such message, or a field is wrong.
pub fn authorization(bytes: &[u8]) -> Result<Policy, Mistake> {
    let message = security::Authorization::decode(bytes);
    let message = message.map_err(|error| Mistake::whole(format!("no Authorization: {error}")))?;
    policy::policy(&message)
}

/// An allocation only where there is text: most fields of most resources are empty.
fn text(text: String) -> Arc<str> {
    if text.is_empty() { Arc::default() } else { text.into() }
}

fn text_or(given: String, default: &str) -> Arc<str> {
    if given.is_empty() { default.into() } else { given.into() }
}

fn known<T: TryFrom<i32>>(number: i32, field: &str) -> Result<T, Mistake> {
    T::try_from(number).map_err(|_| Mistake::new(field, format!("{number} is not a value this agent knows")))
}

fn port(number: u32, field: &str) -> Result<u16, Mistake> {
    u16::try_from(number).map_err(|_| Mistake::new(field, format!("{number} is no port: at most 65535")))
}

fn ip(bytes: &[u8]) -> Result<IpAddr, Mistake> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    let ip = ip.map_err(|_| Mistake::whole(format!("{} bytes, must be 4 or 16", bytes.len())))?;
    Ok(ip.to_canonical())
}

/// A range of addresses. The length is counted as the bytes have it: 96 more for an IPv4 address that is given as IPv6.
fn range(bytes: &[u8], length: Option<u32>) -> Result<IpNet, Mistake> {
    let ip = ip(bytes).map_err(|mistake| mistake.within("address"))?;
    let Some(given) = length else { return Ok(ip.into()) };
    let mapped = if ip.is_ipv4() && bytes.len() == 16 { 96 } else { 0 };
    let length = given.checked_sub(mapped).and_then(|length| u8::try_from(length).ok());
    let range = length.and_then(|length| IpNet::new(ip, length).ok());
    range.ok_or_else(|| Mistake::new("length", format!("{given} is no length of a prefix of {ip}")))
}

/// The key of a service as istiod writes it in one text, `NAMESPACE/HOSTNAME`.
pub(super) fn service_key(text: &str) -> Option<ServiceKey> {
    let (namespace, hostname) = text.split_once('/')?;
    (!hostname.is_empty()).then(|| ServiceKey {
        namespace: namespace.into(),
        hostname: hostname.into(),
    })
}

fn gateway(message: proto::GatewayAddress) -> Result<GatewayAddress, Mistake> {
    use proto::gateway_address::Destination;
    let destination = match message.destination {
        Some(Destination::Address(address)) => GatewayDestination::Address(NetworkAddress {
            ip: ip(&address.address).map_err(|mistake| mistake.within("address.address"))?,
            network: text(address.network),
        }),
        Some(Destination::Hostname(name)) => GatewayDestination::Hostname(ServiceKey {
            namespace: text(name.namespace),
            hostname: text(name.hostname),
        }),
        None => return Err(Mistake::new("destination", "missing: an address or a hostname")),
    };
    // istiod always says it; nobody listens on port 0.
    let hbone_port = match port(message.hbone_mtls_port, "hbone_mtls_port")? {
        0 => HBONE_PORT,
        port => port,
    };
    Ok(GatewayAddress {
        destination,
        hbone_port,
    })
}

fn ports(messages: &[proto::Port]) -> Result<Ports, Mistake> {
    let mut pairs = Vec::with_capacity(messages.len());
    for (place, message) in messages.iter().enumerate() {
        let within = |mistake: Mistake| mistake.at(place).within("ports");
        let service_port = port(message.service_port, "service_port").map_err(within)?;
        pairs.push((service_port, port(message.target_port, "target_port").map_err(within)?));
    }
    Ok(pairs.into_iter().collect())
}

fn ip_families(message: proto::IpFamilies) -> IpFamilies {
    match message {
        proto::IpFamilies::Automatic => IpFamilies::Automatic,
        proto::IpFamilies::Ipv4Only => IpFamilies::V4,
        proto::IpFamilies::Ipv6Only => IpFamilies::V6,
        proto::IpFamilies::Dual => IpFamilies::Dual,
    }
}

#[cfg(test)]
mod tests;
