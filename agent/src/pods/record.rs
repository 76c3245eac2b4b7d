//! What is remembered of an enrolled pod while no agent runs: one small file each, in the run directory, which like the
//! pins does not survive a reboot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use isthmus_wire::Enrol;
use serde::{Deserialize, Serialize};

/// An enrolled pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The pod's slot.
    pub slot: u32,
    /// Netns cookie: whether the path still leads to the same namespace.
    pub cookie: u64,
    /// Programs it was enrolled with.
    pub generation: String,
    /// It was released since: the next agent has nothing of it to take up, only to take out.
    pub released: bool,
    /// As it was asked for.
    pub pod: Enrol,
}

/// Why the records cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path} (is the run directory writable?)")]
pub struct RecordError {
    step: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Records(PathBuf);

impl Records {
    /// Makes `RUN_DIR/pods`.
    pub fn open(run_directory: &Path) -> Result<Self, RecordError> {
        let path = run_directory.join("pods");
        fs::create_dir_all(&path).map_err(|cause| RecordError {
            step: "making",
            path: path.clone(),
            cause,
        })?;
        Ok(Self(path))
    }

    /// The directory of records as it is; nothing is made.
    pub fn existing(run_directory: &Path) -> Self {
        Self(run_directory.join("pods"))
    }

    /// Writes one, by renaming a complete file into place.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(record.slot);
        let fresh = path.with_extension("new");
        let failed = |cause| RecordError {
            step: "writing",
            path: path.clone(),
            cause,
        };
        let text = serde_json::to_vec_pretty(record).map_err(|error| failed(error.into()))?;
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(failed)
    }

    /// Removes one. Nothing there is no error.
    pub fn remove(&self, slot: u32) -> Result<(), RecordError> {
        let path = self.path(slot);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(RecordError {
                step: "removing",
                path,
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// All that can be read. One that cannot is reported and left for an operator to look at.
    pub fn read_all(&self) -> Vec<Record> {
        let readable = |(path, read): (PathBuf, Result<Record, String>)| match read {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::error!(path = %path.display(), error, "a pod's record is unreadable; enrol the pod again");
                None
            }
        };
        self.read_each().into_iter().filter_map(readable).collect()
    }

    /// Every record, or why it cannot be read.
    pub fn read_each(&self) -> Vec<(PathBuf, Result<Record, String>)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().filter_map(Result::ok);
        let files = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"));
        files
            .map(|path| {
                let text = fs::read(&path).map_err(|error| error.to_string());
                let read = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
                (path, read)
            })
            .collect()
    }

    /// The file of a slot.
    pub fn path(&self, slot: u32) -> PathBuf {
        self.0.join(format!("{slot}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(slot: u32) -> Record {
        let pod = Enrol {
            uid: format!("uid-{slot}"),
            namespace: "demo".into(),
            name: "client".into(),
            service_account: None,
            netns: "/run/netns/x".into(),
            mtls_required: Some(true),
            reroute_interfaces: vec!["eth1".into()],
            capture: Box::new(isthmus_wire::Capture {
                exclude_outbound_ports: [5432].into(),
                ..Default::default()
            }),
        };
        Record {
            slot,
            cookie: 77,
            generation: "g".into(),
            released: false,
            pod,
        }
    }

    #[test]
    fn records_come_back_and_a_broken_one_does_not_hide_the_others() {
        let directory = std::env::temp_dir().join(format!("isthmus-records-{}", std::process::id()));
        let records = Records::open(&directory).unwrap();
        records.write(&record(3)).unwrap();
        records.write(&record(4)).unwrap();
        fs::write(directory.join("pods/5.json"), "{").unwrap();
        fs::write(directory.join("pods/6.new"), "half").unwrap();
        let mut found = records.read_all();
        found.sort_by_key(|record| record.slot);
        assert_eq!(found, [record(3), record(4)]);
        records.remove(3).unwrap();
        records.remove(3).unwrap();
        assert_eq!(records.read_all(), [record(4)]);
        fs::remove_dir_all(directory).unwrap();
    }
}
