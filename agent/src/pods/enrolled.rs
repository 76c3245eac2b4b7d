//! One enrolled pod: what stands in its namespace and who serves it.

mod following;
mod inside;
mod takeover;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use isthmus_abi::{FLAG_LEAVE_STRANGERS, FLAG_MTLS_REQUIRED, LISTENER_HBONE, LISTENER_OUTBOUND};
use isthmus_wire::{MtlsBecause, Plaintext, PodStatus};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use self::{following::Standing, inside::Inside};
use super::{
    ask::{Depth, PodConnections},
    capture,
    certificate_status::certificate_status,
    pod_sockets::PodSockets,
    record::Record,
    registry::{Parts, RegistryError, Stirred},
};
use crate::{
    dns::Names,
    drain::{DrainTrigger, drain},
    identity::{SpiffeId, Wanted},
    istio_cni,
    mesh::{Snapshot, Workload, policy},
    parent::keeper::Keeper,
    proxy::{OpenCounts, PodFacts, PodProxy, ProxyParts, TunnelInfo},
    redirect::{Interior, Listeners, Netns, PodRouting},
};

/// An enrolled pod.
pub struct Enrolled {
    /// As remembered on disk.
    pub record: Record,
    /// What it is doing.
    pub state: State,
    /// Why it could not be taken up, when it could not.
    pub trouble: Option<String>,
    /// What istio-cni left in it and could not be removed yet.
    leftover: Option<String>,
    addresses: Arc<ArcSwap<Vec<IpAddr>>>,
    flags: u32,
    /// As the kernel was told it. The record tells what is asked for; where the kernel refused, they differ.
    standing: Standing,
    /// Links and addresses as they were last seen; the guard stands on these links.
    interior: Interior,
    served: Option<Served>,
    /// Has its certificate held ready.
    identity: Option<Held>,
}

/// Whose certificate is held ready for a pod.
struct Held {
    wanted: Wanted,
    /// The mesh says that the pod has this identity; otherwise it is what its service account leads to expect.
    is_known: bool,
}

/// What a pod is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Redirected and served.
    Enrolled,
    /// Released; open connections live on until then.
    Draining {
        /// When they are cut.
        until: Instant,
    },
    /// Its namespace lost its path: no longer served, still guarded, until the kernel says the namespace is gone.
    Lingering,
    /// It could not be taken up again after a restart: still guarded, tried again.
    Unserved,
}

impl State {
    /// As status has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Draining { .. } => "draining",
            Self::Lingering => "lingering",
            Self::Unserved => "unserved",
        }
    }
}

/// What holds the pod's namespace open.
struct Served {
    netns: Arc<Netns>,
    proxy: Arc<PodProxy>,
    trigger: DrainTrigger,
    /// They end when the last connection does, or is cut.
    serving: Vec<JoinHandle<()>>,
    watcher: JoinHandle<()>,
    rules: isthmus_abi::Rules,
    routing: PodRouting,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.watcher.abort();
        self.trigger.force();
        self.proxy.abort_all();
    }
}

impl Enrolled {
    /// A pod of which only the record and what the kernel holds are known; `addresses` are those the maps have for it.
    pub fn remembered(record: Record, state: State, addresses: Vec<IpAddr>) -> Self {
        Self {
            standing: Standing::of(&record.pod),
            record,
            state,
            trouble: None,
            leftover: None,
            addresses: Arc::new(ArcSwap::from_pointee(addresses)),
            flags: FLAG_MTLS_REQUIRED,
            interior: Interior::default(),
            served: None,
            identity: None,
        }
    }

    /// The pod's slot.
    pub fn slot(&self) -> u32 {
        self.record.slot
    }

