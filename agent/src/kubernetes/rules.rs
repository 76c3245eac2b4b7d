//! What an operator says of who may be enrolled.

use std::collections::BTreeSet;

use super::selector::Enablement;

/// Label whose value tells pods of the data plane itself.
pub(super) const APP: &str = "app";
/// Values of [`APP`] of pods that are the data plane: ztunnel's, which a DaemonSet made for it has, and ours.
const DATA_PLANE: [&str; 2] = ["ztunnel", "isthmus"];

/// The rules of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Namespaces of which no pod is enrolled.
    pub excluded: BTreeSet<String>,
    /// Namespaces in which pods of the data plane are.
    pub system: BTreeSet<String>,
    /// Namespace and name of the agent's own pod.
    pub own_pod: Option<(String, String)>,
    /// Who is selected.
    pub enablement: Enablement,
}

impl Rules {
    /// Whether a label of a pod is looked at. All others are not kept.
    pub(super) fn asks_pod_for(&self, key: &str) -> bool {
        key == APP || self.enablement.asks_pod_for(key)
    }

    /// Whether a label of a namespace is looked at. All others are not kept.
    pub(super) fn asks_namespace_for(&self, key: &str) -> bool {
        self.enablement.asks_namespace_for(key)
    }

    /// Whether a pod is part of the data plane, by its namespace, name and label `app`.
    pub(super) fn is_ours(&self, namespace: &str, name: &str, app: Option<&String>) -> bool {
        let is_this_pod = self
            .own_pod
            .as_ref()
            .is_some_and(|(own_namespace, own_name)| own_namespace == namespace && own_name == name);
        let is_data_plane = app.is_some_and(|app| DATA_PLANE.contains(&app.as_str()));
        is_this_pod || is_data_plane && self.system.contains(namespace)
    }
}
