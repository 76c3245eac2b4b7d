//! How an agent or a gateway of the lab finds its istiod.

use std::path::PathBuf;

/// A control plane instead of the lab's mesh file and embedded CA.
#[derive(Clone, Debug)]
pub struct IstiodOptions {
    /// `https://HOST:PORT`, as it is reached from nodes.
    pub address: String,
    /// Where its CA is; as `address` when not said.
    pub ca_address: Option<String>,
    /// Certificates come from istiod's CA; otherwise from the lab's embedded one.
    pub signs: bool,
    /// PEM file of who istiod is certified by; read anew by the agent for every connection.
    pub roots: PathBuf,
    /// Another name its certificate may have.
    pub other_name: Option<String>,
    /// File of the bearer token; read anew by the agent for every call.
    pub token: PathBuf,
    /// The cluster, as istiod knows it.
    pub cluster: String,
    /// The network of the agent's node; the lab's when not said.
    pub network: Option<String>,
    /// Namespace of the agent's own pod.
    pub namespace: String,
    /// Name of the agent's own pod.
    pub pod: String,
    /// Service account of the agent's own pod.
    pub service_account: String,
}

impl IstiodOptions {
    /// The environment that says all this, the network apart.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut all = vec![
            ("XDS_ADDRESS", self.address.clone()),
            ("XDS_ROOT_CA", path(&self.roots)),
            ("AUTH_TOKEN", path(&self.token)),
            ("CLUSTER_ID", self.cluster.clone()),
            ("POD_NAMESPACE", self.namespace.clone()),
            ("POD_NAME", self.pod.clone()),
            ("SERVICE_ACCOUNT", self.service_account.clone()),
        ];
        if let Some(name) = &self.other_name {
            all.push(("ALT_XDS_HOSTNAME", name.clone()));
        }
        if self.signs {
            let address = self.ca_address.as_ref().unwrap_or(&self.address);
            all.push(("CA_ADDRESS", address.clone()));
            all.push(("CA_ROOT_CA", path(&self.roots)));
            if let Some(name) = &self.other_name {
                all.push(("ALT_CA_HOSTNAME", name.clone()));
            }
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
