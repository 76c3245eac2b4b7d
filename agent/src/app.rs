//! The composition root: the only place that knows every part.

mod admin_ports;
mod gateway;
mod mesh_source;
mod worker;

use std::{error::Error, sync::Arc};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use self::{gateway::gateway, worker::worker};
pub use crate::pods::registry::chain;
use crate::{
    config::{Config, Log},
    identity::{Certificates, embedded_ca::EmbeddedCa},
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

fn open_certificates(config: &Config) -> Result<Certificates, StartError> {
    // Before the first certificate: a TLS configuration keeps what it was made with.
    if config.post_quantum_only {
        tls::admit_only_post_quantum();
    }
    let Some(directory) = &config.embedded_ca else {
        return Err(failed("asking for certificates")(
            "istiod's CA is not asked yet; say --embedded-ca DIR",
        ));
    };
    let ca = EmbeddedCa::open(directory)
        .map_err(failed("opening the embedded CA (make one with `isthmus ca init DIR`)"))?
        .with_life(config.secret_ttl);
    Ok(Certificates::new(Arc::new(ca)))
}

/// Sockets are what the agent is made of.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptor limit"),
        Err(error) => tracing::warn!(%error, "RLIMIT_NOFILE stays as it is"),
    }
}
