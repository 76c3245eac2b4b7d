//! A cluster: a network's apiserver and istiod, and what is told to them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    access::Access,
    api::Api,
    crds,
    east_west::EastWest,
    istiod::Istiod,
    kubernetes::{Kubernetes, Machine, Pods},
    pod::ClusterPodBuilder,
    roots::{Intermediate, Roots},
    service::ClusterServiceBuilder,
};
use crate::{
    agent::{Agent, AgentOptions},
    failure::{Because as _, Failure, Result},
    gateway::Gateway,
    lab::{Lab, World, lock},
    log::Log,
    network::Network,
    node::Node,
    pod::Pod,
    wait::within,
};

/// Namespace and account of pods that only the cluster knows.
const MANY: (&str, &str) = ("demo", "many");
/// Istio's own namespace.
pub const SYSTEM: &str = "istio-system";
const SOON: Duration = Duration::from_secs(30);

/// A cluster; its processes end when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // First, so that it ends before what it reads from.
    istiod: Istiod,
    kubernetes: Kubernetes,
    name: String,
    network: Network,
    authority: Intermediate,
    /// Namespaces and accounts that were told already.
    told: Mutex<BTreeMap<String, ()>>,
    world: Arc<World>,
}

impl Cluster {
    /// `cluster1` on `network1` and `cluster2` on `network2`, each reading the other's apiserver.
    pub fn pair(lab: &Lab) -> Result<[Self; 2]> {
        let networks = [lab.network("network1")?, lab.network("network2")?];
        let [one, two] = &networks;
        let clusters = Self::start(lab, &[("cluster1", one), ("cluster2", two)])?;
        clusters.try_into().ok().because("two clusters were started")
    }

    /// `cluster1` on `network1`, which nobody else knows.
    pub fn alone(lab: &Lab) -> Result<Self> {
        let network = lab.network("network1")?;
        let mut started = Self::start(lab, &[("cluster1", &network)])?;
        started.pop().because("one cluster was started")
    }

    /// Starts clusters at once, under one root, with remote secrets of each other.
    pub fn start(lab: &Lab, clusters: &[(&str, &Network)]) -> Result<Vec<Self>> {
        Self::start_for(lab, clusters, Pods::Played)
    }

    /// As [`Cluster::start`], told who runs pods.
    pub fn start_for(lab: &Lab, clusters: &[(&str, &Network)], pods: Pods) -> Result<Vec<Self>> {
        let root = Roots::new("the mesh")?;
        let world = lab.world();
        let bases = at_once(clusters, |(name, network)| base(world, name, network, pods))?;
        let all: Vec<(&str, Value)> = clusters
            .iter()
            .zip(&bases)
            .map(|((name, _), (kubernetes, _))| (*name, kubernetes.remote_config()))
            .collect();
        for ((name, _), (kubernetes, _)) in clusters.iter().zip(&bases) {
            let others = all.iter().filter(|(other, _)| other != name);
            others.clone().try_for_each(|(other, config)| {
                let secret = remote_secret(other, config);
                kubernetes.api.apply(&secret).map(drop)
            })?;
        }
        let started = clusters.iter().zip(bases).map(|((name, network), base)| {
            let inner = Inner::new(world, name, network, base, &root)?;
            Ok(Self { inner: Arc::new(inner) })
        });
        let started = started.collect::<Result<Vec<_>>>()?;
        at_once(&started, Self::start_istiod)?;
        Ok(started)
    }

    /// Starts its istiod again after [`Cluster::kill_istiod`].
    pub fn start_istiod(&self) -> Result {
        self.inner.istiod.start()
    }

    /// Kills its istiod.
    pub fn kill_istiod(&self) {
        self.inner.istiod.kill();
    }

    /// Kills its apiserver; istiod and agents go on without.
    pub fn kill_apiserver(&self) {
        self.inner.kubernetes.kill();
    }

    /// Starts its apiserver again after [`Cluster::kill_apiserver`].
    pub fn start_apiserver(&self) -> Result {
        self.inner.kubernetes.restart()
    }

