//! When what istiod told is read from disk, and written to it.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    disk::{Disk, DiskError},
    held::{Contents, Held},
};
use crate::tls::with_causes;

/// A mesh that changes all the time is written no more often than this.
const EVERY: Duration = Duration::from_secs(30);

/// What istiod told, kept on disk as it changes.
#[derive(Debug)]
pub struct Store {
    disk: Arc<Disk>,
    /// When what has changed is to be written; none when nothing has.
    due: Option<Instant>,
    /// When writing last began.
    begun: Option<Instant>,
    writing: Option<JoinHandle<Result<(), DiskError>>>,
}

impl Store {
    /// Nothing was written yet.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self {
            disk: Arc::new(disk),
            due: None,
            begun: None,
            writing: None,
        }
    }

    /// Fills `held` with what was stored, if it is good, and says when that was. What is wrong with it is logged: without
    /// it the mesh comes from istiod.
    ///
    /// # Errors
    /// When the runtime is going down, or reading panicked.
    pub async fn load(&self, held: Held) -> Result<(Held, Option<SystemTime>), JoinError> {
        let disk = Arc::clone(&self.disk);
        let loading = spawn_blocking(move || {
            let mut held = held;
            let written = fs::metadata(disk.path()).and_then(|metadata| metadata.modified());
            let loaded = disk.load(&mut held);
            (held, written, loaded)
        });
        let (held, written, loaded) = loading.await?;
        Ok(match loaded {
            Ok(None) => (held, None),
            Ok(Some([workloads, services, policies])) => {
                info!(
                    workloads,
                    services, policies, "the mesh as it was stored is served until istiod answers"
                );
                (held, Some(written.unwrap_or_else(|_| SystemTime::now())))
            }
            Err(error) => {
                warn!(error = with_causes(&error), "the mesh comes from istiod alone");
                (held, None)
            }
        })
    }

    /// Something has changed.
    pub fn changed(&mut self) {
        let earliest = self.begun.map(|begun| begun + EVERY);
        self.due.get_or_insert_with(|| earliest.unwrap_or_else(Instant::now));
    }

    /// Resolves when something is to be written.
    pub async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Begins to write, on a thread of its own; later, if that thread has not finished what it wrote before.
    pub async fn write(&mut self, contents: impl FnOnce() -> Contents) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            self.due = Some(Instant::now() + EVERY);
            return;
        }
        self.finish().await;
        let contents = contents();
        self.due = None;
        self.begun = Some(Instant::now());
        let disk = Arc::clone(&self.disk);
        self.writing = Some(spawn_blocking(move || disk.store(&contents)));
    }

    /// Whether something has changed since writing last began.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Waits until what is being written is on disk.
    pub async fn finish(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = with_causes(&error), "the mesh is not stored"),
            Err(error) => warn!(%error, "the mesh is not stored"),
        }
    }
}
