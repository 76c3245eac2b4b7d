//! Whose process it is, by the cgroups the kubelet put it into. Pure: the text of `/proc/PID/cgroup` in, a UID out.
//!
//! Drivers and runtimes write it differently, and the pod's UID stands in all of them:
//!
//! ```text
//! 0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_WITH_UNDERSCORES.slice/cri-containerd-ID.scope
//! 4:memory:/kubepods/besteffort/podUID-WITH-DASHES/ID
//! 0::/../../kubepods-besteffort-podUID_WITH_UNDERSCORES.slice/crio-ID.scope        (from inside a cgroup namespace)
//! ```

/// Whose a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// No pod's.
    Nobody,
    /// The pod's with this UID, written with dashes.
    Pod(String),
    /// Its hierarchies name several pods.
    Several,
}

/// Reads the text of `/proc/PID/cgroup` (cgroups(7)).
pub(super) fn owner(text: &str) -> Owner {
    let mut owner = Owner::Nobody;
    // HIERARCHY:CONTROLLERS:PATH; the path may contain colons.
    for path in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        // The outermost: what lies inside of a pod's cgroup is made by the pod.
        // Runtimes told to use systemd by one side only write `SLICE:cri-containerd:ID` as one name.
        let Some(uid) = path.split(['/', ':']).find_map(uid) else {
            continue;
        };
        match &owner {
            Owner::Nobody => owner = Owner::Pod(uid),
            Owner::Pod(other) if *other == uid => {}
            _ => return Owner::Several,
        }
    }
    owner
}

/// The UID in the name of a pod's cgroup: `podUID`, `PREFIX-podUID.slice`.
fn uid(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    let written = match name.strip_prefix("pod") {
        Some(written) => written,
        None => name.rsplit_once("-pod")?.1,
    };
    canonical(written)
}

/// A UUID with dashes, or the 32 digits a kubelet makes of a static pod's file.
fn canonical(written: &str) -> Option<String> {
    // systemd takes a dash for a level of its hierarchy, so drivers write underscores.
    let uid = written.replace('_', "-").to_ascii_lowercase();
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_uid = lengths == [8, 4, 4, 4, 12] || lengths == [32];
    (is_uid && parts.iter().all(|part| is_hex(part))).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1f3c2a44-90d1-4b5e-8c2f-0a1b2c3d4e5f";
    const OTHER: &str = "aaaaaaaa-90d1-4b5e-8c2f-0a1b2c3d4e5f";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    fn under(uid: &str) -> String {
        uid.replace('-', "_")
    }

    #[test]
    fn every_shape_of_driver_and_runtime_tells_the_pod() {
        let slice = format!("kubepods-burstable-pod{}.slice", under(UID));
        for path in [
            // systemd: containerd, cri-o (its conmon too), docker.
            format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-0a1b.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/{slice}/crio-0a1b.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/{slice}/crio-conmon-0a1b.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/{slice}/docker-0a1b.scope"),
            format!(
                "/kubepods.slice/kubepods-pod{}.slice/cri-containerd-0a1b.scope",
                under(UID)
            ),
            // cgroupfs, of every class.
            format!("/kubepods/burstable/pod{UID}/0a1b"),
            format!("/kubepods/besteffort/pod{UID}/0a1b"),
            format!("/kubepods/pod{UID}/0a1b"),
            // containerd where only one side was told to use systemd.
            format!(
                "/system.slice/containerd.service/kubepods-besteffort-pod{}.slice:cri-containerd:0a1b",
                under(UID)
            ),
            // kind: the node is a container itself.
            format!(
                "/docker/ffff/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice/x",
                under(UID)
            ),
            // From inside a cgroup namespace.
            format!("/../../{slice}/cri-containerd-0a1b.scope"),
            // The pod's own cgroup, without a container.
            format!("/kubepods/burstable/pod{UID}"),
        ] {
            assert_eq!(owner(&format!("0::{path}\n")), Owner::Pod(UID.to_owned()), "{path}");
        }
        let text = format!("0::/kubepods/burstable/pod{STATIC}/0a1b\n");
        assert_eq!(owner(&text), Owner::Pod(STATIC.to_owned()));
    }

    #[test]
    fn hierarchies_of_v1_agree() {
        let path = format!("/kubepods/burstable/pod{UID}/0a1b");
        let text = format!("12:memory:{path}\n11:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/\n");
        assert_eq!(owner(&text), Owner::Pod(UID.to_owned()));
        let mixed = format!("12:memory:{path}\n11:cpu:/kubepods/pod{OTHER}/0a1b\n");
        assert_eq!(owner(&mixed), Owner::Several);
    }

    #[test]
    fn what_a_pod_makes_inside_of_its_cgroup_says_nothing() {
        let text = format!("0::/kubepods/pod{UID}/0a1b/kubepods/pod{OTHER}/0c1d\n");
        assert_eq!(owner(&text), Owner::Pod(UID.to_owned()));
    }

    #[test]
    fn other_processes_are_nobodys() {
        for text in [
            "",
            "0::/\n",
            "nonsense",
            "0::/system.slice/containerd.service\n",
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "0::/kubepods.slice/kubepods-burstable.slice\n",
            "0::/kubepods/podium/x\n",
            "0::/machine.slice/libpod-0a1b.scope\n",
            "0::/kubepods/pod1f3c2a44-90d1-4b5e-8c2f-0a1b2c3d4e5/x\n",
            "0::/kubepods/pod1f3c2a44-90d1-4b5e-8c2f-0a1b2c3d4e5fa/x\n",
            "0::/kubepods/podzf3c2a44-90d1-4b5e-8c2f-0a1b2c3d4e5f/x\n",
            "0::/kubepods/pod-----/x\n",
        ] {
            assert_eq!(owner(text), Owner::Nobody, "{text}");
        }
    }
}
