//! A service with fixed addresses, and where its endpoints are.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use crate::{failure::Result, pod::Pod};

/// A service in the making.
#[derive(Debug)]
pub struct ClusterServiceBuilder {
    cluster: Cluster,
    name: String,
    namespace: String,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    selector: Map<String, Value>,
    vips: Vec<IpAddr>,
    ports: Vec<(u16, u16)>,
    endpoints: Vec<IpAddr>,
    balancer: Option<IpAddr>,
}

impl ClusterServiceBuilder {
    pub(super) fn new(cluster: &Cluster, name: &str) -> Self {
        let [labels, annotations, selector] = std::array::from_fn(|_| Map::new());
        Self {
            cluster: cluster.clone(),
            name: name.to_owned(),
            namespace: "demo".to_owned(),
            labels,
            annotations,
            selector,
            vips: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            balancer: None,
        }
    }

    /// Its namespace; `demo` when not said.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// All clusters serve it.
    #[must_use]
    pub fn global(self) -> Self {
        self.label("istio.io/global", "true")
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.into());
        self
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }

    /// Pods with this label serve it; those with `app` = its name when not said.
    #[must_use]
    pub fn selects(mut self, name: &str, value: &str) -> Self {
        self.selector.insert(name.to_owned(), value.into());
        self
    }

    /// Its address of one family, in the cluster's range (see [`crate::Network::vip`]). Without one the cluster chooses.
    #[must_use]
    pub fn vip(mut self, ip: IpAddr) -> Self {
        self.vips.push(ip);
        self
    }

    /// A port and the port of the application behind it.
    #[must_use]
    pub fn port(mut self, service: u16, target: u16) -> Self {
        self.ports.push((service, target));
        self
    }

    /// The endpoint controller has found this pod.
    #[must_use]
    pub fn endpoint(self, pod: &Pod) -> Self {
        self.endpoint_at(pod.ip())
    }

    /// The endpoint controller has found something at this address.
    #[must_use]
    pub fn endpoint_at(mut self, ip: IpAddr) -> Self {
        self.endpoints.push(ip);
        self
    }

    /// A load balancer outside the cluster leads to it.
    #[must_use]
    pub fn load_balancer(mut self, ip: IpAddr) -> Self {
        self.balancer = Some(ip);
        self
    }

    /// Tells the cluster; answers its hostname.
    pub fn add(mut self) -> Result<String> {
        self.cluster.namespace(&self.namespace)?;
        if self.selector.is_empty() && self.endpoints.is_empty() {
            self.selector.insert("app".to_owned(), self.name.clone().into());
        }
        let api = self.cluster.api();
        api.apply(&self.object())?;
        if let Some(ip) = self.balancer {
            let mut status = self.head("v1", "Service", &self.name);
            status["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": ip }] } });
            api.apply_status(&status)?;
        }
        for v6 in [false, true] {
            let ips: Vec<_> = self.endpoints.iter().filter(|ip| ip.is_ipv6() == v6).collect();
            if !ips.is_empty() {
                api.apply(&self.slice(&ips, v6))?;
            }
        }
        Ok(format!("{}.{}.svc.cluster.local", self.name, self.namespace))
    }

    fn object(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, target)| json!({ "name": format!("tcp-{port}"), "port": port, "targetPort": target }))
            .collect();
        let mut spec = json!({ "ports": ports });
        let families: Vec<&str> = self
            .vips
            .iter()
            .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
            .collect();
        if !families.is_empty() {
            spec["clusterIP"] = json!(self.vips.first());
            spec["clusterIPs"] = json!(self.vips);
            spec["ipFamilyPolicy"] = json!(if families.len() > 1 { "RequireDualStack" } else { "SingleStack" });
            spec["ipFamilies"] = json!(families);
        }
        if !self.selector.is_empty() {
            spec["selector"] = Value::Object(self.selector.clone());
        }
        if self.balancer.is_some() {
            spec["type"] = "LoadBalancer".into();
        }
        let mut object = self.head("v1", "Service", &self.name);
        object["metadata"]["labels"] = Value::Object(self.labels.clone());
        object["metadata"]["annotations"] = Value::Object(self.annotations.clone());
        object["spec"] = spec;
        object
    }

    fn slice(&self, ips: &[&IpAddr], v6: bool) -> Value {
        let (name, family) = if v6 {
            (format!("{}-v6", self.name), "IPv6")
        } else {
            (format!("{}-v4", self.name), "IPv4")
        };
        let endpoints: Vec<Value> = ips
            .iter()
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true, "serving": true } }))
            .collect();
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, target)| json!({ "name": format!("tcp-{port}"), "port": target, "protocol": "TCP" }))
            .collect();
        let mut slice = self.head("discovery.k8s.io/v1", "EndpointSlice", &name);
        slice["metadata"]["labels"] = json!({ "kubernetes.io/service-name": self.name });
        slice["addressType"] = family.into();
        slice["endpoints"] = endpoints.into();
        slice["ports"] = ports.into();
        slice
    }

    fn head(&self, version: &str, kind: &str, name: &str) -> Value {
        json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": { "name": name, "namespace": self.namespace },
        })
    }
}
