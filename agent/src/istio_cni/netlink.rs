//! Netlink messages of netfilter and of socket diagnosis, because the tools that speak them are not in the agent's image.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use crate::redirect::Netns;

/// linux/netlink.h.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;
/// linux/netfilter/nfnetlink.h.
const NFNL_BATCH_BEGIN: u16 = 0x10;
const NFNL_BATCH_END: u16 = 0x11;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who has more than this is not listed to the end.
const MOST_PARTS: usize = 4_096;
const PART_BYTES: usize = 64 * 1024;

/// A netlink socket in a namespace.
pub(super) struct Conversation {
    socket: OwnedFd,
    part: Vec<u8>,
}

/// What is asked: a message's kind and what follows its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: u16,
    pub(super) payload: Vec<u8>,
}

impl Conversation {
    /// Opens one; none where the kernel lacks the protocol, so that nobody has anything in it.
    pub(super) fn open(netns: &Netns, protocol: SockProtocol) -> io::Result<Option<Self>> {
        let open = || socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        let socket = match netns.run(open)? {
            Err(nix::errno::Errno::EPROTONOSUPPORT) => return Ok(None),
            made => made?,
        };
        let patience = nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Some(Self {
            socket,
            part: vec![0; PART_BYTES],
        }))
    }

    /// Asks for a list; `take` is given what follows each answer's header.
    pub(super) fn dump(&mut self, request: &Request, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        self.say(&message(request, NLM_F_REQUEST | NLM_F_DUMP, 0))?;
        for _ in 0..MOST_PARTS {
            let length = recv(self.socket.as_raw_fd(), &mut self.part, MsgFlags::empty())?;
            let part = self.part.get(..length).unwrap_or_default();
            for answer in answers(part) {
                match answer {
                    Answer::Item(item) => take(item),
                    Answer::Done | Answer::Errno(0) => return Ok(()),
                    Answer::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
        Err(io::Error::other("the kernel lists more than the agent reads"))
    }

    /// Does one thing.
    pub(super) fn act(&mut self, request: &Request) -> io::Result<()> {
        self.say(&message(request, NLM_F_REQUEST | NLM_F_ACK, 0))?;
        self.acknowledged(1)
    }

    /// Does all, or nothing, of what is asked of one subsystem of netfilter.
    pub(super) fn transact(&mut self, subsystem: u8, requests: &[Request]) -> io::Result<()> {
        let fence = |kind| Request {
            kind,
            payload: vec![0, 0, 0, subsystem],
        };
        let mut batch = message(&fence(NFNL_BATCH_BEGIN), NLM_F_REQUEST, 0);
        for request in requests {
            batch.extend(message(request, NLM_F_REQUEST | NLM_F_ACK, 1));
        }
        batch.extend(message(&fence(NFNL_BATCH_END), NLM_F_REQUEST, 0));
        self.say(&batch)?;
        self.acknowledged(requests.len())
    }

    fn say(&self, bytes: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn acknowledged(&mut self, mut wanted: usize) -> io::Result<()> {
        while wanted > 0 {
            let length = recv(self.socket.as_raw_fd(), &mut self.part, MsgFlags::empty())?;
            let part = self.part.get(..length).unwrap_or_default();
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for answer in answers(part) {
                match answer {
                    Answer::Errno(0) => wanted = wanted.saturating_sub(1),
                    Answer::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Answer::Item(_) | Answer::Done => {}
                }
            }
        }
        Ok(())
    }
}

/// A message that the kernel sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer<'a> {
    Item(&'a [u8]),
    Done,
    Errno(i32),
}

/// The messages of a datagram, up to the first that is not whole.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(bytes, 0)?).ok()?;
        let whole = bytes.get(..length).filter(|_| length >= HEADER_BYTES)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        let payload = whole.get(HEADER_BYTES..)?;
        Some(match half(whole, 4)? {
            NLMSG_DONE => Answer::Done,
            NLMSG_ERROR => {
                let code = word(payload, 0).map_or(-libc::EINVAL, u32::cast_signed);
                Answer::Errno(code.wrapping_neg())
            }
            _ => Answer::Item(payload),
        })
    })
}

fn message(request: &Request, flags: u16, sequence: u32) -> Vec<u8> {
    let length = HEADER_BYTES + request.payload.len();
    let mut bytes = Vec::with_capacity(aligned(length));
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(request.kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // Port: the kernel fills in ours.
    bytes.extend([0; 4]);
    bytes.extend_from_slice(&request.payload);
    bytes.resize(aligned(length), 0);
    bytes
}

/// An attribute with its value.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(aligned(length));
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(aligned(length), 0);
    bytes
}

/// An attribute that is a string.
pub(super) fn string(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// The attributes that bytes consist of, up to the first that is not whole.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
pub(super) fn value(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// The string that is the value of the first attribute of a kind.
pub(super) fn text(bytes: &[u8], wanted: u16) -> Option<String> {
    let value = value(bytes, wanted)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(value.get(..end)?).into_owned())
}

/// A word in the machine's order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn aligned(length: usize) -> usize {
    length.div_ceil(4) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: u16, payload: &[u8]) -> Vec<u8> {
        let request = Request {
            kind,
            payload: payload.to_vec(),
        };
        message(&request, 0, 0)
    }

    #[test]
    fn messages_are_read_up_to_the_first_that_is_cut() {
        let mut bytes = item(0xa03, b"abcd");
        bytes.extend(item(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes()));
        bytes.extend(item(NLMSG_DONE, &[0; 4]));
        let found: Vec<_> = answers(&bytes).collect();
        assert_eq!(found, [Answer::Item(b"abcd"), Answer::Errno(libc::EPERM), Answer::Done]);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(answers(&bytes).count(), 2);
    }

    #[test]
    fn attributes_are_found_among_others() {
        let mut bytes = string(1, "nat");
        bytes.extend(attribute(2, &7u64.to_be_bytes()));
        bytes.extend(string(3 | 0x8000, "ISTIO_OUTPUT"));
        assert_eq!(text(&bytes, 1).as_deref(), Some("nat"));
        assert_eq!(text(&bytes, 3).as_deref(), Some("ISTIO_OUTPUT"));
        assert_eq!(value(&bytes, 2), Some([0, 0, 0, 0, 0, 0, 0, 7].as_slice()));
        assert_eq!(value(&bytes, 4), None);
    }

    #[test]
    fn nothing_that_comes_from_the_socket_can_break_it() {
        let whole = item(0xa03, &[string(1, "nat"), string(3, "ISTIO_OUTPUT")].concat());
        let read = |bytes: &[u8]| {
            for answer in answers(bytes) {
                if let Answer::Item(item) = answer {
                    text(item, 3);
                }
            }
        };
        for cut in 0..whole.len() {
            read(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut odd = whole.clone();
                odd[at] = value;
                read(&odd);
            }
        }
    }
}
