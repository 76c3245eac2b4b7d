//! What an operator sees: metrics, log lines, failures of the last minutes, spans.
//!
//! | file | what it knows |
//! |---|---|
//! | [`log`] | where log lines go, and changing what is logged while the agent runs |
//! | `line` | how one log line is written |
//! | [`traffic`] | the `istio_tcp_*` counters, a row of atomics for each set of labels |
//! | `labels` | what tells two rows apart |
//! | [`exposition`] | all metrics as text |
//! | [`metric`] | every metric there is: name, type, meaning |
//! | [`node`], `process` | metrics that are read when they are asked for |
//! | [`recent`] | the last connections that failed |
//! | [`spans`] | spans of connections, sent to a collector |
//! | `clock` | times as text |
//!
//! Nothing here knows how connections are made; `proxy` tells it what happens. docs/metrics.md and docs/access-log.md
//! are the pages for operators.

mod clock;
pub mod exposition;
mod labels;
mod line;
pub mod log;
pub mod metric;
pub mod node;
mod process;
pub mod recent;
pub mod spans;
pub mod traffic;

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;

use self::{exposition::Families, spans::Spans};
pub use self::{
    exposition::{Exposition, Format},
    labels::{Facts, Labels, Reporter, ServiceFacts, SideLabels},
    node::{NodeState, PodCounts},
    recent::{Recent, RecentFailure},
    traffic::{Counted, Meter, ResponseFlag, Traffic},
};

/// Everything of one process that is told to operators. Made once, shared by all pods.
pub struct Telemetry {
    /// Counters of mesh traffic.
    pub traffic: Traffic,
    /// Connections that failed lately.
    pub recent: Recent,
    /// What the node holds, as it was last told.
    pub node: node::Ledger,
    /// The metrics' text.
    pub exposition: Exposition,
    spans: ArcSwapOption<Spans>,
    served: Served,
}

/// Proxies that came and went.
#[derive(Default)]
struct Served {
    started: AtomicU64,
    stopped: AtomicU64,
}

impl Telemetry {
    /// Telemetry that has seen nothing yet. `version` is the value of the label `tag` of `istio_build`.
    #[must_use]
    pub fn new(version: &str) -> Arc<Self> {
        let version: Arc<str> = version.into();
        Arc::new_cyclic(|telemetry| {
            let exposition = Exposition::default();
            let telemetry: Weak<Self> = Weak::clone(telemetry);
            exposition.add(move |families: &mut Families| {
                let build = [("component", Arc::from("ztunnel")), ("tag", Arc::clone(&version))];
                families.labelled(&metric::BUILD, build, 1);
                process::describe(families);
                if let Some(telemetry) = telemetry.upgrade() {
                    telemetry.describe(families);
                }
            });
            Self {
                traffic: Traffic::default(),
                recent: Recent::default(),
                node: node::Ledger::default(),
                exposition,
                spans: ArcSwapOption::empty(),
                served: Served::default(),
            }
        })
    }

    /// From now on connections are told to this exporter.
    pub fn export_spans(&self, spans: Spans) {
        self.spans.store(Some(Arc::new(spans)));
    }

    /// Where spans go, if anywhere.
    pub fn spans(&self) -> Option<Arc<Spans>> {
        self.spans.load_full()
    }

    /// A pod's proxy was made.
    pub fn proxy_started(&self) {
        self.served.started.fetch_add(1, Ordering::Relaxed);
    }

    /// A pod's proxy is no more.
    pub fn proxy_stopped(&self) {
        self.served.stopped.fetch_add(1, Ordering::Relaxed);
    }

    fn describe(&self, families: &mut Families) {
        self.traffic.describe(families);
        self.node.describe(families);
        families.value(&metric::PROXIES_STARTED, self.served.started.load(Ordering::Relaxed));
        families.value(&metric::PROXIES_STOPPED, self.served.stopped.load(Ordering::Relaxed));
        if let Some(spans) = &*self.spans.load() {
            families.value(&metric::SPANS_EXPORTED, spans.exported());
            families.value(&metric::SPANS_DROPPED, spans.dropped());
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
