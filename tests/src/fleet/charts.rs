//! What a user installs: the charts of deploy/helm, with the values of a cluster, and istio's own of istio-cni.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    images::{ISTIO_CNI, WORKLOAD},
    kubectl::Kubectl,
};
use crate::{
    control_plane::{SYSTEM, built},
    failure::{Failure, Result},
};

const GATEWAY: &str = "istio-eastwestgateway";
/// All pods of a release on two busy cores, images loaded.
const ROLLED_OUT: Duration = Duration::from_secs(120);

/// A chart installed into istio-system.
#[derive(Clone, Debug)]
pub struct Release {
    name: &'static str,
    /// Its folder, in the work tree or anywhere.
    chart: String,
    /// What `kubectl rollout` waits for.
    rollout: &'static str,
    values: Value,
}

impl Release {
    /// The node agent. `environment` are values that a machine of the lab needs and an ordinary one does not.
    pub fn agent(cluster: &str, network: &str, environment: &Value) -> Self {
        let mut values = json!({
            "multiCluster": { "clusterName": cluster },
            "network": network,
            "cleanup": { "pauseImage": WORKLOAD },
        });
        merge(&mut values, environment);
        Self {
            name: "isthmus",
            chart: "deploy/helm/isthmus".to_owned(),
            rollout: "daemonset/ztunnel",
            values,
        }
    }

    /// The east-west gateway.
    pub fn gateway(cluster: &str, network: &str, environment: &Value) -> Self {
        let mut values = json!({
            "multiCluster": { "clusterName": cluster },
            "networkGateway": network,
            "replicaCount": 1,
        });
        merge(&mut values, environment);
        Self {
            name: GATEWAY,
            chart: "deploy/helm/isthmus-gateway".to_owned(),
            rollout: "deployment/istio-eastwestgateway",
            values,
        }
    }

    /// istio's own chart of istio-cni, from the module that istiod is built from.
    pub fn istio_cni() -> Result<Self> {
        Ok(Self {
            name: "istio-cni",
            chart: built("istio-cni-chart")?.display().to_string(),
            rollout: "daemonset/istio-cni-node",
            values: json!({ "profile": "ambient", "image": ISTIO_CNI, "pullPolicy": "Never" }),
        })
    }

    /// The node agent with an account that is there, on nodes with a label that it takes over from istio-cni, and under a name by
    /// which istio-cni's plugin lets it start there (docs/install.md, *Beside ztunnel*).
    #[must_use]
    pub fn beside_ztunnel(mut self, label: (&str, &str)) -> Self {
        self.rollout = "daemonset/istio-cni-node-isthmus";
        self.with(&json!({
            "resourceName": "istio-cni-node-isthmus",
            "serviceAccount": { "create": false, "name": "ztunnel" },
            "takeOverIstioCni": true,
            "nodeSelector": { (label.0): label.1 },
        }))
    }

    /// With other values, as they stand in a values file.
    #[must_use]
    pub fn with(mut self, values: &Value) -> Self {
        merge(&mut self.values, values);
        self
    }

    /// Its name, which is the gateway's Service too.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Installs it, or upgrades it to what it is now, and waits until all its pods are new and ready.
    pub fn install(&self, kubectl: &Kubectl) -> Result {
        let arguments = [
            "upgrade",
            "--install",
            self.name,
            &self.chart,
            "--namespace",
            SYSTEM,
            "--values",
            "-",
        ];
        kubectl.helm(&arguments, &self.values.to_string())?;
        self.rolled_out(kubectl)
    }

    /// Waits until all its pods are new and ready.
    pub fn rolled_out(&self, kubectl: &Kubectl) -> Result {
        let bound = format!("--timeout={}s", ROLLED_OUT.as_secs());
        let ended = kubectl.run_patiently(&["rollout", "status", "--namespace", SYSTEM, &bound, self.rollout]);
        ended
            .map(drop)
            .map_err(|failure| Failure::new(format!("{failure}\n{}", self.last_words(kubectl))))
    }

    /// What a developer would look at first.
    fn last_words(&self, kubectl: &Kubectl) -> String {
        let said = [
            &["get", "pods", "--namespace", SYSTEM, "--output=wide"][..],
            &["events", "--namespace", SYSTEM, "--types=Warning"],
            &["logs", "--namespace", SYSTEM, "--tail=15", self.rollout],
        ];
        let said = said.map(|arguments| kubectl.run(arguments).unwrap_or_else(|failure| failure.to_string()));
        said.join("\n")
    }

    /// Whether a release of its name is there.
    pub fn is_installed(&self, kubectl: &Kubectl) -> Result<bool> {
        let names = kubectl.helm(&["list", "--short", "--namespace", SYSTEM], "")?;
        Ok(names.lines().any(|name| name == self.name))
    }

    /// Takes it away again.
    pub fn uninstall(&self, kubectl: &Kubectl) -> Result {
        kubectl
            .helm(&["uninstall", self.name, "--namespace", SYSTEM, "--wait"], "")
            .map(drop)
    }
}

/// Puts fields of one object into another, deeply; what is no object is replaced.
pub fn merge(into: &mut Value, from: &Value) {
    let (Some(fields), Some(others)) = (into.as_object_mut(), from.as_object()) else {
        into.clone_from(from);
        return;
    };
    for (name, value) in others {
        merge(fields.entry(name.clone()).or_insert(Value::Null), value);
    }
}
