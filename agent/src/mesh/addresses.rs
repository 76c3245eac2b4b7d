//! The addresses of one workload, without an allocation for the one or two that nearly all have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses in the order they were given. An IPv4-mapped one is kept as its IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses(Held);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Held {
    #[default]
    None,
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    V4V6(Ipv4Addr, Ipv6Addr),
    V6V4(Ipv6Addr, Ipv4Addr),
    Others(Box<[IpAddr]>),
}

impl Addresses {
    /// The address at a place of the list, counted from 0.
    pub fn get(&self, at: usize) -> Option<IpAddr> {
        match (&self.0, at) {
            (Held::V4(ip) | Held::V4V6(ip, _), 0) | (Held::V6V4(_, ip), 1) => Some(IpAddr::V4(*ip)),
            (Held::V6(ip) | Held::V6V4(ip, _), 0) | (Held::V4V6(_, ip), 1) => Some(IpAddr::V6(*ip)),
            (Held::Others(ips), at) => ips.get(at).copied(),
            _ => None,
        }
    }

    /// The first one.
    pub fn first(&self) -> Option<IpAddr> {
        self.get(0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::None => 0,
            Held::V4(_) | Held::V6(_) => 1,
            Held::V4V6(..) | Held::V6V4(..) => 2,
            Held::Others(ips) => ips.len(),
        }
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + Clone {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// Is this one of them?
    pub fn contains(&self, ip: &IpAddr) -> bool {
        self.iter().any(|own| own == *ip)
    }
}

impl From<&[IpAddr]> for Addresses {
    fn from(given: &[IpAddr]) -> Self {
        Self(match given {
            [] => Held::None,
            [one] => match one.to_canonical() {
                IpAddr::V4(ip) => Held::V4(ip),
                IpAddr::V6(ip) => Held::V6(ip),
            },
            [one, other] => match (one.to_canonical(), other.to_canonical()) {
                (IpAddr::V4(one), IpAddr::V6(other)) => Held::V4V6(one, other),
                (IpAddr::V6(one), IpAddr::V4(other)) => Held::V6V4(one, other),
                (one, other) => Held::Others([one, other].into()),
            },
            many => Held::Others(many.iter().map(IpAddr::to_canonical).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::fixture::ip;

    #[test]
    fn any_list_comes_out_as_it_went_in() {
        let lists: [&[&str]; 7] = [
            &[],
            &["10.0.0.1"],
            &["fd00::1"],
            &["10.0.0.1", "fd00::1"],
            &["fd00::1", "10.0.0.1"],
            &["10.0.0.1", "10.0.0.2"],
            &["fd00::1", "10.0.0.1", "fd00::2"],
        ];
        for list in lists {
            let given: Vec<IpAddr> = list.iter().map(|text| ip(text)).collect();
            let held = Addresses::from(&*given);
            assert_eq!(held.iter().collect::<Vec<_>>(), given);
            assert_eq!((held.len(), held.is_empty()), (given.len(), given.is_empty()));
            assert_eq!(held.first(), given.first().copied());
            assert_eq!(held.get(given.len()), None);
            assert!(given.iter().all(|ip| held.contains(ip)));
            assert!(!held.contains(&ip("10.9.9.9")));
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        assert_eq!(
            Addresses::from(&[ip("::ffff:10.0.0.1")][..]).first(),
            Some(ip("10.0.0.1"))
        );
    }
}
