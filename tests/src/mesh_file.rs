//! The mesh file of the world: what all its agents are told.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use crate::{
    authority::spiffe,
    failure::{Because as _, Result},
    lab::World,
    pod::Pod,
};

/// Workloads, services and policies, as docs/mesh-file.md tells them.
#[derive(Debug)]
pub struct MeshFile {
    path: PathBuf,
    /// By uid.
    pub workloads: BTreeMap<String, Value>,
    /// By `namespace/hostname`.
    pub services: BTreeMap<String, Value>,
    /// By `namespace/name`.
    pub policies: BTreeMap<String, Value>,
    /// By network, the gateway's address as `network/ip`. Every workload of the network is told with it.
    pub gateways: BTreeMap<String, String>,
}

/// A service in the making.
#[derive(Debug)]
pub struct ServiceBuilder {
    world: Arc<World>,
    name: String,
    namespace: String,
    vips: Vec<String>,
    ports: BTreeMap<u16, u16>,
    endpoints: Vec<Pod>,
}

impl MeshFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let [workloads, services, policies] = [const { BTreeMap::new() }; 3];
        Self {
            path,
            workloads,
            services,
            policies,
            gateways: BTreeMap::new(),
        }
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let list = |map: &BTreeMap<String, Value>| Value::Array(map.values().cloned().collect());
        let workloads = self
            .workloads
            .values()
            .map(|workload| self.with_gateway(workload))
            .collect();
        let mut text = String::from("# Written by the lab.\n");
        for (key, values) in [
            ("workloads", Value::Array(workloads)),
            ("services", list(&self.services)),
            ("policies", list(&self.policies)),
        ] {
            emit_entry(&mut text, 0, key, &values);
        }
        text
    }

    /// Numbers of workloads, services and policies, as an agent's status tells them.
    pub fn sizes(&self) -> [usize; 3] {
        [self.workloads.len(), self.services.len(), self.policies.len()]
    }

    /// Replaces the file in one step; answers [`MeshFile::sizes`].
    pub fn write(&self) -> Result<[usize; 3]> {
        self.write_text(&self.text())?;
        Ok(self.sizes())
    }

    /// Replaces the file by any text in one step.
    pub fn write_text(&self, text: &str) -> Result {
        let fresh = self.path.with_extension("fresh");
        fs::write(&fresh, text).because(format!("writing {}", fresh.display()))?;
        fs::rename(&fresh, &self.path).because(format!("renaming to {}", self.path.display()))
    }

    /// A workload together with the gateway of its network, if that is known.
    pub(crate) fn with_gateway(&self, workload: &Value) -> Value {
        let mut workload = workload.clone();
        if let (Some(gateway), Some(fields)) = (
            self.gateways.get(&text_of(&workload, "network")),
            workload.as_object_mut(),
        ) && fields.get("protocol").is_some_and(|protocol| protocol == "HBONE")
        {
            fields.insert(
                "networkGateway".to_owned(),
                json!({ "destination": gateway, "hboneMtlsPort": 15008 }),
            );
        }
        workload
    }

    /// Adds a workload written as the file wants it, with `uid`.
    pub fn add_workload(&mut self, workload: Value) {
        self.workloads.insert(text_of(&workload, "uid"), workload);
    }

    /// Adds a service written as the file wants it, with `namespace` and `hostname`.
    pub fn add_service(&mut self, service: Value) {
        let key = format!("{}/{}", text_of(&service, "namespace"), text_of(&service, "hostname"));
        self.services.insert(key, service);
    }

    /// Adds a policy written as the file wants it, with `name` and `namespace`.
    pub fn policy(&mut self, policy: Value) {
        self.policies.insert(
            format!("{}/{}", text_of(&policy, "namespace"), text_of(&policy, "name")),
            policy,
        );
    }
}

impl ServiceBuilder {
    pub(crate) fn new(world: &Arc<World>, name: &str) -> Self {
        Self {
            world: Arc::clone(world),
            name: name.to_owned(),
            namespace: "demo".to_owned(),
            vips: Vec::new(),
            ports: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    /// An address of the service in one network. Several may be given.
    #[must_use]
    pub fn vip(mut self, network: &str, ip: IpAddr) -> Self {
        self.vips.push(format!("{network}/{ip}"));
        self
    }

    /// A port and the port of the application behind it.
    #[must_use]
    pub fn port(mut self, service: u16, target: u16) -> Self {
        self.ports.insert(service, target);
        self
    }

    /// A pod that serves it.
    #[must_use]
    pub fn endpoint(mut self, pod: &Pod) -> Self {
        self.endpoints.push(pod.clone());
        self
    }

    /// Puts it into the mesh file; answers its hostname.
    pub fn add(self) -> String {
        let hostname = format!("{}.{}.svc.cluster.local", self.name, self.namespace);
        let key = format!("{}/{hostname}", self.namespace);
        let ports: Map<String, Value> = self
            .ports
            .iter()
            .map(|(port, target)| (port.to_string(), json!(target)))
            .collect();
        let mut names: Vec<String> = self
            .endpoints
            .iter()
            .map(|pod| spiffe(pod.namespace(), pod.service_account()))
            .collect();
        names.sort();
        names.dedup();
        let mut mesh = self.world.mesh();
        for pod in &self.endpoints {
            if let Some(services) = mesh
                .workloads
                .get_mut(&pod.workload_uid())
                .and_then(|entry| entry.get_mut("services"))
                && let Some(services) = services.as_object_mut()
            {
                services.insert(key.clone(), Value::Object(ports.clone()));
            }
        }
        let service = json!({
            "name": self.name,
            "namespace": self.namespace,
            "hostname": hostname,
            "vips": self.vips,
            "ports": ports,
            "subjectAltNames": names,
        });
        mesh.services.insert(key, service);
        hostname
    }
}

fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Writes `key: value` in block style at `depth`.
fn emit_entry(text: &mut String, depth: usize, key: &str, value: &Value) {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let key = if plain {
        key.to_owned()
    } else {
        Value::from(key).to_string()
    };
    indent(text, depth);
    text.push_str(&key);
    text.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            map.iter()
                .for_each(|(key, value)| emit_entry(text, depth + 1, key, value));
        }
        Value::Array(list) if !list.is_empty() => {
            text.push('\n');
            list.iter().for_each(|item| emit_item(text, depth, item));
        }
        // JSON's scalars, `{}` and `[]` are YAML's.
        other => writeln!(text, " {other}").unwrap_or_default(),
    }
}

/// Writes `- item`; the first entry of a map stands on the line of the dash.
fn emit_item(text: &mut String, depth: usize, item: &Value) {
    indent(text, depth);
    text.push_str("- ");
    let nested = match item {
        Value::Object(map) if !map.is_empty() => {
            let mut nested = String::new();
            map.iter()
                .for_each(|(key, value)| emit_entry(&mut nested, depth + 1, key, value));
            nested
        }
        other => format!("{other}\n"),
    };
    text.push_str(nested.trim_start());
}

fn indent(text: &mut String, depth: usize) {
    (0..depth).for_each(|_| text.push_str("  "));
}
