//! What a client of istiod shows: a token bound to its pod, and the root it trusts.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    cluster::{Cluster, SYSTEM},
    roots::write,
};
use crate::{
    agent::IstiodOptions,
    failure::{Because as _, Result},
    netns::Netns,
};

/// The name in istiod's certificate.
pub(super) const ISTIOD: &str = "istiod.istio-system.svc";
const LIFE: Duration = Duration::from_secs(3600);

/// Files and settings of an agent or a gateway in istiod mode.
#[derive(Clone, Debug)]
pub struct Access {
    cluster: Cluster,
    pod: String,
    account: String,
    token: PathBuf,
}

impl Access {
    /// Tells the cluster of the client's own pod, and writes a token bound to it.
    pub(super) fn make(
        cluster: &Cluster,
        pod: &str,
        account: &str,
        node: Option<&str>,
        netns: &Arc<Netns>,
    ) -> Result<Self> {
        cluster.account(SYSTEM, account)?;
        let ip = IpAddr::V4(first_address(netns)?);
        let mut spec = json!({
            "serviceAccountName": account,
            "containers": [{ "name": "isthmus", "image": "isthmus" }],
        });
        if let (Some(node), Some(fields)) = (node, spec.as_object_mut()) {
            fields.insert("nodeName".to_owned(), node.into());
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": pod, "namespace": SYSTEM, "labels": {
                "app": account, "istio.io/dataplane-mode": "none",
            } },
            "spec": spec,
        });
        cluster.api().apply(&object)?;
        super::pod::fill_status(&mut object, &[ip], true);
        cluster.api().apply_status(&object)?;
        let token = cluster.world().file_for(&format!("{}-{pod}", cluster.name()));
        let access = Self {
            cluster: cluster.clone(),
            pod: pod.to_owned(),
            account: account.to_owned(),
            token: token.with_extension("token"),
        };
        access.renew()?;
        Ok(access)
    }

    /// Replaces the token by a new one, as kubelet does.
    pub fn renew(&self) -> Result {
        let at = format!("/api/v1/namespaces/{SYSTEM}");
        let pod = self.cluster.api().get(&format!("{at}/pods/{}", self.pod))?;
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": ["istio-ca"],
                "expirationSeconds": LIFE.as_secs(),
                "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": uid },
            },
        });
        let path = format!("{at}/serviceaccounts/{}/token", self.account);
        let answer = self.cluster.api().post(&path, &request)?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        let fresh = self.token.with_extension("fresh");
        write(&fresh, token.because("a request for a token is answered with one")?)?;
        std::fs::rename(&fresh, &self.token).because(format!("replacing {}", self.token.display()))
    }

    /// The token's file.
    pub fn token(&self) -> &Path {
        &self.token
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What its process is told.
    pub fn options(&self) -> IstiodOptions {
        IstiodOptions {
            address: format!("https://{}", self.cluster.istiod_at()),
            ca_address: None,
            signs: true,
            roots: self.cluster.authority().root(),
            other_name: Some(ISTIOD.to_owned()),
            token: self.token.clone(),
            cluster: self.cluster.name().to_owned(),
            network: None,
            namespace: SYSTEM.to_owned(),
            pod: self.pod.clone(),
            service_account: self.account.clone(),
        }
    }
}

/// The first IPv4 address of a namespace that is not loopback's.
fn first_address(netns: &Netns) -> Result<std::net::Ipv4Addr> {
    let text = netns.ip_output(&["-4", "-o", "addr", "show", "scope", "global"])?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = words.iter().skip_while(|word| **word != "inet").nth(1);
    let ip = after.and_then(|word| word.split('/').next());
    ip.because(format!("{} has an address", netns.name()))?
        .parse()
        .because("reading an address")
}
