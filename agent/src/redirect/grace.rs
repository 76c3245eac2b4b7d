//! Not waiting long for the kernel's grace periods.
//!
//! Attaching to tcx waits for one (`tcx_entry_sync`, net/core) while it holds the lock that every netlink request needs:
//! 10 to 30 ms for each link at 250 Hz, one pod after the other. Loading a program waits for one now and then (measured: 3
//! of 100). Asked to expedite, the kernel takes 0.1 ms. The switch is the kernel's own (`/sys/kernel/rcu_expedited`,
//! Documentation/ABI/testing/sysfs-kernel-rcu), set for these calls alone; where many pods start at once, they overlap.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// Who of this process needs the switch now.
static NEED: Mutex<Need> = Mutex::new(Need { count: 0, switch: None });

struct Need {
    count: usize,
    switch: Option<Flock<File>>,
}

/// While one of these lives, grace periods are short.
pub struct Short(());

impl Short {
    /// Sets the switch, unless somebody has set it for good, or it is not to be had: then attaching takes its time. So it may
    /// where another agent on this kernel has it just now, which nobody waits for.
    pub fn begin() -> Self {
        let mut need = need();
        if need.count == 0 {
            need.switch = turn_on().unwrap_or_else(|error| {
                tracing::debug!(%error, "{SWITCH} is not writable; enrolling a pod takes a full grace period for each link");
                None
            });
        }
        need.count += 1;
        Self(())
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        let mut need = need();
        need.count -= 1;
        if need.count == 0
            && let Some(mut switch) = need.switch.take()
            && let Err(error) = switch.rewind().and_then(|()| switch.write_all(b"0"))
        {
            tracing::warn!(%error, "{SWITCH} stays at 1: grace periods of the whole node stay expedited");
        }
    }
}

fn need() -> MutexGuard<'static, Need> {
    NEED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Is the switch on while nobody here holds it? Then somebody set it for good, or an agent was killed while it was on.
pub fn stays_short() -> bool {
    let locked = File::open(SWITCH)
        .and_then(|file| Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into()));
    let mut now = String::new();
    locked.is_ok_and(|mut switch| switch.read_to_string(&mut now).is_ok() && now.trim() != "0")
}

fn turn_on() -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new().read(true).write(true).open(SWITCH)?;
    let mut switch = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(switch) => switch,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    let mut now = String::new();
    switch.read_to_string(&mut now)?;
    if now.trim() != "0" {
        return Ok(None);
    }
    switch.rewind()?;
    switch.write_all(b"1")?;
    Ok(Some(switch))
}
