//! A cluster with nodes.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{balancer::Balancer, charts::Release, controllers, kubectl::Kubectl, machine::Machine};
use crate::{
    cgroups,
    control_plane::{Cluster, SYSTEM, node_name},
    failure::{Because as _, Result},
    lab::World,
    network::Network,
    process::Process,
};

/// Nodes are made ready by a kubelet that has just found its network, and by controllers that have seen it.
const READY: Duration = Duration::from_secs(60);

/// The name in istiod's certificate.
const ISTIOD: &str = "istiod.istio-system.svc";

/// A cluster of ours, with its nodes.
#[derive(Debug)]
pub struct Site {
    // Before what they run on.
    machines: Vec<Machine>,
    _controllers: [Process; 2],
    balancer: Balancer,
    kubectl: Kubectl,
    cluster: Cluster,
}

impl Site {
    /// Starts controllers beside a cluster that is there, and as many nodes as told.
    pub(super) fn start(world: &Arc<World>, cluster: &Cluster, nodes: u8) -> Result<Self> {
        let (kubeconfig, netns) = cluster.administrator()?;
        let kubectl = Kubectl::new(&kubeconfig, Some(&netns));
        kubectl.apply(&istiod(cluster.network()))?;
        let site = Self {
            _controllers: controllers::start(world, cluster, &kubeconfig)?,
            machines: (1..=nodes)
                .map(|number| Self::machine(world, cluster, number))
                .collect::<Result<_>>()?,
            balancer: Balancer::new(cluster.network())?,
            kubectl,
            cluster: cluster.clone(),
        };
        site.machines.iter().try_for_each(Machine::boot)?;
        site.machines.iter().try_for_each(|machine| site.until_ready(machine))?;
        Ok(site)
    }

    fn machine(world: &Arc<World>, cluster: &Cluster, number: u8) -> Result<Machine> {
        let name = node_name(cluster.name(), number);
        let machine = Machine::new(world, cluster.network().node(&name)?, &name)?;
        cluster.kubeconfig_of_node(&machine.kubeconfig(), &name)?;
        Ok(machine)
    }

    /// Installs agents on all its nodes and an east-west gateway, from the charts, and leads the load balancer there.
    pub fn install(&self) -> Result {
        self.agent()?.install(&self.kubectl)?;
        let gateway = self.gateway();
        gateway.install(&self.kubectl)?;
        self.balance(gateway.name())
    }

    /// The agent's chart with this cluster's values.
    pub fn agent(&self) -> Result<Release> {
        Ok(Release::agent(self.name(), self.network().name(), &self.environment())
            .with(&json!({ "cgroupDir": cgroups::second()? })))
    }

    /// The gateway's chart with this cluster's values.
    pub fn gateway(&self) -> Release {
        Release::gateway(self.name(), self.network().name(), &self.environment())
    }

    /// What a cluster without DNS needs: addresses where charts have names.
    fn environment(&self) -> Value {
        let istiod = format!("{}:15012", self.network().vip(2));
        json!({
            "xdsAddress": istiod,
            "caAddress": istiod,
            "env": { "ALT_XDS_HOSTNAME": ISTIOD, "ALT_CA_HOSTNAME": ISTIOD },
            "imagePullPolicy": "Never",
            "dnsPolicy": "Default",
        })
    }

    /// Adds a node that is off, which may still be told more.
    pub fn add_machine(&self, number: u8) -> Result<Machine> {
        Self::machine(self.cluster.world(), &self.cluster, number)
    }

    /// Waits until the cluster says that a node is ready.
    pub fn until_ready(&self, machine: &Machine) -> Result {
        self.kubectl
            .until(&["node", machine.name()], READY, |node| is_ready(node).then_some(()))
            .because(format!("node {}", machine.name()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.cluster.name()
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        self.cluster.network()
    }

    /// Speaks to it as its administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Its nodes.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Leads its load balancer's address to the ready pods of a Service in istio-system, and tells the Service so.
    pub fn balance(&self, service: &str) -> Result {
        self.balancer.lead(&self.kubectl, (SYSTEM, service))
    }
}

/// Whether the status of a node or a pod says that it is ready.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let field = |name| condition.get(name).and_then(Value::as_str);
        (field("type"), field("status")) == (Some("Ready"), Some("True"))
    })
}

/// The Service of an istiod that runs outside of the cluster's nodes.
fn istiod(network: &Network) -> [Value; 2] {
    let ports = json!([{ "name": "https-dns", "port": 15012 }]);
    let metadata = json!({ "name": "istiod", "namespace": SYSTEM, "labels": { "app": "istiod" } });
    let mut of_slice = metadata.clone();
    if let Some(labels) = of_slice.pointer_mut("/labels").and_then(Value::as_object_mut) {
        labels.insert("kubernetes.io/service-name".to_owned(), "istiod".into());
    }
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "clusterIP": network.vip(2), "ports": ports },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": of_slice,
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [format!("10.{}.0.90", network.index())], "conditions": { "ready": true } }],
            "ports": ports.as_array().into_iter().flatten().map(|port| json!({
                "name": port.get("name"), "port": port.get("port"),
            })).collect::<Vec<_>>(),
        }),
    ]
}
