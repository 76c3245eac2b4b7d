//! The way to the API server, with a scripted one behind it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use serde_json::{Value, json};
use tower_service::Service;

use super::*;

/// Answers what it is told to, in this order for each beginning of a path; and nothing more after that.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Vec<Answers>>>);

struct Answers {
    path: &'static str,
    left: VecDeque<(u16, String)>,
    asked: Vec<String>,
}

impl Script {
    fn answers(self, path: &'static str, answers: &[(u16, Value)]) -> Self {
        let left = answers.iter().map(|(code, value)| (*code, value.to_string())).collect();
        self.all().push(Answers {
            path,
            left,
            asked: Vec::new(),
        });
        self
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Answers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Method and URL of each question that began with this path.
    fn asked(&self, path: &str) -> Vec<String> {
        let all = self.all();
        all.iter()
            .filter(|answers| answers.path == path)
            .flat_map(|answers| answers.asked.clone())
            .collect()
    }

    fn server(&self) -> ApiServer {
        ApiServer::scripted(kube::Client::new(self.clone(), "default"))
    }
}

impl Service<Request<Body>> for Script {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut all = self.all();
        let path = request.uri().path();
        let answer = all.iter_mut().find(|answers| answers.path == path).and_then(|answers| {
            answers.asked.push(format!("{} {}", request.method(), request.uri()));
            answers.left.pop_front()
        });
        match answer {
            Some((code, text)) => {
                let response = Response::builder().status(code).body(Full::from(text)).unwrap();
                Box::pin(async { Ok(response) })
            }
            // A watch on which nothing happens, or a server that does not answer.
            None => Box::pin(pending()),
        }
    }
}

const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";

fn list(kind: &str, items: &[Value]) -> Value {
    json!({ "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": "7" }, "items": items })
}

fn pod_object(uid: &str) -> Value {
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": { "uid": uid, "namespace": "demo", "name": "curl", "resourceVersion": "5" },
        "spec": { "serviceAccountName": "curl" },
    })
}

fn namespace_object(labels: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": { "name": "demo", "labels": labels, "resourceVersion": "5" },
    })
}

fn ambient() -> Value {
    json!({ "istio.io/dataplane-mode": "ambient", "team": "a" })
}

fn gone() -> Value {
    json!({ "type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old",
    } })
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason,
    });
    (code, status)
}

