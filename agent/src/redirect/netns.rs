//! A network namespace: entering it, and knowing it again.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use nix::sched::{CloneFlags, setns};

/// The namespace this process began in, where every thread returns to.
static HOME: OnceLock<File> = OnceLock::new();

/// Why a path is not a network namespace one can work in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("network namespace {path} cannot be opened; does the pod still exist?")]
    Open {
        /// The path.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The path is something else, or may not be entered.
    #[error("{path} cannot be entered as a network namespace (needs CAP_SYS_ADMIN)")]
    Enter {
        /// The path.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
}

/// An open network namespace. It lives at least as long as this handle.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    /// Device and inode on nsfs: what tells whether the path still leads here.
    inode: (u64, u64),
    cookie: u64,
}

impl Netns {
    /// Opens the namespace at a path such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open = |cause| NetnsError::Open {
            path: path.to_owned(),
            cause,
        };
        let file = File::open(path).map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        let mut netns = Self {
            file,
            path: path.to_owned(),
            inode: (metadata.dev(), metadata.ino()),
            cookie: 0,
        };
        netns.cookie = netns
            .run(netns_cookie)
            .and_then(|cookie| cookie)
            .map_err(|cause| NetnsError::Enter {
                path: path.to_owned(),
                cause,
            })?;
        Ok(netns)
    }

    /// The kernel's name for it, never used again before the next boot (`SO_NETNS_COOKIE`).
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Inode on nsfs.
    pub fn inode(&self) -> u64 {
        self.inode.1
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does the path still lead here? Not after `ip netns del` or the end of the pod's sandbox.
    pub fn is_at_its_path(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode)
    }

    /// Runs `work` on this thread inside the namespace. `work` must not block for long nor await: other tasks of the
    /// thread wait, and none may see the foreign namespace.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = home()?;
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let _return = Return(home);
        Ok(work())
    }

    /// Its file, for attaching programs.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread home, also when `work` unwinds.
struct Return(&'static File);

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET) {
            // Going on would open the agent's sockets in a pod's namespace. The parent starts a new worker.
            tracing::error!(%error, "cannot return from a pod's network namespace; this worker ends");
            process::abort();
        }
    }
}

fn home() -> io::Result<&'static File> {
    if let Some(file) = HOME.get() {
        return Ok(file);
    }
    let file = File::open("/proc/thread-self/ns/net")?;
    Ok(HOME.get_or_init(|| file))
}

/// Cookie of the namespace the calling thread is in.
fn netns_cookie() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    super::kernel_calls::netns_cookie(socket.as_fd())
}

/// A path of the namespace with this inode: a name of it, or a process in it.
pub fn path_of(inode: u64) -> Option<PathBuf> {
    let entries = |directory| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries("/run/netns").map(|entry| entry.path());
    let processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
    names
        .chain(processes)
        .find(|path| std::fs::metadata(path).is_ok_and(|found| found.ino() == inode))
}

/// Opens the namespace the calling process lives in, so that later threads can return to it.
pub fn remember_home() -> io::Result<()> {
    home().map(drop)
}
