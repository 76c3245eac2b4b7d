//! The task that owns every enrolled pod.

mod adoption;
mod asker;
mod entering;
mod errands;
mod held;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use isthmus_wire::{MOST_TUNNELS, Response};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use self::{
    asker::{Asker, respond},
    errands::{Brings, Errands, Line, Return},
};
use super::{
    ask::{Added, Ask, Depth, PodConnections, Survey, ending},
    capture,
    enrolled::{Enrolled, State},
    kernel_mesh::KernelMesh,
    record::{RecordError, Records},
};
use crate::{
    identity::Certificates,
    mesh::Mesh,
    parent::keeper::Keeper,
    proxy::Tuning,
    redirect::{Claimed, Interior, Netns, NodePrograms, PodPrograms, RedirectError, policy_routing::RoutingError},
    shards::Shards,
    telemetry::Telemetry,
};

/// Most connections that are listed each way, all pods together.
const MOST_CONNECTIONS: usize = 20_000;
/// How often namespaces are looked at: a pod that is gone must not be kept by our sockets for long.
const LOOK: Duration = Duration::from_millis(250);
/// How often a pod that could not be taken up again is tried.
const RETRY: Duration = Duration::from_secs(2);
/// How long after a drain's deadline the last resets may take to leave. Less than the parent's patience.
const SETTLE: Duration = Duration::from_secs(1);

/// Why a pod could not be brought in or out.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// eBPF programs, maps and links; network namespaces.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// Links, addresses, rules, routes or sysctls inside the pod.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// Records on disk.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The pod's listeners.
    #[error("opening the pod's listeners")]
    Listeners(#[source] io::Error),
    /// The parent process.
    #[error("handing the pod's listeners to the parent process")]
    Keeper(#[source] io::Error),
    /// Every data thread has ended.
    #[error("no data thread is left to serve the pod")]
    NoThread,
    /// All slots are taken.
    #[error("this agent serves {0} pods already, which is as many as its maps hold")]
    Full(usize),
    /// The node's own namespace.
    #[error("{0} is the network namespace of the node itself; pods with hostNetwork are not enrolled")]
    HostNetwork(String),
    /// The pod's traffic does not come from sockets of this kernel.
    #[error(
        "the pod runs in a sandbox with a network stack of its own (interface {0}); its traffic cannot be redirected and it is not enrolled"
    )]
    Sandboxed(String),
    /// What of it is to be captured cannot be told to the kernel.
    #[error(transparent)]
    Capture(#[from] capture::TooLong),
    /// Two pods, one namespace.
    #[error("network namespace {netns} is enrolled already, as pod {other}; release that one first")]
    Taken {
        /// Path asked for.
        netns: String,
        /// UID of the pod that has it.
        other: String,
    },
}

/// What the registry works with.
pub struct Parts {
    /// The node's programs and maps.
    pub node: NodePrograms,
    /// Loads programs of pods.
    pub programs: PodPrograms,
    /// Netns cookie of the node.
    pub node_cookie: u64,
    /// What is remembered on disk.
    pub records: Records,
    /// The parent process.
    pub keeper: Keeper,
    /// The mesh.
    pub mesh: Mesh,
    /// Certificates.
    pub certificates: Certificates,
    /// Trust domain of a pod's identity as long as the mesh does not say which.
    pub trust_domain: Arc<str>,
    /// The node's network.
    pub network: Arc<str>,
    /// Numbers of tunnels, sockets and pools.
    pub tuning: Tuning,
    /// Data threads.
    pub shards: Shards,
    /// Connects to addresses that are not in the mesh are left alone.
    pub leave_non_mesh: bool,
    /// How long a released pod's connections may live on.
    pub release_deadline: Duration,
    /// Where pods' watchers run.
    pub home: Handle,
    /// Where they report.
    pub stirred: mpsc::Sender<Stirred>,
    /// Who is told of connections.
    pub telemetry: Arc<Telemetry>,
}

/// Links or addresses of a pod may have changed.
#[derive(Clone, Copy, Debug)]
pub struct Stirred {
    /// The pod's slot.
    pub slot: u32,
}

/// The task's state.
pub struct Registry {
    parts: Arc<Parts>,
    pods: HashMap<u32, Enrolled>,
    errands: Errands,
    asks: mpsc::Receiver<Ask>,
    stirred: mpsc::Receiver<Stirred>,
    retried: Instant,
    kernel_mesh: KernelMesh,
}

