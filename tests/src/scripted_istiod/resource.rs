//! Resources as they are sent, whole or damaged.

use std::collections::BTreeMap;

use isthmus_istio::{
    ADDRESS, AUTHORIZATION,
    discovery::Resource,
    security::Authorization,
    workload::{Address, Service, Workload, address},
};
use prost::Message as _;
use prost_types::Any;

/// The kinds of resources that agents ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Policies.
    Authorization,
}

impl Kind {
    /// Its type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS,
            Self::Authorization => AUTHORIZATION,
        }
    }

    /// The kind of a type URL.
    pub fn of(url: &str) -> Option<Self> {
        [Self::Address, Self::Authorization]
            .into_iter()
            .find(|kind| kind.url() == url)
    }
}

/// A workload as istiod sends it.
pub fn workload(workload: Workload) -> Resource {
    let name = workload.uid.clone();
    let aliases = workload
        .addresses
        .iter()
        .filter_map(|bytes| Some(format!("{}/{}", workload.network, ip(bytes)?)))
        .collect();
    of_address(&name, aliases, address::Type::Workload(workload))
}

/// A service as istiod sends it.
pub fn service(service: Service) -> Resource {
    let name = format!("{}/{}", service.namespace, service.hostname);
    let aliases = service
        .addresses
        .iter()
        .filter_map(|at| Some(format!("{}/{}", at.network, ip(&at.address)?)))
        .collect();
    of_address(&name, aliases, address::Type::Service(service))
}

/// A policy as istiod sends it: without a version.
pub fn policy(policy: &Authorization) -> Resource {
    Resource {
        version: String::new(),
        resource: Some(Any {
            type_url: AUTHORIZATION.to_owned(),
            value: policy.encode_to_vec(),
        }),
        name: format!("{}/{}", policy.namespace, policy.name),
        aliases: Vec::new(),
    }
}

/// A resource whose content is any bytes.
pub fn raw(kind: Kind, name: &str, value: Vec<u8>) -> Resource {
    Resource {
        version: version(&value),
        resource: Some(Any {
            type_url: kind.url().to_owned(),
            value,
        }),
        name: name.to_owned(),
        aliases: Vec::new(),
    }
}

/// The same with two fields that this version of the protocol does not have: one of the message, one of what is in it.
pub fn with_unknown_fields(mut resource: Resource) -> Resource {
    // Field 2047, wire type 0 and 2 (Protocol Buffers encoding): a number, and a text.
    const NUMBER: [u8; 3] = [0xf8, 0x7f, 42];
    const TEXT: [u8; 6] = [0xfa, 0x7f, 3, b'n', b'e', b'w'];
    if let Some(any) = &mut resource.resource {
        if resource.version.is_empty() {
            any.value.extend(NUMBER);
        } else {
            // An address is one field, whose content follows its tag and length: they are written anew around more.
            let (tag, inner) = content(&any.value);
            let mut value = vec![tag];
            let mut inner = inner.to_vec();
            inner.extend(TEXT);
            prost::encoding::encode_varint(inner.len() as u64, &mut value);
            value.extend(inner);
            value.extend(NUMBER);
            any.value = value;
            resource.version = version(&any.value);
        }
    }
    resource
}

/// The tag and the content of a message of one field.
fn content(value: &[u8]) -> (u8, &[u8]) {
    let tag = value.first().copied().unwrap_or_default();
    let mut rest = value.get(1..).unwrap_or_default();
    // Written by us a moment ago; of nonsense nothing is left.
    let _length = prost::encoding::decode_varint(&mut rest);
    (tag, rest)
}

fn of_address(name: &str, aliases: Vec<String>, kind: address::Type) -> Resource {
    let value = Address { r#type: Some(kind) }.encode_to_vec();
    Resource {
        aliases,
        ..raw(Kind::Address, name, value)
    }
}

fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        _ => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
    }
}

/// A text that changes with the content. istiod's is another hash, which no agent can know.
fn version(value: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    format!("{:016x}", hasher.finish())
}

/// Everything there is, by kind and name.
#[derive(Debug, Default)]
pub(super) struct Resources {
    /// Grows with every change.
    pub(super) number: u64,
    of: BTreeMap<Kind, BTreeMap<String, Resource>>,
    /// The last change of each kind.
    newest: BTreeMap<Kind, u64>,
}