    /// A kubeconfig that shows a token of a service account, for who is on this cluster's network.
    pub fn kubeconfig(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        self.account(namespace, account)?;
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3600 },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.api().post(&path, &request)?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        let path = self.world().file_for(&format!("kubeconfig-{account}"));
        let token = token.because("a request for a token is answered with one")?;
        self.inner.kubernetes.kubeconfig_of(&path, token)?;
        Ok(path)
    }

    /// Its name, which istiod and agents are told as `CLUSTER_ID`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The network its nodes are on.
    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// Its apiserver.
    pub fn api(&self) -> &Api {
        &self.inner.kubernetes.api
    }

    /// Its intermediate CA.
    pub fn authority(&self) -> &Intermediate {
        &self.inner.authority
    }

    /// Where its istiod serves.
    pub fn istiod_at(&self) -> SocketAddr {
        self.inner.istiod.at()
    }

    /// What its istiod writes.
    pub fn istiod_log(&self) -> &Log {
        self.inner.istiod.log()
    }

    /// What its apiserver writes.
    pub fn apiserver_log(&self) -> &Path {
        self.inner.kubernetes.log()
    }

    /// Adds a node; `place` is `REGION/ZONE`.
    pub fn node(&self, name: &str, place: &str) -> Result<Node> {
        let node = self.network().node(name)?;
        let (region, zone) = place.split_once('/').because("a place is REGION/ZONE")?;
        self.api().apply(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "labels": {
                "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": zone,
                "kubernetes.io/hostname": name,
            } },
        }))?;
        Ok(node)
    }

    /// Adds a pod on a node; end with [`ClusterPodBuilder::start`].
    pub fn pod(&self, node: &Node, name: &str) -> ClusterPodBuilder {
        ClusterPodBuilder::new(self, node, name)
    }

    /// Tells of a pod of namespace `demo` on a node that is there in the cluster only, for a cluster that is full.
    pub fn only_told(&self, node: &Node, name: &str, ips: &[IpAddr]) -> Result {
        self.account(MANY.0, MANY.1)?;
        let annotations = json!({ "ambient.istio.io/redirection": "enabled" });
        let metadata = json!({ "name": name, "namespace": MANY.0, "annotations": annotations });
        super::pod::tell(self, node, &metadata, MANY.1)?;
        self.set_readiness(name, ips, true)
    }

    /// As [`Cluster::set_ready`], for a pod of [`Cluster::only_told`].
    pub fn set_readiness(&self, name: &str, ips: &[IpAddr], ready: bool) -> Result {
        super::pod::tell_readiness(self, (MANY.0, name), ips, ready)
    }

    /// Tells that a pod is ready, or that it is not.
    pub fn set_ready(&self, pod: &Pod, ready: bool) -> Result {
        super::pod::tell_status(self, pod, ready)
    }

    /// Deletes a pod from the cluster. What runs in its namespace lives on.
    pub fn delete_pod(&self, pod: &Pod) -> Result {
        self.api().delete(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": pod.name(), "namespace": pod.namespace() },
        }))
    }

    /// The uid that istiod gives a pod's workload (wire-facts.md §1.10).
    pub fn workload_uid(&self, pod: &Pod) -> String {
        format!("{}//Pod/{}/{}", self.name(), pod.namespace(), pod.name())
    }

    /// Declares a service of namespace `demo`; end with [`ClusterServiceBuilder::add`].
    pub fn service(&self, name: &str) -> ClusterServiceBuilder {
        ClusterServiceBuilder::new(self, name)
    }

    /// Applies any object.
    pub fn apply(&self, object: &Value) -> Result {
        if let Some(namespace) = object.pointer("/metadata/namespace").and_then(Value::as_str) {
            self.namespace(namespace)?;
        }
        self.api().apply(object).map(drop)
    }

    /// Deletes any object.
    pub fn delete(&self, object: &Value) -> Result {
        self.api().delete(object)
    }

    /// Makes a namespace unless it is there; it is enrolled in the ambient mesh.
    pub fn namespace(&self, name: &str) -> Result {
        if name == SYSTEM {
            return Ok(());
        }
        self.once(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": { "istio.io/dataplane-mode": "ambient" } },
        }))
    }

    /// Makes a service account unless it is there.
    pub fn account(&self, namespace: &str, name: &str) -> Result {
        self.namespace(namespace)?;
        self.once(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": namespace },
        }))
    }

    fn once(&self, object: &Value) -> Result {
        let key = object.to_string();
        if lock(&self.inner.told).contains_key(&key) {
            return Ok(());
        }
        self.api().apply(object)?;
        lock(&self.inner.told).insert(key, ());
        Ok(())
    }

    /// What an agent on a node needs to speak to istiod: it is a pod `ztunnel-NODE` there.
    pub fn access(&self, node: &Node) -> Result<Access> {
        let name = format!("ztunnel-{}", node.name());
        Access::make(self, &name, "ztunnel", Some(node.name()), node.netns())
    }

    /// Starts a node's agent, told by this cluster's istiod.
    pub fn agent(&self, node: &Node) -> Result<Agent> {
        self.agent_with(node, AgentOptions::default())
    }

    /// As [`Cluster::agent`], with options. Waits until the agent holds what istiod tells.
    pub fn agent_with(&self, node: &Node, mut options: AgentOptions) -> Result<Agent> {
        options.istiod = Some(self.access(node)?.options());
        let agent = node.agent_with(options)?;
        within(SOON, &format!("istiod has told the agent of {}", node.name()), || {
            let [workloads, ..] = agent.status().ok()?.mesh_size;
            (workloads > 0).then_some(())
        })
        .because(format!("its last words:\n{}", agent.last_words()))?;
        Ok(agent)
    }

    /// Waits until an agent holds as many workloads, services and policies as istiod tells.
    ///
    /// A change that leaves all numbers alone must be waited for by its effect.
    pub fn settled(&self, agent: &Agent) -> Result {
        let mut seen = ([0; 3], [0; 3]);
        let settled = within(SOON, "the agent holds what istiod tells", || {
            let told = self.told().ok()?;
            let told = [told.workloads.len(), told.services.len(), told.policies.len()];
            seen = (told, agent.status().ok()?.mesh_size);
            (seen.0 == seen.1).then_some(())
        });
        settled.because(format!("told and held last: {seen:?}"))
    }

    /// The cluster's east-west gateway: its namespace, its objects, and `isthmus gateway` in it.
    pub fn gateway(&self) -> Result<Gateway> {
        let gateway = self.stopped_gateway()?;
        gateway.restart()?;
        Ok(gateway)
    }

    /// As [`Cluster::gateway`], with nothing running there.
    pub fn stopped_gateway(&self) -> Result<Gateway> {
        EastWest::new("istio-eastwestgateway").add(self)
    }

    /// A command that will run on the machine of its control plane.
    pub(crate) fn command(&self, program: &Path) -> Command {
        self.machine().netns.command(&program.display().to_string())
    }

    /// Where files of its apiserver are.
    pub(crate) fn files(&self) -> &Path {
        self.inner.kubernetes.dir()
    }

    /// A kubeconfig for its administrator, and the namespace in which it works.
    pub(crate) fn administrator(&self) -> Result<(PathBuf, PathBuf)> {
        let kubernetes = &self.inner.kubernetes;
        Ok((kubernetes.kubeconfig(self.files())?, self.machine().netns.path()))
    }

    /// Writes the kubeconfig of a node's kubelet.
    pub(crate) fn kubeconfig_of_node(&self, path: &Path, node: &str) -> Result {
        self.inner.kubernetes.kubeconfig_of_node(path, node)
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.inner.world
    }

    pub(super) fn machine(&self) -> &Machine {
        self.inner.istiod.machine()
    }
}

