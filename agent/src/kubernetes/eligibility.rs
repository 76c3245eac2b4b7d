//! Who is enrolled: a pure decision of a pod, its namespace's labels and the rules (wire-facts §12.1).

use std::{fmt, path::PathBuf};

use isthmus_wire::{Capture, Enrol};

use super::{
    annotations::{self, Asked, Remark},
    pod::{Phase, Pod},
    rules::{APP, Rules},
    selector::Labels,
};

/// What is to become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It belongs into the mesh.
    Enrol(Terms),
    /// It does not.
    Leave(Because),
    /// Its namespace is not known yet, so neither is this.
    Unknown,
}

/// On what terms a pod is enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    uid: String,
    namespace: String,
    name: String,
    service_account: Option<String>,
    pub(super) capture: Box<Capture>,
    pub(super) reroute_interfaces: Vec<String>,
    /// What the pod asks for and does not get.
    pub(super) remarks: Vec<Remark>,
}

/// Why a pod is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Its namespace is excluded.
    ExcludedNamespace,
    /// It is part of the data plane.
    DataPlane,
    /// It has the node's network.
    HostNetwork,
    /// A sidecar serves it.
    Sidecar,
    /// All its containers have ended.
    Ended,
    /// No label asks for it, or one of its own refuses.
    NotSelected,
}

/// What is to become of a pod. `namespace` is what is known of its namespace's labels.
pub(super) fn decide(pod: &Pod, namespace: Option<&Labels>, rules: &Rules) -> Intent {
    if let Some(because) = unconditional(pod, rules) {
        return Intent::Leave(because);
    }
    let Some(namespace) = namespace else {
        return Intent::Unknown;
    };
    if !rules.enablement.selects(&pod.labels, namespace) {
        return Intent::Leave(Because::NotSelected);
    }
    let asked = Asked::read(&pod.annotations);
    Intent::Enrol(Terms {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        service_account: pod.service_account.clone(),
        capture: Box::new(asked.capture),
        reroute_interfaces: asked.reroute_interfaces,
        remarks: asked.remarks,
    })
}

/// What keeps a pod out whatever labels say.
fn unconditional(pod: &Pod, rules: &Rules) -> Option<Because> {
    if rules.excluded.contains(&pod.namespace) {
        Some(Because::ExcludedNamespace)
    } else if rules.is_ours(&pod.namespace, &pod.name, pod.labels.get(APP)) {
        Some(Because::DataPlane)
    } else if pod.host_network {
        Some(Because::HostNetwork)
    } else if pod.annotations.contains_key(annotations::SIDECAR) {
        Some(Because::Sidecar)
    } else if pod.phase == Phase::Ended {
        Some(Because::Ended)
    } else {
        None
    }
}

// === impl Terms ===

impl Terms {
    /// What the registry is asked.
    pub fn enrol(&self, netns: PathBuf) -> Enrol {
        Enrol {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            service_account: self.service_account.clone(),
            netns,
            mtls_required: None,
            reroute_interfaces: self.reroute_interfaces.clone(),
            capture: self.capture.clone(),
        }
    }
}

