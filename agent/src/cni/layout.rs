//! Where distributions of Kubernetes have the directories of CNI (wire-facts §12.10).

/// A distribution's directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The distribution.
    pub platform: &'static str,
    /// Its directory of plugins.
    pub binaries: &'static str,
    /// Its directory of configurations.
    pub configurations: &'static str,
    /// It is this one where all of these are and the other is not.
    marks: &'static [&'static str],
    unless: Option<&'static str>,
}

const USUAL_BINARIES: &str = "/opt/cni/bin";
const USUAL_CONFIGURATIONS: &str = "/etc/cni/net.d";
const OF_K3S: &str = "/var/lib/rancher/k3s/agent/etc/cni/net.d";

/// All that are told apart, in the order in which they are looked for. The last is everybody else.
pub const PLATFORMS: [Layout; 8] = [
    Layout {
        platform: "MicroK8s",
        binaries: "/var/snap/microk8s/current/opt/cni/bin",
        configurations: "/var/snap/microk8s/current/args/cni-network",
        marks: &["/var/snap/microk8s/current"],
        unless: None,
    },
    // The image of k3d has k3s where others have their shell, and no /usr of its own.
    Layout {
        platform: "k3d",
        binaries: "/bin",
        configurations: OF_K3S,
        marks: &["/var/lib/rancher/k3s", "/bin/k3s"],
        unless: Some("/usr/bin/k3s"),
    },
    Layout {
        platform: "k3s",
        binaries: "/var/lib/rancher/k3s/data/cni",
        configurations: OF_K3S,
        marks: &["/var/lib/rancher/k3s"],
        unless: None,
    },
    Layout {
        platform: "OpenShift",
        binaries: "/var/lib/cni/bin",
        configurations: "/etc/cni/multus/net.d",
        marks: &["/etc/cni/multus/net.d", "/var/lib/cni/bin"],
        unless: None,
    },
    Layout {
        platform: "GKE",
        binaries: "/home/kubernetes/bin",
        configurations: USUAL_CONFIGURATIONS,
        marks: &["/home/kubernetes/bin"],
        unless: None,
    },
    Layout {
        platform: "minikube",
        binaries: USUAL_BINARIES,
        configurations: USUAL_CONFIGURATIONS,
        marks: &["/var/lib/minikube"],
        unless: None,
    },
    Layout {
        platform: "Talos",
        binaries: USUAL_BINARIES,
        configurations: USUAL_CONFIGURATIONS,
        marks: &["/system/state"],
        unless: None,
    },
    Layout {
        platform: "usual",
        binaries: USUAL_BINARIES,
        configurations: USUAL_CONFIGURATIONS,
        marks: &[],
        unless: None,
    },
];

impl Layout {
    /// The distribution whose paths exist on the node.
    pub fn detect(exists: impl Fn(&str) -> bool) -> Self {
        let is = |layout: &&Self| layout.marks.iter().all(|path| exists(path)) && !layout.unless.is_some_and(&exists);
        let [.., usual] = PLATFORMS;
        PLATFORMS.iter().find(is).copied().unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_by_their_paths() {
        for (paths, platform, binaries) in [
            (["/etc/cni/net.d", "/opt/cni/bin"].as_slice(), "usual", "/opt/cni/bin"),
            (&[], "usual", "/opt/cni/bin"),
            (
                &["/var/lib/rancher/k3s", "/usr/local/bin/k3s"],
                "k3s",
                "/var/lib/rancher/k3s/data/cni",
            ),
            // A package may have it in /usr/bin, which /bin leads to.
            (
                &["/var/lib/rancher/k3s", "/bin/k3s", "/usr/bin/k3s"],
                "k3s",
                "/var/lib/rancher/k3s/data/cni",
            ),
            (&["/var/lib/rancher/k3s", "/bin/k3s"], "k3d", "/bin"),
            (
                &["/var/snap/microk8s/current", "/etc/cni/net.d"],
                "MicroK8s",
                "/var/snap/microk8s/current/opt/cni/bin",
            ),
            (&["/var/lib/minikube", "/opt/cni/bin"], "minikube", "/opt/cni/bin"),
            (&["/home/kubernetes/bin"], "GKE", "/home/kubernetes/bin"),
            (
                &["/etc/cni/multus/net.d", "/var/lib/cni/bin"],
                "OpenShift",
                "/var/lib/cni/bin",
            ),
            // Multus alone is no OpenShift.
            (&["/etc/cni/multus/net.d"], "usual", "/opt/cni/bin"),
            (&["/system/state"], "Talos", "/opt/cni/bin"),
        ] {
            let found = Layout::detect(|path| paths.contains(&path));
            assert_eq!((found.platform, found.binaries), (platform, binaries), "{paths:?}");
        }
    }
}