impl Inner {
    fn new(
        world: &Arc<World>,
        name: &str,
        network: &Network,
        (kubernetes, machine): (Kubernetes, Machine),
        root: &Roots,
    ) -> Result<Self> {
        let dir = world.dir().join(name);
        let authority = root.intermediate(name, &dir.join("cacerts"))?;
        let istiod = Istiod::new(
            world,
            name,
            machine,
            &dir,
            kubernetes.kubeconfig(&dir)?,
            authority.dir(),
        )?;
        Ok(Self {
            istiod,
            kubernetes,
            name: name.to_owned(),
            network: network.clone(),
            authority,
            told: Mutex::default(),
            world: Arc::clone(world),
        })
    }
}

/// An apiserver with everything in it that istiod looks for when it starts.
fn base(world: &Arc<World>, name: &str, network: &Network, pods: Pods) -> Result<(Kubernetes, Machine)> {
    let dir = world.dir().join(name);
    std::fs::create_dir_all(&dir).because(format!("making {}", dir.display()))?;
    let machine = Machine::make(world, network)?;
    let kubernetes = Kubernetes::start(world, name, &machine, &dir, pods)?;
    let api = &kubernetes.api;
    crds::define(api)?;
    api.apply(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": SYSTEM, "labels": { "topology.istio.io/network": network.name() } },
    }))?;
    // Where pods run, the agent's chart makes its account.
    let accounts: &[&str] = match pods {
        Pods::Played => &["istiod", "ztunnel"],
        Pods::Run => &["istiod"],
    };
    for account in accounts {
        api.apply(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": SYSTEM },
        }))?;
    }
    Ok((kubernetes, machine))
}

/// What lets an istiod read another cluster (`istioctl create-remote-secret` makes the same).
fn remote_secret(cluster: &str, config: &Value) -> Value {
    let mut data = serde_json::Map::new();
    data.insert(cluster.to_owned(), config.to_string().into());
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("istio-remote-secret-{cluster}"),
            "namespace": SYSTEM,
            "labels": { "istio/multiCluster": "true" },
            "annotations": { "networking.istio.io/cluster": cluster },
        },
        "stringData": data,
    })
}

/// Does one thing for each at the same time.
pub(crate) fn at_once<T: Sync, U: Send>(each: &[T], action: impl Fn(&T) -> Result<U> + Sync) -> Result<Vec<U>> {
    thread::scope(|scope| {
        let running: Vec<_> = each.iter().map(|item| scope.spawn(|| action(item))).collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure::new("starting a cluster panicked")))
            })
            .collect()
    })
}
