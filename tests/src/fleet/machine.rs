//! A node as a machine: namespaces of its own, in which a containerd and a kubelet run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;

use super::images;
use crate::{
    cgroups,
    control_plane::{built, last_words},
    failure::{Because as _, Failure, Result},
    lab::{World, lock},
    netns::Netns,
    node::Node,
    process::Process,
    wait::within,
};

/// Cold, while others start beside it.
const UP: Duration = Duration::from_secs(120);
/// What is put together for every node (machine/).
const BOOT: &str = include_str!("machine/boot.sh");
const CONTAINERD: &str = include_str!("machine/containerd.toml");

/// A node with a kubelet; everything on it ends when it is dropped.
#[derive(Debug)]
pub struct Machine {
    node: Node,
    name: String,
    /// Of its cgroups, on the host.
    group: String,
    dir: PathBuf,
    /// Lowest and highest last number of its pods' addresses.
    addresses: (u8, u8),
    taints: Vec<String>,
    world: Arc<World>,
    /// `unshare`, whose child is the node's first process; None while it is off.
    init: Mutex<Option<Process>>,
}

impl Machine {
    /// Prepares its files. Nothing runs yet.
    pub(super) fn new(world: &Arc<World>, node: Node, name: &str) -> Result<Self> {
        let dir = world.dir().join(name);
        fs::create_dir_all(&dir).because(format!("making {}", dir.display()))?;
        Ok(Self {
            group: format!("{}-{name}", world.name()),
            name: name.to_owned(),
            node,
            dir,
            addresses: (10, 250),
            taints: Vec::new(),
            world: Arc::clone(world),
            init: Mutex::new(None),
        })
    }

    /// Its pods get addresses with these last numbers.
    #[must_use]
    pub fn addresses(mut self, lowest: u8, highest: u8) -> Self {
        self.addresses = (lowest, highest);
        self
    }

