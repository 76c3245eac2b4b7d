//! What worker and parent say to each other, one datagram a note.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Deserialize, Serialize};

/// Longest note in bytes.
const LIMIT_BYTES: usize = 1024;

/// One note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Worker: I am new, give me what you hold.
    Hello,
    /// Carries a socket. Worker: hold it. Parent: this you had.
    Hold {
        /// Whatever the worker calls it.
        name: String,
    },
    /// Parent: that was all.
    End,
    /// Worker: close everything whose name begins so.
    Drop {
        /// Beginning of names.
        prefix: String,
    },
    /// Worker: I serve.
    Ready,
    /// Worker: give me what the agent before holds, too. Said to that agent as well.
    Takeover,
    /// Worker: I change nothing on the node any more, as I was told.
    Quiet,
}

/// Sends a note, with a descriptor.
pub fn send(link: BorrowedFd<'_>, note: &Note, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let text = serde_json::to_vec(note)?;
    let descriptors = socket.map(|socket| [socket.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = descriptors.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    loop {
        match sendmsg::<()>(
            link.as_raw_fd(),
            &[IoSlice::new(&text)],
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

/// Waits for a note; none when the other side has ended.
pub fn receive(link: BorrowedFd<'_>) -> io::Result<Option<(Note, Option<OwnedFd>)>> {
    let mut text = [0u8; LIMIT_BYTES];
    let mut control = cmsg_space!([RawFd; 1]);
    let (length, socket) = loop {
        let mut buffers = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(link.as_raw_fd(), &mut buffers, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(message) => {
                let mut socket = None;
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(descriptors) = part {
                        socket = descriptors.into_iter().map(adopt).next_back();
                    }
                }
                break (message.bytes, socket);
            }
        }
    };
    match text.get(..length) {
        None | Some([]) => Ok(None),
        Some(text) => Ok(Some((serde_json::from_slice(text)?, socket))),
    }
}

#[expect(unsafe_code, reason = "a descriptor of recvmsg() or accept4() comes as a number")]
pub(super) fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process just now, and nobody else has seen the number.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::{net::TcpListener, os::fd::AsFd as _};

    #[test]
    fn a_note_carries_a_socket_and_the_end_is_seen() {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        send(one.as_fd(), &Note::Hold { name: "a".into() }, Some(listener.as_fd())).unwrap();
        send(one.as_fd(), &Note::Ready, None).unwrap();
        let (note, socket) = receive(other.as_fd()).unwrap().unwrap();
        assert_eq!(note, Note::Hold { name: "a".into() });
        let same = TcpListener::from(socket.unwrap());
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        let (note, socket) = receive(other.as_fd()).unwrap().unwrap();
        assert_eq!(note, Note::Ready);
        assert!(socket.is_none());
        drop(one);
        assert!(receive(other.as_fd()).unwrap().is_none());
    }
}
