//! What a lab left behind when its process was killed.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cgroups,
    failure::{Because as _, Result},
    lab::PREFIX,
    netns::{DIRECTORY, ip},
};

/// A file of this name in a lab's directory protects the lab from being swept.
pub(crate) const KEPT: &str = "kept";
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Removes every lab whose process is dead; those that were kept on purpose only with `kept_too`.
/// Answers the names of the labs removed.
pub fn dead(kept_too: bool) -> Result<BTreeSet<String>> {
    let mut labs = BTreeSet::new();
    for directory in [Path::new(DIRECTORY), Path::new("/sys/fs/bpf"), &env::temp_dir()] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(lab) = lab_of(&name)
                && (kept_too || !env::temp_dir().join(lab).join(KEPT).exists())
            {
                labs.insert(lab.to_owned());
            }
        }
    }
    labs.iter().for_each(|lab| lab_called(lab));
    Ok(labs)
}

/// Removes every lab of this process, for one that is interrupted.
pub fn own() {
    let mark = format!("{PREFIX}{}x", std::process::id());
    let mut labs = BTreeSet::new();
    for directory in [Path::new(DIRECTORY), Path::new("/sys/fs/bpf"), &env::temp_dir()] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(lab) = name.split('-').next().filter(|lab| lab.starts_with(&mark)) {
                labs.insert(lab.to_owned());
            }
        }
    }
    labs.iter().for_each(|lab| lab_called(lab));
}

/// From now on SIGINT and SIGTERM remove every lab of this process and end it.
pub fn when_interrupted() -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).because("listening for signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\ninterrupted: taking everything down");
        // Whoever was making a lab may have made a little more of it meanwhile.
        (0..2).for_each(|_| own());
        std::process::exit(130);
    });
    Ok(())
}

/// Once interrupted, does not return: the sweep ends the process when it is done.
pub fn leave_to_interrupt() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// The lab a name belongs to, when the lab's process is dead.
fn lab_of(name: &str) -> Option<&str> {
    let lab = name.split('-').next()?;
    let (pid, number) = lab.strip_prefix(PREFIX)?.split_once('x')?;
    let (_, _) = (pid.parse::<u32>().ok()?, number.parse::<u32>().ok()?);
    (!Path::new("/proc").join(pid).exists()).then_some(lab)
}

/// Removes one lab: its processes, pins, namespaces and files.
pub fn lab_called(lab: &str) {
    for pid in processes_of(lab) {
        // It may have ended since it was listed.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    bpffs(&Path::new("/sys/fs/bpf").join(lab));
    if let Err(failure) = cgroups::remove(lab) {
        eprintln!("lab: {failure}");
    }
    let spaces = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    for name in spaces.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if name.split('-').next() == Some(lab)
            && let Err(failure) = ip(&[], &format!("netns del {name}\n"))
        {
            eprintln!("lab: {failure}");
        }
    }
    // Absent when the lab died before it made it.
    let _absent = fs::remove_dir_all(env::temp_dir().join(lab));
}

/// Agents carry the lab's name in their arguments: paths of its files and namespaces. Programs in pods need not, and
/// write to its files.
fn processes_of(lab: &str) -> Vec<i32> {
    let mark = [b"/".as_slice(), lab.as_bytes()].concat();
    let is_marked = |text: &[u8]| {
        memchr::memmem::find_iter(text, &mark).any(|at| matches!(text.get(at + mark.len()), Some(b'-' | b'/' | 0)))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let output = fs::read_link(entry.path().join("fd/1")).unwrap_or_default();
            is_marked(output.as_os_str().as_bytes())
                || is_marked(&fs::read(entry.path().join("cmdline")).unwrap_or_default())
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Removes a directory of pins. What was only held by a pin is detached by that.
pub(crate) fn bpffs(directory: &Path) {
    if directory.exists()
        && let Err(error) = fs::remove_dir_all(directory)
    {
        eprintln!("lab: removing {}: {error}", directory.display());
    }
}
