//! Objects that checks make, all in namespaces of their own.

use serde_json::{Value, json};

use isthmus_tests::{
    Result,
    fleet::{Kubectl, WORKLOAD, merge},
};

/// A namespace whose pods are in the mesh.
pub(crate) const DEMO: &str = "isthmus-demo";
/// A namespace whose pods are not.
pub(crate) const PLAIN: &str = "isthmus-plain";
/// The port of every server.
pub(crate) const PORT: u16 = 5000;

/// Both namespaces; the first admits nothing but mTLS.
pub(crate) fn namespaces() -> [Value; 3] {
    [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": DEMO, "labels": { "istio.io/dataplane-mode": "ambient" },
        } }),
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": PLAIN } }),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": { "name": "strict", "namespace": DEMO }, "spec": { "mtls": { "mode": "STRICT" } },
        }),
    ]
}

/// Takes away everything that checks have made.
pub(crate) fn remove(kubectl: &Kubectl) -> Result {
    let words = ["delete", "namespace", DEMO, PLAIN, "--ignore-not-found", "--wait=true"];
    kubectl.run_patiently(&words).map(drop)
}

/// A service account in the mesh's namespace.
pub(crate) fn account(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": DEMO } })
}

/// Pods of a template, as a Deployment.
pub(crate) fn deployment(namespace: &str, name: &str, replicas: usize, spec: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": spec },
        },
    })
}

/// A command that has BusyBox run a script.
pub(crate) fn sh(script: &str) -> [&str; 4] {
    ["/bin/busybox", "sh", "-c", script]
}

/// A pod of one container; both have besides what is told.
fn pod(account: &str, container: &Value, more: &Value) -> Value {
    let mut main = json!({ "name": "main", "image": WORKLOAD, "imagePullPolicy": "IfNotPresent" });
    merge(&mut main, container);
    let mut spec = json!({ "serviceAccountName": account, "terminationGracePeriodSeconds": 0, "containers": [main] });
    merge(&mut spec, more);
    spec
}

/// A pod that does nothing until somebody runs a program in it.
pub(crate) fn idle(account: &str) -> Value {
    pod(account, &json!({}), &json!({}))
}

/// A pod that runs a script, and has besides what is told.
pub(crate) fn runs(account: &str, script: &str, more: &Value) -> Value {
    pod(account, &json!({ "command": sh(script) }), more)
}

/// A web server on [`PORT`] that answers every question with `answer`, and is probed by its kubelet in three ways; `before` is a
/// script that it runs first.
pub(crate) fn server(account: &str, answer: &str, before: &str) -> Value {
    let script = format!(
        "/bin/busybox mkdir /www; echo {answer} > /www/index.html; {before}\nexec /bin/busybox httpd -f -p {PORT} -h /www"
    );
    let asked = json!({ "port": PORT, "path": "/" });
    let container = json!({
        "command": sh(&script),
        "ports": [{ "containerPort": PORT }],
        "startupProbe": { "periodSeconds": 1, "failureThreshold": 3, "tcpSocket": { "port": PORT } },
        "readinessProbe": { "periodSeconds": 1, "failureThreshold": 3, "httpGet": asked },
        "livenessProbe": { "periodSeconds": 2, "failureThreshold": 3, "httpGet": asked },
    });
    pod(account, &container, &json!({}))
}

/// A service of pods `app=NAME`; a global one is known to all clusters.
pub(crate) fn service(namespace: &str, name: &str, global: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "labels": { "istio.io/global": global.to_string() } },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": PORT }] },
    })
}

/// Pods that run a shell script once each, `count` of them, `beside` at a time; one that fails is not tried again.
pub(crate) fn job(name: &str, account: &str, count: usize, beside: usize, script: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name, "namespace": DEMO },
        "spec": {
            "completions": count, "parallelism": beside, "backoffLimit": 0,
            "template": { "metadata": { "labels": { "app": name } }, "spec": runs(account, script, &json!({ "restartPolicy": "Never" })) },
        },
    })
}

/// One question to a server; fails unless it is answered.
pub(crate) fn ask(address: &str) -> String {
    // Debian's static BusyBox crashes when wget is told a timeout of its own.
    format!("/bin/busybox timeout 5 /bin/busybox wget -q -O - http://{address}:{PORT}/")
}
