//! The worker's end of the link to its parent.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::note::{Note, receive, send};

/// Hands sockets to the parent, which keeps them open past this worker. A worker without a parent has a keeper that
/// keeps nothing.
pub struct Keeper {
    link: Option<OwnedFd>,
}

impl Keeper {
    /// Takes standard input for the link, and what the parent held for the worker before.
    pub fn greet() -> io::Result<(Self, HashMap<String, OwnedFd>)> {
        let link = io::stdin().as_fd().try_clone_to_owned()?;
        send(link.as_fd(), &Note::Hello, None)?;
        let mut held = HashMap::new();
        loop {
            match receive(link.as_fd())? {
                Some((Note::Hold { name }, Some(socket))) => {
                    held.insert(name, socket);
                }
                Some((Note::End, _)) => return Ok((Self { link: Some(link) }, held)),
                Some((note, _)) => tracing::warn!(?note, "a note of the parent makes no sense"),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the parent has ended")),
            }
        }
    }

    /// A keeper that keeps nothing.
    pub fn nobody() -> Self {
        Self { link: None }
    }

    /// The same link once more, for another thread: a note is one datagram, so that they never mix.
    pub fn share(&self) -> io::Result<Self> {
        let link = self.link.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Self { link })
    }

    /// Has a socket held under a name.
    pub fn hold(&self, name: &str, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.tell(&Note::Hold { name: name.to_owned() }, Some(socket))
    }

    /// Has everything closed whose name begins so.
    pub fn release(&self, prefix: &str) -> io::Result<()> {
        self.tell(
            &Note::Drop {
                prefix: prefix.to_owned(),
            },
            None,
        )
    }

    /// Says that the worker serves: from now on it is worth starting again.
    pub fn ready(&self) -> io::Result<()> {
        self.tell(&Note::Ready, None)
    }

    fn tell(&self, note: &Note, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.link
            .as_ref()
            .map_or(Ok(()), |link| send(link.as_fd(), note, socket))
    }
}