fn kubernetes(script: &Script, store: &Store) -> Kubernetes {
    let (_, troubles) = watch::channel(Vec::new());
    let (_, standing) = watch::channel(Standing::default());
    let nobody = || tokio::spawn(async {}).abort_handle();
    Kubernetes {
        api: script.server(),
        store: store.clone(),
        nudge: Arc::default(),
        troubles,
        standing,
        counters: Arc::default(),
        tasks: Arc::new([nobody(), nobody(), nobody()]),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_listed_anew_and_who_is_not_in_the_list_is_gone() {
    let script = Script::default().answers(
        PODS,
        &[
            (200, list("PodList", &[pod_object("a"), pod_object("b")])),
            (200, gone()),
            (200, list("PodList", &[pod_object("b")])),
        ],
    );
    let (store, counters) = (Store::new(Rules::default()), Arc::new(Counters::default()));
    let following = tokio::spawn(follow_pods(&script.server(), &store, &counters));
    let mut changes = store.changes();
    changes.changed().await.unwrap();
    assert_eq!(store.count(), 2);
    changes.changed().await.unwrap();
    assert_eq!(store.count(), 1);
    assert!(store.trouble().0.is_none(), "it is followed again");
    following.abort();
    let asked = script.asked(PODS);
    assert!(
        asked.iter().all(|url| url.contains("spec.nodeName%3Dnode1")),
        "{asked:?}"
    );
    assert!(
        asked[1].contains("watch=true") && !asked[2].contains("watch=true"),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_server_refuses_what_is_held_stays_and_the_error_is_told() {
    let script = Script::default().answers(
        NAMESPACES,
        &[
            failure(403, "Forbidden"),
            (200, list("PartialObjectMetadataList", &[namespace_object(&ambient())])),
            failure(503, "ServiceUnavailable"),
            failure(503, "ServiceUnavailable"),
        ],
    );
    let (store, counters) = (Store::new(Rules::default()), Arc::new(Counters::default()));
    store.pods(store::News::All(vec![]));
    let following = tokio::spawn(follow_namespaces(&script.server(), &store, &counters));
    let mut changes = store.changes();
    while store.trouble().0.is_none() {
        tokio::task::yield_now().await;
    }
    assert!(store.trouble().0.unwrap().error.contains("listing: 403 Forbidden"));
    changes.changed().await.unwrap();
    let told = |words: &str| store.trouble().0.is_some_and(|trouble| trouble.error.contains(words));
    while !told("ServiceUnavailable") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(store.trouble().1, "all was told once");
    // Its labels are known as before, those that nobody asks for apart.
    let pod = Pod {
        namespace: "demo".to_owned(),
        ..Pod::default()
    };
    assert!(matches!(store.decide(&pod), Intent::Enrol(_)));
    following.abort();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_watch_has_not_told_yet_is_asked_for_with_its_namespace() {
    let script = Script::default()
        .answers("/api/v1/namespaces/demo/pods/curl", &[(200, pod_object("a"))])
        .answers("/api/v1/namespaces/demo", &[(200, namespace_object(&ambient()))]);
    let store = Store::new(Rules::default());
    let intent = kubernetes(&script, &store).admit("a", "demo", "curl").await.unwrap();
    let Intent::Enrol(terms) = intent else {
        panic!("{intent:?}")
    };
    let enrol = terms.enrol("/run/netns/x".into());
    assert_eq!(
        (enrol.uid.as_str(), enrol.service_account.as_deref()),
        ("a", Some("curl"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_watch_has_told_is_not_asked_for() {
    let script = Script::default();
    let store = Store::new(Rules::default());
    let pod = Pod::of(serde_json::from_value(pod_object("a")).unwrap(), store.rules()).unwrap();
    store.pods(store::News::Is("a".to_owned(), pod));
    store.namespaces(store::News::Is("demo".to_owned(), Labels::new()));
    let kubernetes = kubernetes(&script, &store);
    assert_eq!(
        kubernetes.admit("a", "demo", "curl").await.unwrap(),
        Intent::Leave(Because::NotSelected)
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_knows_is_not_admitted() {
    let path = "/api/v1/namespaces/demo/pods/curl";
    for (answers, why) in [
        (vec![failure(404, "NotFound")], "knows no pod"),
        // An earlier pod of the same name is another one.
        (vec![(200, pod_object("earlier"))], "knows no pod"),
        (vec![failure(403, "Forbidden")], "Forbidden"),
        // It does not answer.
        (vec![], "within 10s"),
    ] {
        let script = Script::default().answers(path, &answers);
        let store = Store::new(Rules::default());
        let told = kubernetes(&script, &store)
            .admit("a", "demo", "curl")
            .await
            .unwrap_err()
            .to_string();
        assert!(told.contains("demo/curl") && told.contains(why), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_of_excluded_namespaces_start_whoever_is_away() {
    let rules = Rules {
        excluded: ["demo".to_owned()].into(),
        ..Rules::default()
    };
    let kubernetes = kubernetes(&Script::default(), &Store::new(rules));
    let left = Intent::Leave(Because::ExcludedNamespace);
    assert_eq!(kubernetes.admit("a", "demo", "curl").await.unwrap(), left);
}

#[tokio::test(start_paused = true)]
async fn the_annotation_is_written_to_this_very_pod_and_to_no_later_one() {
    let path = "/api/v1/namespaces/demo/pods/curl/status";
    let script = Script::default().answers(path, &[(200, pod_object("a")), failure(409, "Conflict")]);
    let pod = Pod::of(serde_json::from_value(pod_object("a")).unwrap(), &Rules::default()).unwrap();
    let server = script.server();
    assert!(server.annotate(&pod, Some("enabled")).await.is_ok());
    assert!(matches!(server.annotate(&pod, None).await, Err(CallError::Another)));
    let asked = script.asked(path);
    assert!(asked.iter().all(|question| question.starts_with("PATCH ")), "{asked:?}");
}

/// The CNI plugin's question is answered by a task of its own.
#[tokio::test(start_paused = true)]
async fn a_task_may_ask() {
    let kubernetes = kubernetes(&Script::default(), &Store::new(Rules::default()));
    let asking = tokio::spawn(async move { kubernetes.admit("a", "demo", "curl").await });
    assert!(asking.await.unwrap().is_err());
}

const NODE: &str = "/api/v1/nodes/node1";
const NODE_EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const TAINT: &str = "example.com/not-ready";

fn node_object(taints: &[&str]) -> Value {
    let taints: Vec<_> = taints
        .iter()
        .map(|key| json!({ "key": key, "effect": "NoSchedule" }))
        .collect();
    json!({
        "kind": "Node", "apiVersion": "v1", "metadata": { "name": "node1", "uid": "n" }, "spec": { "taints": taints },
    })
}

fn methods(script: &Script) -> Vec<String> {
    let asked = script.asked(NODE).into_iter();
    asked.map(|asked| asked.split(' ').next().unwrap().to_owned()).collect()
}

/// A writer in between, a server that is away, and one that forbids it: it is read again each time.
#[tokio::test(start_paused = true)]
async fn the_startup_taint_is_taken_off_until_it_is_off() {
    let tainted = (200, node_object(&[TAINT, "other"]));
    let script = Script::default()
        .answers(
            NODE,
            &[
                failure(503, "ServiceUnavailable"),
                tainted.clone(),
                failure(409, "Conflict"),
                tainted.clone(),
                failure(422, "Invalid"),
                tainted.clone(),
                failure(403, "Forbidden"),
                tainted,
                (200, node_object(&["other"])),
            ],
        )
        .answers(NODE_EVENTS, &[(201, json!({}))]);
    kubernetes(&script, &Store::new(Rules::default()))
        .take_taint_off(TAINT)
        .await;
    assert_eq!(
        methods(&script),
        ["GET", "GET", "PATCH", "GET", "PATCH", "GET", "PATCH", "GET", "PATCH"]
    );
    assert_eq!(script.asked(NODE_EVENTS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_the_startup_taint_is_read_once_and_not_written() {
    let script = Script::default().answers(NODE, &[(200, node_object(&["other"]))]);
    kubernetes(&script, &Store::new(Rules::default()))
        .take_taint_off(TAINT)
        .await;
    assert_eq!(methods(&script), ["GET"]);
}

/// Another writer may have taken it off meanwhile.
#[tokio::test(start_paused = true)]
async fn a_taint_that_is_gone_when_it_is_read_again_is_off() {
    let answers = [
        (200, node_object(&[TAINT])),
        failure(422, "Invalid"),
        (200, node_object(&[])),
    ];
    let script = Script::default().answers(NODE, &answers);
    kubernetes(&script, &Store::new(Rules::default()))
        .take_taint_off(TAINT)
        .await;
    assert_eq!(methods(&script), ["GET", "PATCH", "GET"]);
}