/// A change of one kind.
#[derive(Debug)]
pub(super) struct News {
    /// [`Resources::number`] after it.
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) put: Vec<Resource>,
    pub(super) removed: Vec<String>,
}

impl Resources {
    /// Changes some; answers what streams are to be told.
    pub(super) fn change(&mut self, kind: Kind, put: Vec<Resource>, removed: Vec<String>) -> News {
        let of = self.of.entry(kind).or_default();
        for name in &removed {
            of.remove(name);
        }
        for resource in &put {
            of.insert(resource.name.clone(), resource.clone());
        }
        self.number += 1;
        self.newest.insert(kind, self.number);
        News {
            number: self.number,
            kind,
            put,
            removed,
        }
    }

    /// Makes these all there are of a kind; answers what differs, if anything does.
    pub(super) fn replace(&mut self, kind: Kind, all: Vec<Resource>) -> Option<News> {
        let of = self.of.entry(kind).or_default();
        let removed: Vec<String> = of
            .keys()
            .filter(|name| !all.iter().any(|resource| resource.name == **name))
            .cloned()
            .collect();
        let put: Vec<Resource> = all
            .into_iter()
            .filter(|resource| of.get(&resource.name) != Some(resource))
            .collect();
        if put.is_empty() && removed.is_empty() {
            return None;
        }
        Some(self.change(kind, put, removed))
    }

    /// The number of the last change of each kind.
    pub(super) fn newest(&self) -> impl Fn(Kind) -> u64 + use<> {
        let newest = self.newest.clone();
        move |kind| newest.get(&kind).copied().unwrap_or_default()
    }

    /// All of a kind.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.of.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// What a name or an alias means; with a service come its endpoints.
    pub(super) fn found(&self, kind: Kind, name: &str) -> Vec<&Resource> {
        let named = |resource: &&Resource| resource.name == name || resource.aliases.iter().any(|alias| alias == name);
        let found: Vec<&Resource> = self.all(kind).filter(named).collect();
        let mut all = found.clone();
        for resource in found {
            let serves = |one: &&Resource| workload_of(one).is_some_and(|w| w.services.contains_key(&resource.name));
            all.extend(self.all(kind).filter(serves));
        }
        all
    }

    /// Whether there is one of this name.
    pub(super) fn has(&self, kind: Kind, name: &str) -> bool {
        self.of.get(&kind).is_some_and(|of| of.contains_key(name))
    }
}

/// The workload in a resource, if it is one.
pub(super) fn workload_of(resource: &Resource) -> Option<Workload> {
    let any = resource.resource.as_ref()?;
    match Address::decode(any.value.as_slice()).ok()?.r#type? {
        address::Type::Workload(workload) => Some(workload),
        address::Type::Service(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Resource {
        workload(Workload {
            uid: uid.to_owned(),
            addresses: vec![vec![10, 0, 0, 1]],
            network: "net1".to_owned(),
            ..Workload::default()
        })
    }

    #[test]
    fn unknown_fields_leave_what_is_known_and_change_the_version() {
        let (plain, strange) = (pod("a"), with_unknown_fields(pod("a")));
        assert_eq!(workload_of(&plain), workload_of(&strange));
        assert_ne!(plain.version, strange.version);
        assert!(workload_of(&plain).is_some());
        let value = strange.resource.unwrap().value;
        assert!(value.windows(3).any(|part| part == b"new"), "{value:?}");
    }

    #[test]
    fn what_is_replaced_by_the_same_is_no_news() {
        let mut resources = Resources::default();
        let first = resources.replace(Kind::Address, vec![pod("a"), pod("b")]).unwrap();
        assert_eq!((first.put.len(), first.removed.len()), (2, 0));
        assert!(resources.replace(Kind::Address, vec![pod("a"), pod("b")]).is_none());
        let next = resources.replace(Kind::Address, vec![pod("b"), pod("c")]).unwrap();
        assert_eq!(next.put.len(), 1);
        assert_eq!(next.removed, ["a"]);
        assert_eq!(next.number, 2);
    }

    #[test]
    fn a_workload_is_found_by_its_address_too() {
        let mut resources = Resources::default();
        resources.replace(Kind::Address, vec![pod("a")]);
        assert_eq!(resources.found(Kind::Address, "net1/10.0.0.1").len(), 1);
        assert_eq!(resources.found(Kind::Address, "net1/10.0.0.2").len(), 0);
    }
}
