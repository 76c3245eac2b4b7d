//! The workload API: one stream of an agent (wire-facts §1.4 to §1.6).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    sync::Arc,
};

use futures_util::{Stream, stream};
use isthmus_istio::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use prost_types::value::Kind as Json;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::sleep,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    resource::{Kind, News, workload_of},
    script::Answer,
    seen::Event,
    shared::Shared,
};

/// Names of one response that are kept for assertions.
const NAMES: usize = 1000;
/// Responses made before the first of them is taken.
const AHEAD: usize = 4;

/// The service.
#[derive(Clone)]
pub(super) struct Discovery(pub(super) Arc<Shared>);

type Answers = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let answer = self.0.script(|script| script.discovery.clone());
        self.0.admit(request.metadata(), &answer)?;
        let (answers, receiver) = mpsc::channel(AHEAD);
        let session = Session::new(Arc::clone(&self.0), answers);
        tokio::spawn(session.run(request.into_inner()));
        let answers = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|answer| (answer, receiver))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One stream.
struct Session {
    shared: Arc<Shared>,
    number: u64,
    answers: Answers,
    watched: HashMap<Kind, Watched>,
    /// The caller's node, of whose workloads it is told unasked.
    node: String,
    responses: u64,
}

/// What a stream has asked for of one kind.
#[derive(Default)]
struct Watched {
    /// All there is; otherwise only `names`.
    all: bool,
    names: BTreeSet<String>,
    /// The newest change it was sent, or that is of no concern to it.
    number: u64,
}

/// The stream is over.
struct Over;

impl Session {
    fn new(shared: Arc<Shared>, answers: Answers) -> Self {
        let number = shared.number();
        shared.note(Event::Opened { stream: number });
        Self {
            shared,
            number,
            answers,
            watched: HashMap::new(),
            node: String::new(),
            responses: 0,
        }
    }

    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut news = self.shared.news();
        loop {
            let ended = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.hear(request).await,
                    Ok(None) | Err(_) => Err(Over),
                },
                changed = news.recv() => match changed {
                    Ok(changed) => self.tell(&changed).await,
                    Err(RecvError::Lagged(_) | RecvError::Closed) => Err(Over),
                },
                () = self.answers.closed() => Err(Over),
            };
            if ended.is_err() {
                return;
            }
        }
    }

    async fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Over> {
        let stream = self.number;
        let Some(kind) = Kind::of(&request.type_url) else {
            let status = Status::invalid_argument(format!("unknown type {}", request.type_url));
            return self.answers.send(Err(status)).await.map_err(|_| Over);
        };
        if !request.response_nonce.is_empty() {
            self.shared.answered(stream, kind, &request.response_nonce);
            self.shared.note(match &request.error_detail {
                Some(status) => Event::Nacked {
                    stream,
                    kind,
                    reason: status.message.clone(),
                },
                None => Event::Acked { stream, kind },
            });
            if request.resource_names_subscribe.is_empty() {
                return Ok(());
            }
        }
        if let Some(node) = &request.node {
            self.node = metadata(node).remove("NODE_NAME").unwrap_or_default();
        }
        self.shared.note(asked(stream, kind, &request));
        self.shared.asked(stream, kind);
        match self.wanted(kind, &request) {
            Some((put, removed, number)) => self.send(kind, put, removed, number).await,
            None => Ok(()),
        }
    }

    /// What a request is answered with, and the number of the last change in it; none when it asks for nothing new.
    fn wanted(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Option<(Vec<Resource>, Vec<String>, u64)> {
        let is_first = !self.watched.contains_key(&kind);
        let watched = self.watched.entry(kind).or_default();
        let star = |names: &[String]| names.iter().any(|name| name == "*");
        if is_first {
            let subscribed = &request.resource_names_subscribe;
            watched.all = (subscribed.is_empty() || star(subscribed)) && !star(&request.resource_names_unsubscribe);
        }
        let initial = &request.initial_resource_versions;
        let named = request.resource_names_subscribe.iter().chain(initial.keys());
        let named: BTreeSet<&String> = named.filter(|name| *name != "*").collect();
        if watched.all {
            let number = self.shared.resources(|resources| resources.number);
            watched.number = number;
            return Some(self.shared.resources(|resources| {
                let gone = initial.keys().filter(|name| !resources.has(kind, name)).cloned();
                let news = resources.all(kind).filter(|one| is_news(one, initial)).cloned();
                (news.collect(), gone.collect(), number)
            }));
        }
        let mut is_changed = is_first;
        for name in &named {
            is_changed |= watched.names.insert((*name).clone());
        }
        for name in &request.resource_names_unsubscribe {
            is_changed |= watched.names.remove(name);
        }
        if !is_changed {
            return None;
        }
        let node = &self.node;
        let (put, removed, number) = self.shared.resources(|resources| {
            let mut put: BTreeMap<&String, &Resource> = BTreeMap::new();
            let mut removed: Vec<String> = Vec::new();
            for name in named {
                let found = resources.found(kind, name);
                if found.is_empty() {
                    removed.push(name.clone());
                }
                put.extend(found.into_iter().map(|one| (&one.name, one)));
            }
            put.extend(unasked(resources.all(kind), node, watched).map(|one| (&one.name, one)));
            // A request that asks for nothing is answered so by the real one.
            if put.is_empty() && removed.is_empty() {
                removed.extend(watched.names.iter().cloned());
            }
            watched.names.extend(put.keys().copied().cloned());
            let news = put.into_values().filter(|one| is_news(one, initial)).cloned();
            (news.collect(), removed, resources.number)
        });
        watched.number = number;
        Some((put, removed, number))
    }

    async fn tell(&mut self, news: &News) -> Result<(), Over> {
        let Some(watched) = self.watched.get_mut(&news.kind) else {
            return Ok(());
        };
        if watched.number >= news.number {
            return Ok(());
        }
        watched.number = news.number;
        // What was not there when it was asked for is not told of when it comes: changes have the names of resources.
        let concerns = |name: &String| watched.all || watched.names.contains(name);
        let removed = news.removed.iter().filter(|name| concerns(name));
        let removed: Vec<String> = removed.cloned().collect();
        let mut put: Vec<Resource> = news.put.iter().filter(|one| concerns(&one.name)).cloned().collect();
        if !watched.all {
            put.extend(unasked(news.put.iter(), &self.node, watched).cloned());
            watched.names.extend(put.iter().map(|one| one.name.clone()));
        }
        if put.is_empty() && removed.is_empty() {
            return Ok(());
        }
        self.send(news.kind, put, removed, news.number).await
    }

    async fn send(&mut self, kind: Kind, put: Vec<Resource>, removed: Vec<String>, number: u64) -> Result<(), Over> {
        match self.shared.script(|script| script.discovery.clone()) {
            Answer::Never => return Ok(()),
            Answer::After(pause) => sleep(pause).await,
            Answer::Refused(code, message) => {
                let status = Status::new(code, message);
                self.shared.refused(&status);
                // The stream ends with it, as it would have without.
                let _gone = self.answers.send(Err(status)).await;
                return Err(Over);
            }
            Answer::Served | Answer::Bytes(_) => {}
        }
        self.responses += 1;
        let nonce = format!("{}-{}", self.number, self.responses);
        self.shared.note(Event::Sent {
            stream: self.number,
            kind,
            names: put.iter().take(NAMES).map(|one| one.name.clone()).collect(),
            count: put.len(),
            removed: removed.clone(),
        });
        self.shared.sent(&nonce, number.max(1));
        let response = DeltaDiscoveryResponse {
            system_version_info: number.to_string(),
            resources: put,
            type_url: kind.url().to_owned(),
            nonce,
            removed_resources: removed,
        };
        self.answers.send(Ok(response)).await.map_err(|_| Over)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.ended(self.number);
    }
}

