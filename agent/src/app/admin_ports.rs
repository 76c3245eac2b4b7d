//! The HTTP ports, wired to what they tell.

use std::sync::{Arc, OnceLock};

use isthmus_wire::{Direction, Failure};
use tokio::runtime::Handle;

use super::{StartError, dump::Held, failed, mesh_source::MeshSource};
use crate::{
    admin::{self, Logging, Metrics, Part, Ports, Readiness, Sources, State},
    config, mesh,
    pods::{Pods, ask::Depth},
    status::{self, Desk},
    telemetry::{self, NodeState, RecentFailure, Telemetry, log::LogHandle},
};

/// The HTTP ports, and what is told there.
pub(super) struct AdminPorts {
    state: State,
    dump: admin::Dump,
    pub(super) readiness: Readiness,
    surveyor: Surveyor,
    _serving: admin::Serving,
}

/// Tells what is held, when metrics are read; once there is somebody to ask. It may wait: it has a thread of its own.
type Surveyor = Arc<OnceLock<Box<dyn Fn() -> NodeState + Send + Sync>>>;

impl AdminPorts {
    /// Opens the ports; the agent is ready when all of `pending` are done.
    pub(super) async fn open(
        ports: config::Ports,
        log: &LogHandle,
        telemetry: &Arc<Telemetry>,
        pending: &[Part],
    ) -> Result<Self, StartError> {
        let ports = Ports {
            admin: ports.admin,
            stats: ports.stats,
            readiness: ports.readiness,
        };
        let (state, readiness) = (State::default(), Readiness::default());
        pending.iter().for_each(|part| readiness.pend(*part));
        let (surveyor, dump) = (Surveyor::default(), admin::Dump::default());
        let sources = Sources {
            state: state.clone(),
            dump: dump.clone(),
            logging: Arc::new(log.clone()),
            metrics: metrics(Arc::clone(telemetry), Arc::clone(&surveyor)),
            readiness: readiness.clone(),
        };
        let serving = admin::serve(ports, sources)
            .await
            .map_err(failed("opening the ports for operators, probes and scrapers"))?;
        Ok(Self {
            state,
            dump,
            readiness,
            surveyor,
            _serving: serving,
        })
    }

    pub(super) fn done(&self, part: Part) {
        self.readiness.done(part);
    }

    /// The first good mesh makes it ready, whenever it comes.
    pub(super) fn done_with_mesh(&self, source: &MeshSource) {
        if source.is_served {
            return self.done(Part::Mesh);
        }
        let (readiness, mut state) = (self.readiness.clone(), source.state.clone());
        tokio::spawn(async move {
            if state.wait_for(|said| said == mesh::watch::GOOD).await.is_ok() {
                readiness.done(Part::Mesh);
            }
        });
    }

    /// From now on metrics count what these pods hold.
    pub(super) fn count_pods(&self, pods: Pods, restarts: u64) {
        let runtime = Handle::current();
        self.count(move || NodeState {
            restarts,
            ..NodeState::from(&runtime.block_on(pods.survey(Depth::Counted)))
        });
    }

    /// From now on metrics count what this tells. It is called on a thread of its own, and may wait.
    pub(super) fn count(&self, survey: impl Fn() -> NodeState + Send + Sync + 'static) {
        // Set once: a process has one registry or one gateway.
        drop(self.surveyor.set(Box::new(survey)));
    }

    /// From now on this is dumped; `pods` are those of an agent, which a gateway has none of.
    pub(super) fn dump(&self, held: Held, pods: Option<Pods>) {
        self.dump.collected_by(held.collector(pods));
    }

    pub(super) fn told_by(&self, desk: &Desk) {
        let desk = desk.clone();
        self.state.told_by(Arc::new(move || {
            let desk = desk.clone();
            Box::pin(async move { status::json(&desk.status().await, false).unwrap_or_else(|error| error.to_string()) })
        }));
    }
}

impl Logging for LogHandle {
    fn current(&self) -> String {
        self.current()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        self.set(filter).map_err(|error| super::chain(&error))
    }

    fn reset(&self) {
        if let Err(error) = self.reset() {
            tracing::error!(error = super::chain(&error), "the log filter cannot be reset");
        }
    }
}

fn metrics(telemetry: Arc<Telemetry>, surveyor: Surveyor) -> Metrics {
    Arc::new(move |format| {
        if let Some(survey) = surveyor.get() {
            telemetry.node.tell(survey());
        }
        telemetry.exposition.render(match format {
            admin::Format::Text => telemetry::Format::Prometheus,
            admin::Format::OpenMetrics => telemetry::Format::OpenMetrics,
        })
    })
}

/// The newest failures, as status tells them.
pub(super) fn failures(telemetry: &Arc<Telemetry>) -> status::Failures {
    let telemetry = Arc::clone(telemetry);
    Arc::new(move || telemetry.recent.list().into_iter().map(failure).collect())
}

fn failure(recent: RecentFailure) -> Failure {
    let direction = match recent.direction.as_str() {
        "inbound" => Direction::Inbound,
        _ => Direction::Outbound,
    };
    Failure {
        time: recent.time,
        pod: recent.pod,
        source: recent.source,
        destination: recent.destination,
        direction,
        code: recent.code,
        reason: recent.reason,
    }
}
