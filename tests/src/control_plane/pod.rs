//! A pod of the lab and of a cluster in one.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use crate::{failure::Result, node::Node, pod::Pod};

/// A pod in the making.
#[derive(Debug)]
pub struct ClusterPodBuilder {
    cluster: Cluster,
    node: Node,
    name: String,
    namespace: String,
    account: Option<String>,
    labels: Map<String, Value>,
    meshed: bool,
    ready: bool,
}

impl ClusterPodBuilder {
    pub(super) fn new(cluster: &Cluster, node: &Node, name: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            node: node.clone(),
            name: name.to_owned(),
            namespace: "demo".to_owned(),
            account: None,
            labels: Map::new(),
            meshed: true,
            ready: true,
        }
    }

    /// Its Kubernetes namespace; `demo` when not said. Made when it is not there.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Its service account; its own name when not said. Made when it is not there.
    #[must_use]
    pub fn service_account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// A label, such as a service selects.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.into());
        self
    }

    /// It is not redirected, and the cluster knows it: it takes plain TCP.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// Its readiness probe has not succeeded yet.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// Makes its namespace and tells the cluster of it as scheduler, kubelet and CNI agent would.
    pub fn start(self) -> Result<Pod> {
        let account = self.account.unwrap_or_else(|| self.name.clone());
        let pod = self
            .node
            .pod(&self.name)
            .namespace(&self.namespace)
            .service_account(&account)
            .unlisted()
            .start()?;
        self.cluster.account(&self.namespace, &account)?;
        let mut annotations = Map::new();
        if self.meshed {
            annotations.insert("ambient.istio.io/redirection".to_owned(), "enabled".into());
        }
        let metadata = json!({
            "name": self.name,
            "namespace": self.namespace,
            "labels": self.labels,
            "annotations": annotations,
        });
        tell(&self.cluster, &self.node, &metadata, &account)?;
        tell_status(&self.cluster, &pod, self.ready)?;
        Ok(pod)
    }
}

/// Says of a pod what its Deployment and the scheduler would.
pub(super) fn tell(cluster: &Cluster, node: &Node, metadata: &Value, account: &str) -> Result {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "nodeName": node.name(),
            "serviceAccountName": account,
            "containers": [{ "name": "app", "image": "app" }],
        },
    });
    cluster.api().apply(&object).map(drop)
}

/// Says of a pod what its kubelet would.
pub(super) fn tell_status(cluster: &Cluster, pod: &Pod, ready: bool) -> Result {
    let of_family = |v6: bool| pod.ips().iter().copied().find(|ip| ip.is_ipv6() == v6);
    // Kubernetes knows at most one address of each family.
    let ips: Vec<IpAddr> = [of_family(false), of_family(true)].into_iter().flatten().collect();
    tell_readiness(cluster, (pod.namespace(), pod.name()), &ips, ready)
}

/// The same of a pod by its namespace and name.
pub(super) fn tell_readiness(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    ips: &[IpAddr],
    ready: bool,
) -> Result {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace },
    });
    fill_status(&mut object, ips, ready);
    cluster.api().apply_status(&object).map(drop)
}

/// Puts the status of a running pod into an object.
pub(super) fn fill_status(object: &mut Value, ips: &[IpAddr], ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({
        "phase": "Running",
        "podIP": ips.first(),
        "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        "conditions": [
            { "type": "Ready", "status": ready },
            { "type": "ContainersReady", "status": ready },
        ],
    });
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), status);
        // The status of a pod is told apart from its spec.
        fields.remove("spec");
    }
}
