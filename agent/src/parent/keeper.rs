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
        let held = given(link.as_fd())?;
        Ok((Self { link: Some(link) }, held))
    }

    /// Takes what the agent before holds, and with it the node: that agent changes nothing there any more. Nothing when
    /// there is none.
    pub fn take_over(&self) -> io::Result<HashMap<String, OwnedFd>> {
        self.tell(&Note::Takeover, None)?;
        self.link
            .as_ref()
            .map_or_else(|| Ok(HashMap::new()), |link| given(link.as_fd()))
    }

    /// Says that the worker changes nothing on the node any more.
    pub fn quiet(&self) -> io::Result<()> {
        self.tell(&Note::Quiet, None)
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

/// What the parent gives, to the end of it.
fn given(link: BorrowedFd<'_>) -> io::Result<HashMap<String, OwnedFd>> {
    let mut held = HashMap::new();
    loop {
        match receive(link)? {
            Some((Note::Hold { name }, Some(socket))) => {
                held.insert(name, socket);
            }
            Some((Note::End, _)) => return Ok(held),
            Some((note, _)) => tracing::warn!(?note, "a note of the parent makes no sense"),
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the parent has ended")),
        }
    }
}
