use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::mesh::Mesh;
use crate::mesh::file::LARGEST_FILE;

const ONE: &str = "workloads:\n- {name: a, namespace: demo}\n";
const TWO: &str = "workloads:\n- {name: a, namespace: demo}\n- {name: b, namespace: demo}\n";

/// A directory of its own, gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "isthmus-watch-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("mesh.yaml")
    }

    fn rename_into_place(&self, text: &str) {
        let fresh = self.0.join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

struct Followed {
    directory: Directory,
    mesh: Mesh,
    state: watch::Receiver<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Followed {
    fn new(directory: Directory) -> Self {
        let (publisher, mesh) = Mesh::new(Snapshot::empty());
        let (on_state, state) = watch::channel(String::new());
        let task = tokio::spawn(follow_every(
            Duration::from_millis(5),
            directory.file(),
            publisher,
            on_state,
        ));
        Self {
            directory,
            mesh,
            state,
            task,
        }
    }

    async fn state(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut state = self.state.clone();
        match tokio::time::timeout(Duration::from_secs(10), state.wait_for(|state| wanted(state))).await {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!("still {:?}", *self.state.borrow()),
        }
    }

    async fn workloads(&self, wanted: usize) {
        let mut mesh = self.mesh.clone();
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while mesh.current().sizes()[0] != wanted {
                mesh.changed().await;
            }
        });
        waited.await.expect("the snapshot never came");
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_missing_file_is_waited_for() {
    let followed = Followed::new(Directory::new());
    let state = followed.state(|state| !state.is_empty()).await;
    assert!(
        state.contains("mesh.yaml") && state.contains("waiting for the file"),
        "{state}"
    );
    assert_eq!(followed.mesh.current().sizes(), [0, 0, 0]);
    fs::write(followed.directory.file(), ONE).unwrap();
    followed.workloads(1).await;
    assert_eq!(followed.state(|state| state == GOOD).await, GOOD);
}

#[tokio::test]
async fn edits_and_renames_are_seen() {
    let directory = Directory::new();
    fs::write(directory.file(), ONE).unwrap();
    let followed = Followed::new(directory);
    followed.workloads(1).await;
    fs::write(followed.directory.file(), TWO).unwrap();
    followed.workloads(2).await;
    followed.directory.rename_into_place(ONE);
    followed.workloads(1).await;
    // Of the same size as before, and renamed into place.
    followed.directory.rename_into_place(&ONE.replace("name: a", "name: c"));
    let mut mesh = followed.mesh.clone();
    while mesh.current().workload_of_pod("demo", "c", None).is_none() {
        tokio::time::timeout(Duration::from_secs(10), mesh.changed())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_one() {
    let directory = Directory::new();
    fs::write(directory.file(), TWO).unwrap();
    let followed = Followed::new(directory);
    followed.workloads(2).await;
    for (text, complaint) in [
        (
            "workloads:\n- {name: a}\n",
            "mesh.yaml:2:4: workloads[0]: the field `namespace` is missing",
        ),
        ("workloads: [{name: a, names", "mesh.yaml:1:"),
        ("", "the file is empty"),
    ] {
        followed.directory.rename_into_place(text);
        let state = followed.state(|state| state.contains(complaint)).await;
        assert_ne!(state, GOOD);
        assert_eq!(followed.mesh.current().sizes()[0], 2, "{state}");
    }
    fs::write(followed.directory.file(), b"workloads:\n- name: \xff\xfe\n").unwrap();
    followed.state(|state| state.contains("line 2 is not UTF-8")).await;
    fs::remove_file(followed.directory.file()).unwrap();
    followed.state(|state| state.contains("waiting for the file")).await;
    fs::create_dir(followed.directory.file()).unwrap();
    followed.state(|state| state.contains("not a regular file")).await;
    assert_eq!(followed.mesh.current().sizes()[0], 2);
    fs::remove_dir(followed.directory.file()).unwrap();
    fs::write(followed.directory.file(), ONE).unwrap();
    followed.workloads(1).await;
    followed.state(|state| state == GOOD).await;
}

#[test]
fn a_file_still_being_written_is_left_alone() {
    let directory = Directory::new();
    fs::write(directory.file(), ONE).unwrap();
    let mut follower = Follower {
        path: directory.file(),
        seen: None,
        taken: None,
        builder: Builder::new(),
    };
    assert!(matches!(follower.look(), Some(Ok(_))), "taken at once at the start");
    assert!(follower.look().is_none(), "no news");
    fs::write(directory.file(), "workloads:\n- {name: a, na").unwrap();
    assert!(follower.look().is_none(), "seen for the first time");
    fs::write(directory.file(), TWO).unwrap();
    assert!(follower.look().is_none(), "changed again");
    let Some(Ok(snapshot)) = follower.look() else {
        panic!("two looks agree");
    };
    assert_eq!(snapshot.sizes()[0], 2);
    assert!(follower.look().is_none());
}

#[test]
fn more_than_the_limit_is_not_read() {
    let directory = Directory::new();
    let file = File::create(directory.file()).unwrap();
    file.set_len(u64::try_from(LARGEST_FILE).unwrap() * 4).unwrap();
    let mut follower = Follower {
        path: directory.file(),
        seen: None,
        taken: None,
        builder: Builder::new(),
    };
    let problem = follower.look().unwrap().unwrap_err();
    assert!(problem.contains("more than the 67108864"), "{problem}");
}
