//! What the agent says of itself: collected here, judged in [`problems`], written for people in [`text`].

mod gateways;
mod istiod;
mod problems;
mod table;
mod text;

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use isthmus_wire::{
    CniStatus, Descriptors, Direction, Failure, IdentityStatus, MOST_CERTIFICATES, MOST_TUNNELS, Status, Tunnel,
    WorkerEnd,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::watch, task::AbortHandle};

pub use self::{
    problems::{Problem, problems},
    text::{json, text},
};
use crate::{
    admin::Readiness,
    identity::Certificates,
    kubernetes::Kubernetes,
    mesh::{self, Mesh},
    pods::{
        Pods,
        ask::{Depth, Survey},
        certificate_status::certificate_status,
    },
    proxy::{self, Gateway, TunnelInfo},
    xds::Told,
};

/// The last connections that failed, newest last.
pub type Failures = Arc<dyn Fn() -> Vec<Failure> + Send + Sync>;

/// What is told besides pods and tunnels.
pub struct Facts {
    /// Node name; empty for a gateway.
    pub node: String,
    /// Network of this node.
    pub network: String,
    /// How often the worker was started again.
    pub restarts: u64,
    /// How the last one ended.
    pub ended: Option<WorkerEnd>,
    /// The mesh.
    pub mesh: Mesh,
    /// What the mesh source last said.
    pub mesh_state: watch::Receiver<String>,
    /// What the client of istiod says of itself; none when a mesh file is followed.
    pub istiod: Option<watch::Receiver<Told>>,
    /// Enrolment by Kubernetes; none where there is none.
    pub kubernetes: Option<Kubernetes>,
    /// How the CNI plugin is installed; none when that is not looked after.
    pub cni: Option<watch::Receiver<CniStatus>>,
    /// The certificates of this process.
    pub certificates: Certificates,
    /// Whether the agent is ready.
    pub readiness: Readiness,
    /// The last connections that failed.
    pub failures: Failures,
}

/// How the worker before this one ended, at that many seconds since 1970.
pub fn worker_end(at: Option<i64>, how: Option<String>) -> Option<WorkerEnd> {
    let moment = OffsetDateTime::from_unix_timestamp(at?).ok()?;
    Some(WorkerEnd {
        time: moment.format(&Rfc3339).ok()?,
        how: how?,
    })
}

/// Who has the tunnels.
pub enum Holder {
    /// The pods of a node.
    Pods(Pods),
    /// The gateway of a network.
    Gateway(Arc<Gateway>),
}

/// Tells the status. Clones share it.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    facts: Facts,
    holder: Holder,
    started: Instant,
    mesh_times: Arc<Mutex<MeshTimes>>,
    istiod: Option<istiod::Istiod>,
    follower: AbortHandle,
}

/// When the mesh last changed, and when what its source says did.
struct MeshTimes {
    taken: Option<Instant>,
    said: Instant,
}

impl Desk {
    /// A desk that follows the mesh from now on; call it on the runtime of the control thread.
    pub fn new(facts: Facts, holder: Holder) -> Self {
        let now = Instant::now();
        let good = *facts.mesh_state.borrow() == mesh::watch::GOOD;
        let mesh_times = Arc::new(Mutex::new(MeshTimes {
            taken: good.then_some(now),
            said: now,
        }));
        let following = follow(facts.mesh.clone(), facts.mesh_state.clone(), Arc::clone(&mesh_times));
        let follower = tokio::spawn(following).abort_handle();
        Self(Arc::new(Inner {
            istiod: facts.istiod.clone().map(istiod::Istiod::new),
            facts,
            holder,
            started: now,
            mesh_times,
            follower,
        }))
    }

