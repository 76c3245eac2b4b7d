//! An east-west gateway as a cluster's objects tell of it (docs/multicluster.md).

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use super::{
    access::Access,
    cluster::{Cluster, SYSTEM},
};
use crate::{failure::Result, gateway::Gateway};

const SOON: Duration = Duration::from_secs(30);

/// A gateway in the making.
#[derive(Clone, Debug)]
pub struct EastWest {
    name: String,
    tunnels: bool,
}

impl EastWest {
    /// A gateway whose object and service account have this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tunnels: true,
        }
    }

    /// It has no HBONE listener, only one that passes TLS on to istiod.
    #[must_use]
    pub fn without_hbone(mut self) -> Self {
        self.tunnels = false;
        self
    }

    /// Makes the machine between the network and the internet, tells the cluster of it, and waits until istiod has taken up
    /// its address. Nothing runs there yet.
    pub fn add(&self, cluster: &Cluster) -> Result<Gateway> {
        // Two clusters may have gateways of one name, as T1 has; what the lab calls them differs.
        let title = format!("{}-{}", self.name, cluster.name());
        let lab = cluster.network().gateway(&title).pretending(&self.name);
        let lab = lab.told_by(|netns| {
            let access = Access::make(cluster, &title, &self.name, None, netns)?;
            Ok(access.options())
        })?;
        self.tell(cluster, lab.inner(), lab.outer())?;
        Ok(lab)
    }

    /// Tells the cluster of a gateway: `inner` is what the Service leads to, `outer` what other networks dial.
    pub fn tell(&self, cluster: &Cluster, inner: IpAddr, outer: IpAddr) -> Result {
        cluster
            .service(&self.name)
            .namespace(SYSTEM)
            .label("topology.istio.io/network", cluster.network().name())
            .port(if self.tunnels { 15008 } else { 15012 }, 15008)
            .endpoint_at(inner)
            .load_balancer(outer)
            .add()?;
        let object = self.object(cluster);
        cluster.apply(&object)?;
        cluster.api().until(&object, SOON, |gateway| {
            let addresses = gateway.pointer("/status/addresses")?.as_array()?;
            let wanted = outer.to_string();
            addresses
                .iter()
                .any(|address| address.get("value").and_then(Value::as_str) == Some(&wanted))
                .then_some(())
        })
    }

    /// Its Gateway.
    pub fn object(&self, cluster: &Cluster) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {
                "name": self.name,
                "namespace": SYSTEM,
                "labels": { "topology.istio.io/network": cluster.network().name() },
            },
            "spec": {
                "gatewayClassName": "istio-east-west",
                "addresses": [{
                    "type": "Hostname",
                    "value": format!("{}.{SYSTEM}.svc.cluster.local", self.name),
                }],
                "listeners": [self.listener()],
            },
        })
    }

    fn listener(&self) -> Value {
        if !self.tunnels {
            return json!({ "name": "istiod", "port": 15012, "protocol": "TLS", "tls": { "mode": "Passthrough" } });
        }
        json!({
            "name": "mesh",
            "port": 15008,
            "protocol": "HBONE",
            "tls": {
                "mode": "Terminate",
                "options": { "gateway.istio.io/tls-terminate-mode": "ISTIO_MUTUAL" },
            },
        })
    }
}