    /// Its kubelet registers it with a taint, `KEY:EFFECT`.
    #[must_use]
    pub fn taint(mut self, taint: &str) -> Self {
        self.taints.push(taint.to_owned());
        self
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where `kubeconfig`, which its kubelet shows, is expected.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Starts it, as a machine starts whose disk is what it was: what pods there were begin anew.
    pub fn boot(&self) -> Result {
        self.write_files()?;
        let mut command = Command::new("bash");
        command.arg(self.dir.join("enter.sh"));
        let output = self.dir.join("boot.log");
        let process = Process::start_into(&self.world, &self.name, &mut command, &output, &output)?;
        *lock(&self.init) = Some(process);
        let up = within(UP, &format!("kubelet of {} serves", self.name), || {
            let asked = self.run(&[
                "curl",
                "--silent",
                "--fail",
                "--max-time",
                "2",
                "http://127.0.0.1:10248/healthz",
            ]);
            asked.map(|_| true).ok().or_else(|| (!self.is_on()).then_some(false))
        });
        if up.as_ref().is_ok_and(|up| *up) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} does not boot; it says:\n{}",
            self.name,
            self.last_words()
        )))
    }

    /// Ends everything on it at once, as a machine ends that loses power. Its disk stays.
    pub fn power_off(&self) -> Result {
        if let Some(mut init) = lock(&self.init).take() {
            // `unshare` takes the node's first process with it, and the kernel everything below that.
            init.kill();
        }
        cgroups::remove(&self.group)
    }

    /// Whether its first process lives.
    pub fn is_on(&self) -> bool {
        lock(&self.init).as_mut().is_some_and(Process::runs)
    }

    /// Runs a program on it and answers what it writes, or why it failed.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let output = self
            .command(command)?
            .output()
            .because(format!("running {command:?}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failure::new(format!(
            "{command:?} on {}: {}: {}",
            self.name,
            output.status,
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim()
        )))
    }

    /// Gives it the image of istio-cni.
    pub fn load_istio_cni(&self) -> Result {
        let archive = images::istio_cni()?;
        let archive = archive.to_string_lossy();
        self.run(&[
            "ctr",
            "--address",
            "/run/containerd/containerd.sock",
            "--namespace",
            "k8s.io",
            "images",
            "import",
            &archive,
        ])
        .map(drop)
    }

    /// Starts a Python script that sees its files, and is neither of its network nor of its processes.
    pub fn python(&self, name: &str, script: &str) -> Result<Process> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first()?))
            .args(["--mount", "--", "python3", "-uc", script]);
        Process::start(&self.world, &format!("{}-{name}", self.name), command)
    }

    /// Its network.
    pub fn netns(&self) -> &Netns {
        self.node.netns()
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first()?))
            .args(["--mount", "--net", "--pid", "--uts", "--cgroup", "--"])
            .args(words)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Its first process, as the host numbers it.
    fn first(&self) -> Result<u32> {
        let mut init = lock(&self.init);
        let init = init.as_mut().because(format!("{} is on", self.name))?;
        let pid = init.pid();
        let child = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        child
            .trim()
            .parse()
            .because(format!("{} has a first process", self.name))
    }

    fn last_words(&self) -> String {
        ["boot.log", "kubelet.log"]
            .map(|name| last_words(&self.dir.join(name)))
            .join("\n")
    }

    fn write_files(&self) -> Result {
        let (net, index) = (self.node.network().index(), self.node.index());
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [{
                "type": "bridge",
                "bridge": "br0",
                "isGateway": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{
                        "subnet": format!("10.{net}.{index}.0/24"),
                        "rangeStart": format!("10.{net}.{index}.{}", self.addresses.0),
                        "rangeEnd": format!("10.{net}.{index}.{}", self.addresses.1),
                        "gateway": format!("10.{net}.{index}.1"),
                    }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        });
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            // Reached in namespaces of the lab only.
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            "resolvConf": "",
            "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false,
            // The disk is the developer's.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": { "memory.available": "1Mi" },
            "maxPods": 240,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "oomScoreAdj": 0,
        });
        let taints = self.taints.join(",");
        let boot = format!(
            "node='{}'\ndisk='{}'\naddress='10.{net}.0.{index}'\nkubelet='{}'\ntaints='{taints}'\nimages='{}'\nmounts='{}'\n{BOOT}",
            self.name,
            self.dir.display(),
            built("kubelet")?.display(),
            images::built()?.map(|path| path.display().to_string()).join(" "),
            mounts()?,
        );
        let files = [
            ("enter.sh", self.enter()?),
            ("boot.sh", boot),
            ("containerd.toml", CONTAINERD.replace("WORKLOAD", images::WORKLOAD)),
            ("kubelet.json", kubelet.to_string()),
            ("network.conflist", network.to_string()),
        ];
        for (name, text) in files {
            let path = self.dir.join(name);
            fs::write(&path, text).because(format!("writing {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    }

    /// Joins cgroups of the node's name, then leaves the host for namespaces of its own.
    fn enter(&self) -> Result<String> {
        let mut script = String::from("set -eu\n");
        for hierarchy in cgroups::hierarchies()? {
            let group = hierarchy.at.join(&self.group);
            let (at, group) = (hierarchy.at.display(), group.display());
            script += &format!("mkdir -p {group}\n");
            if hierarchy
                .controllers
                .as_ref()
                .is_some_and(|told| told.contains("cpuset"))
            {
                script += &format!(
                    "cat {at}/cpuset.cpus > {group}/cpuset.cpus\ncat {at}/cpuset.mems > {group}/cpuset.mems\n"
                );
            }
            script += &format!("echo $$ > {group}/cgroup.procs\n");
        }
        let (netns, boot) = (self.node.netns().path(), self.dir.join("boot.sh"));
        Ok(script
            + &format!(
                "exec nsenter --net={} unshare --mount --pid --fork --kill-child --cgroup --uts bash {}\n",
                netns.display(),
                boot.display()
            ))
    }
}

/// Lines of `boot.sh` that mount the hierarchies, each where the host has it.
fn mounts() -> Result<String> {
    let hierarchies = cgroups::hierarchies()?;
    let line = |hierarchy: &cgroups::Hierarchy| {
        let at = hierarchy.at.display();
        match &hierarchy.controllers {
            Some(told) => format!("{at}:cgroup:{told}"),
            None => format!("{at}:cgroup2:"),
        }
    };
    Ok(hierarchies.iter().map(line).collect::<Vec<_>>().join(" "))
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.world.keeps()
            && let Err(failure) = self.power_off()
        {
            eprintln!("lab: {failure}");
        }
    }
}
