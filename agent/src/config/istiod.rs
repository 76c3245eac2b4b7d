use std::collections::BTreeMap;

use super::reader::Reader;
use crate::istiod::{Headers, Roots, Token};

/// What is needed to talk to istiod (wire-facts.md §1.1, §2.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Istiod {
    /// URL of the workload API; `None` when it was given empty.
    pub xds_address: Option<String>,
    /// Who it must be certified by.
    pub xds_roots: Roots,
    /// Another name its certificate may have.
    pub xds_hostname: Option<String>,
    /// Headers to it; values may be secret.
    pub xds_headers: Headers,
    /// Ask only for what pods of this node talk to.
    pub on_demand: bool,
    /// URL of the CA; `None` when it was given empty.
    pub ca_address: Option<String>,
    /// Who it must be certified by.
    pub ca_roots: Roots,
    /// Another name its certificate may have.
    pub ca_hostname: Option<String>,
    /// Headers to it; values may be secret.
    pub ca_headers: Headers,
    /// What the agent proves itself with.
    pub token: Token,
    /// The agent's own pod: name, namespace, service account, address.
    pub pod: OwnPod,
    /// Node metadata.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// The agent's own pod, where it runs in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPod {
    /// Its name.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its service account.
    pub service_account: Option<String>,
    /// Its address.
    pub ip: Option<std::net::IpAddr>,
}

impl Istiod {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let host = if reader.given.in_cluster {
            "istiod.istio-system.svc"
        } else {
            "localhost"
        };
        let xds_address = reader.endpoint("xds-address", "https", Some(format!("https://{host}:15012")));
        let ca_address = reader.endpoint("ca-address", "https", xds_address.clone());
        let ip = reader.parsed("instance-ip", |text| match text.parse() {
            Ok(ip) => Ok((ip, text.into())),
            Err(_) => Err("it must be an IP address".to_owned()),
        });
        Self {
            xds_roots: reader.roots("xds-root-ca"),
            xds_hostname: reader.optional_text("xds-hostname"),
            xds_headers: Headers(reader.given.xds_headers.clone()),
            on_demand: reader.switch("xds-on-demand"),
            ca_roots: reader.roots("ca-root-ca"),
            ca_hostname: reader.optional_text("ca-hostname"),
            ca_headers: Headers(reader.given.ca_headers.clone()),
            token: reader.token("auth-token"),
            pod: OwnPod {
                name: reader.optional_text("pod-name"),
                namespace: reader.optional_text("pod-namespace"),
                service_account: reader.optional_text("service-account"),
                ip,
            },
            metadata: reader.given.metadata.clone(),
            xds_address,
            ca_address,
        }
    }
}
