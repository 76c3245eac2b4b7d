//! TIME_WAIT: how many sockets of a namespace are in it, and whose they were.

use std::{fs, net::IpAddr};

use isthmus_tests::{Because as _, Netns, Pod, Result};

/// State of a line of `/proc/net/tcp` (include/net/tcp_states.h).
const TIME_WAIT: &str = "06";
/// Port of tunnels.
const HBONE: u16 = 15008;

/// Sockets in TIME_WAIT, by who closed them first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Their local address is the pod's and they are no tunnel: programs of the pod, and an agent that dials a
    /// destination in clear from the pod's address, which nothing tells apart.
    pub(crate) application: u64,
    /// Their local address is foreign, or they are tunnels.
    pub(crate) agent: u64,
}

impl Census {
    /// Counts in a pod.
    pub(crate) fn of_pod(pod: &Pod) -> Result<Self> {
        let mut census = Self::default();
        for table in tables(pod.netns())? {
            census.count(&table, pod.ips());
        }
        Ok(census)
    }

    /// Counts in a node's own namespace, where everything is the agent's.
    pub(crate) fn of_node(netns: &Netns) -> Result<u64> {
        let mut census = Self::default();
        for table in tables(netns)? {
            census.count(&table, &[]);
        }
        Ok(census.agent)
    }

    fn count(&mut self, table: &str, own: &[IpAddr]) {
        for line in table.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let (Some(local), Some(remote), Some(TIME_WAIT)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let is_tunnel = [local, remote].into_iter().any(|end| port(end) == Some(HBONE));
            let is_own = address(local).is_some_and(|ip| own.contains(&ip));
            if is_own && !is_tunnel {
                self.application += 1;
            } else {
                self.agent += 1;
            }
        }
    }
}

/// Both tables of a namespace. A socket that was accepted on `::` is in the second one.
fn tables(netns: &Netns) -> Result<[String; 2]> {
    netns.enter(|| {
        let read = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            fs::read_to_string(&path).because(format!("reading {path}"))
        };
        Ok([read("tcp")?, read("tcp6")?])
    })?
}

fn port(end: &str) -> Option<u16> {
    u16::from_str_radix(end.split_once(':')?.1, 16).ok()
}

/// Words of four bytes, each in the byte order of the machine.
fn address(end: &str) -> Option<IpAddr> {
    let (text, _) = end.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(IpAddr::from(v6).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn counted(lines: &[&str]) -> Census {
        let own = ["10.1.1.11".parse().unwrap()];
        let mut census = Census::default();
        census.count(&[HEAD, &lines.join("\n")].concat(), &own);
        census
    }

    #[test]
    fn what_closed_from_the_pods_address_is_the_applications() {
        // 10.1.1.11:0x9c40 to 10.1.2.11:0x238c
        let line = "   0: 0B01010A:9C40 0B02010A:238C 06 00000000:00000000 03:00001770 00000000 0 0 0 3 0";
        let census = counted(&[line, line]);
        assert_eq!((census.application, census.agent), (2, 0));
    }

    #[test]
    fn what_closed_from_the_clients_destination_is_the_agents() {
        let line = "   0: 0B02010A:238C 0B01010A:9C40 06 0:0";
        assert_eq!(
            counted(&[line]),
            Census {
                application: 0,
                agent: 1
            }
        );
    }

    #[test]
    fn tunnels_are_the_agents_although_they_start_at_the_pods_address() {
        let out = "   0: 0B01010A:9C40 0B02010A:3AA0 06 0:0";
        let inward = "   1: 0000000000000000FFFF00000B01010A:3AA0 0000000000000000FFFF00000B02010A:9C40 06 0:0";
        assert_eq!(
            counted(&[out, inward]),
            Census {
                application: 0,
                agent: 2
            }
        );
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let line = "   0: 0000000000000000FFFF00000B01010A:238C 0000000000000000FFFF00000B02010A:9C40 06 0:0";
        assert_eq!(
            counted(&[line]),
            Census {
                application: 1,
                agent: 0
            }
        );
    }

    #[test]
    fn other_states_and_nonsense_are_not_counted() {
        let lines = ["   0: 0B01010A:9C40 0B02010A:238C 01 0:0", "", "   0: x", "TIME_WAIT"];
        assert_eq!(counted(&lines), Census::default());
    }
}
