//! A node's CNI directories, and the plugin called as a container runtime calls it: by the first configuration in order.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    failure::{Because as _, Failure, Result},
    pod::Pod,
};

/// What the primary is said to have made of a pod's network: it must come back as it is.
const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"dns":{}}"#;
const PRIMARY: &str = "10-lab.conflist";

/// The directories of a node. They are on its disk: a reboot leaves them.
#[derive(Clone, Debug)]
pub struct CniDirectories {
    binaries: PathBuf,
    configurations: PathBuf,
}

impl CniDirectories {
    /// Makes them below a directory, empty.
    pub fn make(below: &Path) -> Result<Self> {
        let made = Self {
            binaries: below.join("cni-bin"),
            configurations: below.join("cni-conf"),
        };
        for path in [&made.binaries, &made.configurations] {
            fs::create_dir_all(path).because(format!("making {}", path.display()))?;
        }
        Ok(made)
    }

    /// What an agent is told of them.
    pub fn arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        vec![
            "--cni-install=own".to_owned(),
            format!("--cni-bin-dir={}", path(&self.binaries)),
            format!("--cni-conf-dir={}", path(&self.configurations)),
        ]
    }

    /// The directory of configurations.
    pub fn configurations(&self) -> &Path {
        &self.configurations
    }

    /// The directory of plugins.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// Takes away what an agent has put there.
    pub fn forget(&self) -> Result {
        let ours = [
            self.configurations.join("00-isthmus.conflist"),
            self.binaries.join("isthmus-cni"),
        ];
        for path in ours.iter().filter(|path| path.exists()) {
            fs::remove_file(path).because(format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// The node's primary plugin writes its configuration.
    pub fn install_primary(&self) -> Result<PathBuf> {
        let path = self.configurations.join(PRIMARY);
        let list = r#"{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"primary"}]}"#;
        fs::write(&path, list).because(format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// ADD of a pod with this UID, after the primary's. Answers the error's code and text when the pod may not start.
    pub fn add(&self, pod: &Pod, uid: &str) -> Result<Added> {
        let (list, entry) = self.first()?;
        let mut call = entry;
        let fields = call.as_object_mut().because("a plugin's entry is an object")?;
        for key in ["cniVersion", "name"] {
            fields.insert(key.to_owned(), list.get(key).cloned().unwrap_or_default());
        }
        let previous: Value = serde_json::from_str(RESULT)?;
        fields.insert("prevResult".to_owned(), previous.clone());
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={uid}",
            pod.namespace(),
            pod.name()
        );
        let mut plugin = Command::new(self.binaries.join("isthmus-cni"))
            .env_clear()
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("sandbox-{uid}"))
            .env("CNI_NETNS", pod.netns().path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .because("starting the plugin that the configuration names")?;
        if let Some(mut stdin) = plugin.stdin.take() {
            stdin.write_all(call.to_string().as_bytes())?;
        }
        let output = plugin.wait_with_output()?;
        let said: Value = serde_json::from_slice(&output.stdout).because("reading what the plugin says")?;
        if output.status.success() {
            return match said == previous {
                true => Ok(Added::Starts),
                false => Err(Failure::new(format!("the primary's result became {said}"))),
            };
        }
        Ok(Added::Waits {
            code: said.get("code").and_then(Value::as_u64).unwrap_or_default(),
            why: said.to_string(),
        })
    }

    /// The list that a runtime takes, and the last plugin's entry, which must be ours.
    fn first(&self) -> Result<(Value, Value)> {
        let mut names: Vec<PathBuf> = fs::read_dir(&self.configurations)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "conflist"))
            .collect();
        names.sort();
        let path = names.first().because("there is a configuration")?;
        let list: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let last = list
            .get("plugins")
            .and_then(Value::as_array)
            .and_then(|plugins| plugins.last());
        let entry = last.filter(|entry| entry.get("type").and_then(Value::as_str) == Some("isthmus-cni"));
        let entry = entry.because(format!("{} calls the plugin", path.display()))?.clone();
        Ok((list, entry))
    }
}

/// What became of an ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// The pod starts, and the primary's result came back unchanged.
    Starts,
    /// The runtime is to try again.
    Waits {
        /// Code of the CNI specification.
        code: u64,
        /// What an operator reads.
        why: String,
    },
}
