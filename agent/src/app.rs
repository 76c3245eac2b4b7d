//! The composition root: the only place that knows every part.

mod admin_ports;
mod awaited;
mod cni_plugin;
mod dump;
mod gateway;
mod kept_certificates;
mod kubernetes_admission;
mod mesh_source;
mod worker;

use std::{error::Error, sync::Arc};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::kept_certificates::Kept;
pub use self::{gateway::gateway, worker::worker};
pub use crate::pods::registry::chain;
use crate::{
    config::{Config, Log},
    identity::{
        CertificateSource, Certificates,
        embedded_ca::EmbeddedCa,
        istiod_ca::{Asks, IstiodCa},
    },
    istiod::{Contact, ContactParts},
    proxy,
    telemetry::{
        self, Telemetry,
        log::{LineFormat, LogHandle},
        spans,
    },
    tls,
};

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct StartError {
    step: String,
    #[source]
    cause: Box<dyn Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn Error + Send + Sync>>>(step: impl Into<String>) -> impl FnOnce(E) -> StartError {
    move |cause| StartError {
        step: step.into(),
        cause: cause.into(),
    }
}

/// Logs to standard error.
fn start_log(log: &Log) -> LogHandle {
    telemetry::log::start(line_format(log), &log.filter)
}

/// The same for the parent process, which has no threads.
pub fn start_parents_log(log: &Log) -> LogHandle {
    telemetry::log::start_at_once(line_format(log), &log.filter)
}

fn line_format(log: &Log) -> LineFormat {
    if log.json { LineFormat::Json } else { LineFormat::Plain }
}

/// Counters of this process. Sends spans, if the configuration says where.
fn start_telemetry(log: &LogHandle, config: &Config, node: &str) -> Result<Arc<Telemetry>, StartError> {
    let told = config
        .istiod
        .metadata
        .get("ISTIO_VERSION")
        .and_then(|version| version.as_str());
    let telemetry = Telemetry::new(told.unwrap_or(env!("CARGO_PKG_VERSION")));
    log.describe_in(&telemetry.exposition);
    telemetry.exposition.add(proxy::describe_descriptors);
    if let Some(endpoint) = &config.otlp_endpoint {
        let resource = [
            ("service.name", "isthmus"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("k8s.node.name", node),
        ];
        let spans = spans::start(endpoint, &resource).map_err(failed("reading --otlp-endpoint"))?;
        telemetry.export_spans(spans);
    }
    Ok(telemetry)
}

/// Certificates of the embedded CA or of istiod's, with what an earlier process kept.
fn open_certificates(config: &Config, asks: Asks, kept: Option<Kept>) -> Result<Certificates, StartError> {
    // Before the first certificate: a TLS configuration keeps what it was made with.
    if config.post_quantum_only {
        tls::admit_only_post_quantum();
    }
    let cached = |source: Arc<dyn CertificateSource>| match kept {
        Some(kept) => Certificates::kept_in(kept.vault, kept.certificates, source),
        None => Certificates::new(source),
    };
    if let Some(directory) = &config.embedded_ca {
        let ca = EmbeddedCa::open(directory)
            .map_err(failed("opening the embedded CA (make one with `isthmus ca init DIR`)"))?
            .with_life(config.secret_ttl);
        return Ok(cached(Arc::new(ca)));
    }
    let contact = contact_ca(config).map_err(failed("finding istiod's CA"))?;
    let ca = IstiodCa::new(contact, asks, config.secret_ttl);
    let certificates = cached(Arc::new(ca.clone()));
    tokio::spawn(ca.follow_roots(certificates.clone()));
    Ok(certificates)
}

fn contact_ca(config: &Config) -> Result<Contact, Box<dyn Error + Send + Sync>> {
    let istiod = &config.istiod;
    let parts = ContactParts {
        address: istiod
            .ca_address
            .as_deref()
            .ok_or("--ca-address is empty; say where istiod is, or --embedded-ca DIR")?,
        roots: &istiod.ca_roots,
        other_name: istiod.ca_hostname.as_deref(),
        token: &istiod.token,
        cluster_id: &config.cluster_id,
        headers: &istiod.ca_headers,
    };
    Ok(Contact::new(&parts)?)
}

/// Sockets are what the agent is made of, and its parent holds some of each pod.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptor limit"),
        Err(error) => tracing::warn!(%error, "RLIMIT_NOFILE stays as it is"),
    }
}