impl Registry {
    /// Are all pods served that can be? Then what an agent with other programs left may go.
    pub fn is_whole(&self) -> bool {
        !self.pods.values().any(|pod| pod.state == State::Unserved)
    }

    /// Removes what agents with other programs left.
    pub fn remove_other_generations(&self) {
        report(self.parts.node.remove_other_generations());
    }

    /// Says that the worker serves.
    pub fn tell_ready(&self) -> io::Result<()> {
        self.parts.keeper.ready()
    }

    /// Serves until the last [`Pods`] is gone.
    pub async fn run(mut self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mesh = self.parts.mesh.clone();
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None => return,
                    Some(Ask::Drain(deadline, answer)) => {
                        self.end_errands().await;
                        self.drain(deadline, answer);
                    }
                    Some(Ask::HandOver(deadline, still, answer)) => {
                        self.end_errands().await;
                        self.drain(deadline, answer);
                        reply(still, ());
                        return self.rest().await;
                    }
                    Some(ask) => self.answer(ask).await,
                },
                Some(back) = self.errands.next() => self.welcome(back).await,
                Some(Stirred { slot }) = self.stirred.recv() => self.stir(slot),
                () = mesh.changed() => self.reconsider(),
                _ = look.tick() => self.look().await,
            }
        }
    }

    /// A successor has the node: pods are served here for as long as they have connections, and nothing else is done.
    async fn rest(mut self) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Enrol(_, answer) | Ask::Release(_, answer) | Ask::Delete(_, _, answer) => {
                    reply(answer, ending().into());
                }
                Ask::Add(_, answer) => reply(answer, Err(ending())),
                Ask::Find(uid, netns, answer) => reply(answer, held::find(&self.pods, &uid, &netns)),
                Ask::HandOver(..) => {}
                Ask::Drain(_, answer) => reply(answer, ()),
                ask @ (Ask::Survey(..) | Ask::Connections(_)) => self.answer(ask).await,
            }
        }
    }

    /// Begins no more, and waits for those under way.
    async fn end_errands(&mut self) {
        self.errands.close();
        while let Some(back) = self.errands.next().await {
            self.welcome(back).await;
        }
    }

    fn drain(&mut self, deadline: Duration, answer: oneshot::Sender<()>) {
        let serving: Vec<_> = self.pods.values_mut().flat_map(|pod| pod.drain(deadline)).collect();
        tokio::spawn(async move {
            let ended = futures_util::future::join_all(serving);
            if timeout(deadline + SETTLE, ended).await.is_err() {
                tracing::error!("a data thread does not end its connections; they end with the process");
            }
            reply(answer, ());
        });
    }

    async fn answer(&mut self, ask: Ask) {
        let Some(ask) = self.errands.keep(ask) else { return };
        match ask {
            Ask::Enrol(pod, answer) => {
                let asker = Asker::order(&pod.uid, answer);
                self.enrol(pod, asker).await;
            }
            Ask::Add(pod, answer) => {
                let asker = Asker::addition(&pod.uid, answer);
                self.enrol(pod, asker).await;
            }
            Ask::Delete(uid, netns, answer) if !held::is_held_at(&self.pods, &uid, &netns) => {
                reply(answer, Response::Done);
            }
            Ask::Delete(uid, _, answer) | Ask::Release(uid, answer) => self.release(&uid, answer),
            Ask::Find(uid, netns, answer) => reply(answer, held::find(&self.pods, &uid, &netns)),
            // Those end the registry's usual life.
            Ask::Drain(..) | Ask::HandOver(..) => {}
            Ask::Survey(depth, answer) => self.survey(depth, answer),
            Ask::Connections(answer) => reply(answer, self.connections()),
        }
    }

    fn send_out(&mut self, pod: Enrolled) {
        let parts = Arc::clone(&self.parts);
        self.errands
            .send(Line::Passing, pod.record.clone(), pod.state.name(), async move {
                report(match pod.state {
                    // Of its namespace, nothing is left.
                    State::Lingering => pod.forget(&parts),
                    _ => pod.take_out(&parts).await,
                });
                Brings::Nothing
            });
    }

    /// What is only about speed keeps nobody waiting.
    fn send_to_widen(&mut self, pod: &Enrolled) {
        let Some(inside) = pod.inside() else { return };
        self.errands
            .send(Line::Staying, pod.record.clone(), pod.state.name(), async move {
                inside.widen().await;
                Brings::Nothing
            });
    }

    fn release(&mut self, uid: &str, answer: oneshot::Sender<Response>) {
        let serving = [State::Enrolled, State::Unserved];
        let mut pods = self.pods.values_mut();
        let Some(pod) = pods.find(|pod| pod.record.pod.uid == uid && serving.contains(&pod.state)) else {
            return reply(answer, Response::Done);
        };
        if let Err(error) = pod.begin_release(&self.parts) {
            return reply(answer, respond(uid, Err(error)));
        }
        let (parts, slot) = (Arc::clone(&self.parts), pod.slot());
        self.errands
            .send(Line::Staying, pod.record.clone(), pod.state.name(), async move {
                let unguarded = parts.programs.unguard(slot);
                Brings::Unguarded(answer, unguarded.map_err(RegistryError::from))
            });
    }

    /// Has a pod's links and addresses followed.
    fn stir(&mut self, slot: u32) {
        if let Some(errand) = self.errands.of(slot) {
            errand.stirred = true;
        } else if let Some(pod) = self.pods.get(&slot)
            && pod.has_its_path()
            && let Some(inside) = pod.inside()
        {
            let parts = Arc::clone(&self.parts);
            self.errands
                .send(Line::Staying, pod.record.clone(), pod.state.name(), async move {
                    Brings::Followed(inside.follow(&parts).await)
                });
        }
    }

    /// Somebody is back from an errand.
    async fn welcome(&mut self, Return { slot, brings }: Return) {
        let Some(errand) = self.errands.end(slot) else { return };
        match brings {
            Brings::New(asker, Ok(mut pod)) => {
                // The mesh may have changed meanwhile.
                report(pod.reconsider(&self.parts, &self.parts.mesh.current()));
                asker.hear(Ok(Added {
                    is_new: true,
                    identity: pod.identity().cloned(),
                }));
                self.send_to_widen(&pod);
                self.pods.insert(slot, *pod);
            }
            Brings::New(asker, Err(error)) => asker.hear(Err(error)),
            Brings::Nothing => {}
            Brings::Unguarded(answer, outcome) => {
                let until = Instant::now() + self.parts.release_deadline;
                let released = outcome.and_then(|()| match self.pods.get_mut(&slot) {
                    Some(pod) => pod.end_release(&self.parts, until),
                    None => Ok(()),
                });
                reply(answer, respond(&errand.record.pod.uid, released));
            }
            Brings::Followed(followed) => self.followed(slot, followed),
            Brings::Lost => {
                let state = match errand.record.released {
                    true => State::Draining { until: Instant::now() },
                    false => State::Unserved,
                };
                let lost = || Enrolled::remembered(errand.record, state, Vec::new());
                self.pods.entry(slot).or_insert_with(lost);
            }
        }
        // First who asked: links of a pod may be stirred without end.
        for ask in errand.later {
            self.answer(ask).await;
        }
        if errand.due {
            self.look_after(slot, false).await;
        }
        if errand.stirred {
            self.stir(slot);
        }
    }

    fn followed(&mut self, slot: u32, followed: Result<Interior, RegistryError>) {
        match (self.pods.get_mut(&slot), followed) {
            (Some(pod), Ok(interior)) => pod.followed(interior),
            (Some(pod), Err(error)) if pod.has_its_path() => tracing::error!(
                slot,
                error = chain(&error),
                "the pod's links or addresses could not be followed"
            ),
            _ => {}
        }
    }

    /// Tells the kernel who belongs to the mesh; without that every connect is redirected.
    fn write_mesh(&mut self) {
        if self.parts.leave_non_mesh {
            let mesh = self.parts.mesh.current();
            report(self.kernel_mesh.follow(self.parts.node.maps(), &mesh));
        }
    }

    fn reconsider(&mut self) {
        self.write_mesh();
        let mesh = self.parts.mesh.current();
        for pod in self.pods.values_mut() {
            report(pod.reconsider(&self.parts, &mesh));
        }
    }

    /// Looks after pods that lost their path, drained pods and those that could not be taken up.
    async fn look(&mut self) {
        self.write_mesh();
        for pod in self.pods.values_mut() {
            if !pod.has_its_path() {
                tracing::info!(pod = %pod.record.pod.name, "the pod's network namespace lost its path");
                report(pod.let_go(&self.parts));
            }
        }
        let now = Instant::now();
        let retry = now.duration_since(self.retried) > RETRY;
        let slots: Vec<u32> = self.pods.keys().copied().collect();
        for slot in slots {
            self.look_after(slot, retry).await;
        }
        if retry {
            self.retried = now;
        }
    }

    async fn look_after(&mut self, slot: u32, retry: bool) {
        if let Some(errand) = self.errands.of(slot) {
            errand.due = true;
            return;
        }
        let Some(pod) = self.pods.get(&slot).filter(|_| !self.errands.are_closed()) else {
            return;
        };
        match pod.state {
            State::Enrolled if retry => {
                if let Some(pod) = self.pods.get_mut(&slot) {
                    pod.take_over_again().await;
                }
            }
            State::Enrolled => {}
            State::Unserved if retry => self.take_up(slot).await,
            State::Unserved => {}
            State::Lingering if self.parts.programs.claimed(slot) != Claimed::Alive => {
                if let Some(pod) = self.pods.remove(&slot) {
                    tracing::info!(pod = %pod.record.pod.name, slot, "the pod is gone");
                    self.send_out(pod);
                }
            }
            State::Lingering => {}
            State::Draining { until } if pod.connections() == 0 || Instant::now() >= until => {
                if let Some(pod) = self.pods.remove(&slot) {
                    tracing::info!(pod = %pod.record.pod.name, slot, cut = pod.connections(), "pod released");
                    self.send_out(pod);
                }
            }
            State::Draining { .. } => {}
        }
    }

    async fn take_up(&mut self, slot: u32) {
        let Some(pod) = self.pods.get_mut(&slot) else { return };
        let outcome = match Netns::open(&pod.record.pod.netns) {
            Ok(netns) if netns.cookie() == pod.record.cookie => pod.bring_in(&self.parts, netns, None).await,
            _ => {
                pod.state = State::Lingering;
                Ok(())
            }
        };
        pod.trouble = outcome.as_ref().err().map(|error| chain(error));
        report(outcome);
    }

    fn connections(&self) -> BTreeMap<String, PodConnections> {
        let mut room = MOST_CONNECTIONS;
        let mut listed = BTreeMap::new();
        for pod in self.pods.values() {
            let pod_connections = pod.list_connections(&self.parts, room);
            room -= room.min(pod_connections.inbound.len() + pod_connections.outbound.len());
            listed.insert(pod.record.pod.uid.clone(), pod_connections);
        }
        listed
    }

    fn survey(&self, depth: Depth, answer: oneshot::Sender<Survey>) {
        let mut survey = Survey::default();
        if depth >= Depth::Counted {
            survey.verdicts = self.parts.node.maps().verdicts(0);
        }
        for pod in self.pods.values() {
            let status = pod.status(&self.parts, depth);
            for (name, count) in &status.verdicts {
                *survey.verdicts.entry(name.clone()).or_default() += count;
            }
            survey.tunnels += pod.tunnels();
            let room = MOST_TUNNELS.saturating_sub(survey.open_tunnels.len());
            let name = format!("{}/{}", status.namespace, status.name);
            let listed = pod.list_tunnels(room).into_iter();
            survey.open_tunnels.extend(listed.map(|tunnel| (name.clone(), tunnel)));
            survey.connections += pod.connections();
            survey.pods.insert(pod.record.pod.uid.clone(), status);
        }
        // Those that are here as well are told of already.
        for (uid, status) in self.errands.statuses() {
            survey.pods.entry(uid).or_insert(status);
        }
        match depth {
            Depth::Known | Depth::Counted => reply(answer, survey),
            Depth::Whole => self.look_at_links(survey, answer),
        }
    }

    /// Adds to each pod what is attached to it, away from here.
    fn look_at_links(&self, mut survey: Survey, answer: oneshot::Sender<Survey>) {
        let parts = Arc::clone(&self.parts);
        let slots = self.pods.values().map(|pod| (pod.record.pod.uid.clone(), pod.slot()));
        let slots: Vec<_> = slots.collect();
        spawn_blocking(move || {
            for (uid, slot) in slots {
                if let Some(status) = survey.pods.get_mut(&uid) {
                    let links = parts.programs.links(slot);
                    status.links = links.iter().map(|link| (link.name.clone(), link.id)).collect();
                    status.programs = links.into_iter().map(|link| (link.name, link.program_id)).collect();
                }
            }
            reply(answer, survey);
        });
    }
}

fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    if answer.send(value).is_err() {
        tracing::debug!("whoever asked has gone");
    }
}

fn report<E: std::error::Error + 'static>(outcome: Result<(), E>) {
    if let Err(error) = outcome {
        tracing::error!(error = chain(&error), "the kernel or the disk refused");
    }
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
