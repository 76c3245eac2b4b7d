//! What is asked of the API server besides watching: one pod, one annotation, our own node, one event.

use std::{path::Path, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{PartialObjectMeta, Status},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{annotations::REDIRECTION, object::PodObject, pod::Pod, taint::NodeObject};

/// Longest call but watches.
const CALL: Duration = Duration::from_secs(10);
/// A connection that is silent for as long is dead; watches hear something more often.
const DEAD: Duration = Duration::from_secs(150);
/// Who writes, in the API server's records.
const MANAGER: &str = "isthmus";
/// What an event's name has of its pod's, in bytes.
const LONGEST_STEM: usize = 200;
/// Longest text of an event, in bytes (`note` of events.k8s.io/v1).
const LONGEST_NOTE: usize = 1000;

/// The API server, as the agent of one node.
#[derive(Clone)]
pub(super) struct ApiServer {
    client: Client,
    node: String,
    address: String,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum NoWay {
    /// The kubeconfig.
    #[error("reading the kubeconfig {path}")]
    Kubeconfig {
        /// Its path.
        path: std::path::PathBuf,
        /// Cause.
        #[source]
        cause: kube::config::KubeconfigError,
    },
    /// The service account of our pod.
    #[error(
        "reading the service account of this pod (is its token mounted? automountServiceAccountToken must not be false; \
         outside of a pod say --kubeconfig FILE)"
    )]
    ServiceAccount(#[source] kube::config::InClusterError),
    /// What they say cannot be used.
    #[error("preparing to speak to the API server at {address}")]
    Client {
        /// Where it is.
        address: String,
        /// Cause.
        #[source]
        cause: Box<kube::Error>,
    },
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// There is no such object.
    #[error("the API server knows nothing of that name")]
    Absent,
    /// It is another object of the same name by now, or not as it was read.
    #[error("it is another object of the same name by now, or was changed meanwhile")]
    Another,
    /// The server or the way to it.
    #[error("{}", words(.0))]
    Api(Box<kube::Error>),
    /// No answer.
    #[error("the API server did not answer within {}s", .0.as_secs())]
    Late(Duration),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 404 => Self::Absent,
            kube::Error::Api(status) if matches!(status.code, 409 | 422) => Self::Another,
            _ => Self::Api(Box::new(error)),
        }
    }
}

