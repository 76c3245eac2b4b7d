//! Which certificates are kept past this process, and in which places.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kept::{KeptError, decode, encode};
use super::{Certificate, SpiffeId};

/// Most certificates kept: as many as a node has pods, and each costs the parent a descriptor.
pub const MOST_KEPT: u32 = 512;

/// Keeps bytes for the next process, in memory and for nobody else. Called from any thread.
pub trait Vault: Send + Sync + 'static {
    /// Keeps bytes at a place, instead of what was there.
    ///
    /// # Errors
    /// When the kernel refuses, or who keeps is gone.
    fn put(&self, place: u32, bytes: &[u8]) -> io::Result<()>;

    /// Has the place's bytes go.
    ///
    /// # Errors
    /// When who keeps is gone.
    fn clear(&self, place: u32) -> io::Result<()>;
}

/// The places of a vault.
pub(super) struct Shelf {
    vault: Arc<dyn Vault>,
    places: Mutex<Places>,
}

struct Places {
    taken: HashMap<SpiffeId, Taken>,
    free: BTreeSet<u32>,
    /// Said once, not for every certificate that finds no place.
    full_told: bool,
}

struct Taken {
    place: u32,
    /// Which entry of the cache put it there; a later one of the same identity is another.
    owner: u64,
}

impl Shelf {
    pub(super) fn new(vault: Arc<dyn Vault>) -> Self {
        Self {
            vault,
            places: Mutex::new(Places {
                taken: HashMap::new(),
                free: (0..MOST_KEPT).collect(),
                full_told: false,
            }),
        }
    }

    /// A certificate that an earlier process kept at `place`, to be kept on there for `owner`.
    pub(super) fn take_up(&self, place: u32, bytes: &[u8], owner: u64) -> Result<Certificate, KeptError> {
        let certificate = decode(bytes)?;
        let mut places = self.lock();
        if places.taken.contains_key(certificate.id()) || !places.free.remove(&place) {
            return Err(KeptError::Form);
        }
        places.taken.insert(certificate.id().clone(), Taken { place, owner });
        Ok(certificate)
    }

    /// Has a place emptied whose bytes are of no use.
    pub(super) fn clear(&self, place: u32) {
        self.report(self.vault.clear(place));
    }

    /// Keeps a certificate, if `is_current` says that `owner` still is the identity's entry.
    pub(super) fn keep(&self, certificate: &Certificate, owner: u64, is_current: impl FnOnce() -> bool) {
        let mut places = self.lock();
        if !is_current() {
            return;
        }
        let id = certificate.id();
        let Some(bytes) = encode(certificate) else {
            tracing::warn!(%id, "the certificate is too large to outlive a restart of the worker");
            return;
        };
        let known = places.taken.get(id).map(|taken| taken.place);
        let Some(place) = known.or_else(|| places.free.pop_first()) else {
            if !std::mem::replace(&mut places.full_told, true) {
                tracing::warn!(
                    most = MOST_KEPT,
                    "further certificates do not outlive a restart of the worker"
                );
            }
            return;
        };
        self.report(self.vault.put(place, &bytes));
        places.taken.insert(id.clone(), Taken { place, owner });
    }

    /// Lets go of what `owner` kept.
    pub(super) fn release(&self, id: &SpiffeId, owner: u64) {
        let mut places = self.lock();
        if places.taken.get(id).is_some_and(|taken| taken.owner == owner)
            && let Some(taken) = places.taken.remove(id)
        {
            places.free.insert(taken.place);
            self.report(self.vault.clear(taken.place));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "certificates will not outlive a restart of the worker");
        }
    }
}