    /// What keeps every pod that is made now from starting; usually nothing.
    pub fn pending_for_pods(&self) -> Vec<&'static str> {
        self.0.facts.readiness.pending_for_pods()
    }

    /// The status as it is now.
    pub async fn status(&self) -> Status {
        let Inner {
            facts,
            holder,
            started,
            mesh_times,
            istiod,
            ..
        } = &*self.0;
        let survey = match holder {
            Holder::Pods(pods) => pods.survey(Depth::Whole).await,
            Holder::Gateway(gateway) => survey_gateway(gateway),
        };
        let (mesh_since, mesh_age) = {
            let times = mesh_times.lock().unwrap_or_else(PoisonError::into_inner);
            (times.said.elapsed(), times.taken.map(|taken| taken.elapsed()))
        };
        let mesh = facts.mesh.current();
        let budget = proxy::Descriptors::of_process();
        Status {
            node: facts.node.clone(),
            network: facts.network.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: started.elapsed().as_secs(),
            worker_pid: std::process::id(),
            worker_restarts: facts.restarts,
            worker_ended: facts.ended.clone(),
            pending: facts.readiness.pending().into_iter().map(str::to_owned).collect(),
            mesh: facts.mesh_state.borrow().clone(),
            mesh_since_seconds: mesh_since.as_secs(),
            mesh_age_seconds: mesh_age.map(|age| age.as_secs()),
            istiod: istiod.as_ref().map(istiod::Istiod::status),
            kubernetes: facts.kubernetes.as_ref().map(Kubernetes::status),
            cni: facts.cni.as_ref().map(|cni| cni.borrow().clone()),
            mesh_size: mesh.sizes(),
            certificates: identities(&facts.certificates),
            gateways: gateways::known(&mesh, proxy::passes_over),
            descriptors: Descriptors {
                used: budget.used(),
                limit: budget.limit(),
            },
            resident_bytes: resident_bytes(),
            tunnels_not_listed: survey.tunnels.saturating_sub(survey.open_tunnels.len()),
            pods: survey.pods,
            verdicts: survey.verdicts,
            tunnels: survey.tunnels,
            connections: survey.connections,
            open_tunnels: survey.open_tunnels.into_iter().map(told).collect(),
            failures: (facts.failures)(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

async fn follow(mut mesh: Mesh, mut state: watch::Receiver<String>, times: Arc<Mutex<MeshTimes>>) {
    state.mark_unchanged();
    let mut said = state.borrow().clone();
    loop {
        let taken = tokio::select! {
            () = mesh.changed() => true,
            changed = state.changed() => match changed {
                Ok(()) => false,
                // Its source has ended: nothing changes any more.
                Err(_) => return,
            },
        };
        let now = Instant::now();
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        if taken {
            times.taken = Some(now);
        }
        let says = state.borrow_and_update().clone();
        if says != said {
            (times.said, said) = (now, says);
        }
    }
}

fn identities(certificates: &Certificates) -> Vec<IdentityStatus> {
    let now = SystemTime::now();
    let listed = certificates.list().into_iter().take(MOST_CERTIFICATES);
    let status = listed.map(|(id, held)| IdentityStatus {
        identity: id.to_string(),
        certificate: certificate_status(held, now),
    });
    status.collect()
}

fn survey_gateway(gateway: &Gateway) -> Survey {
    let listed = gateway.list_tunnels(MOST_TUNNELS).into_iter();
    Survey {
        tunnels: gateway.tunnels(),
        connections: gateway.open_connections(),
        open_tunnels: listed.map(|tunnel| ("gateway".to_owned(), tunnel)).collect(),
        ..Survey::default()
    }
}

fn told((pod, tunnel): (String, TunnelInfo)) -> Tunnel {
    Tunnel {
        pod,
        direction: if tunnel.dialled {
            Direction::Outbound
        } else {
            Direction::Inbound
        },
        peer: tunnel.peer,
        peer_identity: tunnel.identity.to_string(),
        streams: tunnel.streams,
        age_seconds: tunnel.age.as_secs(),
    }
}

/// Memory of this process that is in RAM (proc_pid_statm(5)); 0 when the kernel does not say.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096);
    pages.unwrap_or_default().saturating_mul(page)
}
