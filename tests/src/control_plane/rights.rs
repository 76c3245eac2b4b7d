//! What an agent's account may do at the API server.

use serde_json::{Value, json};

use super::{SYSTEM, cluster::Cluster};
use crate::failure::Result;

/// Gives an account of the control plane's namespace what docs/kubernetes.md lists, and nothing else but these rules.
pub fn grant(cluster: &Cluster, account: &str, more: &[Value]) -> Result {
    let usual = [
        rule("", "pods", &["get", "list", "watch"]),
        rule("", "namespaces", &["get", "list", "watch"]),
        rule("", "pods/status", &["patch"]),
        rule("events.k8s.io", "events", &["create"]),
    ];
    let rules = [&usual, more].concat();
    cluster.api().apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": account },
        "rules": rules,
    }))?;
    let binding = cluster.api().apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": account },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": SYSTEM }],
    }));
    binding.map(drop)
}

/// A rule for one resource.
pub fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
}
