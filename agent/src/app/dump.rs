//! What `/config_dump` is made of.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use serde_json::{Map, Value};

use crate::{
    admin::{Collector, Writer},
    config::Config,
    config_dump::{Credential, Dump},
    identity::Certificates,
    mesh::Mesh,
    pods::Pods,
};

/// What is dumped besides pods.
#[derive(Clone)]
pub(super) struct Held {
    mesh: Mesh,
    certificates: Certificates,
    config: Arc<Map<String, Value>>,
    istio_version: String,
}

impl Held {
    /// `told` is the configuration as it is to be shown.
    pub(super) fn new(config: &Config, told: Map<String, Value>, mesh: &Mesh, certificates: &Certificates) -> Self {
        let version = config.istiod.metadata.get("ISTIO_VERSION").and_then(Value::as_str);
        Self {
            mesh: mesh.clone(),
            certificates: certificates.clone(),
            config: Arc::new(told),
            istio_version: version.unwrap_or_default().to_owned(),
        }
    }

    /// Collects it as it is when it is asked for, with the connections of `pods`.
    pub(super) fn collector(self, pods: Option<Pods>) -> Collector {
        Arc::new(move || {
            let (held, pods) = (self.clone(), pods.clone());
            Box::pin(async move {
                let now = SystemTime::now();
                let certificates = held.certificates.list().into_iter();
                let credentials = certificates.map(|(id, held)| Credential::of(id, held, now)).collect();
                let dump = Dump {
                    pods: match &pods {
                        Some(pods) => pods.connections().await,
                        None => BTreeMap::new(),
                    },
                    mesh: held.mesh.current(),
                    credentials,
                    config: held.config,
                    istio_version: held.istio_version,
                };
                let writer: Writer = Box::new(move |out| dump.write(out));
                writer
            })
        })
    }
}
