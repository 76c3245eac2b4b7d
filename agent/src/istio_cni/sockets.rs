//! TCP sockets of a pod (sock_diag): whether ztunnel still has some, and ending those that it has left half-closed.

use std::io;

use isthmus_abi::{HBONE_PORT, MARK_IN, MARK_OUT};
use nix::sys::socket::SockProtocol;

use super::{
    PROXY_MARK,
    netlink::{Conversation, Request, value, word},
};
use crate::redirect::Netns;

/// linux/sock_diag.h, linux/inet_diag.h.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const MARK: u16 = 15;
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];
const TCP: u8 = libc::IPPROTO_TCP as u8;
/// Offsets in an answer.
const ADDRESSES: usize = 4;
const ADDRESSES_BYTES: usize = 48;
const INODE: usize = 68;
const ATTRIBUTES: usize = 72;

/// States by their number in include/net/tcp_states.h.
const ALL_BUT_TIME_WAIT: u32 = 0xfff & !(1 << 6);
/// The other side has ended, or this one has and what it sent is not acknowledged: FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING.
const HALF_CLOSED: u32 = 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11;
/// Sockets that are ended in one go; what is left is ended the next time.
const MOST: usize = 16_384;

/// A socket, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tcp {
    family: u8,
    /// Ports, addresses, interface and cookie, as the kernel told them.
    id: [u8; ADDRESSES_BYTES],
    mark: u32,
    /// A process has it.
    is_held: bool,
}

/// Ends, with a reset, what ztunnel has left half-closed in the pod, once it has gone from it. An application may still write to
/// such a connection, and without the rules that would leave the pod in clear. Answers how many there were; nothing is done, and
/// nothing answered, while a process has sockets with ztunnel's mark: it listens there, or carries connections.
pub(super) fn end_after_ztunnel(netns: &Netns) -> io::Result<Option<usize>> {
    let mut kernel = Conversation::open(netns, SockProtocol::NetlinkSockDiag)?.ok_or(io::ErrorKind::Unsupported)?;
    let mut serves = false;
    each(&mut kernel, ALL_BUT_TIME_WAIT, |tcp| {
        serves |= tcp.is_held && tcp.mark & PROXY_MARK.1 == PROXY_MARK.0;
    })?;
    if serves {
        return Ok(None);
    }
    let mut found = Vec::new();
    each(&mut kernel, HALF_CLOSED, |tcp| {
        if found.len() < MOST && tcp.is_of_ztunnel() {
            found.push(tcp);
        }
    })?;
    for tcp in &found {
        match kernel.act(&request(DESTROY, tcp.family, u32::MAX, &tcp.id)) {
            // It has ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            done => done?,
        }
    }
    if found.len() < MOST {
        Ok(Some(found.len()))
    } else {
        Err(io::Error::other("there are more of them than are ended at once"))
    }
}

impl Tcp {
    fn port(&self, at: usize) -> u16 {
        self.id
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |port| u16::from_be_bytes(*port))
    }

    fn address(&self, at: usize) -> &[u8] {
        self.id.get(at..at + 16).unwrap_or_default()
    }

    /// Not between two of the pod's own on the loopback address, which nobody captures; not redirected by us; not a tunnel.
    fn is_of_ztunnel(&self) -> bool {
        let peer = self.address(20);
        let is_loopback = match peer {
            [127, ..] => i32::from(self.family) == libc::AF_INET,
            [rest @ .., last] if rest.iter().all(|byte| *byte == 0) => *last == 1,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, ..] => true,
            _ => false,
        };
        let is_tunnel = self.port(0) == HBONE_PORT || self.port(2) == HBONE_PORT;
        !is_loopback && !is_tunnel && ![MARK_IN, MARK_OUT].contains(&self.mark)
    }
}

fn each(kernel: &mut Conversation, states: u32, mut take: impl FnMut(Tcp)) -> io::Result<()> {
    for family in FAMILIES {
        let request = request(BY_FAMILY, family, states, &[0; ADDRESSES_BYTES]);
        kernel.dump(&request, |item| {
            if let Some(tcp) = tcp(item) {
                take(tcp);
            }
        })?;
    }
    Ok(())
}

fn request(kind: u16, family: u8, states: u32, id: &[u8; ADDRESSES_BYTES]) -> Request {
    let mut payload = vec![family, TCP, 0, 0];
    payload.extend(states.to_ne_bytes());
    payload.extend_from_slice(id);
    Request { kind, payload }
}

fn tcp(item: &[u8]) -> Option<Tcp> {
    let mark = value(item.get(ATTRIBUTES..)?, MARK).and_then(|mark| word(mark, 0));
    Some(Tcp {
        family: *item.first()?,
        id: *item.get(ADDRESSES..)?.first_chunk()?,
        mark: mark.unwrap_or(0),
        is_held: word(item, INODE)? != 0,
    })
}
