//! A pod as it is kept: only what a decision may depend on.

use std::{collections::BTreeMap, net::IpAddr};

use super::{annotations, object::PodObject, rules::Rules, selector::Labels};

/// Longest value of an annotation that is kept, in bytes. No list of ports or ranges needs as many.
const LONGEST: usize = 4096;
/// What stands for a longer one. Nothing takes it for a value.
const TOO_LONG: &str = "(a value of more than 4096 bytes)";
/// Carried by pods that a kubelet runs from a file; its value is their UID on the node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    /// UID at the API server.
    pub(super) object_uid: String,
    /// UID on the node: what CNI is told and what the pod's cgroup is named by. Another one for static pods.
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: Option<String>,
    pub(super) host_network: bool,
    pub(super) phase: Phase,
    /// Empty until the kubelet has made the pod's network and said so.
    pub(super) ips: Vec<IpAddr>,
    /// Those that rules look at.
    pub(super) labels: Labels,
    /// Those that are ours to read.
    pub(super) annotations: BTreeMap<String, String>,
}

/// How far its life has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not started, running, or not known.
    #[default]
    Alive,
    /// All its containers have ended and are not started again.
    Ended,
}

impl Pod {
    /// What is kept of an object; nothing of one without a name.
    pub(super) fn of(object: PodObject, rules: &Rules) -> Option<Self> {
        let metadata = object.metadata;
        let object_uid = metadata.uid?;
        let written = metadata.annotations.unwrap_or_default();
        let mirrored = written.get(MIRROR).filter(|uid| !uid.is_empty()).cloned();
        let labels = metadata.labels.unwrap_or_default();
        Some(Self {
            uid: mirrored.unwrap_or_else(|| object_uid.clone()),
            object_uid,
            namespace: metadata.namespace?,
            name: metadata.name?,
            service_account: object.spec.service_account_name.filter(|name| !name.is_empty()),
            host_network: object.spec.host_network.unwrap_or_default(),
            phase: match object.status.phase.as_deref() {
                Some("Succeeded" | "Failed") => Phase::Ended,
                _ => Phase::Alive,
            },
            ips: addresses(object.status.pod_ip, object.status.pod_ips),
            labels: labels.into_iter().filter(|(key, _)| rules.asks_pod_for(key)).collect(),
            annotations: written
                .into_iter()
                .filter(|(key, _)| annotations::is_read(key))
                .map(bounded)
                .collect(),
        })
    }

    /// `NAMESPACE/NAME`, for people.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What it says of its redirection.
    pub(super) fn redirection(&self) -> Option<&str> {
        self.annotations.get(annotations::REDIRECTION).map(String::as_str)
    }
}

fn addresses(first: Option<String>, all: Option<Vec<super::object::PodAddress>>) -> Vec<IpAddr> {
    let listed = all.unwrap_or_default().into_iter().filter_map(|address| address.ip);
    let mut ips: Vec<IpAddr> = listed.chain(first).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn bounded((key, value): (String, String)) -> (String, String) {
    // Its presence is all that counts, and it can be long.
    if key == annotations::SIDECAR {
        return (key, String::new());
    }
    let value = if value.len() > LONGEST {
        TOO_LONG.to_owned()
    } else {
        value
    };
    (key, value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Option<Pod> {
        Pod::of(serde_json::from_value(value).unwrap(), &Rules::default())
    }

    fn object() -> Value {
        json!({
            "metadata": {
                "uid": "a", "namespace": "demo", "name": "curl",
                "labels": { "app": "curl", "istio.io/dataplane-mode": "ambient", "version": "v1" },
                "annotations": {
                    "ambient.istio.io/redirection": "enabled",
                    "sidecar.istio.io/status": "{\"a lot\": true}",
                    "traffic.sidecar.istio.io/excludeOutboundPorts": "1".repeat(5000),
                    "kubectl.kubernetes.io/last-applied-configuration": "{}",
                },
            },
            "spec": { "nodeName": "node1", "serviceAccountName": "curl", "containers": [{ "name": "app" }] },
            "status": { "phase": "Running", "podIP": "10.0.0.5", "podIPs": [{ "ip": "10.0.0.5" }, { "ip": "fd00::5" }] },
        })
    }

    #[test]
    fn what_is_looked_at_is_kept_and_nothing_else() {
        let pod = pod(object()).unwrap();
        assert_eq!(
            (pod.uid.as_str(), pod.object_uid.as_str(), pod.title().as_str()),
            ("a", "a", "demo/curl")
        );
        assert_eq!(pod.service_account.as_deref(), Some("curl"));
        assert_eq!(
            pod.ips,
            ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]
        );
        assert_eq!(
            pod.labels.keys().collect::<Vec<_>>(),
            ["app", "istio.io/dataplane-mode"]
        );
        assert_eq!(pod.redirection(), Some("enabled"));
        assert_eq!(pod.annotations["sidecar.istio.io/status"], "");
        assert_eq!(
            pod.annotations["traffic.sidecar.istio.io/excludeOutboundPorts"],
            TOO_LONG
        );
        assert_eq!(pod.annotations.len(), 3);
        assert!(!pod.host_network && pod.phase == Phase::Alive);
    }

    #[test]
    fn a_static_pod_has_the_uid_that_its_kubelet_gave_it() {
        let mut value = object();
        value["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "0123" });
        let pod = pod(value).unwrap();
        assert_eq!((pod.uid.as_str(), pod.object_uid.as_str()), ("0123", "a"));
    }

    #[test]
    fn a_pod_without_a_name_is_none_and_one_with_nothing_else_is_kept() {
        assert_eq!(pod(json!({})), None);
        let bare = pod(json!({ "metadata": { "uid": "a", "namespace": "demo", "name": "curl" } })).unwrap();
        assert_eq!(
            (bare.ips.len(), bare.phase, bare.redirection()),
            (0, Phase::Alive, None)
        );
    }

    #[test]
    fn phases_that_end_a_pod_and_those_that_do_not() {
        for (phase, wanted) in [
            ("Succeeded", Phase::Ended),
            ("Failed", Phase::Ended),
            ("Running", Phase::Alive),
            ("Pending", Phase::Alive),
            ("Unknown", Phase::Alive),
        ] {
            let mut value = object();
            value["status"]["phase"] = phase.into();
            assert_eq!(pod(value).unwrap().phase, wanted, "{phase}");
        }
    }
}
