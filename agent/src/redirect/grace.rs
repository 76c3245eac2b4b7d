//! Not waiting long for the kernel's grace periods.
//!
//! Attaching to tcx waits for one (`tcx_entry_sync`, net/core) while it holds the lock that every netlink request needs:
//! 10 to 30 ms for each link at 250 Hz, one pod after the other. Loading a program waits for one now and then (measured: 3
//! of 100). Asked to expedite, the kernel takes 0.1 ms. The switch is the kernel's own (`/sys/kernel/rcu_expedited`,
//! Documentation/ABI/testing/sysfs-kernel-rcu), set for these calls alone.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
};

use nix::fcntl::{Flock, FlockArg};

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// While this lives, grace periods are short. Agents that share a kernel take turns.
pub struct Short {
    switch: Option<Flock<File>>,
}

impl Short {
    /// Sets the switch, unless somebody has set it for good, or it is not to be had: then attaching takes its time.
    pub fn begin() -> Self {
        match turn_on() {
            Ok(switch) => Self { switch },
            Err(error) => {
                tracing::debug!(%error, "{SWITCH} is not writable; enrolling a pod takes a full grace period for each link");
                Self { switch: None }
            }
        }
    }
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
    let mut switch = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let mut now = String::new();
    switch.read_to_string(&mut now)?;
    if now.trim() != "0" {
        return Ok(None);
    }
    switch.rewind()?;
    switch.write_all(b"1")?;
    Ok(Some(switch))
}

impl Drop for Short {
    fn drop(&mut self) {
        if let Some(mut switch) = self.switch.take()
            && let Err(error) = switch.rewind().and_then(|()| switch.write_all(b"0"))
        {
            tracing::warn!(%error, "{SWITCH} stays at 1: grace periods of the whole node stay expedited");
        }
    }
}
