//! A small client of the Kubernetes API: server-side apply of values, and waiting by watching.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use ureq::{
    Agent, Body,
    http::{Request, Response, StatusCode},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    failure::{Because as _, Failure, Result},
    netns::Netns,
};

const CALL: Duration = Duration::from_secs(20);
/// A custom resource definition takes most of it; no object of a test comes near.
const MOST: u64 = 64 << 20;

/// An apiserver, spoken to from inside its own namespace as a member of `system:masters`.
#[derive(Debug)]
pub struct Api {
    agent: Agent,
    netns: Arc<Netns>,
    base: String,
    token: String,
}

impl Api {
    /// The apiserver at `base`, certified by `root`.
    pub(super) fn new(netns: &Arc<Netns>, base: &str, root: &str, token: &str) -> Result<Self> {
        let root = Certificate::from_pem(root.as_bytes())?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder().tls_config(tls).http_status_as_error(false);
        Ok(Self {
            agent: config.timeout_connect(Some(CALL)).build().new_agent(),
            netns: Arc::clone(netns),
            base: base.to_owned(),
            token: token.to_owned(),
        })
    }

    /// Creates an object or makes it what is told. Answers it as it is then.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.apply_to(object, "")
    }

    /// As [`Api::apply`], for the object's status, which an ordinary apply leaves alone.
    pub fn apply_status(&self, object: &Value) -> Result<Value> {
        self.apply_to(object, "/status")
    }

    fn apply_to(&self, object: &Value, part: &str) -> Result<Value> {
        let path = path_of(object)?;
        self.apply_text(&format!("{path}{part}"), object.to_string())
    }

    /// Applies JSON or YAML at a path.
    pub(super) fn apply_text(&self, path: &str, text: String) -> Result<Value> {
        let path = format!("{path}?fieldManager=lab&force=true");
        self.call("PATCH", &path, Some(("application/apply-patch+yaml", text)))
    }

    /// What is at a path, for example `/api/v1/namespaces/demo/pods/curl`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None)
    }

    /// Posts to a path, for example a request for a token.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("POST", path, Some(("application/json", object.to_string())))
    }

    /// Deletes an object told by its kind and name, at once.
    pub fn delete(&self, object: &Value) -> Result {
        let path = format!("{}?gracePeriodSeconds=0", path_of(object)?);
        self.call("DELETE", &path, None).map(drop)
    }

    /// Waits by a watch until `holds` answers something of the object; fails with what the object was last.
    #[track_caller]
    pub fn until<T>(&self, object: &Value, bound: Duration, holds: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let path = path_of(object)?;
        let (collection, name) = path.rsplit_once('/').because("a path has a name")?;
        let begin = Instant::now();
        let path = format!("{collection}?watch=1&fieldSelector=metadata.name%3D{name}");
        let response = self.send("GET", &path, None, bound)?;
        let mut last = String::from("absent");
        for line in BufReader::new(response.into_body().into_reader().take(MOST)).lines() {
            let Ok(line) = line else { break };
            let event: Value = serde_json::from_str(&line).because("reading an event")?;
            if let Some(answer) = event.get("object").and_then(&holds) {
                return Ok(answer);
            }
            last = event.pointer("/object/status").unwrap_or(&event).to_string();
        }
        Err(Failure::new(format!(
            "not within {:?} of {bound:?}: what was awaited of {name}; last it was {last}",
            begin.elapsed()
        )))
    }

    /// Whether the apiserver says that it is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.send("GET", "/readyz", None, CALL)
            .is_ok_and(|response| response.status() == StatusCode::OK)
    }

    fn call(&self, method: &str, path: &str, body: Option<(&str, String)>) -> Result<Value> {
        let mut response = self.send(method, path, body, CALL)?;
        let text = response.body_mut().with_config().limit(MOST).read_to_string()?;
        if response.status().is_success() {
            return serde_json::from_str(&text).because(format!("reading the answer to {method} {path}"));
        }
        let said = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|status| Some(status.get("message")?.as_str()?.to_owned()))
            .unwrap_or(text);
        Err(Failure::new(format!("{method} {path}: {}: {said}", response.status())))
    }

    fn send(&self, method: &str, path: &str, body: Option<(&str, String)>, bound: Duration) -> Result<Response<Body>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token));
        let (kind, text) = body.unwrap_or(("application/json", String::new()));
        let request = request.header("content-type", kind).body(text)?;
        let run = || {
            let request = self.agent.configure_request(request);
            self.agent.run(request.timeout_global(Some(bound)).build())
        };
        self.netns.enter(run)?.because(format!("{method} {path}"))
    }
}

/// Where an object is, by its `apiVersion`, `kind` and `metadata`.
fn path_of(object: &Value) -> Result<String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = text(object, "kind").because("an object has a kind")?;
    let version = text(object, "apiVersion").because("an object has an apiVersion")?;
    let metadata = object.get("metadata").because("an object has metadata")?;
    let name = text(metadata, "name").because("an object has a name")?;
    let api = if version.contains('/') { "apis" } else { "api" };
    let space = text(metadata, "namespace").map_or_else(String::new, |space| format!("namespaces/{space}/"));
    Ok(format!("/{api}/{version}/{space}{}/{name}", plural(&kind)))
}

/// The name of a kind's collection, by the rule that all kinds used here follow.
fn plural(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) if !kind.ends_with("ay") => format!("{stem}ies"),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{path_of, plural};

    #[test]
    fn kinds_become_the_names_of_their_collections() {
        let pairs = [
            ("Pod", "pods"),
            ("ServiceEntry", "serviceentries"),
            ("AuthorizationPolicy", "authorizationpolicies"),
            ("Gateway", "gateways"),
            ("GatewayClass", "gatewayclasses"),
            ("EndpointSlice", "endpointslices"),
            ("PeerAuthentication", "peerauthentications"),
        ];
        assert_eq!(pairs.map(|(kind, _)| plural(kind)), pairs.map(|(_, plural)| plural));
    }

    #[test]
    fn objects_are_found_with_and_without_a_namespace_and_a_group() {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "demo" } });
        assert_eq!(path_of(&object).unwrap(), "/api/v1/namespaces/demo");
        let object = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "a", "namespace": "b" } });
        let path = path_of(&object).unwrap();
        assert_eq!(path, "/apis/discovery.k8s.io/v1/namespaces/b/endpointslices/a");
        assert!(path_of(&json!({ "kind": "Pod" })).is_err());
    }
}
