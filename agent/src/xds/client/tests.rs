use std::collections::BTreeMap;

use isthmus_istio::discovery::{DeltaDiscoveryResponse, Resource};

use super::*;
use crate::{
    istiod::{ContactParts, Headers, Roots, Token},
    mesh::{Mesh, Publisher, Snapshot},
    telemetry::{Exposition, Format},
    xds::{
        disk::Disk,
        kind::Kind,
        scripted::{Istiod, pod, policy, response, uid},
    },
};

mod demand;

/// A client that runs, and what is seen of it.
struct Running {
    mesh: Mesh,
    news: News,
    counters: Arc<Counters>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(istiod: &Istiod, token: &Token, adjust: impl FnOnce(&mut Client)) -> Self {
        Self::at(&istiod.address, &istiod.roots, token, adjust)
    }

    /// It asks for nothing unasked.
    fn on_demand(address: &str, roots: &str) -> Self {
        let (publisher, mesh, asks) = Mesh::on_demand(Snapshot::empty());
        Self::of(address, roots, &token(), (publisher, mesh, Some(asks)), |_| {})
    }

    fn at(address: &str, roots: &str, token: &Token, adjust: impl FnOnce(&mut Client)) -> Self {
        let (publisher, mesh) = Mesh::new(Snapshot::empty());
        Self::of(address, roots, token, (publisher, mesh, None), adjust)
    }

    fn of(
        address: &str,
        roots: &str,
        token: &Token,
        (publisher, mesh, asks): (Publisher, Mesh, Option<Asks>),
        adjust: impl FnOnce(&mut Client),
    ) -> Self {
        let roots = Roots::Inline(roots.to_owned());
        let contact = ContactParts {
            address,
            roots: &roots,
            other_name: None,
            token,
            cluster_id: "east",
            headers: &Headers([("x-extra".to_owned(), "1".to_owned())].into()),
        };
        let counters = Arc::new(Counters::default());
        let parts = ClientParts {
            contact: Contact::new(&contact).unwrap(),
            node: Node {
                name: "agent".to_owned(),
                namespace: Node::NAMESPACE.to_owned(),
                ip: Node::IP,
                node_name: String::new(),
                cluster_id: "east".to_owned(),
                metadata: BTreeMap::new(),
            },
            held: Held::new(publisher),
            asks,
            counters: Arc::clone(&counters),
            resumed_from_disk: None,
            store: None,
        };
        let (mut client, news) = Client::new(parts);
        adjust(&mut client);
        let (end, ending) = tokio::sync::oneshot::channel();
        Self {
            mesh,
            news,
            counters,
            end: Some(end),
            task: tokio::spawn(client.run(async { drop(ending.await) })),
        }
    }

    async fn end(mut self) {
        self.end.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap();
    }

    /// A client that was told of two pods and a policy, on the call that is given back.
    async fn told(istiod: &mut Istiod, adjust: impl FnOnce(&mut Client)) -> (Self, super::super::scripted::Call) {
        let mut running = Self::start(istiod, &token(), adjust);
        let mut call = istiod.call().await;
        call.first_requests().await;
        call.tell(two_pods(), vec![policy("p")]).await;
        running.until(|told| told.state == State::Synced).await;
        (running, call)
    }

    async fn until(&mut self, wanted: impl FnMut(&Told) -> bool) -> Told {
        let waiting = self.news.told.wait_for(wanted);
        let told = timeout(Duration::from_secs(20), waiting).await.expect("in time");
        told.unwrap().clone()
    }

    fn sizes(&self) -> [usize; 3] {
        self.mesh.current().sizes()
    }

    fn metric(&self, line: &str) -> bool {
        let (exposition, counters) = (Exposition::default(), Arc::clone(&self.counters));
        exposition.add(move |families| counters.describe(families));
        let text = exposition.render(Format::Prometheus);
        text.lines().any(|other| other == line)
    }
}

fn token() -> Token {
    Token::Literal("abc".to_owned())
}

fn two_pods() -> Vec<Resource> {
    vec![pod("a", [10, 0, 0, 1], "1"), pod("b", [10, 0, 0, 2], "1")]
}

fn versions(of: &[&str]) -> BTreeMap<String, String> {
    of.iter().map(|name| (uid(name), "1".to_owned())).collect()
}

