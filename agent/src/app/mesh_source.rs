//! Where the mesh comes from: a file, or istiod.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{StartError, failed};
use crate::{
    config::Config,
    istiod::{Contact, ContactParts},
    mesh::{self, Mesh, Snapshot},
    telemetry::Telemetry,
    xds::{Client, ClientParts, Counters, Disk, Held, Node, Store, Told},
};

/// How long the end may take: what istiod told is written to disk.
const END: Duration = Duration::from_secs(3);

/// The mesh, and who follows its source.
pub(super) struct MeshSource {
    pub(super) mesh: Mesh,
    /// [`mesh::watch::GOOD`] or what is wrong with the source.
    pub(super) state: watch::Receiver<String>,
    /// What is known of istiod; none when there is a file.
    pub(super) told: Option<watch::Receiver<Told>>,
    /// Whether it is served already, from before.
    pub(super) is_served: bool,
    ending: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl MeshSource {
    /// Serves what is known now, and follows the source from here on. `node` is empty for a gateway.
    pub(super) async fn follow(config: &Config, node: &str, telemetry: &Arc<Telemetry>) -> Result<Self, StartError> {
        match &config.mesh {
            Some(file) => {
                let (publisher, mesh) = Mesh::new(Snapshot::empty());
                let (state, told) = watch::channel(String::new());
                tokio::spawn(mesh::watch::follow(file.clone(), publisher, state));
                Ok(Self::of_file(mesh, told).await)
            }
            None => Self::of_istiod(config, node, telemetry).await,
        }
    }

    async fn of_file(mesh: Mesh, mut told: watch::Receiver<String>) -> Self {
        // Pods are taken up with the policies that hold for them, or refused plaintext while the file cannot be read.
        let first = timeout(Duration::from_secs(10), told.changed()).await;
        if !matches!(first, Ok(Ok(()))) {
            tracing::warn!("the mesh file takes long to load; serving without it");
        }
        Self {
            mesh,
            state: told,
            told: None,
            is_served: false,
            ending: None,
        }
    }

    async fn of_istiod(config: &Config, node: &str, telemetry: &Arc<Telemetry>) -> Result<Self, StartError> {
        let contact = contact(config)?;
        let (publisher, mesh, asks) = if config.istiod.on_demand {
            let (publisher, mesh, asks) = Mesh::on_demand(Snapshot::empty());
            (publisher, mesh, Some(asks))
        } else {
            let (publisher, mesh) = Mesh::new(Snapshot::empty());
            (publisher, mesh, None)
        };
        let store = config.mesh_snapshot.clone().map(|path| {
            // What was asked for is a part of the mesh, which must never be taken for the whole.
            let part = if asks.is_some() { " on demand" } else { "" };
            let origin = format!("{} {}{part}", contact.uri(), config.cluster_id);
            Store::new(Disk::new(path, &origin))
        });
        let mut held = Held::new(publisher);
        let mut resumed_from_disk = None;
        if let Some(store) = &store {
            (held, resumed_from_disk) = store.load(held).await.map_err(failed("loading the stored mesh"))?;
        }
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        telemetry.exposition.add(move |families| counted.describe(families));
        let (client, news) = Client::new(ClientParts {
            contact,
            node: our_node(config, node),
            held,
            asks,
            counters,
            resumed_from_disk,
            store,
        });
        let (end, ending) = oneshot::channel();
        let running = tokio::spawn(client.run(async {
            // A handle that is gone ends nothing.
            if ending.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Ok(Self {
            mesh,
            state: news.state,
            told: Some(news.told),
            is_served: resumed_from_disk.is_some(),
            ending: Some((end, running)),
        })
    }

    /// Waits until the mesh is known, or as long as that may take.
    pub(super) async fn known_within(&mut self, bound: Duration) {
        if self.is_served {
            return;
        }
        let known = self.state.wait_for(|state| state == mesh::watch::GOOD);
        if timeout(bound, known).await.is_err() {
            tracing::warn!(?bound, "the mesh is not known yet");
        }
    }

    /// The process ends: what istiod told is written down for the next one.
    pub(super) async fn end(self) {
        let Some((end, running)) = self.ending else { return };
        if end.send(()).is_ok() && timeout(END, running).await.is_err() {
            tracing::warn!("storing the mesh takes long; what was stored before stays");
        }
    }
}

fn contact(config: &Config) -> Result<Contact, StartError> {
    let istiod = &config.istiod;
    let parts = ContactParts {
        // Without one there is a mesh file: the configuration sees to it.
        address: istiod.xds_address.as_deref().unwrap_or_default(),
        roots: &istiod.xds_roots,
        other_name: istiod.xds_hostname.as_deref(),
        token: &istiod.token,
        cluster_id: &config.cluster_id,
        headers: &istiod.xds_headers,
    };
    Contact::new(&parts).map_err(failed("preparing to ask istiod for the mesh"))
}

fn our_node(config: &Config, node: &str) -> Node {
    let pod = &config.istiod.pod;
    let name = if node.is_empty() { "gateway" } else { node };
    Node {
        name: pod.name.clone().unwrap_or_else(|| format!("isthmus-{name}")),
        namespace: pod.namespace.clone().unwrap_or_else(|| Node::NAMESPACE.to_owned()),
        ip: pod.ip.unwrap_or(Node::IP),
        node_name: node.to_owned(),
        cluster_id: config.cluster_id.clone(),
        metadata: config.istiod.metadata.clone(),
    }
}
