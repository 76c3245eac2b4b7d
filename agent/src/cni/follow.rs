//! Installing the plugin, and following what others do to it.
//!
//! The directories are watched (inotify(7)). Each time something moves there, everything is looked at anew and set right:
//! one way for the first installation, for a primary that changes its file, and for somebody who removes ours.

use std::{
    fs::{self, DirEntry, File},
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use isthmus_wire::CniStatus;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{
    net::unix::pipe,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    OWN_CONFLIST, PLUGIN, Places,
    conflist::Plugin,
    place::{Rights, place, sync},
    plan::{Mode, Plan, Seen, Step, Wish, is_read, matters, plan},
};

/// How long a directory must be quiet: files are written in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// The longest pause between two repairs, when somebody undoes each.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Repairs in a row after which somebody is said to work against us.
const A_FIGHT: u32 = 5;
/// How often everything is looked at though nothing moved: a directory may not be there yet, or on a file system without
/// inotify.
const LOOK: Duration = Duration::from_secs(30);
/// Longest configuration that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// Most files that are read.
const MOST_FILES: usize = 200;

/// How the plugin is to be installed.
#[derive(Clone, Debug)]
pub struct Install {
    /// In a list of our own, or in the primary's.
    pub mode: Mode,
    /// Where.
    pub places: Places,
    /// The primary's file; the first in order when not told.
    pub primary: Option<String>,
    /// What the configuration says of our plugin.
    pub plugin: Plugin,
    /// The plugin's binary, to be copied.
    pub binary: PathBuf,
}

/// Installs, and keeps installed until dropped. Tells how it stands.
pub async fn follow(install: Install, told: watch::Sender<CniStatus>) {
    let mut installer = Installer { install, last: None };
    // Since all was quiet last.
    let mut repairs = 0;
    loop {
        // Before the look, so that nothing moves unseen between the two.
        let moved = Moved::watch(&installer.install.places);
        let (back, pass) = match tokio::task::spawn_blocking(move || {
            let pass = installer.pass();
            (installer, pass)
        })
        .await
        {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "the CNI plugin is no longer looked after"),
        };
        installer = back;
        repairs += u32::from(pass.has_changed);
        let status = installer.status(&pass, repairs);
        say(&told.borrow(), &status);
        told.send_replace(status);
        sleep(pause(repairs)).await;
        // What we did ourselves moved things too; one look more finds that nothing is left to do.
        if !pass.has_changed && !moved.wait().await {
            repairs = 0;
        }
    }
}

/// Who undoes what we do makes the pauses longer.
fn pause(repairs: u32) -> Duration {
    (QUIET * 2_u32.saturating_pow(repairs.min(16))).min(LONGEST_PAUSE)
}

fn say(before: &CniStatus, now: &CniStatus) {
    if before == now {
        return;
    }
    match (&now.trouble, &now.configuration) {
        (Some(trouble), _) => tracing::warn!(mode = now.mode, trouble, "the CNI plugin is not as it should be"),
        (None, Some(configuration)) => tracing::info!(
            mode = now.mode,
            configuration = %configuration.display(),
            primary = now.primary,
            platform = now.platform,
            "the CNI plugin is installed"
        ),
        (None, None) => {}
    }
}

struct Installer {
    install: Install,
    /// Our own list as it was last seen whole.
    last: Option<String>,
}

/// What one look found and did.
#[derive(Debug, Default)]
struct Pass {
    plan: Plan,
    has_changed: bool,
    /// Runtimes take the first file in order.
    first: Option<String>,
}

impl Installer {
    /// Looks at everything and sets it right.
    fn pass(&mut self) -> Pass {
        let mut pass = Pass::default();
        if let Err(error) = self.set_right(&mut pass) {
            pass.plan.trouble = Some(error);
        }
        pass
    }