// === impl Because ===

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExcludedNamespace => "its namespace is one of --exclude-namespaces",
            Self::DataPlane => "it is part of the mesh's data plane",
            Self::HostNetwork => "it has hostNetwork",
            Self::Sidecar => "it has a sidecar (annotation sidecar.istio.io/status)",
            Self::Ended => "its containers have ended",
            Self::NotSelected => "neither its labels nor those of its namespace ask for it",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{super::selector::DATAPLANE_MODE, *};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn ambient() -> Labels {
        map(&[(DATAPLANE_MODE, "ambient")])
    }

    fn rules() -> Rules {
        Rules {
            excluded: BTreeSet::from(["kube-system".to_owned()]),
            system: BTreeSet::from(["istio-system".to_owned()]),
            own_pod: Some(("agents".to_owned(), "isthmus-x".to_owned())),
            ..Rules::default()
        }
    }

    fn pod(change: impl FnOnce(&mut Pod)) -> Pod {
        let mut pod = Pod {
            uid: "uid".to_owned(),
            namespace: "demo".to_owned(),
            name: "curl".to_owned(),
            service_account: Some("account".to_owned()),
            labels: map(&[(APP, "curl")]),
            ..Pod::default()
        };
        change(&mut pod);
        pod
    }

    fn of(pod: &Pod) -> Intent {
        decide(pod, Some(&ambient()), &rules())
    }

    #[track_caller]
    fn is_left(because: Because, change: impl FnOnce(&mut Pod)) {
        let pod = pod(change);
        assert_eq!(of(&pod), Intent::Leave(because), "{pod:?}");
        // Nor does its own label help.
        let mut asking = pod;
        asking.labels.extend(ambient());
        assert_eq!(of(&asking), Intent::Leave(because), "{asking:?}");
    }

    #[track_caller]
    fn is_enrolled(change: impl FnOnce(&mut Pod)) -> Terms {
        let pod = pod(change);
        match of(&pod) {
            Intent::Enrol(terms) => terms,
            other => panic!("{pod:?}: {other:?}"),
        }
    }

    #[test]
    fn a_pod_of_an_ambient_namespace_is_enrolled_as_who_it_is() {
        let enrol = is_enrolled(|_| {}).enrol("/run/netns/x".into());
        assert_eq!(
            enrol,
            Enrol {
                uid: "uid".to_owned(),
                namespace: "demo".to_owned(),
                name: "curl".to_owned(),
                service_account: Some("account".to_owned()),
                netns: "/run/netns/x".into(),
                mtls_required: None,
                reroute_interfaces: Vec::new(),
                capture: Box::default(),
            }
        );
    }

    #[test]
    fn labels_decide() {
        let label = |value| pod(|pod| drop(pod.labels.insert(DATAPLANE_MODE.to_owned(), value)));
        let none = Labels::new();
        let (in_mode, out) = (label("ambient".to_owned()), label("none".to_owned()));
        assert!(matches!(decide(&in_mode, Some(&none), &rules()), Intent::Enrol(_)));
        let left = Intent::Leave(Because::NotSelected);
        assert_eq!(decide(&out, Some(&ambient()), &rules()), left);
        assert_eq!(decide(&pod(|_| {}), Some(&none), &rules()), left);
    }

    #[test]
    fn nothing_is_decided_before_the_namespace_is_known() {
        assert_eq!(decide(&pod(|_| {}), None, &rules()), Intent::Unknown);
        let host = pod(|pod| pod.host_network = true);
        assert_eq!(
            decide(&host, None, &rules()),
            Intent::Leave(Because::HostNetwork),
            "this one does not depend on it"
        );
    }

    #[test]
    fn pods_with_the_nodes_network_are_left() {
        is_left(Because::HostNetwork, |pod| pod.host_network = true);
        is_enrolled(|pod| pod.host_network = false);
    }

    #[test]
    fn pods_with_a_sidecar_are_left() {
        is_left(Because::Sidecar, |pod| {
            pod.annotations = map(&[("sidecar.istio.io/status", "")]);
        });
        is_enrolled(|pod| pod.annotations = map(&[("ambient.istio.io/redirection", "enabled")]));
    }

    #[test]
    fn excluded_namespaces_are_left() {
        is_left(Because::ExcludedNamespace, |pod| {
            pod.namespace = "kube-system".to_owned();
        });
        is_enrolled(|pod| pod.namespace = "kube-system-2".to_owned());
    }

    #[test]
    fn the_data_plane_is_left() {
        for app in ["ztunnel", "isthmus"] {
            is_left(Because::DataPlane, |pod| {
                pod.namespace = "istio-system".to_owned();
                pod.labels = map(&[(APP, app)]);
            });
            // Anybody may call a pod so elsewhere.
            is_enrolled(|pod| pod.labels = map(&[(APP, app)]));
        }
        is_enrolled(|pod| pod.namespace = "istio-system".to_owned());
        is_left(Because::DataPlane, |pod| {
            (pod.namespace, pod.name) = ("agents".to_owned(), "isthmus-x".to_owned());
        });
        is_enrolled(|pod| pod.namespace = "agents".to_owned());
    }

    #[test]
    fn pods_that_have_ended_are_left() {
        is_left(Because::Ended, |pod| pod.phase = Phase::Ended);
        is_enrolled(|pod| pod.phase = Phase::Alive);
    }

    #[test]
    fn annotations_become_terms() {
        let terms = is_enrolled(|pod| {
            pod.annotations = map(&[
                ("ambient.istio.io/bypass-inbound-capture", "true"),
                ("istio.io/reroute-virtual-interfaces", "net1"),
                ("traffic.sidecar.istio.io/excludeOutboundPorts", "5432"),
            ]);
        });
        assert_eq!(terms.remarks, []);
        let enrol = terms.enrol("/x".into());
        assert_eq!(enrol.mtls_required, None, "policies hold for what is captured");
        assert_eq!(
            *enrol.capture,
            Capture {
                bypass_inbound: true,
                exclude_outbound_ports: [5432].into(),
                ..Capture::default()
            }
        );
        assert_eq!(enrol.reroute_interfaces, ["net1"]);
    }
}
