//! The connection all questions share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tonic::transport::Channel;

use crate::istiod::{ConnectError, Contact};

/// At most one connection, made when it is needed; who asks meanwhile waits for the same.
pub(super) struct Lines {
    contact: Contact,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    number: u64,
    channel: Option<Connecting>,
}

/// A connection, or the way to one.
type Connecting = Shared<BoxFuture<'static, Result<Channel, Arc<ConnectError>>>>;

/// One use of a connection.
pub(super) struct Line {
    pub(super) channel: Connecting,
    /// It stood already, and may have ended unnoticed.
    pub(super) was_open: bool,
    number: u64,
}

impl Lines {
    pub(super) fn new(contact: Contact) -> Self {
        Self {
            contact,
            current: Mutex::default(),
        }
    }

    /// The connection there is, or a new one.
    pub(super) fn current(&self) -> Line {
        let mut current = self.lock();
        let number = current.number;
        let channel = current.channel.get_or_insert_with(|| {
            let contact = self.contact.clone();
            async move { contact.connect().await.map_err(Arc::new) }
                .boxed()
                .shared()
        });
        Line {
            was_open: channel.peek().is_some(),
            channel: channel.clone(),
            number,
        }
    }

    /// Has the next question go over a new connection, unless that is so already.
    pub(super) fn hang_up(&self, line: &Line) {
        let mut current = self.lock();
        if current.number == line.number {
            current.number += 1;
            current.channel = None;
        }
    }

    /// The same, whichever connection there is. Questions under way get their answers.
    pub(super) fn hang_up_any(&self) {
        let mut current = self.lock();
        current.number += 1;
        current.channel = None;
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