    fn set_right(&mut self, pass: &mut Pass) -> Result<(), String> {
        let Install {
            mode,
            places,
            primary,
            plugin,
            binary,
        } = &self.install;
        // First: a configuration that names a binary which is not there starts no pod.
        pass.has_changed |= place_binary(binary, &places.binaries)?;
        let directory = &places.configurations;
        let files = look(directory).map_err(|error| {
            format!(
                "{} cannot be read: {error}; if CNI's configuration is elsewhere, say --cni-conf-dir",
                directory.display()
            )
        })?;
        let wish = Wish {
            mode: *mode,
            primary: primary.as_deref(),
            plugin,
            last: self.last.as_deref(),
        };
        let plan = plan(&files, &wish);
        for step in &plan.steps {
            apply(directory, step).map_err(|error| format!("{} cannot be changed: {error}", directory.display()))?;
            pass.has_changed = true;
        }
        let there = look(directory).unwrap_or_default();
        pass.first = there.iter().map(|file| &file.name).find(|name| is_read(name)).cloned();
        let own = there.into_iter();
        let own = own
            .filter(|file| file.name == OWN_CONFLIST)
            .find_map(|file| file.text.ok());
        if plan.configuration.as_deref() == Some(OWN_CONFLIST) && own.is_some() {
            self.last = own;
        }
        pass.plan = plan;
        Ok(())
    }

    fn status(&self, pass: &Pass, repairs: u32) -> CniStatus {
        let Install { mode, places, .. } = &self.install;
        let fight = (repairs >= A_FIGHT).then(|| {
            format!(
                "another program keeps undoing what is written to {}: with Cilium, set cni.exclusive=false",
                places.configurations.display()
            )
        });
        CniStatus {
            mode: mode.word().to_owned(),
            platform: places.platform.map(str::to_owned),
            binary: places.binaries.join(PLUGIN),
            configuration: pass
                .plan
                .configuration
                .as_ref()
                .map(|name| places.configurations.join(name)),
            called: pass.plan.configuration.is_some() && pass.plan.configuration == pass.first,
            primary: pass.plan.primary.clone(),
            trouble: pass.plan.trouble.clone().or(fight),
        }
    }
}

fn place_binary(from: &Path, directory: &Path) -> Result<bool, String> {
    let bytes = fs::read(from).map_err(|error| {
        format!(
            "{} cannot be read: {error}; it is shipped beside the agent's own binary",
            from.display()
        )
    })?;
    place(directory, PLUGIN, &bytes, Rights::own(0o755)).map_err(|error| {
        format!(
            "{PLUGIN} cannot be put into {}: {error}; if plugins are elsewhere, say --cni-bin-dir",
            directory.display()
        )
    })
}

/// The files that matter, in order.
pub(super) fn look(directory: &Path) -> io::Result<Vec<Seen>> {
    let entries = fs::read_dir(directory)?.filter_map(Result::ok);
    let mut files: Vec<Seen> = entries.filter_map(|entry| seen(&entry)).take(MOST_FILES).collect();
    files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

fn seen(entry: &DirEntry) -> Option<Seen> {
    let name = entry.file_name().into_string().ok().filter(|name| matters(name))?;
    let path = entry.path();
    // Behind a link as well; what is no file, or has just gone, is nothing to a runtime either.
    if !fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    Some(Seen {
        name,
        text: read(&path).map_err(|error| error.to_string()),
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is longer than {LARGEST} bytes")));
    }
    Ok(text)
}

/// Does one thing in the directory; whole, and to last.
pub(super) fn apply(directory: &Path, step: &Step) -> io::Result<()> {
    match step {
        Step::Write { name, text, like } => {
            // The one it was made like may have gone since.
            let rights = Rights::of(&directory.join(like)).unwrap_or(Rights::own(0o600));
            place(directory, name, text.as_bytes(), rights).map(drop)
        }
        Step::Rename { from, to } => {
            fs::rename(directory.join(from), directory.join(to))?;
            sync(directory)
        }
        Step::Remove { name } => {
            fs::remove_file(directory.join(name))?;
            sync(directory)
        }
    }
}

/// Tells when something moved in one of the directories. Nothing is read: of all that tokio waits for, a pipe asks least
/// of a descriptor.
struct Moved(Option<pipe::Receiver>);

impl Moved {
    /// Watches both directories, as far as they are there.
    fn watch(places: &Places) -> Self {
        let all = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let open = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            for directory in [&places.binaries, &places.configurations] {
                if let Err(error) = inotify.add_watch(directory, all) {
                    tracing::debug!(directory = %directory.display(), %error, "not watched; looked at now and then");
                }
            }
            pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
        };
        match open() {
            Ok(watching) => Self(Some(watching)),
            Err(error) => {
                tracing::debug!(%error, "no inotify; directories are looked at now and then");
                Self(None)
            }
        }
    }

    /// Waits until something moves, or it is time to look again. Answers whether something did; what, is not asked.
    async fn wait(self) -> bool {
        match self.0 {
            Some(watching) => timeout(LOOK, watching.readable()).await.is_ok(),
            None => {
                sleep(LOOK).await;
                false
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
