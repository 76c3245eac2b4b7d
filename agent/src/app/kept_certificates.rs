//! Certificates and their keys outlive a worker: the parent holds them as sealed memory, which it never reads.

use std::{collections::HashMap, io, os::fd::AsFd as _, os::fd::OwnedFd, sync::Arc};

use crate::{
    identity::{LARGEST_KEPT, MOST_KEPT, Vault},
    parent::{
        keeper::Keeper,
        sealed::{seal, unseal},
    },
};

/// Where certificates are kept, and those an earlier worker left there, by place.
pub(super) struct Kept {
    pub(super) vault: Arc<dyn Vault>,
    pub(super) certificates: Vec<(u32, Vec<u8>)>,
}

impl Kept {
    /// Takes out of `held` what is a certificate.
    ///
    /// # Errors
    /// When the link to the parent cannot be shared.
    pub(super) fn take(keeper: &Keeper, held: &mut HashMap<String, OwnedFd>) -> io::Result<Self> {
        let vault = ParentVault(keeper.share()?);
        let mut certificates = Vec::new();
        for place in 0..MOST_KEPT {
            let Some(memory) = held.remove(&name(place)) else {
                continue;
            };
            // Bytes that are none are cleared away by who is given them.
            let bytes = unseal(memory, LARGEST_KEPT).unwrap_or_else(|error| {
                tracing::warn!(place, %error, "a kept certificate cannot be read");
                Vec::new()
            });
            certificates.push((place, bytes));
        }
        if !certificates.is_empty() {
            tracing::info!(count = certificates.len(), "certificates of the worker before");
        }
        Ok(Self {
            vault: Arc::new(vault),
            certificates,
        })
    }
}

struct ParentVault(Keeper);

impl Vault for ParentVault {
    fn put(&self, place: u32, bytes: &[u8]) -> io::Result<()> {
        self.0.hold(&name(place), seal(bytes)?.as_fd())
    }

    fn clear(&self, place: u32) -> io::Result<()> {
        self.0.release(&name(place))
    }
}

/// What the parent calls a place. No name is the beginning of another.
fn name(place: u32) -> String {
    format!("certificate/{place}/")
}
