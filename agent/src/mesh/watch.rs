//! Following the mesh file: a good one is published, a bad one reported while the last good one serves on.
//!
//! The file's identity, size and times are polled: that sees a rename into place, an edit in place, a remount and a file
//! that comes and goes, on every file system. A change is taken up once two looks in a row agree on it, so that a file
//! caught in the middle of being written is not even an error as a rule.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::file::{self, MeshFileError};
use super::{Builder, Publisher, Snapshot};
use crate::file_stamp::Stamp;

/// What is reported while the file is good.
pub const GOOD: &str = "ok";

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// Follows the mesh file at `path` until dropped. Publishes every good version of it; tells `on_state` [`GOOD`] or what is
/// wrong. A file that is not there yet is waited for.
pub async fn follow(path: PathBuf, publisher: Publisher, on_state: watch::Sender<String>) {
    follow_every(INTERVAL, path, publisher, on_state).await;
}

async fn follow_every(interval: Duration, path: PathBuf, publisher: Publisher, on_state: watch::Sender<String>) {
    let mut follower = Follower {
        path,
        seen: None,
        taken: None,
        builder: Builder::new(),
    };
    loop {
        let looking = tokio::task::spawn_blocking(move || {
            let news = follower.look();
            (follower, news)
        });
        let (back, news) = match looking.await {
            Ok(done) => done,
            Err(error) => {
                // The runtime is going down, or the parser panicked: nothing to follow with any more.
                warn!(%error, "the mesh file is no longer followed");
                on_state.send_replace(format!("the mesh file is no longer followed: {error}"));
                return;
            }
        };
        follower = back;
        match news {
            None => {}
            Some(Ok(snapshot)) => {
                let [workloads, services, policies] = snapshot.sizes();
                info!(file = %follower.path.display(), workloads, services, policies, "mesh file taken");
                publisher.publish(snapshot);
                on_state.send_replace(GOOD.to_owned());
            }
            Some(Err(problem)) => {
                warn!(%problem, "mesh file not taken, what was known before serves on");
                on_state.send_replace(problem);
            }
        }
        tokio::time::sleep(interval).await;
    }
}

struct Follower {
    path: PathBuf,
    /// What the last look saw.
    seen: Option<Seen>,
    /// What was last taken up, for better or worse.
    taken: Option<Seen>,
    /// Holds the last good version, so that what the next one has in common with it stays the same.
    builder: Builder,
}

/// What a look at the path sees.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    File(Stamp),
    Nothing(io::ErrorKind),
}

impl Follower {
    /// News of the file since the last look, if there are any.
    fn look(&mut self) -> Option<Result<Snapshot, String>> {
        let (now, error) = match fs::metadata(&self.path) {
            Ok(metadata) => (Seen::File(Stamp::from(&metadata)), None),
            Err(error) => (Seen::Nothing(error.kind()), Some(error)),
        };
        // The very first look has nothing to wait for: a file that is there at the start is taken at once.
        let settled = self.taken.is_none() || self.seen.as_ref() == Some(&now);
        self.seen = Some(now.clone());
        if !settled || self.taken.as_ref() == Some(&now) {
            return None;
        }
        if let Some(error) = error {
            self.taken = Some(now);
            return Some(Err(format!("{}: {error}; waiting for the file", self.path.display())));
        }
        let loaded = load(&self.path, &mut self.builder);
        if let Ok((_, stamp)) = &loaded
            && Seen::File(*stamp) != now
        {
            // Replaced or written while it was read: the next look sees the change.
            return None;
        }
        self.taken = Some(now);
        Some(match loaded {
            Ok((outcome, _)) => outcome
                .map(|()| self.builder.build())
                .map_err(|error| error.to_string()),
            Err(error) => Err(format!("{}: {error}", self.path.display())),
        })
    }
}

/// What came of loading the file, and the stamp it had after that.
fn load(path: &Path, builder: &mut Builder) -> io::Result<(Result<(), MeshFileError>, Stamp)> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let outcome = file::load(&file, path, builder);
    Ok((outcome, Stamp::from(&file.metadata()?)))
}

#[cfg(test)]
mod tests;