/// Workloads of a node that nobody has asked for.
fn unasked<'a>(
    all: impl Iterator<Item = &'a Resource>,
    node: &str,
    watched: &Watched,
) -> impl Iterator<Item = &'a Resource> {
    all.filter(move |one| {
        let is_new = !node.is_empty() && !watched.names.contains(&one.name);
        is_new && workload_of(one).is_some_and(|workload| workload.node == node)
    })
}

/// Whether a caller who has these versions must be sent this. Policies have no version and are always sent.
fn is_news(resource: &Resource, initial: &BTreeMap<String, String>) -> bool {
    resource.version.is_empty() || initial.get(&resource.name) != Some(&resource.version)
}

fn asked(stream: u64, kind: Kind, request: &DeltaDiscoveryRequest) -> Event {
    let initial = &request.initial_resource_versions;
    Event::Asked {
        stream,
        kind,
        node: request.node.as_ref().map(|node| node.id.clone()),
        metadata: request.node.as_ref().map(metadata).unwrap_or_default(),
        subscribe: request.resource_names_subscribe.clone(),
        unsubscribe: request.resource_names_unsubscribe.clone(),
        initial: initial.iter().map(|(name, of)| (name.clone(), of.clone())).collect(),
    }
}

fn metadata(node: &Node) -> BTreeMap<String, String> {
    let fields = node.metadata.iter().flat_map(|all| &all.fields);
    fields
        .filter_map(|(name, value)| match &value.kind {
            Some(Json::StringValue(text)) => Some((name.clone(), text.clone())),
            _ => None,
        })
        .collect()
}
