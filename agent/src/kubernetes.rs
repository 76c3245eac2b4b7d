//! Who of this node's pods belongs to the mesh, as the API server tells it, and making it so.
//!
//! | file | what it knows |
//! |---|---|
//! | `watches`, `object` | pods of this node and all namespaces, followed |
//! | `store`, `pod` | what is held of them: little, and it stays while the server is away |
//! | [`rules`], [`selector`] | what the operator says of who is enrolled |
//! | `annotations` | what pods say of themselves |
//! | [`eligibility`] | the decision: a pure function of all these |
//! | `processes`, `cgroup` | which network namespace a running pod has, proven |
//! | `reconcile` | the next thing to do about a pod; pure |
//! | `first_pods` | whether the pods that were there first are in; pure |
//! | `course`, `back_off` | how it went, and when it is tried again |
//! | `steward` | the task that does it |
//! | `taint`, `untaint` | the startup taint of our own node, and taking it off |
//! | `api` | single calls |
//! | `counters` | metrics |
//!
//! docs/kubernetes.md is the page for operators.

mod annotations;
mod api;
mod back_off;
mod cgroup;
mod counters;
mod course;
pub mod eligibility;
mod first_pods;
mod object;
mod pod;
mod processes;
mod reconcile;
pub mod rules;
pub mod selector;
mod steward;
mod store;
mod taint;
mod untaint;
mod watches;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isthmus_wire::{KubernetesStatus, Mode, PodTrouble};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

pub use self::{
    api::NoWay,
    eligibility::{Because, Intent, Terms},
    first_pods::Standing,
    rules::Rules,
    selector::Enablement,
};
use self::{
    api::{ApiServer, CallError},
    counters::Counters,
    object::PodObject,
    pod::Pod,
    selector::Labels,
    steward::Steward,
    store::{Of, Store},
    watches::Watch,
};
use crate::{pods::Pods, telemetry::Telemetry};

/// How long a pod that the CNI plugin names is waited for in the watch, before the server is asked for it: it is usually
/// told within milliseconds.
const WATCH_LAG: Duration = Duration::from_millis(500);

/// What is needed to enrol by Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Another way to the API server than the service account of our pod.
    pub kubeconfig: Option<PathBuf>,
    /// Who is enrolled.
    pub rules: Rules,
    /// Where the node's processes are found.
    pub proc: PathBuf,
    /// Key of the taint that is taken off our own node once it is ready.
    pub startup_taint: Option<String>,
}

/// Enrolment by Kubernetes, under way. Clones share it.
#[derive(Clone)]
pub struct Kubernetes {
    api: ApiServer,
    store: Store,
    nudge: Arc<Notify>,
    troubles: watch::Receiver<Vec<PodTrouble>>,
    standing: watch::Receiver<Standing>,
    counters: Arc<Counters>,
    tasks: Arc<[AbortHandle; 3]>,
}

/// Why it is not known what is to become of a pod. The same question may be answered later.
#[derive(Debug, thiserror::Error)]
pub enum NotKnown {
    /// The API server says that there is no such pod.
    #[error("the API server knows no pod {0} with that UID; it was deleted, or this node is told of it late")]
    Absent(String),
    /// The API server does not say.
    #[error("the API server at {address} was asked for pod {pod} and did not answer: {why}")]
    Unanswered {
        /// Where it is.
        address: String,
        /// `NAMESPACE/NAME`.
        pod: String,
        /// What happened.
        why: String,
    },
}

/// How the API server is reached.
pub struct Way(ApiServer);

impl Way {
    /// Finds it, for the agent of this node.
    ///
    /// # Errors
    /// When nothing says how. A server that is away is no error.
    pub async fn find(settings: &Settings, node: &str) -> Result<Self, NoWay> {
        ApiServer::open(settings.kubeconfig.as_deref(), node).await.map(Self)
    }
}

impl Kubernetes {
    /// Follows the API server and works from now on; call it on the runtime of the control thread. `netns` is the node's own
    /// network namespace.
    pub fn start(Way(api): Way, settings: &Settings, netns: &Path, pods: Pods, telemetry: &Arc<Telemetry>) -> Self {
        let store = Store::new(settings.rules.clone());
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        telemetry.exposition.add(move |families| counted.describe(families));
        let pods_followed = tokio::spawn(follow_pods(&api, &store, &counters));
        let namespaces_followed = tokio::spawn(follow_namespaces(&api, &store, &counters));
        let nudge = Arc::new(Notify::new());
        let (told, troubles) = watch::channel(Vec::new());
        let (stands, standing) = watch::channel(Standing::default());
        let steward = Steward {
            store: store.clone(),
            api: api.clone(),
            pods,
            counters: Arc::clone(&counters),
            proc: settings.proc.clone(),
            node_netns: netns.to_owned(),
            nudge: Arc::clone(&nudge),
            told,
            stands,
        };
        let working = tokio::spawn(steward.work());
        let tasks = [pods_followed, namespaces_followed, working];
        Self {
            api,
            store,
            nudge,
            troubles,
            standing,
            counters,
            tasks: Arc::new(tasks.map(|task| task.abort_handle())),
        }
    }

