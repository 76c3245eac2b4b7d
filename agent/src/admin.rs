//! The agent's HTTP ports: what operators, probes and scrapers ask (wire-facts §9.1).
//!
//! They run on the control runtime, never on a data thread, and know nothing of the agent's parts: what they tell comes
//! from the [`Sources`] they are given. Over TCP nothing can be changed but what is logged and what is profiled.
//!
//! | file | what it knows |
//! |---|---|
//! | `bind` | the ports and who else may hold them |
//! | `server` | HTTP with everything bounded |
//! | `query`, `reply` | the two ends of an exchange |
//! | `dump` | answers too large to be held |
//! | `local` | port 15000, on loopback: state, dump, logging, profiles |
//! | `metrics` | port 15020 |
//! | `readiness` | port 15021, and what makes an agent ready |
//! | `logging` | changing what is logged |
//! | `cpu_profile`, `heap_profile` | profiles |

mod bind;
mod cpu_profile;
mod dump;
mod heap_profile;
mod local;
mod logging;
mod metrics;
mod query;
mod readiness;
mod reply;
mod server;

use std::sync::Arc;

use tokio::{net::TcpListener, task::AbortHandle};

pub use self::{
    bind::BindError,
    dump::{Collector, Dump, Writer},
    local::{State, Teller},
    logging::Logging,
    metrics::{Format, Metrics},
    readiness::{Part, Readiness},
};
use self::{
    bind::Port, cpu_profile::CpuProfiles, local::LocalSite, metrics::MetricsSite, readiness::ReadinessSite,
    server::Site,
};

/// Connections of the port on loopback, and of the readiness port, at a time. A newcomer cuts the oldest.
const MOST: usize = 32;
/// The same for scrapers, whose answers are large.
const MOST_SCRAPERS: usize = 8;

/// Where is listened. None is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// State, logging, profiles; on loopback. Usually 15000.
    pub admin: Option<u16>,
    /// Metrics; everywhere. Usually 15020.
    pub stats: Option<u16>,
    /// Readiness; everywhere. Usually 15021.
    pub readiness: Option<u16>,
}

/// What is told.
#[derive(Clone)]
pub struct Sources {
    /// The agent's state.
    pub state: State,
    /// All that it holds.
    pub dump: Dump,
    /// What is logged.
    pub logging: Arc<dyn Logging>,
    /// The metrics.
    pub metrics: Metrics,
    /// Whether the agent is ready.
    pub readiness: Readiness,
}

/// The ports are served as long as this lives.
#[must_use = "dropped, the ports are closed"]
pub struct Serving(Vec<AbortHandle>);

/// Listens, and serves on the runtime it is called on.
///
/// # Errors
/// When a port cannot be bound; the text says which, who may hold it and which setting changes it.
pub async fn serve(ports: Ports, sources: Sources) -> Result<Serving, BindError> {
    let Sources {
        state,
        dump,
        logging,
        metrics,
        readiness,
    } = sources;
    let admin = bind::loopback(Port {
        number: ports.admin,
        purpose: "state, logging and profiles",
        setting: "--admin-port",
    });
    let scrapers = bind::everywhere(Port {
        number: ports.stats,
        purpose: "metrics",
        setting: "--stats-port",
    });
    let probes = bind::everywhere(Port {
        number: ports.readiness,
        purpose: "readiness",
        setting: "--readiness-port",
    });
    let (admin, scrapers, probes) = tokio::try_join!(admin, scrapers, probes)?;
    let profiles = CpuProfiles::new();
    let local = LocalSite {
        state,
        dump,
        logging,
        profiles,
    };
    let mut serving = Serving(Vec::new());
    serving.add(admin, local, MOST);
    serving.add(scrapers, MetricsSite::new(metrics), MOST_SCRAPERS);
    serving.add(probes, ReadinessSite(readiness), MOST);
    Ok(serving)
}

impl Serving {
    fn add<S: Site>(&mut self, listeners: Vec<TcpListener>, site: S, most: usize) {
        let site = Arc::new(site);
        for listener in listeners {
            let served = tokio::spawn(server::serve(listener, Arc::clone(&site), most));
            self.0.push(served.abort_handle());
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
