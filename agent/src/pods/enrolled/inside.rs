//! Following a pod's links and addresses.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::{Parts, RegistryError};
use crate::redirect::{Interior, Netns, PodRouting};

/// A pod's namespace, and what is known of it. It may be followed from any thread, by one at a time.
pub struct Inside {
    pub(super) netns: Arc<Netns>,
    pub(super) slot: u32,
    pub(super) name: String,
    /// Names of interfaces behind which guests sit.
    pub(super) guests: Vec<String>,
    pub(super) is_guarded: bool,
    pub(super) addresses: Arc<ArcSwap<Vec<IpAddr>>>,
    pub(super) known: Interior,
}

impl Inside {
    /// Tells the kernel of links and addresses as they are now, and gives them.
    pub async fn follow(&self, parts: &Parts) -> Result<Interior, RegistryError> {
        let routing = PodRouting::open(&self.netns)?;
        let interior = routing.interior(&self.netns).await?;
        if interior == self.known {
            // An address that went and came back took our route with it.
            routing.set_routes(&interior).await?;
            return Ok(interior);
        }
        if self.is_guarded {
            self.guard(parts, &interior)?;
        }
        let maps = parts.node.maps();
        maps.set_guest_interfaces(self.slot, &interior.indexes_of(&self.guests))?;
        let old = self.addresses.load_full();
        if *old != interior.addresses {
            self.tell(&interior);
            maps.set_addresses(self.slot, &old, &interior.addresses)?;
            self.addresses.store(Arc::new(interior.addresses.clone()));
        }
        routing.install(&self.netns, &interior, &self.guests).await?;
        Ok(interior)
    }

    /// Makes the pod's `lo` carry more at a time, which is only about speed.
    pub async fn widen(&self) {
        match PodRouting::open(&self.netns) {
            Ok(routing) => routing.widen_loopback().await,
            Err(error) => {
                tracing::debug!(pod = %self.name, %error, "packets on the pod's lo stay as large as they are");
            }
        }
    }

    /// Puts the guard on each link.
    pub(super) fn guard(&self, parts: &Parts, interior: &Interior) -> Result<(), RegistryError> {
        for link in &interior.links {
            parts.programs.guard(self.slot, &self.netns, link)?;
        }
        let is_gone = |index: u32| !interior.links.iter().any(|link| link.index == index);
        for link in self.known.links.iter().filter(|old| is_gone(old.index)) {
            parts.programs.forget_link(self.slot, link.index)?;
        }
        Ok(())
    }

    fn tell(&self, interior: &Interior) {
        tracing::info!(pod = %self.name, addresses = ?interior.addresses, "the pod's addresses changed");
        if interior.primary_v4().is_none() && interior.primary_v6().is_none() && !interior.links.is_empty() {
            tracing::error!(
                pod = %self.name,
                "the pod's links lost all addresses: a sandbox (gVisor) may have taken them into a network stack of its own; \
                 such a pod's traffic cannot be redirected, its SYNs are dropped"
            );
        }
    }
}