    /// Tells `take` what is known of every namespace, now and whenever that has changed; nothing before all were told.
    pub async fn follow_modes(self, take: impl Fn(BTreeMap<String, Mode>)) {
        let mut changes = self.store.changes();
        let mut told = None;
        loop {
            changes.mark_unchanged();
            let modes = self.store.modes();
            if modes.is_some() && modes != told {
                take(modes.clone().unwrap_or_default());
                told = modes;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// How far the pods that were there first have come.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Takes the startup taint of this key off our own node. Ends when it is not there any more.
    pub async fn take_taint_off(&self, key: &str) {
        untaint::take_off(&self.api, &self.counters, key).await;
    }

    /// Nothing is done to pods any more: the agent ends, and its successor goes on.
    pub fn end(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// What is to become of a pod that is about to start, by what CNI is told of it.
    ///
    /// # Errors
    /// When nobody knows; the pod must not start then.
    pub async fn admit(&self, uid: &str, namespace: &str, name: &str) -> Result<Intent, NotKnown> {
        // Pods that are left whatever the server says must start also while it is away: it may depend on them.
        if self.store.rules().excluded.contains(namespace) {
            return Ok(Intent::Leave(Because::ExcludedNamespace));
        }
        if let Some(intent) = self.store.wait_for(uid, (namespace, name), WATCH_LAG).await {
            return Ok(intent);
        }
        let title = format!("{namespace}/{name}");
        let failed = |error: CallError| match error {
            CallError::Absent => NotKnown::Absent(title.clone()),
            error => NotKnown::Unanswered {
                address: self.api.address().to_owned(),
                pod: title.clone(),
                why: crate::pods::registry::chain(&error),
            },
        };
        let object = self.api.pod(namespace, name).await.map_err(failed)?;
        let pod = Pod::of(object, self.store.rules()).filter(|pod| pod.uid == uid || pod.object_uid == uid);
        let pod = pod.ok_or_else(|| NotKnown::Absent(title.clone()))?;
        let intent = self.store.decide(&pod);
        if intent != Intent::Unknown {
            return Ok(intent);
        }
        let namespace = self.api.namespace(namespace).await.map_err(failed)?;
        let labels = kept_labels(&self.store, namespace.metadata.labels);
        Ok(self.store.decide_in(&pod, &labels))
    }

    /// Pods have changed at the registry: look at them soon, so that their annotation follows.
    pub fn look_again(&self) {
        self.nudge.notify_one();
    }

    /// What status tells of it.
    pub fn status(&self) -> KubernetesStatus {
        let (trouble, listed) = self.store.trouble();
        KubernetesStatus {
            address: self.api.address().to_owned(),
            listed,
            out_of_sync_seconds: trouble.as_ref().map(|trouble| trouble.since.elapsed().as_secs()),
            last_error: trouble.map(|trouble| trouble.error),
            pods: self.store.count(),
            troubles: self.troubles.borrow().clone(),
        }
    }
}

fn follow_pods(api: &ApiServer, store: &Store, counters: &Arc<Counters>) -> impl Future<Output = ()> + Send + use<> {
    let watch = Watch {
        api: api.pods(),
        of: Of::Pods,
        fields: Some(api.on_this_node()),
        store: store.clone(),
        counters: Arc::clone(counters),
    };
    let keep = |store: &Store, object: PodObject| {
        let pod = Pod::of(object, store.rules())?;
        Some((pod.object_uid.clone(), pod))
    };
    watch.follow(keep, Store::pods)
}

fn follow_namespaces(
    api: &ApiServer,
    store: &Store,
    counters: &Arc<Counters>,
) -> impl Future<Output = ()> + Send + use<> {
    let watch = Watch {
        api: api.namespaces(),
        of: Of::Namespaces,
        fields: None,
        store: store.clone(),
        counters: Arc::clone(counters),
    };
    let keep = |store: &Store, object: kube::core::PartialObjectMeta<_>| {
        let labels = kept_labels(store, object.metadata.labels);
        Some((object.metadata.name?, labels))
    };
    watch.follow(keep, Store::namespaces)
}

/// Of a namespace's labels those that rules look at.
fn kept_labels(store: &Store, labels: Option<Labels>) -> Labels {
    let all = labels.unwrap_or_default().into_iter();
    all.filter(|(key, _)| store.rules().asks_namespace_for(key)).collect()
}

#[cfg(test)]
mod tests;
