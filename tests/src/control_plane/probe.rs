//! What an istiod tells an agent, asked without one.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use isthmus_istio::{
    ADDRESS, AUTHORIZATION,
    discovery::{DeltaDiscoveryRequest, Node, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
    security::Authorization,
    workload::{Address, Service, Workload, address},
};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{cluster::Cluster, istiod::PLAIN_PORT};
use crate::failure::{Because as _, Result};

const CALL: Duration = Duration::from_secs(10);

/// Everything that istiod tells an agent, by the names of resources.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By uid.
    pub workloads: BTreeMap<String, Workload>,
    /// By `NAMESPACE/HOSTNAME`.
    pub services: BTreeMap<String, Service>,
    /// By `NAMESPACE/NAME`.
    pub policies: BTreeMap<String, Authorization>,
}

impl Cluster {
    /// What its istiod would tell a new agent now.
    pub fn told(&self) -> Result<Told> {
        let netns = &self.machine().netns;
        netns.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let told = timeout(CALL, ask(self.name())).await;
                told.because("waiting for what istiod tells")?
            })
        })?
    }
}

/// One stream, on which both types are asked for once.
async fn ask(cluster: &str) -> Result<Told> {
    let endpoint = Endpoint::from_shared(format!("http://{}:{PLAIN_PORT}", Ipv4Addr::LOCALHOST))?;
    let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await?);
    client = client.max_decoding_message_size(200 << 20);
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    for kind in [ADDRESS, AUTHORIZATION] {
        let request = DeltaDiscoveryRequest {
            node: Some(node(cluster)),
            type_url: kind.to_owned(),
            ..Default::default()
        };
        sender.send(request).await?;
    }
    let requests = futures_util::stream::unfold(receiver, async |mut receiver| {
        let request = receiver.recv().await?;
        Some((request, receiver))
    });
    let mut responses = client.delta_aggregated_resources(requests).await?.into_inner();
    let mut told = Told::default();
    let mut missing = vec![ADDRESS, AUTHORIZATION];
    while !missing.is_empty() {
        let response = responses.message().await?.because("istiod ended the stream")?;
        missing.retain(|kind| *kind != response.type_url);
        for resource in response.resources {
            let bytes = resource.resource.unwrap_or_default().value;
            if response.type_url == AUTHORIZATION {
                told.policies
                    .insert(resource.name, Authorization::decode(bytes.as_slice())?);
                continue;
            }
            match Address::decode(bytes.as_slice())?.r#type {
                Some(address::Type::Workload(workload)) => drop(told.workloads.insert(resource.name, workload)),
                Some(address::Type::Service(service)) => drop(told.services.insert(resource.name, service)),
                None => {}
            }
        }
    }
    Ok(told)
}

fn node(cluster: &str) -> Node {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let metadata = [("NAMESPACE", "istio-system"), ("CLUSTER_ID", cluster)];
    Node {
        id: "ztunnel~127.0.0.1~probe.istio-system~istio-system.svc.cluster.local".to_owned(),
        metadata: Some(Struct {
            fields: metadata
                .into_iter()
                .map(|(key, value)| (key.to_owned(), text(value)))
                .collect(),
        }),
        ..Default::default()
    }
}