impl ApiServer {
    /// By a kubeconfig, or as the service account of the pod we run in. Nothing is asked yet.
    pub(super) async fn open(kubeconfig: Option<&Path>, node: &str) -> Result<Self, NoWay> {
        let mut config = match kubeconfig {
            Some(path) => of_file(path).await?,
            None => Config::incluster().map_err(NoWay::ServiceAccount)?,
        };
        config.read_timeout = Some(DEAD);
        config.reset_reader_on_write = true;
        // What fails is tried again by who asks, at its own pace.
        config.default_retry = false;
        let address = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|cause| NoWay::Client {
            address: address.clone(),
            cause: Box::new(cause),
        })?;
        Ok(Self {
            client,
            node: node.to_owned(),
            address,
        })
    }

    /// One that a test answers for.
    #[cfg(test)]
    pub(super) fn scripted(client: Client) -> Self {
        Self {
            client,
            node: "node1".to_owned(),
            address: "https://scripted/".to_owned(),
        }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// All pods, for watching those of this node.
    pub(super) fn pods(&self) -> Api<PodObject> {
        Api::all(self.client.clone())
    }

    /// The fields that tell pods of this node.
    pub(super) fn on_this_node(&self) -> String {
        format!("spec.nodeName={}", self.node)
    }

    /// All namespaces, without anything but their metadata.
    pub(super) fn namespaces(&self) -> Api<PartialObjectMeta<Namespace>> {
        Api::all(self.client.clone())
    }

    /// One pod.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<PodObject, CallError> {
        let api: Api<PodObject> = Api::namespaced(self.client.clone(), namespace);
        bounded(api.get(name)).await
    }

    /// One namespace.
    pub(super) async fn namespace(&self, name: &str) -> Result<PartialObjectMeta<Namespace>, CallError> {
        bounded(self.namespaces().get(name)).await
    }

    /// Writes what a pod's redirection is, or takes that away. Answers the pod as it is then.
    pub(super) async fn annotate(&self, pod: &Pod, redirection: Option<&str>) -> Result<PodObject, CallError> {
        let api: Api<PodObject> = Api::namespaced(self.client.clone(), &pod.namespace);
        // The UID makes the server refuse to write to a later pod of the same name.
        let patch = Patch::Merge(json!({
            "metadata": { "uid": pod.object_uid, "annotations": { REDIRECTION: redirection } },
        }));
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        bounded(api.patch_status(&pod.name, &parameters, &patch)).await
    }

    /// Our own node.
    pub(super) async fn own_node(&self) -> Result<NodeObject, CallError> {
        let request = http::Request::get(self.own_path()).body(Vec::new());
        let node: NodeObject = bounded(self.client.request(request.map_err(unspeakable)?)).await?;
        // A name that is none in a path leads elsewhere.
        match node.metadata.name.as_deref() == Some(self.node.as_str()) {
            true => Ok(node),
            false => Err(CallError::Absent),
        }
    }

    /// Changes it by a JSON patch (RFC 6902), whose tests decide whether it is still as it was read.
    pub(super) async fn patch_own_node(&self, patch: &Value) -> Result<(), CallError> {
        let request = http::Request::patch(format!("{}?fieldManager={MANAGER}", self.own_path()))
            .header(http::header::CONTENT_TYPE, "application/json-patch+json")
            .body(patch.to_string().into_bytes());
        bounded(self.client.request_text(request.map_err(unspeakable)?))
            .await
            .map(drop)
    }

    fn own_path(&self) -> String {
        format!("/api/v1/nodes/{}", self.node)
    }

    /// Leaves a warning where `kubectl describe pod` shows it.
    pub(super) async fn warn(&self, pod: &Pod, reason: &str, note: &str) -> Result<(), CallError> {
        let regarding = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.object_uid,
        });
        let event = json!({ "type": "Warning", "action": "Enrol", "reason": reason, "regarding": regarding });
        self.tell((&pod.namespace, &pod.name), event, note).await
    }

    /// Leaves word of what was done to our own node where `kubectl describe node` shows it.
    pub(super) async fn note_of_node(&self, uid: &str, reason: &str, note: &str) -> Result<(), CallError> {
        let regarding = json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid });
        let event = json!({ "type": "Normal", "action": "Untaint", "reason": reason, "regarding": regarding });
        self.tell(("default", &self.node), event, note).await
    }

    /// Writes an event, made whole here, about who has this name.
    async fn tell(&self, (namespace, name): (&str, &str), mut event: Value, note: &str) -> Result<(), CallError> {
        let end = note.floor_char_boundary(LONGEST_NOTE);
        // The server adds some letters; a name that is as long as names may be leaves no room for them.
        let stem = name.get(..LONGEST_STEM).unwrap_or(name);
        let common = [
            ("apiVersion", json!("events.k8s.io/v1")),
            ("kind", json!("Event")),
            (
                "metadata",
                json!({ "generateName": format!("{stem}-"), "namespace": namespace }),
            ),
            ("eventTime", json!(micro_time(OffsetDateTime::now_utc()))),
            ("note", json!(note.get(..end).unwrap_or_default())),
            ("reportingController", json!("isthmus")),
            ("reportingInstance", json!(self.node)),
        ];
        if let Some(fields) = event.as_object_mut() {
            fields.extend(common.map(|(key, value)| (key.to_owned(), value)));
        }
        let request = http::Request::post(format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(event.to_string().into_bytes());
        bounded(self.client.request_text(request.map_err(unspeakable)?))
            .await
            .map(drop)
    }
}

fn unspeakable(error: http::Error) -> CallError {
    CallError::Api(Box::new(kube::Error::HttpError(error)))
}

/// What an operator needs of an error: what the server says, or where the way to it ends.
pub(super) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => words_of(status),
        other => crate::pods::registry::chain(other),
    }
}

/// The same of what the server says.
pub(super) fn words_of(status: &Status) -> String {
    format!("{} {}: {}", status.code, status.reason, status.message)
}

/// A moment in UTC as `MicroTime` has it: six digits behind the second, no more and no fewer.
fn micro_time(moment: OffsetDateTime) -> String {
    let (date, time) = (moment.date(), moment.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond()
    )
}

async fn of_file(path: &Path) -> Result<Config, NoWay> {
    let wrong = |cause| NoWay::Kubeconfig {
        path: path.to_owned(),
        cause,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(wrong)
}

async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match timeout(CALL, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Late(CALL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_six_digits_behind_the_second() {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(1_795_291_713_000_042_999).unwrap();
        assert_eq!(micro_time(moment), "2026-11-21T20:08:33.000042Z");
    }
}
