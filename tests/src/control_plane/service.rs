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
            api.apply_status(&json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": self.name, "namespace": self.namespace },
                "status": { "loadBalancer": { "ingress": [{ "ip": ip }] } },
            }))?;
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
        let mut spec = Map::from_iter([("ports".to_owned(), Value::from(ports))]);
        let mut set = |name: &str, value: Value| drop(spec.insert(name.to_owned(), value));
        if !self.vips.is_empty() {
            let families = self.vips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
            set("clusterIP", json!(self.vips.first()));
            set("clusterIPs", json!(self.vips));
            set("ipFamilies", json!(families.collect::<Vec<_>>()));
            let both = if self.vips.len() > 1 {
                "RequireDualStack"
            } else {
                "SingleStack"
            };
            set("ipFamilyPolicy", both.into());
        }
        if !self.selector.is_empty() {
            set("selector", self.selector.clone().into());
        }
        if self.balancer.is_some() {
            set("type", "LoadBalancer".into());
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": spec,
        })
    }

    /// As the endpoint controller writes it: pods that a selector found are referred to. Where they are not, istiod makes a
    /// workload of the endpoint itself, which stays healthy whatever becomes of the pod.
    fn referred(&self, ip: &IpAddr) -> Value {
        let name = format!("at-{}", ip.to_string().replace(['.', ':'], "-"));
        let pod = json!({ "kind": "Pod", "namespace": self.namespace, "name": name });
        let target = if self.selector.is_empty() { Value::Null } else { pod };
        json!({ "addresses": [ip], "conditions": { "ready": true, "serving": true }, "targetRef": target })
    }

    fn slice(&self, ips: &[&IpAddr], v6: bool) -> Value {
        let (name, family) = if v6 {
            (format!("{}-v6", self.name), "IPv6")
        } else {
            (format!("{}-v4", self.name), "IPv4")
        };
        let endpoints: Vec<Value> = ips.iter().map(|ip| self.referred(ip)).collect();
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, target)| json!({ "name": format!("tcp-{port}"), "port": target, "protocol": "TCP" }))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        })
    }
}