    /// Whose certificate is held ready for it, once that is known.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref().map(|held| held.wanted.id())
    }

    /// Connections being relayed.
    pub fn connections(&self) -> usize {
        self.served.as_ref().map_or(0, |served| served.proxy.open_connections())
    }

    /// Open tunnels.
    pub fn tunnels(&self) -> usize {
        self.served.as_ref().map_or(0, |served| served.proxy.tunnels())
    }

    /// Does the path it was enrolled by still lead to its namespace? Not asked of pods that are not served.
    pub fn has_its_path(&self) -> bool {
        self.served.as_ref().is_none_or(|served| served.netns.is_at_its_path())
    }

    /// Brings the pod in on the registry's own thread, which waits for it: one that an earlier worker had, or that is tried again.
    pub async fn bring_in(
        &mut self,
        parts: &Parts,
        netns: Netns,
        held: Option<Listeners>,
    ) -> Result<(), RegistryError> {
        let following = self.prepare(parts, &netns)?;
        self.install(parts, netns, held, following).await?;
        if let Some(inside) = self.inside() {
            inside.widen().await;
        }
        Ok(())
    }

    /// Begins what outlives the bringing in, and is to be done on the registry's thread.
    pub fn prepare(&mut self, parts: &Parts, netns: &Netns) -> Result<PodRouting, RegistryError> {
        // First of all: it takes longer than all that follows.
        self.want_certificate(parts, &parts.mesh.current());
        Ok(PodRouting::open(netns)?)
    }

    /// Makes everything stand, in this order: first what takes redirected traffic, then the redirection, then the guard. Last
    /// goes what istio-cni left.
    /// Whatever stands already is left as it is. `held` are listeners the parent kept, `following` is what [`Self::prepare`]
    /// gave. It needs a runtime, which nothing here outlives.
    pub async fn install(
        &mut self,
        parts: &Parts,
        netns: Netns,
        held: Option<Listeners>,
        following: PodRouting,
    ) -> Result<(), RegistryError> {
        let netns = Arc::new(netns);
        let slot = self.slot();
        let maps = parts.node.maps();
        // The requests of `following` are made on the registry's thread.
        let routing = PodRouting::open(&netns)?;
        let interior = routing.interior(&netns).await?;
        if let Some(tap) = interior.links.iter().find(|link| is_sandbox(&link.name)) {
            return Err(RegistryError::Sandboxed(tap.name.clone()));
        }
        let listeners = match held {
            Some(held) => held,
            None => {
                let opened = Listeners::open(&netns).map_err(RegistryError::Listeners)?;
                hold(&parts.keeper, &self.record, &opened).map_err(RegistryError::Keeper)?;
                opened
            }
        };
        self.standing = Standing::of(&self.record.pod);
        self.flags = self.wanted_flags(parts, &parts.mesh.current(), &interior.addresses);
        let rules = listeners.rules(self.flags).map_err(RegistryError::Listeners)?;
        parts.programs.install(slot, &netns)?;
        maps.set_addresses(slot, &self.addresses.load(), &interior.addresses)?;
        self.addresses.store(Arc::new(interior.addresses.clone()));
        maps.set_guest_interfaces(slot, &interior.indexes_of(&self.record.pod.reroute_interfaces))?;
        match capture::flags(&self.standing.capture) {
            // Rules that an agent left which died half-way are not asked for, and go with the slot.
            0 => maps.set_rules(slot, rules)?,
            _ => self.tell(parts, &self.standing.capture, rules)?,
        }
        maps.set_listener(slot, LISTENER_OUTBOUND, &listeners.outbound)?;
        maps.set_listener(slot, LISTENER_HBONE, &listeners.hbone)?;
        routing
            .install(&netns, &interior, &self.record.pod.reroute_interfaces)
            .await?;
        self.served = Some(self.serve(parts, Arc::clone(&netns), listeners, rules, following)?);
        maps.arm(netns.cookie(), slot)?;
        if let Some(inside) = self.inside() {
            inside.guard(parts, &interior)?;
        }
        self.interior = interior;
        self.state = State::Enrolled;
        self.trouble = None;
        let left = istio_cni::pod::take_over(&netns, &routing).await;
        self.note_leftover(left);
        Ok(())
    }

    fn serve(
        &self,
        parts: &Parts,
        netns: Arc<Netns>,
        listeners: Listeners,
        rules: isthmus_abi::Rules,
        mut routing: PodRouting,
    ) -> Result<Served, RegistryError> {
        let place = parts.shards.place().ok_or(RegistryError::NoThread)?;
        let own = parts.node.maps().own_sockets()?;
        let sockets = Arc::new(PodSockets::new(Arc::clone(&netns), own, Arc::clone(&self.addresses)));
        let pod = &self.record.pod;
        let facts = PodFacts {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
        };
        let proxy = PodProxy::new(
            facts,
            ProxyParts {
                sockets,
                mesh: parts.mesh.clone(),
                certificates: parts.certificates.clone(),
                names: Names::of_process(),
                network: Arc::clone(&parts.network),
                tuning: parts.tuning,
                telemetry: Arc::clone(&parts.telemetry),
            },
        );
        let (trigger, signal) = drain();
        let Listeners { outbound, hbone } = listeners;
        let runtime = place.handle().enter();
        let outbound = TcpListener::from_std(outbound).map_err(RegistryError::Listeners)?;
        let hbone = TcpListener::from_std(hbone).map_err(RegistryError::Listeners)?;
        drop(runtime);
        let (serving, kept, ending) = (Arc::clone(&proxy), place.clone(), signal.clone());
        let outbound = place.handle().spawn(async move {
            serving.outbound(outbound, ending).await;
            drop(kept);
        });
        let inbound = place.handle().spawn(Arc::clone(&proxy).inbound(hbone, signal));
        let watcher = watch(routing.take_changes(), self.record.slot, parts.stirred.clone());
        let watcher = parts.home.spawn(watcher);
        Ok(Served {
            netns,
            proxy,
            trigger,
            serving: vec![outbound, inbound],
            watcher,
            rules,
            routing,
        })
    }

    /// Where its links and addresses can be followed.
    pub fn inside(&self) -> Option<Inside> {
        Some(Inside {
            netns: Arc::clone(&self.served.as_ref()?.netns),
            slot: self.slot(),
            name: self.record.pod.name.clone(),
            guests: self.record.pod.reroute_interfaces.clone(),
            is_guarded: self.state == State::Enrolled,
            addresses: Arc::clone(&self.addresses),
            known: self.interior.clone(),
        })
    }

    /// Its links and addresses are these now, and the kernel has been told.
    pub fn followed(&mut self, interior: Interior) {
        self.interior = interior;
    }

    /// Has the certificate held ready of who the mesh says the pod is; before it does, of who the pod will be.
    fn want_certificate(&mut self, parts: &Parts, mesh: &Snapshot) {
        let known = self
            .workload(mesh, &parts.network)
            .and_then(|workload| workload.identity());
        let is_known = known.is_some();
        let pod = &self.record.pod;
        let expected = || SpiffeId::new(&parts.trust_domain, &pod.namespace, pod.service_account.as_deref()?).ok();
        let Some(id) = known.or_else(expected) else { return };
        match &mut self.identity {
            Some(held) if *held.wanted.id() == id => {
                if is_known && !std::mem::replace(&mut held.is_known, is_known) {
                    // Who knows of the pod in the mesh knows whom it certifies.
                    parts.certificates.retry(&id);
                }
            }
            // What the mesh said is not given up for a guess.
            Some(_) if !is_known => {}
            _ => {
                let wanted = parts.certificates.want(&id);
                self.identity = Some(Held { wanted, is_known });
            }
        }
    }

    /// The mesh may say otherwise now who the pod is, and whether plaintext is refused.
    pub fn reconsider(&mut self, parts: &Parts, mesh: &Snapshot) -> Result<(), RegistryError> {
        if self.state != State::Lingering {
            self.want_certificate(parts, mesh);
        }
        let flags = self.wanted_flags(parts, mesh, &self.addresses.load());
        let draining = matches!(self.state, State::Draining { .. });
        let flags = if draining { 0 } else { flags };
        match &mut self.served {
            Some(served) if flags != self.flags => {
                served.rules.flags = flags;
                parts.node.maps().set_rules(self.record.slot, served.rules)?;
                self.flags = flags;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The oldest open tunnels, at most `most`.
    pub fn list_tunnels(&self, most: usize) -> Vec<TunnelInfo> {
        let served = self.served.as_ref();
        served.map(|served| served.proxy.list_tunnels(most)).unwrap_or_default()
    }

    /// The oldest open connections, at most `most` each way.
    pub fn list_connections(&self, parts: &Parts, most: usize) -> PodConnections {
        let pod = &self.record.pod;
        let proxy = self.served.as_ref().map(|served| &served.proxy);
        let [inbound, outbound] = proxy.map(|proxy| proxy.list_connections(most)).unwrap_or_default();
        let account = pod.service_account.clone().or_else(|| {
            let workload = self.workload(&parts.mesh.current(), &parts.network)?;
            Some(workload.service_account.to_string())
        });
        PodConnections {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: account.unwrap_or_default(),
            served: self.state == State::Enrolled,
            not_listed: self.connections().saturating_sub(inbound.len() + outbound.len()),
            inbound,
            outbound,
        }
    }

    /// What the mesh says of plaintext to this pod, whether its connects to strangers are left alone, and what of its
    /// traffic has rules of its own. A pod the mesh does not know may have any policy: refused.
    fn wanted_flags(&self, parts: &Parts, mesh: &Snapshot, addresses: &[IpAddr]) -> u32 {
        let own = self.workload(mesh, &parts.network);
        // A mesh that lacks this pod may lack its destinations as well.
        let leaves = parts.leave_non_mesh && own.is_some();
        let required = self.record.pod.mtls_required.unwrap_or_else(|| {
            own.or_else(|| at_one_of(parts, mesh, addresses))
                .is_none_or(|workload| policy::plaintext_refused(mesh, &workload))
        });
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        flag(required, FLAG_MTLS_REQUIRED) | flag(leaves, FLAG_LEAVE_STRANGERS) | capture::flags(&self.standing.capture)
    }

    /// The workload whose policies hold for the pod: by its name, else by its address.
    fn policed(&self, parts: &Parts, mesh: &Snapshot, addresses: &[IpAddr]) -> Option<Arc<Workload>> {
        self.workload(mesh, &parts.network)
            .or_else(|| at_one_of(parts, mesh, addresses))
    }

    fn workload(&self, mesh: &Snapshot, network: &str) -> Option<Arc<Workload>> {
        let pod = &self.record.pod;
        mesh.workload_of_pod_in(network, &pod.namespace, &pod.name, pod.service_account.as_deref())
    }

    /// Redirects no new connections. The guard is to be taken off then.
    pub fn begin_release(&mut self, parts: &Parts) -> Result<(), RegistryError> {
        self.record.released = true;
        parts.records.write(&self.record)?;
        parts.node.maps().disarm(self.record.cookie)?;
        Ok(())
    }

    /// The guard is off; what is open lives on, served, until `until`.
    pub fn end_release(&mut self, parts: &Parts, until: Instant) -> Result<(), RegistryError> {
        self.interior = Interior::default();
        self.state = State::Draining { until };
        self.reconsider(parts, &parts.mesh.current())
    }

    /// Takes a draining pod back in.
    pub async fn take_back(&mut self, parts: &Parts) -> Result<(), RegistryError> {
        self.state = State::Enrolled;
        self.reconsider(parts, &parts.mesh.current())?;
        parts.node.maps().arm(self.record.cookie, self.slot())?;
        // Whatever was followed since its release, nothing of it is guarded.
        self.interior = Interior::default();
        if let Some(inside) = self.inside() {
            self.interior = inside.follow(parts).await?;
        }
        Ok(())
    }

    /// Removes every trace of a pod from its namespace and from the kernel, also of one that was brought in half-way.
    pub async fn take_out(mut self, parts: &Parts) -> Result<(), RegistryError> {
        let inside = self.take_out_of_namespace().await;
        // What the kernel and the disk hold goes, whatever the namespace said.
        self.forget(parts)?;
        inside
    }

    async fn take_out_of_namespace(&mut self) -> Result<(), RegistryError> {
        let served = self.served.take();
        let held = served.as_ref().map(|served| Arc::clone(&served.netns));
        let netns = held.or_else(|| Netns::open(&self.record.pod.netns).ok().map(Arc::new));
        match netns.filter(|netns| netns.cookie() == self.record.cookie) {
            Some(netns) => Ok(PodRouting::open(&netns)?.remove(&netns).await?),
            // It has gone, and all in it.
            None => Ok(()),
        }
    }

    /// The pod's namespace lost its path: ends its connections and lets go of the namespace. The guard stays.
    pub fn let_go(&mut self, parts: &Parts) -> Result<(), RegistryError> {
        self.served = None;
        self.identity = None;
        self.state = State::Lingering;
        parts
            .keeper
            .release(&held_prefix(&self.record))
            .map_err(RegistryError::Keeper)
    }

    /// Removes what the kernel and the disk hold of a pod that is gone.
    pub fn forget(mut self, parts: &Parts) -> Result<(), RegistryError> {
        self.served = None;
        parts
            .keeper
            .release(&held_prefix(&self.record))
            .map_err(RegistryError::Keeper)?;
        parts.node.maps().disarm(self.record.cookie)?;
        parts.programs.remove(self.slot())?;
        parts.node.maps().clear(self.slot(), &self.addresses.load())?;
        parts.records.remove(self.slot())?;
        Ok(())
    }

    /// Takes no more connections; cuts what is open after `deadline`. What it gives ends when all have ended.
    pub fn drain(&mut self, deadline: std::time::Duration) -> Vec<JoinHandle<()>> {
        let Some(served) = &mut self.served else {
            return Vec::new();
        };
        served.trigger.start(deadline);
        std::mem::take(&mut served.serving)
    }

    /// For status, without its links.
    pub fn status(&self, parts: &Parts, depth: Depth) -> PodStatus {
        let maps = (depth >= Depth::Counted).then(|| parts.node.maps());
        let counted = maps.map(|maps| maps.plaintext(self.slot())).unwrap_or_default();
        let mesh = parts.mesh.current();
        let identity = self
            .workload(&mesh, &parts.network)
            .and_then(|workload| workload.identity());
        let wanted = self.identity.as_ref().map(|held| held.wanted.id());
        let certificate = identity.as_ref().or(wanted).and_then(|id| parts.certificates.held(id));
        let open = self
            .served
            .as_ref()
            .map_or_else(OpenCounts::default, |served| served.proxy.open());
        PodStatus {
            namespace: self.record.pod.namespace.clone(),
            name: self.record.pod.name.clone(),
            state: self.state.name().to_owned(),
            trouble: self.trouble.clone(),
            leftover: self.leftover.clone(),
            netns: self.record.pod.netns.clone(),
            addresses: self.addresses.load().to_vec(),
            identity: identity.as_ref().map(ToString::to_string),
            certificate: certificate.map(|held| certificate_status(held, SystemTime::now())),
            mtls_required: self.flags & FLAG_MTLS_REQUIRED != 0,
            mtls_because: match self.record.pod.mtls_required {
                Some(_) => MtlsBecause::Enrolment,
                None if self.policed(parts, &mesh, &self.addresses.load()).is_some() => MtlsBecause::Policies,
                None => MtlsBecause::UnknownToMesh,
            },
            capture: self.standing.capture.clone(),
            reroute_interfaces: self.standing.guests.clone(),
            connections_out: open.connections_out,
            connections_in: open.connections_in,
            tunnels_out: open.tunnels_out,
            tunnels_in: open.tunnels_in,
            verdicts: maps.map(|maps| maps.verdicts(self.slot())).unwrap_or_default(),
            plaintext: Plaintext {
                opened: counted.opened,
                closed: counted.closed,
                received_bytes: counted.received_bytes,
                sent_bytes: counted.sent_bytes,
            },
            links: BTreeMap::new(),
            programs: BTreeMap::new(),
        }
    }
}

fn at_one_of(parts: &Parts, mesh: &Snapshot, addresses: &[IpAddr]) -> Option<Arc<Workload>> {
    let at = |address: &IpAddr| mesh.workload_at(&parts.network, *address);
    addresses.iter().find_map(at)
}

/// Kata Containers names the tap of its virtual machine so (`tap0_kata`, virtcontainers).
fn is_sandbox(interface: &str) -> bool {
    interface.ends_with("_kata")
}

/// Tells the registry when links or addresses of a pod may have changed.
async fn watch(changes: Option<mpsc::Receiver<()>>, slot: u32, stirred: mpsc::Sender<Stirred>) {
    let Some(mut changes) = changes else { return };
    while changes.recv().await.is_some() {
        if stirred.send(Stirred { slot }).await.is_err() {
            return;
        }
    }
}

/// Names of a pod's listeners at the parent begin so.
pub fn held_prefix(record: &Record) -> String {
    format!("pod/{}/{}/", record.slot, record.cookie)
}

fn hold(keeper: &Keeper, record: &Record, listeners: &Listeners) -> std::io::Result<()> {
    use std::os::fd::AsFd as _;
    let prefix = held_prefix(record);
    keeper.hold(&format!("{prefix}outbound"), listeners.outbound.as_fd())?;
    keeper.hold(&format!("{prefix}hbone"), listeners.hbone.as_fd())
}
