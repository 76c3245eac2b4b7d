//! From one agent of a node to its successor: the old parent gives away what it holds, over a socket in the run directory.
//!
//! The successor is ready in everything but its pods when it asks. The old agent then stops changing anything on the node,
//! hands over, takes no more connections and lets the open ones end. What connects in between waits in the listening
//! sockets, which are the same ones.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
    unistd::{Uid, geteuid},
};

use super::note::{Note, receive, send};

/// Name of the socket inside the agent's run directory.
pub const SOCKET_NAME: &str = "handover.sock";
/// How long an agent may take to hand over. It stops what it does within milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long a successor may take to say what it wants.
const QUESTION: Duration = Duration::from_secs(1);

/// Where successors ask. The path is taken from whoever listened there before.
///
/// # Errors
/// When the kernel refuses.
pub fn listener(run_dir: &Path) -> io::Result<OwnedFd> {
    let path = path(run_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listening = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    bind(listening.as_raw_fd(), &UnixAddr::new(&path)?)?;
    listen(&listening, Backlog::new(1)?)?;
    Ok(listening)
}

/// The successor that asks now; none when nobody does. Who merely looks whether somebody is there is nobody.
///
/// # Errors
/// When it is not root's, or says something else.
pub fn successor(listening: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let accepted = match accept4(listening.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        Ok(accepted) => super::note::adopt(accepted),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let user = getsockopt(&accepted, sockopt::PeerCredentials)?.uid();
    if user != geteuid().as_raw() && user != Uid::from_raw(0).as_raw() {
        let text = format!("user {user} is not whom this agent hands over to");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    bound(&accepted, QUESTION)?;
    match receive(accepted.as_fd())? {
        None => Ok(None),
        Some((Note::Takeover, _)) => Ok(Some(accepted)),
        Some((note, _)) => {
            let text = format!("a successor says {note:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

/// Gives everything, to a successor or to a worker.
///
/// # Errors
/// When it is not taken.
pub fn give(taker: BorrowedFd<'_>, held: &HashMap<String, OwnedFd>) -> io::Result<()> {
    held.iter()
        .try_for_each(|(name, socket)| send(taker, &Note::Hold { name: name.clone() }, Some(socket.as_fd())))?;
    send(taker, &Note::End, None)
}

/// Whether an agent serves from this run directory that would hand over.
#[must_use]
pub fn is_somebody_there(run_dir: &Path) -> bool {
    reach(run_dir).is_ok_and(|reached| reached.is_some())
}

/// Asks the agent that serves from this run directory for what it holds; none when there is none.
///
/// # Errors
/// When it does not answer to the end. It may have stopped serving then, so that what it gave is still to be used: it is
/// what is given back beside the error.
pub fn ask(run_dir: &Path) -> (HashMap<String, OwnedFd>, io::Result<()>) {
    let mut held = HashMap::new();
    let outcome = take(run_dir, &mut held);
    (held, outcome)
}

fn take(run_dir: &Path, held: &mut HashMap<String, OwnedFd>) -> io::Result<()> {
    let Some(old) = reach(run_dir)? else { return Ok(()) };
    bound(&old, PATIENCE)?;
    send(old.as_fd(), &Note::Takeover, None)?;
    loop {
        match receive(old.as_fd())? {
            Some((Note::Hold { name }, Some(socket))) => {
                held.insert(name, socket);
            }
            Some((Note::End, _)) => return Ok(()),
            Some((note, _)) => {
                let text = format!("the agent before says {note:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the agent before has ended",
                ));
            }
        }
    }
}

fn reach(run_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let ours = seqpacket(SockFlag::empty())?;
    match connect(ours.as_raw_fd(), &UnixAddr::new(&path(run_dir))?) {
        Ok(()) => Ok(Some(ours)),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET_NAME)
}

fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Nothing waits for the other side for longer.
fn bound(socket: &OwnedFd, bound: Duration) -> io::Result<()> {
    let seconds = i64::try_from(bound.as_secs()).unwrap_or(i64::MAX);
    let bound = TimeVal::new(seconds, 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &bound)?;
    setsockopt(socket, sockopt::SendTimeout, &bound)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("isthmus-handover-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn next(listening: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        let mut events = [nix::poll::PollFd::new(listening.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut events, 20_000_u16).unwrap();
        successor(listening.as_fd())
    }

    #[test]
    fn a_successor_has_the_very_sockets_and_who_only_looks_has_nothing() {
        let directory = Directory::new("given");
        assert!(!is_somebody_there(&directory.0));
        let (held, nobody) = ask(&directory.0);
        assert!(held.is_empty() && nobody.is_ok());
        let listening = listener(&directory.0).unwrap();
        assert!(is_somebody_there(&directory.0));
        assert!(next(&listening).unwrap().is_none());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        let path = directory.0.clone();
        let asking = thread::spawn(move || ask(&path));
        let successor = next(&listening).unwrap().unwrap();
        give(successor.as_fd(), &HashMap::from([("one".to_owned(), tcp.into())])).unwrap();
        let (mut held, outcome) = asking.join().unwrap();
        outcome.unwrap();
        let same = TcpListener::from(held.remove("one").unwrap());
        assert_eq!(same.local_addr().unwrap(), at);
    }

    #[test]
    fn what_was_given_before_the_old_agent_broke_off_is_kept() {
        let directory = Directory::new("broken");
        let listening = listener(&directory.0).unwrap();
        let path = directory.0.clone();
        let asking = thread::spawn(move || ask(&path));
        let successor = next(&listening).unwrap().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let note = Note::Hold { name: "one".to_owned() };
        send(successor.as_fd(), &note, Some(tcp.as_fd())).unwrap();
        drop(successor);
        let (held, outcome) = asking.join().unwrap();
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(held.contains_key("one"));
    }

    #[test]
    fn nonsense_is_no_successor() {
        let directory = Directory::new("nonsense");
        let listening = listener(&directory.0).unwrap();
        let stranger = reach(&directory.0).unwrap().unwrap();
        send(stranger.as_fd(), &Note::Ready, None).unwrap();
        assert_eq!(next(&listening).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
