//! The startup taint of our own node: what is to be taken off, as a patch that changes nothing else. Pure.
//!
//! A node may join with a taint that keeps pods away until the mesh is there (docs/kubernetes.md). Others write taints as well,
//! and the API server knows no patch of one of them: the patch asks that the list is as it was read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};

/// A node on the wire, cut down to what is looked at.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct NodeObject {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
}

/// Of its spec.
#[derive(Clone, Debug, Default, Deserialize)]
struct NodeSpec {
    /// Written back as they were read, with fields that nobody here knows.
    taints: Option<Vec<Value>>,
}

impl NodeObject {
    /// The JSON patch (RFC 6902) that takes the taints of this key off, whatever their effect and value; none when there
    /// are none.
    pub(super) fn without(&self, key: &str) -> Option<Value> {
        let all = self.spec.taints.as_ref()?;
        let is_ours = |taint: &&Value| taint.get("key").and_then(Value::as_str) == Some(key);
        let (ours, others): (Vec<&Value>, Vec<&Value>) = all.iter().partition(is_ours);
        if ours.is_empty() {
            return None;
        }
        let path = "/spec/taints";
        let change = if others.is_empty() {
            json!({ "op": "remove", "path": path })
        } else {
            json!({ "op": "replace", "path": path, "value": others })
        };
        Some(json!([
            // A later node of the same name is another one.
            { "op": "test", "path": "/metadata/uid", "value": self.metadata.uid },
            { "op": "test", "path": path, "value": all },
            change,
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "example.com/not-ready";

    fn node(taints: &Value) -> NodeObject {
        let object = json!({ "metadata": { "name": "node1", "uid": "u" }, "spec": { "podCIDR": "10.0.0.0/24", "taints": taints } });
        serde_json::from_value(object).unwrap()
    }

    fn taint(key: &str, effect: &str) -> Value {
        json!({ "key": key, "effect": effect })
    }

    #[test]
    fn only_our_key_is_taken_off_and_others_are_written_as_they_were_read() {
        let kept = json!({ "key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-11-21T20:00:00Z", "news": 1 });
        let all = json!([
            taint(KEY, "NoSchedule"),
            kept,
            taint(KEY, "NoExecute"),
            taint("example.com/not-ready-yet", "NoSchedule")
        ]);
        let patch = node(&all).without(KEY).unwrap();
        assert_eq!(
            patch,
            json!([
                { "op": "test", "path": "/metadata/uid", "value": "u" },
                { "op": "test", "path": "/spec/taints", "value": all },
                { "op": "replace", "path": "/spec/taints", "value": [kept, taint("example.com/not-ready-yet", "NoSchedule")] },
            ])
        );
    }

    #[test]
    fn the_last_taint_takes_the_list_along() {
        let with_value = json!([{ "key": KEY, "value": "true", "effect": "NoSchedule" }]);
        let patch = node(&with_value).without(KEY).unwrap();
        assert_eq!(patch[2], json!({ "op": "remove", "path": "/spec/taints" }));
    }

    #[test]
    fn a_node_without_the_taint_is_left_alone() {
        for taints in [
            Value::Null,
            json!([]),
            json!([taint("other", "NoSchedule")]),
            json!([{ "effect": "NoSchedule" }, 7]),
        ] {
            assert_eq!(node(&taints).without(KEY), None, "{taints}");
        }
        let bare: NodeObject = serde_json::from_value(json!({})).unwrap();
        assert_eq!(bare.without(KEY), None);
    }
}
