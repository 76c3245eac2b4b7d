//! What trying has taught: of this connection itself, and of peers that lately failed others.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a decision may know besides the mesh. The default is a first attempt that knows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Experience<'a> {
    /// What this connection has tried in vain.
    pub failed: &'a [Failed],
    /// What DNS has answered for it.
    pub names: &'a [Resolved],
    /// Peers that lately failed: used where there is nothing else.
    pub shunned: Option<&'a dyn Shunned>,
}

/// Somebody who was tried in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The address that was dialled.
    pub at: SocketAddr,
    /// Whether another attempt may end elsewhere: behind a gateway, which chooses anew for every stream.
    pub again: bool,
    /// Whether it was through a tunnel: after that nothing goes in clear, so that who can break a tunnel gains nothing.
    pub tunnelled: bool,
}

/// A host name and its addresses; none when it could not be resolved.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The name.
    pub hostname: Arc<str>,
    /// Its addresses.
    pub addresses: Arc<[IpAddr]>,
}

/// A memory of peers that lately could not be reached.
pub trait Shunned: fmt::Debug + Send + Sync {
    /// Is this one of them?
    fn contains(&self, peer: SocketAddr) -> bool;
}

/// How much is to be said for an address. The greater, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It failed this connection, and might not again.
    Again,
    /// It failed others lately.
    Shunned,
    /// Nothing speaks against it.
    Fresh,
}

impl<'a> Experience<'a> {
    /// The standing of an address; none when it is not to be tried any more.
    pub(super) fn standing(&self, at: SocketAddr) -> Option<Standing> {
        match self.failed.iter().find(|failed| failed.at == at) {
            Some(failed) if failed.again => Some(Standing::Again),
            Some(_) => None,
            None if self.shunned.is_some_and(|shunned| shunned.contains(at)) => Some(Standing::Shunned),
            None => Some(Standing::Fresh),
        }
    }

    /// Is nothing known against anybody?
    pub(super) fn is_none(&self) -> bool {
        self.failed.is_empty() && self.shunned.is_none()
    }

    /// Must everything go through a tunnel, because a tunnel was tried?
    pub(super) fn only_tunnels(&self) -> bool {
        self.failed.iter().any(|failed| failed.tunnelled)
    }

    /// What DNS has answered for a name; none when it was not asked yet.
    pub(super) fn addresses_of(&self, hostname: &str) -> Option<&'a [IpAddr]> {
        let known = self.names.iter().find(|known| *known.hostname == *hostname);
        known.map(|known| &*known.addresses)
    }
}
