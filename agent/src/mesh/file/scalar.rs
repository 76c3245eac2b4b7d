//! The single values of a mesh file. Each says what it expected when it is given something else.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::mesh::address::{GatewayDestination, NetworkAddress, ServiceKey};
use crate::mesh::authority::is_host_name;
use crate::mesh::service::Vip;

/// A value written as one piece of text, and read by its `FromStr`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scalar<T>(pub(super) T);

impl<'de, T> Deserialize<'de> for Scalar<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Scalar).map_err(serde::de::Error::custom)
    }
}

/// A port, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port(pub(super) u16);

/// An IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ip(pub(super) IpAddr);

/// An address or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range(pub(super) IpNet);

/// A host name; one of a ServiceEntry may begin with `*.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostName(pub(super) String);

/// A whole number that fits 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) u32);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(port) if port != 0 => Ok(Self(port)),
            _ => Err(format!("{text:?} is not a port: expected a number from 1 to 65535")),
        }
    }
}

impl FromStr for Ip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| format!("{text:?} is not an IP address: expected such as 10.0.0.1 or fd00::1"))?;
        Ok(Self(ip.to_canonical()))
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let alone = || text.parse::<Ip>().map(|ip| IpNet::from(ip.0));
        text.parse::<IpNet>()
            .map(|range| Self(range.trunc()))
            .or_else(|_| alone().map(Self))
            .map_err(|_: String| {
                format!("{text:?} is not an address or range: expected such as 10.0.0.1 or 10.0.0.0/8")
            })
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().map(Self);
        number.map_err(|_| format!("{text:?} is not a number from 0 to {}", u32::MAX))
    }
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_host_name(text.strip_prefix("*.").unwrap_or(text)) {
            return Err(format!(
                "{text:?} is not a host name: expected such as echo.demo.svc.cluster.local"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl FromStr for ServiceKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not the name of a service: expected NAMESPACE/HOSTNAME");
        let (namespace, hostname) = text.split_once('/').ok_or_else(wrong)?;
        let hostname: HostName = hostname.parse().map_err(|_| wrong())?;
        if namespace.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            namespace: namespace.into(),
            hostname: hostname.0.into(),
        })
    }
}

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a virtual address: expected NETWORK/IP or NETWORK/IP/PREFIXLENGTH");
        let (network, range) = text.split_once('/').ok_or_else(wrong)?;
        let range: Range = range.parse().map_err(|_| wrong())?;
        Ok(Self {
            network: network.into(),
            range: range.0,
        })
    }
}

impl FromStr for GatewayDestination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((network, address)) = text.split_once('/')
            && let Ok(ip) = address.parse::<Ip>()
        {
            return Ok(Self::Address(NetworkAddress {
                network: network.into(),
                ip: ip.0,
            }));
        }
        text.parse()
            .map(Self::Hostname)
            .map_err(|_| format!("{text:?} is not the address of a gateway: expected NETWORK/IP or NAMESPACE/HOSTNAME"))
    }
}

/// A mapping whose keys are kept as they stand, in their order.
#[derive(Debug)]
pub(super) struct Entries<K, V>(pub(super) Vec<(K, V)>);

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<K, V>(PhantomData<(K, V)>);

        impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for Pairs<K, V> {
            type Value = Entries<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Entries(pairs))
            }
        }

        deserializer.deserialize_map(Pairs(PhantomData))
    }
}