#[tokio::test]
async fn istiod_is_asked_for_all_and_what_it_tells_is_served() {
    let mut istiod = Istiod::start().await;
    let mut running = Running::start(&istiod, &token(), |_| {});
    assert_ne!(*running.news.state.borrow(), GOOD);
    let mut call = istiod.call().await;
    for (name, value) in [("authorization", "Bearer abc"), ("clusterid", "east"), ("x-extra", "1")] {
        assert_eq!(call.headers.get(name).unwrap(), value);
    }
    let [addresses, policies] = call.first_requests().await;
    assert_eq!(addresses.type_url, Kind::Address.url());
    assert!(addresses.node.unwrap().id.starts_with("ztunnel~"));
    assert_eq!(policies.type_url, Kind::Authorization.url());
    assert_eq!(
        running
            .until(|told| told.state == State::Syncing)
            .await
            .addresses
            .responses,
        0
    );

    call.tell(two_pods(), vec![policy("p")]).await;
    let told = running.until(|told| told.state == State::Synced).await;
    assert_eq!((told.addresses.responses, told.authorizations.responses), (1, 1));
    assert!(told.connected_since.is_some() && told.last_error.is_none());
    assert_eq!(running.sizes(), [2, 0, 1]);
    running.news.state.wait_for(|state| state == GOOD).await.unwrap();
    let line = format!("istio_xds_message_total{{url=\"{}\"}} 1", Kind::Address.url());
    assert!(running.metric(&line), "{line}");
}

#[tokio::test]
async fn a_response_is_taken_while_it_arrives_and_unknown_fields_are_passed_over() {
    let mut istiod = Istiod::start().await;
    let (mut running, mut call) = Running::told(&mut istiod, |_| {}).await;
    let mut newer = pod("c", [10, 0, 0, 3], "1");
    // Field 200 of Address, which it does not have.
    newer.resource.as_mut().unwrap().value.extend([0xc2, 0x0c, 1, 7]);
    let mut many: Vec<_> = (0..2000)
        .map(|at| pod(&format!("p{at}"), [10, 1, (at >> 8) as u8, at as u8], "1"))
        .collect();
    many.push(newer);
    call.tell(many, vec![policy("p")]).await;
    running.until(|told| told.addresses.responses == 2).await;
    assert_eq!(running.sizes(), [2003, 0, 1]);
    assert!(running.mesh.current().workload(&uid("c")).is_some());
}

#[tokio::test]
async fn a_resource_that_is_refused_is_told_to_istiod_and_to_the_operator() {
    let mut istiod = Istiod::start().await;
    let (mut running, mut call) = Running::told(&mut istiod, |_| {}).await;
    let mut bad = pod("bad", [10, 0, 0, 9], "1");
    bad.resource.as_mut().unwrap().value = vec![0xff];
    call.answer(&response(Kind::Address, vec![bad, pod("c", [10, 0, 0, 3], "1")]));
    let refused = call.request().await.error_detail.expect("it is refused");
    assert!(
        refused.message.starts_with(&format!("{}: ", uid("bad"))),
        "{}",
        refused.message
    );
    let told = running.until(|told| !told.addresses.rejected.is_empty()).await;
    assert_eq!(told.addresses.rejected[0].name, uid("bad"));
    assert_eq!(running.sizes(), [3, 0, 1]);
}

#[tokio::test]
async fn after_an_end_without_an_error_it_asks_again_with_what_it_has() {
    let mut istiod = Istiod::start().await;
    let (mut running, call) = Running::told(&mut istiod, |_| {}).await;
    call.end(0, "");
    let mut call = istiod.call().await;
    let [addresses, policies] = call.first_requests().await;
    assert_eq!(addresses.initial_resource_versions, versions(&["a", "b"]));
    assert!(policies.initial_resource_versions.contains_key("demo/p"));
    assert!(addresses.node.is_some(), "every stream begins with who asks");

    // While we were away a pod and the policy have gone.
    for (kind, name) in [(Kind::Address, uid("a")), (Kind::Authorization, "demo/p".to_owned())] {
        call.answer(&DeltaDiscoveryResponse {
            removed_resources: vec![name],
            ..response(kind, Vec::new())
        });
    }
    let told = running.until(|told| told.state == State::Synced).await;
    assert_eq!(told.reconnects, 1);
    assert_eq!(running.sizes(), [1, 0, 0]);
}

