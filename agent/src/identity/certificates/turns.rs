//! Who may ask the CA now.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::demand::Demand;

/// Questions that may be under way for whomever.
const COMMON: usize = 4;
/// Questions besides, for identities that a connection waits for. Together 8 (wire-facts §2.4).
const RESERVED: usize = 4;

/// Bounds how many questions are under way. Half of them are for identities that a connection waits for, so that those
/// are asked first however many certificates are fetched ahead or renewed.
pub(super) struct Turns {
    common: Semaphore,
    reserved: Semaphore,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            common: Semaphore::new(COMMON),
            reserved: Semaphore::new(RESERVED),
        }
    }

    /// Waits for a turn; who is awaited by a connection meanwhile goes over to those who come first.
    pub(super) async fn take(&self, demand: &Demand) -> Option<SemaphorePermit<'_>> {
        loop {
            let reserved = async {
                if demand.is_awaited() {
                    self.reserved.acquire().await
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                permit = self.common.acquire() => return permit.ok(),
                permit = reserved => return permit.ok(),
                () = demand.awaited() => {}
            }
        }
    }
}
