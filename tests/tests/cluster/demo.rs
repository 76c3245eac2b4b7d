//! Objects that checks make, all in namespaces of their own.

use serde_json::{Value, json};

use isthmus_tests::{
    Result,
    fleet::{Kubectl, WORKLOAD},
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

/// A pod that does nothing until somebody runs a program in it.
pub(crate) fn idle(account: &str) -> Value {
    json!({
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "main", "image": WORKLOAD, "imagePullPolicy": "IfNotPresent" }],
    })
}

/// A web server on [`PORT`] that answers every question with `answer`, and is probed by its kubelet in three ways.
pub(crate) fn server(account: &str, answer: &str) -> Value {
    let probe = |period: u8, how: (&str, Value)| {
        let mut probe = json!({ "periodSeconds": period, "failureThreshold": 3 });
        if let Some(fields) = probe.as_object_mut() {
            fields.insert(how.0.to_owned(), how.1);
        }
        probe
    };
    let script = format!(
        "/bin/busybox mkdir /www; echo {answer} > /www/index.html; exec /bin/busybox httpd -f -p {PORT} -h /www"
    );
    json!({
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main", "image": WORKLOAD, "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/busybox", "sh", "-c", script],
            "ports": [{ "containerPort": PORT }],
            "startupProbe": probe(1, ("tcpSocket", json!({ "port": PORT }))),
            "readinessProbe": probe(1, ("httpGet", json!({ "port": PORT, "path": "/" }))),
            "livenessProbe": probe(2, ("httpGet", json!({ "port": PORT, "path": "/" }))),
        }],
    })
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
            "template": { "metadata": { "labels": { "app": name } }, "spec": {
                "serviceAccountName": account,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main", "image": WORKLOAD, "imagePullPolicy": "IfNotPresent",
                    "command": ["/bin/busybox", "sh", "-c", script],
                }],
            } },
        },
    })
}

/// One question to a server; fails unless it is answered.
pub(crate) fn ask(address: &str) -> String {
    // Debian's static BusyBox crashes when wget is told a timeout of its own.
    format!("/bin/busybox timeout 5 /bin/busybox wget -q -O - http://{address}:{PORT}/")
}
