//! The port for who sits on the node: state, logging, profiles.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use tokio::time::timeout;

use super::{
    cpu_profile::CpuProfiles,
    dump::Dump,
    heap_profile,
    logging::{self, Logging},
    reply::{self, Reply},
    server::{Asked, Site, listed},
};

/// How long the agent may take to tell its state; it takes milliseconds unless the node is in trouble.
const TELLING: Duration = Duration::from_secs(10);

/// ztunnel answers it whatever the method, and so do we.
const DUMP: &str = "/config_dump";

/// Writes the state down as JSON.
pub type Teller = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// The agent's state, which is there later than the port that tells it. Clones share it.
#[derive(Clone, Default)]
pub struct State(Arc<OnceLock<Teller>>);

impl State {
    /// From now on this is what is told; only the first one counts.
    pub fn told_by(&self, teller: Teller) {
        if self.0.set(teller).is_err() {
            tracing::error!("the state has a teller already");
        }
    }
}

/// Port 15000.
pub(super) struct LocalSite {
    pub(super) state: State,
    pub(super) dump: Dump,
    pub(super) logging: Arc<dyn Logging>,
    pub(super) profiles: CpuProfiles,
}

impl Site for LocalSite {
    const PATHS: &'static [(Method, &'static str, &'static str)] = &[
        (Method::GET, "/", "this list"),
        (
            Method::GET,
            "/state",
            "what the agent holds, as `isthmus status -o json`",
        ),
        (
            Method::GET,
            DUMP,
            "all that the agent holds, as istioctl ztunnel-config reads it; any method",
        ),
        (
            Method::POST,
            "/logging",
            "the log filter; ?level=info,access=debug sets it, ?reset undoes that",
        ),
        (
            Method::GET,
            "/debug/pprof/profile",
            "CPU profile; ?seconds=1..300 (10) &frequency=1..1000 (100)",
        ),
        (Method::GET, "/debug/pprof/heap", "heap profile"),
        (
            Method::GET,
            "/debug/pprof/heap/profiling",
            "whether allocations are sampled",
        ),
        (
            Method::POST,
            "/debug/pprof/heap/profiling",
            "?active=true or ?active=false: start or stop sampling",
        ),
        (Method::POST, "/quitquitquit", "not served: end the agent with SIGTERM"),
    ];
    const ANY_METHOD: &'static [&'static str] = &[DUMP];

    async fn answer(&self, asked: Asked) -> Reply {
        match asked.path.as_str() {
            "/state" => self.state().await,
            DUMP => self.dump.answer().await,
            "/logging" => logging::answer(&*self.logging, &asked.query),
            "/debug/pprof/profile" => self.profiles.answer(&asked.query).await,
            "/debug/pprof/heap" => heap_profile::dump().await,
            "/debug/pprof/heap/profiling" => heap_profile::profiling(&asked.method, &asked.query).await,
            "/quitquitquit" => reply::text(
                StatusCode::FORBIDDEN,
                "nobody ends this agent over TCP; send SIGTERM to `isthmus run`, it drains and ends\n",
            ),
            _ => {
                let version = env!("CARGO_PKG_VERSION");
                let paths = listed(Self::PATHS);
                reply::text(StatusCode::OK, format!("isthmus {version}\n\n{paths}"))
            }
        }
    }
}

impl LocalSite {
    async fn state(&self) -> Reply {
        let Some(teller) = self.state.0.get() else {
            let text = "the agent is starting; /healthz/ready of its readiness port tells what it waits for\n";
            return reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        match timeout(TELLING, teller()).await {
            Ok(json) => reply::whole(StatusCode::OK, "application/json", json),
            Err(_) => {
                let text = format!(
                    "the agent did not tell its state within {} s; see its log\n",
                    TELLING.as_secs()
                );
                reply::text(StatusCode::GATEWAY_TIMEOUT, text)
            }
        }
    }
}
