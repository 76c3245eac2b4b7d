//! Names of nftables chains and of ipsets in a network namespace, read from the kernel (nfnetlink), because the tools that
//! print them are not in the agent's image. iptables-nft keeps its chains there as well.

use std::{io, os::fd::AsRawFd as _, time::Duration};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use crate::redirect::Netns;

/// linux/netfilter/nfnetlink.h, nf_tables.h, ipset/ip_set.h: `subsystem << 8 | message`.
const GET_CHAINS: u16 = 10 << 8 | 4;
const LIST_SETS: u16 = 6 << 8 | 7;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_PROTOCOL: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 6;
/// Names only.
const LIST_SETNAME: u32 = 2;
/// The protocol's lowest version, which every kernel speaks.
const SET_PROTOCOL_VERSION: u8 = 6;

/// linux/netlink.h.
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_NET_BYTEORDER: u16 = 0x4000;
/// Header, and what nfnetlink puts behind it.
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// A dump of more parts than this has names enough.
const MOST_PARTS: usize = 4_096;
const PART_BYTES: usize = 64 * 1024;

/// Is this a chain or table that istio-cni makes (wire-facts §12.5, §12.6)? `TABLE CHAIN`.
pub(super) fn is_istio(chain: &str) -> bool {
    let (table, name) = chain.split_once(' ').unwrap_or((chain, ""));
    table.starts_with("istio-ambient-") || ["ISTIO_PRERT", "ISTIO_OUTPUT", "ISTIO_POSTRT"].contains(&name)
}

/// `TABLE CHAIN` of every chain.
pub(super) fn chains(netns: &Netns) -> io::Result<Vec<String>> {
    dump(netns, GET_CHAINS, &[], chain)
}

/// Names of ipsets.
pub(super) fn sets(netns: &Netns) -> io::Result<Vec<String>> {
    let mut attributes = attribute(SET_PROTOCOL, &[SET_PROTOCOL_VERSION]);
    attributes.extend(attribute(SET_FLAGS | NLA_NET_BYTEORDER, &LIST_SETNAME.to_be_bytes()));
    dump(netns, LIST_SETS, &attributes, |attributes| text(attributes, SET_NAME))
}

fn chain(attributes: &[u8]) -> Option<String> {
    Some(format!(
        "{} {}",
        text(attributes, CHAIN_TABLE)?,
        text(attributes, CHAIN_NAME)?
    ))
}

fn dump(
    netns: &Netns,
    message: u16,
    attributes: &[u8],
    read: impl Fn(&[u8]) -> Option<String>,
) -> io::Result<Vec<String>> {
    let open = || {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
    };
    let socket = match netns.run(open)? {
        // The kernel has no netfilter, so nobody has rules in it.
        Err(nix::errno::Errno::EPROTONOSUPPORT) => return Ok(Vec::new()),
        made => made?,
    };
    let patience = nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    send(socket.as_raw_fd(), &request(message, attributes), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut part = vec![0; PART_BYTES];
    for _ in 0..MOST_PARTS {
        let length = recv(socket.as_raw_fd(), &mut part, MsgFlags::empty())?;
        match take(part.get(..length).unwrap_or_default(), &read, &mut found) {
            Part::More => {}
            Part::Last => break,
            // Neither nf_tables nor ipset is in this kernel, or its module was never loaded.
            Part::Error(libc::EINVAL | libc::EOPNOTSUPP) => return Ok(Vec::new()),
            Part::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
    Ok(found)
}

fn request(message: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + FAMILY_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(message.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port: the kernel fills in ours.
    bytes.extend([0; 8]);
    // Family (any), version, resource.
    bytes.extend([0; FAMILY_BYTES]);
    bytes.extend_from_slice(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(aligned(length));
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(aligned(length), 0);
    bytes
}

fn aligned(length: usize) -> usize {
    length.div_ceil(4) * 4
}

/// What a datagram said of the dump.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    More,
    Last,
    Error(i32),
}

/// Reads the messages of a datagram.
fn take(mut bytes: &[u8], read: &impl Fn(&[u8]) -> Option<String>, found: &mut Vec<String>) -> Part {
    while let Some(length) = word(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER_BYTES) else {
            return Part::Last;
        };
        match half(message, 4) {
            Some(NLMSG_DONE) | None => return Part::Last,
            Some(NLMSG_ERROR) => {
                let errno = word(message, HEADER_BYTES).map_or(libc::EINVAL, |code| code.cast_signed().wrapping_neg());
                return if errno == 0 { Part::Last } else { Part::Error(errno) };
            }
            Some(_) => found.extend(message.get(HEADER_BYTES + FAMILY_BYTES..).and_then(read)),
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Part::More
}

/// A string among attributes.
fn text(mut attributes: &[u8], wanted: u16) -> Option<String> {
    loop {
        let length = usize::from(half(attributes, 0)?);
        let kind = half(attributes, 2)? & NLA_TYPE_MASK;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            return Some(String::from_utf8_lossy(value.get(..end)?).into_owned());
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = request(kind, &[]);
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(payload);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn chain_message(table: &str, name: &str) -> Vec<u8> {
        let mut payload = vec![0; FAMILY_BYTES];
        payload.extend(attribute(CHAIN_TABLE, format!("{table}\0").as_bytes()));
        payload.extend(attribute(2, &7u64.to_be_bytes()));
        payload.extend(attribute(CHAIN_NAME, format!("{name}\0").as_bytes()));
        message(10 << 8 | 3, &payload)
    }

    #[test]
    fn chains_are_read_from_several_messages_up_to_the_end() {
        let mut bytes = chain_message("nat", "ISTIO_OUTPUT");
        bytes.extend(chain_message("filter", "INPUT"));
        let mut found = Vec::new();
        assert_eq!(take(&bytes, &chain, &mut found), Part::More);
        bytes.extend(message(NLMSG_DONE, &0u32.to_ne_bytes()));
        bytes.extend(chain_message("nat", "AFTER-THE-END"));
        found.clear();
        assert_eq!(take(&bytes, &chain, &mut found), Part::Last);
        assert_eq!(found, ["nat ISTIO_OUTPUT", "filter INPUT"]);
    }

    #[test]
    fn an_error_is_told_by_its_number() {
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(take(&refused, &chain, &mut Vec::new()), Part::Error(libc::EPERM));
    }

    #[test]
    fn nothing_that_comes_from_the_socket_can_break_it() {
        let whole = chain_message("nat", "ISTIO_OUTPUT");
        for cut in 0..whole.len() {
            take(&whole[..cut], &chain, &mut Vec::new());
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut odd = whole.clone();
                odd[at] = value;
                take(&odd, &chain, &mut Vec::new());
            }
        }
    }

    #[test]
    fn names_of_istio_are_known() {
        for chain in ["nat ISTIO_POSTRT", "mangle ISTIO_PRERT", "istio-ambient-nat prerouting"] {
            assert!(is_istio(chain), "{chain}");
        }
        for chain in ["nat KUBE-POSTROUTING", "nat MY_ISTIO_OUTPUT", "istio ISTIO"] {
            assert!(!is_istio(chain), "{chain}");
        }
    }
}
