use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tokio::task::JoinHandle;

use super::{super::conflist::tests::plugin, *};

/// A folder of a test's own; removed with it.
pub(in crate::cni) struct Folder(pub(in crate::cni) PathBuf);

impl Folder {
    pub(in crate::cni) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("isthmus-cni-install-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(in crate::cni) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(in crate::cni) fn names(&self) -> Vec<String> {
        self.names_in("")
    }

    pub(in crate::cni) fn names_in(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn list(plugin: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{plugin}"}}]}}"#)
}

/// An installer that runs, in folders of its own.
struct World {
    folder: Folder,
    told: watch::Receiver<CniStatus>,
    running: JoinHandle<()>,
}

impl World {
    fn prepared(name: &str) -> Folder {
        let folder = Folder::new(name);
        folder.write("shipped/isthmus-cni", "the plugin");
        fs::create_dir_all(folder.0.join("bin")).unwrap();
        fs::create_dir_all(folder.0.join("net.d")).unwrap();
        folder
    }

    fn start(folder: Folder, mode: Mode) -> Self {
        let install = Install {
            mode,
            places: Places {
                binaries: folder.0.join("bin"),
                configurations: folder.0.join("net.d"),
                platform: None,
            },
            primary: None,
            plugin: plugin(),
            binary: folder.0.join("shipped/isthmus-cni"),
        };
        let (sender, told) = watch::channel(CniStatus::default());
        let running = tokio::spawn(follow(install, sender));
        Self { folder, told, running }
    }

    fn configurations(&self) -> PathBuf {
        self.folder.0.join("net.d")
    }

    /// As a primary that knows what it does writes.
    fn rename_into_place(&self, name: &str, text: &str) {
        let fresh = self.folder.write("fresh", text);
        fs::rename(fresh, self.configurations().join(name)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.configurations().join(name)).unwrap_or_default()
    }

    /// Waits until what is told satisfies.
    async fn tells(&mut self, is: impl Fn(&CniStatus) -> bool) -> CniStatus {
        let waiting = self.told.wait_for(|status| is(status));
        let waited = timeout(Duration::from_secs(20), waiting).await;
        let waited = waited.map(|status| status.unwrap().clone());
        waited.unwrap_or_else(|_| panic!("{:?}", self.told.borrow()))
    }

    /// Waits until the file has this in it, and is whole.
    async fn has(&self, name: &str, part: &str) {
        let waiting = async {
            while !self.text(name).contains(part) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(Duration::from_secs(20), waiting).await;
        assert!(waited.is_ok(), "{name}: {}", self.text(name));
        serde_json::from_str::<serde_json::Value>(&self.text(name)).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[tokio::test]
async fn binary_and_list_are_installed_and_follow_the_primary() {
    let folder = World::prepared("own");
    let primary = folder.write("net.d/10-a.conflist", &list("first"));
    fs::set_permissions(&primary, fs::Permissions::from_mode(0o600)).unwrap();
    let mut world = World::start(folder, Mode::Own);
    let status = world.tells(|status| status.configuration.is_some()).await;
    assert_eq!(status.primary.as_deref(), Some("10-a.conflist"));
    assert_eq!(status.configuration, Some(world.configurations().join(OWN_CONFLIST)));
    assert_eq!(status.trouble, None);
    assert!(status.called);
    world.has(OWN_CONFLIST, "isthmus-cni").await;
    assert_eq!(
        world.text("10-a.conflist"),
        list("first"),
        "the primary's is not touched"
    );
    let rights = |name| fs::metadata(world.folder.0.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(rights("net.d/00-isthmus.conflist"), 0o600, "as the primary's");
    assert_eq!(rights("bin/isthmus-cni"), 0o755);

    // In place, by rename, and by another file that comes first.
    fs::write(&primary, list("second")).unwrap();
    world.has(OWN_CONFLIST, "second").await;
    world.rename_into_place("10-a.conflist", &list("third"));
    world.has(OWN_CONFLIST, "third").await;
    world.rename_into_place("05-b.conf", r#"{"cniVersion":"0.3.1","name":"m","type":"single"}"#);
    world.has(OWN_CONFLIST, "single").await;
    assert_eq!(
        world.folder.names_in("net.d"),
        [OWN_CONFLIST, "05-b.conf", "10-a.conflist"]
    );
}

#[tokio::test]
async fn a_primary_that_breaks_or_vanishes_leaves_what_was_made_of_it() {
    let folder = World::prepared("broken");
    let primary = folder.write("net.d/10-a.conflist", &list("first"));
    let mut world = World::start(folder, Mode::Own);
    world.tells(|status| status.configuration.is_some()).await;
    let made = world.text(OWN_CONFLIST);

    fs::write(&primary, "{\"plugins\":[").unwrap();
    let status = world.tells(|status| status.trouble.is_some()).await;
    let trouble = status.trouble.unwrap();
    assert!(
        trouble.contains("10-a.conflist cannot be used") && trouble.contains("stays"),
        "{trouble}"
    );
    assert!(status.configuration.is_some() && status.called);
    assert_eq!(world.text(OWN_CONFLIST), made);

    // Somebody damages ours while the primary's is broken: what was known is put back.
    fs::write(world.configurations().join(OWN_CONFLIST), "{").unwrap();
    world.has(OWN_CONFLIST, "first").await;

    fs::remove_file(&primary).unwrap();
    let gone = |status: &CniStatus| {
        status
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.contains("waited for"))
    };
    world.tells(gone).await;
    assert_eq!(world.text(OWN_CONFLIST), made);

    world.rename_into_place("10-a.conflist", &list("again"));
    world.has(OWN_CONFLIST, "again").await;
    world.tells(|status| status.trouble.is_none()).await;
}

#[tokio::test]
async fn what_others_remove_is_put_back() {
    let folder = World::prepared("removed");
    folder.write("net.d/10-a.conflist", &list("first"));
    let mut world = World::start(folder, Mode::Own);
    world.tells(|status| status.configuration.is_some()).await;
    fs::rename(
        world.configurations().join(OWN_CONFLIST),
        world.configurations().join("00-isthmus.conflist.cilium_bak"),
    )
    .unwrap();
    world.has(OWN_CONFLIST, "isthmus-cni").await;
    fs::remove_file(world.folder.0.join("bin/isthmus-cni")).unwrap();
    let waiting = async {
        while world.folder.names_in("bin").is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_comes_later_is_waited_for() {
    let folder = World::prepared("empty");
    let mut world = World::start(folder, Mode::Own);
    let waiting = |status: &CniStatus| {
        status
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.contains("waited for"))
    };
    assert_eq!(world.tells(waiting).await.configuration, None);
    assert_eq!(world.folder.names_in("net.d"), Vec::<String>::new());
    world.rename_into_place("10-a.conflist", &list("late"));
    world.has(OWN_CONFLIST, "late").await;
}

#[tokio::test]
async fn a_chained_plugin_comes_back_when_the_primary_writes_its_file_anew() {
    let folder = World::prepared("chained");
    let primary = folder.write("net.d/10-a.conflist", &list("first"));
    fs::set_permissions(&primary, fs::Permissions::from_mode(0o640)).unwrap();
    let mut world = World::start(folder, Mode::Chained);
    let status = world.tells(|status| status.configuration.is_some()).await;
    assert_eq!(status.configuration, Some(primary.clone()));
    world.has("10-a.conflist", "isthmus-cni").await;
    assert_eq!(fs::metadata(&primary).unwrap().mode() & 0o777, 0o640);
    world.rename_into_place("10-a.conflist", &list("second"));
    world.has("10-a.conflist", "isthmus-cni").await;
    world.has("10-a.conflist", "second").await;
    assert_eq!(world.folder.names_in("net.d"), ["10-a.conflist"]);
}

#[tokio::test]
async fn without_the_binary_nothing_names_it() {
    let folder = World::prepared("binary");
    folder.write("net.d/10-a.conflist", &list("first"));
    fs::remove_file(folder.0.join("shipped/isthmus-cni")).unwrap();
    let mut world = World::start(folder, Mode::Own);
    let status = world.tells(|status| status.trouble.is_some()).await;
    assert!(status.trouble.unwrap().contains("shipped/isthmus-cni cannot be read"));
    assert_eq!(world.folder.names_in("net.d"), ["10-a.conflist"]);
}

#[test]
fn pauses_grow_with_repairs_and_end_somewhere() {
    assert_eq!(pause(0), QUIET);
    assert!(pause(3) > pause(2));
    assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
}

#[test]
fn who_works_against_us_is_told_of() {
    let installer = Installer {
        install: Install {
            mode: Mode::Own,
            places: Places {
                binaries: "/b".into(),
                configurations: "/c".into(),
                platform: Some("k3s"),
            },
            primary: None,
            plugin: plugin(),
            binary: "/x".into(),
        },
        last: None,
    };
    let trouble = |repairs| installer.status(&Pass::default(), repairs).trouble;
    assert_eq!(trouble(A_FIGHT - 1), None);
    assert!(trouble(A_FIGHT).unwrap().contains("cni.exclusive=false"));
}

/// Whether runtimes call the plugin is what a node's readiness goes by.
#[tokio::test]
async fn a_list_that_is_not_the_first_in_order_is_not_called() {
    let folder = World::prepared("passed by");
    let mut world = World::start(folder, Mode::Own);
    world.tells(|status| status.trouble.is_some()).await;
    assert!(!world.told.borrow().called, "there is nothing to call it by");
    world.rename_into_place("10-a.conflist", &list("first"));
    world.tells(|status| status.called).await;
    world.rename_into_place("00-another.conflist", &list("another"));
    let status = world.tells(|status| !status.called).await;
    assert!(status.configuration.is_some() && status.trouble.is_some(), "{status:?}");
    fs::remove_file(world.configurations().join("00-another.conflist")).unwrap();
    world.tells(|status| status.called && status.trouble.is_none()).await;
}