#[tokio::test]
async fn what_istiod_told_last_is_on_disk_at_the_end_and_resumed_from() {
    let path = std::env::temp_dir().join(format!("isthmus-xds-mesh-{:016x}", rand::random::<u64>()));
    let store = || Store::new(Disk::new(path.clone(), "east"));
    let load = async || {
        let (publisher, mesh) = Mesh::new(Snapshot::empty());
        let (held, written) = store().load(Held::new(publisher)).await.unwrap();
        (held, written.is_some(), mesh.current().sizes())
    };
    let (_, was_stored, sizes) = load().await;
    assert_eq!((was_stored, sizes), (false, [0, 0, 0]));

    let mut istiod = Istiod::start().await;
    let (mut running, mut call) = Running::told(&mut istiod, |client| client.parts.store = Some(store())).await;
    call.tell(vec![pod("c", [10, 0, 0, 3], "1")], Vec::new()).await;
    running.until(|told| told.authorizations.responses == 2).await;
    running.end().await;
    let (mut held, was_stored, sizes) = load().await;
    assert_eq!((was_stored, sizes), (true, [3, 0, 1]));
    let listed = held.open_stream(Kind::Address, 1 << 20);
    assert_eq!(
        listed.into_iter().collect::<BTreeMap<_, _>>(),
        versions(&["a", "b", "c"])
    );
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_mesh_whose_last_answer_is_empty_is_on_disk_as_soon_as_it_is_whole() {
    let path = std::env::temp_dir().join(format!("isthmus-xds-mesh-{:016x}", rand::random::<u64>()));
    let mut istiod = Istiod::start().await;
    let store = Store::new(Disk::new(path.clone(), "east"));
    let mut running = Running::start(&istiod, &token(), |client| client.parts.store = Some(store));
    let mut call = istiod.call().await;
    call.first_requests().await;
    call.answer(&response(Kind::Address, two_pods()));
    running.until(|told| told.addresses.responses == 1).await;
    assert!(!path.exists(), "policies are not known yet");
    call.answer(&response(Kind::Authorization, Vec::new()));
    running.until(|told| told.state == State::Synced).await;
    let written = timeout(Duration::from_secs(20), async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    });
    written.await.expect("in time");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_connection_of_a_certain_age_is_followed_by_the_next() {
    let mut istiod = Istiod::start().await;
    let (mut running, call) = Running::told(&mut istiod, |_| {}).await;
    call.close_for_age();
    let mut call = istiod.call().await;
    let [addresses, _] = call.first_requests().await;
    assert_eq!(addresses.initial_resource_versions, versions(&["a", "b"]));
    call.tell(Vec::new(), Vec::new()).await;
    running
        .until(|told| told.state == State::Synced && told.reconnects == 1)
        .await;
    assert_eq!(running.sizes(), [2, 0, 1]);
}

#[tokio::test]
async fn what_is_served_stays_when_a_stream_breaks_or_is_garbage() {
    let mut istiod = Istiod::start().await;
    let (mut running, call) = Running::told(&mut istiod, |_| {}).await;
    call.end(14, "out of order");
    let told = running.until(|told| told.last_error.is_some()).await;
    let error = told.last_error.unwrap();
    assert!(error.contains("Unavailable: out of order"), "{error}");
    running
        .news
        .state
        .wait_for(|state| state.contains("out of order"))
        .await
        .unwrap();

    let mut call = istiod.call().await;
    call.first_requests().await;
    call.bytes("\0\0\0\0\x05garbage");
    let told = running
        .until(|told| {
            told.last_error
                .as_deref()
                .is_some_and(|error| error.contains("wire type"))
        })
        .await;
    assert!(told.connected_since.is_none());
    assert_eq!(running.sizes(), [2, 0, 1]);

    let mut call = istiod.call().await;
    call.first_requests().await;
    call.tell(vec![pod("c", [10, 0, 0, 3], "1")], vec![policy("p")]).await;
    let told = running.until(|told| told.state == State::Synced).await;
    assert_eq!(told.last_error, None);
    assert_eq!(running.sizes(), [3, 0, 1]);
    running.news.state.wait_for(|state| state == GOOD).await.unwrap();
    assert!(running.metric("istio_xds_connection_terminations_total{reason=\"Error\"} 2"));
}

#[tokio::test]
async fn a_request_that_istiod_finds_too_large_is_not_made_again() {
    let mut istiod = Istiod::start().await;
    let least = |client: &mut Client| client.resume_bytes = LEAST_RESUME_BYTES;
    let (mut running, call) = Running::told(&mut istiod, least).await;
    call.end(0, "");
    let mut call = istiod.call().await;
    let [addresses, _] = call.first_requests().await;
    assert_eq!(addresses.initial_resource_versions, versions(&["a", "b"]));
    call.refuse(8, "request rate limit exceeded: too many");
    let mut call = istiod.call().await;
    let [addresses, _] = call.first_requests().await;
    assert_eq!(
        addresses.initial_resource_versions,
        versions(&["a", "b"]),
        "that was not about size"
    );
    call.refuse(8, "grpc: received message larger than max (65537 vs. 65536)");

    let mut call = istiod.call().await;
    let [addresses, policies] = call.first_requests().await;
    assert!(addresses.initial_resource_versions.is_empty() && policies.initial_resource_versions.is_empty());
    // What has gone is not named then.
    call.tell(vec![pod("b", [10, 0, 0, 2], "1")], Vec::new()).await;
    running.until(|told| told.state == State::Synced).await;
    assert_eq!(running.sizes(), [1, 0, 0]);
}

#[tokio::test]
async fn a_token_is_waited_for_and_read_anew_for_every_stream() {
    let path = std::env::temp_dir().join(format!("isthmus-xds-token-{:016x}", rand::random::<u64>()));
    let mut istiod = Istiod::start().await;
    let mut running = Running::start(&istiod, &Token::File(path.clone()), |_| {});
    let told = running.until(|told| told.last_error.is_some()).await;
    let error = told.last_error.unwrap();
    assert!(error.contains(&*path.to_string_lossy()), "{error}");
    assert!(istiod.is_idle(), "who has no token does not ask");
    assert!(running.metric("istio_xds_connection_terminations_total{reason=\"Error\"} 0"));

    std::fs::write(&path, "first\n").unwrap();
    let mut call = istiod.call().await;
    assert_eq!(call.headers["authorization"], "Bearer first");
    call.first_requests().await;
    call.tell(two_pods(), Vec::new()).await;
    running.until(|told| told.state == State::Synced).await;
    std::fs::write(&path, "second").unwrap();
    call.end(16, "the token has expired");
    let call = istiod.call().await;
    assert_eq!(call.headers["authorization"], "Bearer second");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn who_is_silent_is_given_up_with_more_patience_each_time() {
    let mut istiod = Istiod::start().await;
    let patience = Duration::from_millis(100);
    let mut running = Running::start(&istiod, &token(), |client| client.patience = patience);
    let mut first = istiod.call().await;
    let [_, _] = first.first_requests().await;
    let told = running.until(|told| told.last_error.is_some()).await;
    assert!(told.last_error.unwrap().contains("has not answered"));
    let mut calls = vec![first];
    // 100, 200, 400, 800 ms: the fifth is still being listened to.
    while calls.len() < 5 {
        calls.push(istiod.call().await);
    }
    let fifth = calls.last_mut().unwrap();
    fifth.first_requests().await;
    fifth.tell(two_pods(), Vec::new()).await;
    running.until(|told| told.state == State::Synced).await;
    assert_eq!(running.sizes(), [2, 0, 0]);
}

#[tokio::test]
async fn who_does_not_listen_or_is_somebody_else_is_tried_again_later_and_later() {
    let istiod = Istiod::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut running = Running::at(&format!("https://{closed}"), &istiod.roots, &token(), |_| {});
    let told = running.until(|told| told.reconnects >= 4).await;
    assert!(told.last_error.unwrap().contains("is not reached"));
    assert!(!running.metric("istio_xds_connection_terminations_total{reason=\"ConnectionError\"} 0"));

    let other = Istiod::start().await;
    let mut running = Running::at(&istiod.address, &other.roots, &token(), |_| {});
    let told = running.until(|told| matches!(told.state, State::Waiting { .. })).await;
    let error = told.last_error.unwrap();
    assert!(error.contains("TLS with istiod"), "{error}");
}
