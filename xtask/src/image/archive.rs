//! The archive: an OCI image layout that also has the list by which Docker reads what `docker save` writes.
//!
//! OCI image-spec v1.1 (image-layout.md, manifest.md, config.md); Docker Image Specification v1.2 (manifest.json).

use std::io;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::{executable::Executable, name::Name};
use crate::Failure;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// When everything in it was made: the day does not depend on the day it is made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What the image says of itself.
pub(super) struct About<'a> {
    /// Name and tag.
    pub(super) name: &'a Name,
    /// Version of the programs.
    pub(super) version: &'a str,
    /// A line for people.
    pub(super) description: &'a str,
    /// SPDX identifier.
    pub(super) licenses: &'a str,
    /// The program that is started, and what it is told in front of everything else.
    pub(super) entrypoint: &'a [&'a str],
    /// What it is told besides, unless whoever starts it says something else.
    pub(super) command: &'a [&'a str],
}

/// An image as one file.
pub(super) struct Archive {
    bytes: Vec<u8>,
    digest: String,
}

/// Something that is found by its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Archive {
    /// Packs programs, each with its place in the image, without a slash in front.
    pub(super) fn of(about: &About<'_>, programs: &[(impl AsRef<str>, Executable)]) -> Result<Self, Failure> {
        let machine = machine(programs)?;
        let packed = layer(programs)
            .and_then(|layer| assemble(about, machine, Blob::new(layer)))
            .map_err(|cause| Failure::new(format!("packing the image: {cause}")))?;
        Ok(packed)
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Digest of the image's manifest, by which registries know it.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let hash = Sha256::digest(&bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            digest: format!("sha256:{hex}"),
            bytes,
        }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    /// Where it lies in the archive.
    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self, media: &str) -> Value {
        json!({ "mediaType": media, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// The machine that all programs are for.
fn machine(programs: &[(impl AsRef<str>, Executable)]) -> Result<&'static str, Failure> {
    let mut machines: Vec<_> = programs.iter().map(|(_, program)| program.machine()).collect();
    machines.dedup();
    match machines.as_slice() {
        [machine] => Ok(machine),
        _ => Err(Failure::new(format!(
            "an image is for one machine, and these programs are for {}",
            machines.join(" and ")
        ))),
    }
}

/// A layer with the programs and the folders above them, in the order of their names.
fn layer(programs: &[(impl AsRef<str>, Executable)]) -> io::Result<Vec<u8>> {
    let mut entries: Vec<(String, Option<&[u8]>)> = Vec::new();
    for (place, program) in programs {
        let place = place.as_ref();
        let folders = place.match_indices('/').filter_map(|(at, _)| place.get(..=at));
        entries.extend(folders.map(|folder| (folder.to_owned(), None)));
        entries.push((place.to_owned(), Some(program.bytes())));
    }
    entries.sort();
    entries.dedup();
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in entries {
        match bytes {
            Some(bytes) => put(&mut tar, &path, 0o755, bytes)?,
            None => tar.append_data(&mut header(EntryType::Directory, 0o755, 0), &path, io::empty())?,
        }
    }
    tar.into_inner()
}

fn assemble(about: &About<'_>, machine: &str, layer: Blob) -> io::Result<Archive> {
    let title = about.name.to_string();
    let labels = json!({
        "org.opencontainers.image.title": about.name.last(),
        "org.opencontainers.image.description": about.description,
        "org.opencontainers.image.licenses": about.licenses,
        "org.opencontainers.image.version": about.version,
    });
    let config = Blob::json(&json!({
        "architecture": machine,
        "os": "linux",
        "created": CREATED,
        "config": {
            "User": "0:0",
            "Env": ["PATH=/usr/local/bin"],
            "Entrypoint": about.entrypoint,
            "Cmd": about.command,
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        "history": [{ "created": CREATED, "created_by": "cargo xtask image" }],
    }));
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
        "annotations": labels,
    }));
    let mut listed = manifest.descriptor(MANIFEST);
    if let Some(listed) = listed.as_object_mut() {
        listed.insert("platform".to_owned(), json!({ "architecture": machine, "os": "linux" }));
        // containerd takes the name from the first, others the tag from the second.
        listed.insert(
            "annotations".to_owned(),
            json!({
                "io.containerd.image.name": about.name.full(),
                "org.opencontainers.image.ref.name": about.name.tag(),
            }),
        );
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [listed] });
    let docker = json!([{ "Config": config.path(), "RepoTags": [title], "Layers": [layer.path()] }]);

    let mut tar = Builder::new(Vec::new());
    let digest = manifest.digest.clone();
    let mut blobs = [config, manifest, layer];
    blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
    for folder in ["blobs/", "blobs/sha256/"] {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, io::empty())?;
    }
    for blob in &blobs {
        put(&mut tar, &blob.path(), 0o644, &blob.bytes)?;
    }
    put(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
    put(&mut tar, "manifest.json", 0o644, docker.to_string().as_bytes())?;
    put(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(Archive {
        bytes: tar.into_inner()?,
        digest,
    })
}

fn put(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

/// Of root, and as old as can be.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use serde_json::Value;

    use super::{About, Archive, Blob};
    use crate::image::executable::Executable;

    fn archive() -> Archive {
        let programs = [
            ("usr/local/bin/isthmus", Executable::pretended(b"agent")),
            ("usr/local/bin/isthmus-cni", Executable::pretended(b"plugin")),
        ];
        let about = About {
            name: &"mesh/isthmus:0.1".parse().unwrap(),
            version: "0.1.0",
            description: "Node agent",
            licenses: "Apache-2.0",
            entrypoint: &["/usr/local/bin/isthmus"],
            command: &["run"],
        };
        Archive::of(&about, &programs).unwrap()
    }

    /// Path, mode, owner, time and content of what a tar holds, in its order.
    fn unpacked(bytes: &[u8]) -> Vec<(String, u32, u64, u64, Vec<u8>)> {
        let mut tar = tar::Archive::new(bytes);
        let entries = tar.entries().unwrap();
        let read = |mut entry: tar::Entry<'_, &[u8]>| {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let (mode, owner, time) = (
                header.mode().unwrap(),
                header.uid().unwrap() + header.gid().unwrap(),
                header.mtime().unwrap(),
            );
            (path, mode, owner, time, content)
        };
        entries.map(|entry| read(entry.unwrap())).collect()
    }

    fn files(archive: &Archive) -> BTreeMap<String, Vec<u8>> {
        let files = unpacked(archive.bytes()).into_iter();
        files.map(|(path, _, _, _, content)| (path, content)).collect()
    }

    fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, digest: &Value) -> &'a [u8] {
        &files[&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))]
    }

    #[test]
    fn every_blob_is_what_its_digest_says() {
        let files = files(&archive());
        let blobs: Vec<_> = files
            .iter()
            .filter(|(path, _)| path.starts_with("blobs/sha256/"))
            .collect();
        let blobs: Vec<_> = blobs.into_iter().filter(|(path, _)| !path.ends_with('/')).collect();
        assert_eq!(blobs.len(), 3);
        for (path, content) in blobs {
            assert_eq!(Blob::new(content.clone()).path(), *path);
        }
    }

    #[test]
    fn an_oci_reader_finds_the_programs() {
        let archive = archive();
        let files = files(&archive);
        assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
        let listed = &json(&files, "index.json")["manifests"][0];
        assert_eq!(listed["digest"], archive.digest());
        assert_eq!(
            listed["annotations"]["io.containerd.image.name"],
            "docker.io/mesh/isthmus:0.1"
        );
        assert_eq!(listed["platform"]["architecture"], "amd64");

        let bytes = blob(&files, &listed["digest"]);
        assert_eq!(listed["size"], bytes.len());
        let manifest: Value = serde_json::from_slice(bytes).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"]["digest"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/isthmus");
        assert_eq!(config["config"]["User"], "0:0");
        // The layer is not compressed, so that both digests are one.
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);

        let layer = blob(&files, &manifest["layers"][0]["digest"]);
        assert_eq!(manifest["layers"][0]["size"], layer.len());
        let entries = unpacked(layer);
        let paths: Vec<_> = entries.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "usr/",
                "usr/local/",
                "usr/local/bin/",
                "usr/local/bin/isthmus",
                "usr/local/bin/isthmus-cni",
            ]
        );
        assert_eq!(entries[3].4, b"agent");
        assert_eq!(entries[4].4, b"plugin");
        assert!(
            entries
                .iter()
                .all(|(_, mode, owner, time, _)| (*mode, *owner, *time) == (0o755, 0, 0))
        );
    }

    #[test]
    fn docker_finds_them_as_well() {
        let files = files(&archive());
        let listed = &json(&files, "manifest.json")[0];
        assert_eq!(listed["RepoTags"][0], "mesh/isthmus:0.1");
        for path in [&listed["Config"], &listed["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn the_same_programs_make_the_same_archive() {
        let (one, other) = (archive(), archive());
        assert_eq!(one.bytes(), other.bytes());
        assert_eq!(one.digest(), other.digest());
        assert!(
            unpacked(one.bytes())
                .iter()
                .all(|(_, _, owner, time, _)| (*owner, *time) == (0, 0))
        );
    }
}
