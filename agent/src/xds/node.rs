//! Who the agent says it is (wire-facts §1.3).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use isthmus_istio::discovery;
use prost_types::{ListValue, Struct, Value, value::Kind};

/// What istiod is told of the agent.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of its pod.
    pub name: String,
    /// Namespace of its pod: the one its token is of, or istiod refuses it.
    pub namespace: String,
    /// Address of its pod.
    pub ip: IpAddr,
    /// Where it runs; empty for a gateway. istiod sends the workloads of this node without being asked.
    pub node_name: String,
    /// Its cluster, as istiod knows it.
    pub cluster_id: String,
    /// What an operator adds; comes before what is known otherwise.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

impl Node {
    /// Its namespace where it runs in no pod.
    pub const NAMESPACE: &'static str = "istio-system";
    /// Its address where it runs in no pod. istiod wants one and does nothing with it.
    pub const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

    /// As the first request of a stream has it. istiod takes the kind of proxy from the first part of the id, and a
    /// gateway's is the same: it is told of workloads and services like an agent.
    #[must_use]
    pub fn message(&self) -> discovery::Node {
        let Self { name, namespace, .. } = self;
        let mut fields = BTreeMap::new();
        let mut put = |key: &str, text: &str| {
            if !text.is_empty() {
                fields.insert(key.to_owned(), value(Kind::StringValue(text.to_owned())));
            }
        };
        put("NAME", name);
        put("NAMESPACE", namespace);
        put("INSTANCE_IPS", &self.ip.to_string());
        put("NODE_NAME", &self.node_name);
        put("CLUSTER_ID", &self.cluster_id);
        for (key, given) in &self.metadata {
            fields.insert(key.clone(), json(given));
        }
        discovery::Node {
            id: format!("ztunnel~{}~{name}.{namespace}~{namespace}.svc.cluster.local", self.ip),
            cluster: String::new(),
            metadata: Some(Struct { fields }),
        }
    }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

/// serde_json reads no more than 128 levels.
fn json(given: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    value(match given {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(*truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(json).collect(),
        }),
        Json::Object(members) => Kind::StructValue(Struct {
            fields: members.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &discovery::Node, key: &str) -> Option<String> {
        match message.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    }

    #[test]
    fn istiod_is_told_who_asks() {
        let metadata = [
            ("ISTIO_VERSION".to_owned(), "1.28.0".into()),
            ("CLUSTER_ID".to_owned(), "east".into()),
            (
                "LABELS".to_owned(),
                serde_json::json!({"app": "isthmus", "n": [1, true, null]}),
            ),
        ];
        let node = Node {
            name: "isthmus-x".to_owned(),
            namespace: "istio-system".to_owned(),
            ip: "10.1.2.3".parse().unwrap(),
            node_name: "worker-1".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            metadata: metadata.into(),
        };
        let message = node.message();
        assert_eq!(
            message.id,
            "ztunnel~10.1.2.3~isthmus-x.istio-system~istio-system.svc.cluster.local"
        );
        for (key, expected) in [
            ("NAME", "isthmus-x"),
            ("NAMESPACE", "istio-system"),
            ("INSTANCE_IPS", "10.1.2.3"),
            ("NODE_NAME", "worker-1"),
            ("CLUSTER_ID", "east"),
            ("ISTIO_VERSION", "1.28.0"),
        ] {
            assert_eq!(text(&message, key).as_deref(), Some(expected), "{key}");
        }
        let Some(Kind::StructValue(labels)) = &message.metadata.unwrap().fields["LABELS"].kind else {
            panic!("an object stays one");
        };
        assert_eq!(labels.fields["app"].kind, Some(Kind::StringValue("isthmus".to_owned())));
    }

    #[test]
    fn a_gateway_names_no_node() {
        let node = Node {
            name: "gateway".to_owned(),
            namespace: Node::NAMESPACE.to_owned(),
            ip: Node::IP,
            node_name: String::new(),
            cluster_id: "Kubernetes".to_owned(),
            metadata: BTreeMap::new(),
        };
        let message = node.message();
        assert_eq!(
            message.id,
            "ztunnel~1.1.1.1~gateway.istio-system~istio-system.svc.cluster.local"
        );
        assert_eq!(text(&message, "NODE_NAME"), None);
    }
}
