//! What a kubelet makes of a pod on its node: a cgroup named by the pod's UID, and the process that holds the sandbox.

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    cgroups,
    failure::{Because as _, Result},
    pod::Pod,
    process::Process,
    wait::within,
};

/// A process in the namespace of a pod and in a cgroup of its UID; both end when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    process: Option<Process>,
    /// From the outermost to the innermost.
    groups: [PathBuf; 3],
}

impl Sandbox {
    /// Starts it as the systemd driver and containerd would, for a pod that the API server gave this UID.
    pub fn start(pod: &Pod, uid: &str) -> Result<Self> {
        let slice = format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"));
        let outer = cgroups::second()?.join(format!("isth-{}-{}.slice", std::process::id(), pod.name()));
        let inner = outer.join(slice);
        let innermost = inner.join("cri-containerd-0a1b.scope");
        let groups = [outer, inner, innermost];
        for group in &groups {
            fs::create_dir_all(group).because(format!("making {}", group.display()))?;
        }
        let mut sandbox = Self { process: None, groups };
        let process = pod.spawn("sleep", &["3600"])?;
        let pid = process.pid();
        sandbox.process = Some(process);
        // `nsenter` becomes the program once it has entered.
        within(
            Duration::from_secs(5),
            "the sandbox's process is in its namespace",
            || pod.netns().is_of(pid).then_some(()),
        )?;
        let [.., innermost] = &sandbox.groups;
        let members = innermost.join("cgroup.procs");
        fs::write(&members, pid.to_string()).because(format!("writing {}", members.display()))?;
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        for group in self.groups.iter().rev() {
            // A cgroup that still has somebody in it stays, and is somebody else's business.
            let _kept = fs::remove_dir(group);
        }
    }
}
