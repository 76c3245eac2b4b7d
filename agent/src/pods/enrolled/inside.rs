//! Links and addresses of a pod that may have changed.

use std::sync::Arc;

use super::RegistryError;
use crate::redirect::{Interior, Netns, PodRouting};

/// A pod's namespace, and what is known of it.
pub struct Inside {
    pub(super) netns: Arc<Netns>,
    pub(super) known: Interior,
}

impl Inside {
    /// What is there now; nothing if that is known.
    pub async fn look(&self) -> Result<Option<Interior>, RegistryError> {
        let routing = PodRouting::open(&self.netns)?;
        let interior = routing.interior().await?;
        if interior != self.known {
            return Ok(Some(interior));
        }
        // An address that went and came back took our route with it.
        routing.set_routes(&interior).await?;
        Ok(None)
    }
}
