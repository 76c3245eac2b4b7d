//! The HTTP ports, wired to what they tell.

use std::sync::Arc;

use tokio::sync::watch;

use super::{StartError, failed};
use crate::{
    admin::{self, Logging, Metrics, Ports, Readiness, Sources, State, readiness},
    cli::MeshArgs,
    mesh,
    status::{self, Desk},
};

/// The HTTP ports, and what is told there.
pub(super) struct AdminPorts {
    state: State,
    pub(super) readiness: Readiness,
    _serving: admin::Serving,
}

impl AdminPorts {
    /// Opens the ports; the agent is ready when all of `pending` are done.
    pub(super) async fn open(
        arguments: &MeshArgs,
        logging: Arc<dyn Logging>,
        pending: &[&'static str],
    ) -> Result<Self, StartError> {
        let port = |number: u16| (number != 0).then_some(number);
        let ports = Ports {
            admin: port(arguments.admin_port),
            stats: port(arguments.stats_port),
            readiness: port(arguments.readiness_port),
        };
        let (state, readiness) = (State::default(), Readiness::default());
        pending.iter().for_each(|name| readiness.pend(name));
        let metrics: Metrics = Arc::new(|_| String::new());
        let sources = Sources {
            state: state.clone(),
            logging,
            metrics,
            readiness: readiness.clone(),
        };
        let serving = admin::serve(ports, sources)
            .await
            .map_err(failed("opening the ports for operators, probes and scrapers"))?;
        Ok(Self {
            state,
            readiness,
            _serving: serving,
        })
    }

    pub(super) fn done(&self, name: &'static str) {
        self.readiness.done(name);
    }

    /// The first good mesh makes it ready, whenever it comes.
    pub(super) fn done_with_mesh(&self, mut state: watch::Receiver<String>) {
        let readiness = self.readiness.clone();
        tokio::spawn(async move {
            if state.wait_for(|said| said == mesh::watch::GOOD).await.is_ok() {
                readiness.done(readiness::MESH);
            }
        });
    }

    pub(super) fn told_by(&self, desk: &Desk) {
        let desk = desk.clone();
        self.state.told_by(Arc::new(move || {
            let desk = desk.clone();
            Box::pin(async move { status::json(&desk.status().await, false).unwrap_or_else(|error| error.to_string()) })
        }));
    }
}
