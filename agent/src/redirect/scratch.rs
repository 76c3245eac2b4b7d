//! A network namespace for trying things out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getpid, gettid},
};

/// A network namespace that a thread of ours holds; gone when dropped.
pub(super) struct Scratch {
    path: PathBuf,
    release: Option<mpsc::Sender<()>>,
    holder: Option<thread::JoinHandle<()>>,
}

impl Scratch {
    /// Makes one, empty but for `lo`, which is down.
    pub(super) fn make() -> io::Result<Self> {
        super::netns::remember_home()?;
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let holder = thread::Builder::new().name("scratch-netns".into()).spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            if tell.send(made).is_ok() {
                // Ends when the sender is dropped.
                let _ended = released.recv();
            }
        })?;
        let thread = told.recv().map_err(io::Error::other)??;
        let path = PathBuf::from(format!("/proc/{}/task/{thread}/ns/net", getpid()));
        Ok(Self {
            path,
            release: Some(release),
            holder: Some(holder),
        })
    }

    /// Where it can be opened while this lives.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.release = None;
        if let Some(holder) = self.holder.take()
            && holder.join().is_err()
        {
            tracing::warn!("the thread that held a scratch network namespace panicked");
        }
    }
}
