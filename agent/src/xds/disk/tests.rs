use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use isthmus_istio::security;

use super::*;
use crate::mesh::draw::Draw;
use crate::mesh::{Mesh, Snapshot};
use crate::xds::fixture::{Any, deny, held, pod, policy, service, serving, workload};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("isthmus-disk-{:032x}", rand::random::<u128>()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn disk(&self) -> Disk {
        Disk::new(self.0.join("mesh"), "istiod, cluster1")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn small() -> Held {
    let (mut held, _) = held();
    held.upsert(Kind::Address, workload(pod("a", [10, 0, 0, 1], &["demo/s"]), "abc"))
        .unwrap();
    held.upsert(Kind::Address, service(serving("s", [10, 1, 0, 1]), "v 1"))
        .unwrap();
    held.upsert(Kind::Authorization, policy(&deny("p", security::Scope::Global)))
        .unwrap();
    Kind::ALL.into_iter().for_each(|kind| held.finish(kind));
    held
}

fn versions(held: &mut Held) -> BTreeMap<String, String> {
    Kind::ALL
        .into_iter()
        .flat_map(|kind| held.open_stream(kind, usize::MAX))
        .collect()
}

fn same(one: &Snapshot, other: &Snapshot) {
    assert_eq!(one.sizes(), other.sizes());
    for (_, workload) in one.numbered_workloads() {
        assert_eq!(other.workload(&workload.uid().to_string()).as_ref(), Some(workload));
    }
    for (_, service) in one.numbered_services() {
        let found = other.service_named(&service.key.namespace, &service.key.hostname);
        assert_eq!(found.as_ref(), Some(service));
    }
    assert!(one.policies().eq(other.policies()));
}

#[test]
fn whatever_is_stored_is_what_is_loaded() {
    let folder = Folder::new();
    for seed in 0..40 {
        let mut any = Any(Draw::new(seed));
        let (mut told, mesh) = held();
        for n in 0..20 {
            told.upsert(Kind::Address, workload(any.workload(n), &format!("{n:x}")))
                .unwrap();
            told.upsert(Kind::Address, service(any.service(n), "")).unwrap();
            told.upsert(Kind::Authorization, policy(&any.policy(n))).unwrap();
        }
        Kind::ALL.into_iter().for_each(|kind| told.finish(kind));
        folder.disk().store(&told.contents()).unwrap();
        let (mut again, other) = held();
        assert_eq!(folder.disk().load(&mut again).unwrap(), Some([20, 20, 20]));
        same(&mesh.current(), &other.current());
        assert_eq!(versions(&mut told), versions(&mut again));
    }
}

#[test]
fn what_is_loaded_is_published_and_swept_unless_istiod_still_has_it() {
    let folder = Folder::new();
    folder.disk().store(&small().contents()).unwrap();
    let (mut again, mesh): (Held, Mesh) = held();
    folder.disk().load(&mut again).unwrap();
    assert_eq!(mesh.current().sizes(), [1, 1, 1]);
    assert!(again.open_stream(Kind::Address, 0).is_empty());
    assert_eq!(again.sweep(Kind::Address), 2);
}

#[test]
fn the_file_is_its_owners_alone_and_takes_the_old_ones_place_at_once() {
    let folder = Folder::new();
    let disk = folder.disk();
    let (mut nothing, _mesh) = held();
    assert_eq!(disk.load(&mut nothing).unwrap(), None, "nothing is stored yet");
    fs::write(folder.0.join("mesh.new"), "left by one that was killed").unwrap();
    disk.store(&small().contents()).unwrap();
    let mode = fs::metadata(folder.0.join("mesh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    let before = fs::read(folder.0.join("mesh")).unwrap();
    let reading = File::open(folder.0.join("mesh")).unwrap();
    disk.store(&nothing.contents()).unwrap();
    let still = io::read_to_string(reading);
    assert_eq!(
        still.map_or_else(|_| before.len(), |text| text.len()),
        before.len(),
        "who reads the old one reads it whole"
    );
    assert_eq!(disk.load(&mut nothing).unwrap(), Some([0, 0, 0]));
    let lost = Disk::new(folder.0.join("none/mesh"), "");
    let error = lost.store(&nothing.contents()).unwrap_err();
    assert!(error.to_string().contains("none/mesh"), "{error}");
}

#[test]
fn any_byte_that_is_another_and_any_length_is_an_error_and_nothing_is_taken() {
    let folder = Folder::new();
    let (disk, path) = (folder.disk(), folder.0.join("mesh"));
    disk.store(&small().contents()).unwrap();
    let good = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    for at in 0..good.len() {
        for bit in [0x01, 0x80] {
            let mut other = good.clone();
            other[at] ^= bit;
            damaged.push(other);
        }
    }
    damaged.push([&good[..], b"x"].concat());
    for bytes in damaged {
        fs::write(&path, bytes).unwrap();
        let (mut told, mesh) = held();
        let error = disk.load(&mut told).unwrap_err();
        assert!(matches!(error, DiskError::Unfit { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
        assert_eq!((told.sizes(), mesh.current().sizes()), ([0; 3], [0; 3]));
        assert!(versions(&mut told).is_empty());
    }
    fs::write(&path, good).unwrap();
    let (mut told, _mesh) = held();
    assert_eq!(disk.load(&mut told).unwrap(), Some([1, 1, 1]));
}

#[test]
fn what_another_agent_stored_is_said_to_be_so() {
    let folder = Folder::new();
    let disk = folder.disk();
    disk.store(&small().contents()).unwrap();
    let problem = |disk: &Disk| disk.load(&mut held().0).unwrap_err().to_string();
    let other = Disk::new(folder.0.join("mesh"), "istiod, cluster2");
    assert!(problem(&other).ends_with("it is of \"istiod, cluster1\", this agent asks \"istiod, cluster2\""));
    let mut bytes = fs::read(folder.0.join("mesh")).unwrap();
    bytes[8] = 2;
    fs::write(folder.0.join("mesh"), &bytes).unwrap();
    assert!(problem(&disk).ends_with("it is of format 2, this agent reads format 1"));
    fs::write(folder.0.join("mesh"), "workloads: []").unwrap();
    assert!(problem(&disk).ends_with("it is no mesh that an agent stored"));
    assert!(problem(&Disk::new(folder.0.clone(), "")).ends_with("it is no regular file"));
}
