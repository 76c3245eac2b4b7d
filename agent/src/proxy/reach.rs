//! Finding the way of an outbound connection, and another one when it turns out to be closed.
//!
//! Nothing of the application is sent before the other side has said 200 or taken the connection, so an attempt that
//! fails before has lost nothing. Which failures may be followed by another attempt: `upstream`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    PodProxy,
    access_log::Record,
    close::{CloseCode, CloseReason},
    connections::Subject,
    dial::CONNECT_TIMEOUT,
    ejections::View,
    outbound::UNKNOWN_POD_WAIT,
    upstream::{Setback, Upstream},
};
use crate::{
    dns::DnsError,
    mesh::{
        Snapshot, Workload,
        demand::Want,
        route::{self, Deny, Experience, Failed, Flow, Resolved, Route, Shunned},
        wants,
    },
};

/// Places one connection tries.
const MOST_ATTEMPTS: u32 = 4;
/// Names one connection asks DNS for.
const MOST_NAMES: usize = 8;
/// How long one place may take to be connected to while there is another to try. The same as a gateway's.
const NEXT: Duration = Duration::from_secs(2);
/// After this time no further attempt begins.
const LAST_BEGIN: Duration = Duration::from_secs(20);

/// A connection's search for its other side.
pub(super) struct Search<'a> {
    pub(super) source: &'a Workload,
    /// What the application asked for.
    pub(super) to: SocketAddr,
    entropy: u64,
    failed: Vec<Failed>,
    names: Vec<Resolved>,
    /// Why the last name had no address.
    unresolved: Option<DnsError>,
    attempts: u32,
    began: Instant,
}

impl<'a> Search<'a> {
    fn new(source: &'a Workload, to: SocketAddr) -> Self {
        Self {
            source,
            to,
            entropy: rand::random(),
            failed: Vec::new(),
            names: Vec::new(),
            unresolved: None,
            attempts: 0,
            began: Instant::now(),
        }
    }

    fn decide(&self, mesh: &Snapshot, shunned: Option<&View>, failed: &[Failed]) -> Route {
        let experience = Experience {
            failed,
            names: &self.names,
            shunned: shunned.map(|view| -> &dyn Shunned { view }),
        };
        let flow = Flow {
            source: self.source,
            destination: self.to,
            entropy: self.entropy,
            experience,
        };
        route::decide(mesh, &flow)
    }

    /// What the decision depends on.
    fn wants(&self, mesh: &Snapshot) -> Vec<Want> {
        let resolved = self.names.iter().flat_map(|name| name.addresses.iter().copied());
        wants::of_connection(mesh, self.source, std::iter::once(self.to.ip()).chain(resolved))
    }

    /// Whether a route leads to a place that is not to be tried any more.
    fn is_over(route: &Route, failed: &[Failed]) -> bool {
        let at = route.dials();
        failed.iter().any(|failed| !failed.again && Some(failed.at) == at)
    }

    fn may_go_on(&self) -> bool {
        self.attempts < MOST_ATTEMPTS && self.began.elapsed() < LAST_BEGIN
    }
}

impl PodProxy {
    /// Finds the way and goes it. Where policy has allowed it, gives also what policy must look at again.
    pub(super) async fn reach(
        &self,
        to: SocketAddr,
        record: &mut Record,
    ) -> Result<(Upstream, Option<Subject>), CloseReason> {
        let source = self.workload_within(UNKNOWN_POD_WAIT).await.ok_or_else(|| {
            let wait = UNKNOWN_POD_WAIT.as_secs();
            let text = format!("the mesh knows no workload for pod {} yet; waited {wait} s", self.pod);
            CloseReason::new(CloseCode::PodUnknown, text)
        })?;
        record.source.is(&source);
        let mut search = Search::new(&source, to);
        let mut last: Option<CloseReason> = None;
        let mut is_renewed = false;
        loop {
            if let Some(demand) = self.mesh.demand() {
                let learnt = Box::pin(demand.learn(&self.mesh, |mesh| search.wants(mesh))).await;
                learnt.map_err(CloseReason::of_unanswered)?;
            }
            let shunned = self.ejections.seen_by(self.witness);
            let route = search.decide(&self.mesh.current(), shunned.as_ref(), &search.failed);
            if let Route::Deny(Deny::NeedsDns { hostname, .. }) = &route
                && search.names.len() < MOST_NAMES
            {
                self.resolve(&mut search, hostname).await;
                continue;
            }
            if let Route::Deny(deny) = &route {
                // What is known may have grown old.
                if let Some(demand) = self.mesh.demand().filter(|_| !is_renewed) {
                    is_renewed = true;
                    Box::pin(demand.renew(search.wants(&self.mesh.current()))).await;
                    continue;
                }
                return Err(last.unwrap_or_else(|| denied(deny, search.unresolved.as_ref())));
            }
            if let Some(last) = last.take_if(|_| Search::is_over(&route, &search.failed) || !search.may_go_on()) {
                return Err(last);
            }
            search.attempts += 1;
            record.tries(search.attempts, to);
            match Box::pin(self.go(route, &search, record)).await {
                Ok(reached) => return Ok(reached),
                Err(Setback {
                    reason,
                    failed: Some(failed),
                }) => {
                    tracing::debug!(%reason, attempt = search.attempts, "trying another way, if there is one");
                    search.remember(failed);
                    last = Some(reason);
                }
                Err(Setback { reason, failed: None }) => return Err(reason),
            }
        }
    }

    async fn resolve(&self, search: &mut Search<'_>, hostname: &Arc<str>) {
        let addresses = match self.names.addresses(hostname).await {
            Ok(addresses) => addresses,
            Err(error) => {
                search.unresolved = Some(error);
                Arc::from([])
            }
        };
        search.names.push(Resolved {
            hostname: Arc::clone(hostname),
            addresses,
        });
    }

    /// How long this attempt may take to connect: less if there is another way, should this one be closed.
    pub(super) fn patience(&self, search: &Search<'_>, with: Failed) -> Duration {
        if search.attempts >= MOST_ATTEMPTS || search.began.elapsed() + NEXT >= LAST_BEGIN {
            return CONNECT_TIMEOUT;
        }
        let failed: Vec<Failed> = search.failed.iter().copied().chain([with]).collect();
        let shunned = self.ejections.seen_by(self.witness);
        let next = search.decide(&self.mesh.current(), shunned.as_ref(), &failed);
        let is_way = match &next {
            Route::Deny(deny) => matches!(deny, Deny::NeedsDns { .. }),
            next => !Search::is_over(next, &failed),
        };
        if is_way { NEXT } else { CONNECT_TIMEOUT }
    }
}

impl Search<'_> {
    /// A place that failed twice is not tried a third time.
    fn remember(&mut self, mut failed: Failed) {
        failed.again &= !self.failed.iter().any(|other| other.at == failed.at);
        self.failed.retain(|other| other.at != failed.at);
        self.failed.push(failed);
    }
}

fn denied(deny: &Deny, unresolved: Option<&DnsError>) -> CloseReason {
    match unresolved {
        Some(error) => CloseReason::new(CloseCode::DnsFailed, format!("{deny}: {error}")),
        None => CloseReason::of_deny(deny),
    }
}
