//! The worker of a node agent.

use std::{
    fs, io,
    num::NonZeroUsize,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use isthmus_wire::WorkerEnd;
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
};
use tokio::{
    net::UnixListener,
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    StartError,
    admin_ports::{AdminPorts, failures},
    awaited,
    cni_plugin::{self, Installed},
    dump, failed,
    kept_certificates::Kept,
    kubernetes_admission::{ByKubernetes, keep_namespaces},
    mesh_source::MeshSource,
    open_certificates, raise_descriptor_limit, start_log, start_telemetry,
};
use crate::{
    admin::{Part, Readiness},
    config::NodeConfig,
    config_dump,
    control::{
        self,
        additions::Additions,
        admission::{Admission, Everybody},
    },
    identity::{Certificates, istiod_ca::Asks},
    kubernetes::{Kubernetes, Way},
    parent::{handover, keeper::Keeper},
    pods::{
        Registry,
        record::Records,
        registry::{Parts, Stirred},
    },
    redirect::{Netns, NodePrograms, Pins, PodPrograms, cgroup2, ebpf_log, netns, node::Ground, objects, selftest},
    shards::Shards,
    start_code,
    status::{Desk, Facts, Holder},
    telemetry::log::LogHandle,
};

/// How long an agent that could take over waits for the mesh, while the one before serves.
const MESH_BEFORE_TAKEOVER: Duration = Duration::from_secs(30);
const CGROUP2: &str = "finding the cgroup2 hierarchy in /proc/self/mountinfo (mount one, or say --cgroup)";

/// Serves the pods of a node until SIGTERM. `restarts` says how many workers there were before.
///
/// # Errors
/// When a step of the start fails.
pub fn worker(config: NodeConfig, restarts: u64, ended: Option<WorkerEnd>) -> Result<(), StartError> {
    let log = start_log(&config.common.log);
    let served = run(config, Before { restarts, ended }, &log);
    if let Err(error) = &served {
        tracing::error!(error = super::chain(error), "cannot go on");
    }
    log.finish();
    served
}

/// What came before this worker.
struct Before {
    restarts: u64,
    ended: Option<WorkerEnd>,
}

fn run(config: NodeConfig, before: Before, log: &LogHandle) -> Result<(), StartError> {
    // The parent blocks signals for itself; and a worker without a parent would hold pods nobody restarts.
    SigSet::all().thread_unblock().map_err(failed("unblocking signals"))?;
    // Started as /proc/self/exe, it would be called `exe` by `ps` and `top`.
    prctl::set_name(c"isthmus-worker").map_err(failed("naming the process"))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("asking to end with the parent"))?;
    raise_descriptor_limit();
    netns::remember_home().map_err(failed("opening this process's network namespace"))?;
    let data = Shards::start(data_threads(&config), config.vigil).map_err(failed("starting data threads"))?;
    let control = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting the control runtime"))?;
    let served = control.block_on(serve(config, before, data, log));
    // A blocking call under way must not hold up the end.
    control.shutdown_background();
    served
}

fn data_threads(config: &NodeConfig) -> NonZeroUsize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    config.threads.on(cores, config.cpus)
}

async fn serve(config: NodeConfig, before: Before, data: Shards, log: &LogHandle) -> Result<(), StartError> {
    // Before a successor can ask for anything.
    let mut handed_over = signal(SignalKind::user_defined2()).map_err(failed("listening for SIGUSR2"))?;
    let telemetry = start_telemetry(log, &config.common, &config.node)?;
    let admin = AdminPorts::open(config.common.ports, log, &telemetry, &awaited::parts(&config)).await?;
    let (keeper, mut held) =
        Keeper::greet().map_err(failed("talking to the parent process; `isthmus run` starts workers"))?;
    prepare_run_directory(&config.run_dir)?;
    let mut source = MeshSource::follow(&config.common, &config.node, &telemetry).await?;
    admin.done_with_mesh(&source);
    let mesh = source.mesh.clone();

    let node_netns = Netns::open(&config.node_netns).map_err(failed(
        "opening the node's network namespace (an agent that is in it may say --node-netns /proc/self/ns/net)",
    ))?;
    let pins = Pins::new(&config.bpffs, &config.node, objects::generation());
    let (node, programs) = redirect(&config, &pins, &node_netns).await?;
    admin.done(Part::Proxy);
    let way = way_to_kubernetes(&config).await?;

    if before.restarts == 0 && handover::is_somebody_there(&config.run_dir) {
        // Its pods are served as long as this takes.
        source.known_within(MESH_BEFORE_TAKEOVER).await;
        held.extend(
            keeper
                .take_over()
                .map_err(failed("taking over from the agent before"))?,
        );
    }
    let kept = Kept::take(&keeper, &mut held).map_err(failed("sharing the link to the parent process"))?;
    let certificates = open_certificates(&config.common, Asks::ForPods, Some(kept))?;
    let told = config_dump::of_node(&config, data_threads(&config));
    let dumped = dump::Held::new(&config.common, told, &mesh, &certificates);
    let link = keeper
        .share()
        .map_err(failed("sharing the link to the parent process"))?;

    let path = config.run_dir.join(isthmus_wire::SOCKET_NAME);
    let control = match held.remove("control") {
        Some(socket) => socket.into(),
        None => bind_control(&path, &keeper)?,
    };
    let control = UnixListener::from_std(control).map_err(failed("listening on the control socket"))?;

    let (stirred, stirrings) = mpsc::channel::<Stirred>(256);
    let network: Arc<str> = config.common.network.as_str().into();
    let failures = failures(&telemetry);
    let parts = Parts {
        node,
        programs,
        node_cookie: node_netns.cookie(),
        records: Records::open(&config.run_dir).map_err(failed("opening the records of pods"))?,
        keeper,
        mesh: mesh.clone(),
        certificates: certificates.clone(),
        trust_domain: config.common.trust_domain.as_str().into(),
        network: Arc::clone(&network),
        tuning: config.common.tuning,
        shards: data,
        // Who is not in a mesh that was asked for in parts may be a member all the same.
        leave_non_mesh: config.leave_non_mesh && source.mesh.demand().is_none(),
        release_deadline: config.release_deadline,
        home: Handle::current(),
        stirred,
        telemetry: Arc::clone(&telemetry),
    };
    drop(node_netns);
    let (registry, pods) = Registry::adopt(parts, stirrings, held).await;
    certificates.keep_only_wanted();
    if registry.is_whole() {
        registry.remove_other_generations();
    }
    registry.tell_ready().map_err(failed("telling the parent process"))?;
    let kubernetes = way
        .zip(config.kubernetes.as_ref())
        .map(|(way, settings)| Kubernetes::start(way, settings, &config.node_netns, pods.clone(), &telemetry));
    let plugin = cni_plugin::install(&config);
    let taking_over = cni_plugin::take_over(&config);
    let facts = Facts {
        node: config.node.clone(),
        network: network.to_string(),
        restarts: before.restarts,
        ended: before.ended,
        mesh_state: source.state.clone(),
        istiod: source.told.clone(),
        kubernetes: kubernetes.clone(),
        cni: plugin.as_ref().map(|plugin| plugin.status.clone()),
        certificates: certificates.clone(),
        mesh,
        readiness: admin.readiness.clone(),
        failures,
    };
    let desk = Desk::new(facts, Holder::Pods(pods.clone()));
    admin.told_by(&desk);
    admin.dump(dumped, Some(pods.clone()));
    admin.count_pods(pods.clone(), before.restarts);
    admin.done(Part::Pods);
    let admission: Arc<dyn Admission> = match &kubernetes {
        Some(kubernetes) => Arc::new(ByKubernetes(kubernetes.clone())),
        None => Arc::new(Everybody),
    };
    let namespaces_kept = kubernetes
        .clone()
        .map(|kubernetes| tokio::spawn(keep_namespaces(kubernetes, config.state_dir.clone())));
    let awaited = follow_parts(
        &config,
        &admin.readiness,
        &certificates,
        kubernetes.as_ref(),
        plugin.as_ref(),
    );
    let additions = Additions::new(pods.clone(), certificates, admission);
    let control = tokio::spawn(control::serve(control, additions, desk));
    admin.done(Part::Control);
    // Before anybody is told to go ahead: from here on SIGTERM drains.
    let mut terminated = signal(SignalKind::terminate()).map_err(failed("listening for SIGTERM"))?;
    // A terminal sends SIGINT to the parent too, which passes on what it means.
    let _interrupted = signal(SignalKind::interrupt()).map_err(failed("listening for SIGINT"))?;
    tracing::info!(node = config.node, "ready");
    let registry = tokio::spawn(registry.run());
    start_code::let_go_soon();

    let deadline = config.common.drain_deadline;
    let attend_to_nobody = || {
        control.abort();
        if let Some(kubernetes) = &kubernetes {
            kubernetes.end();
        }
        if let Some(namespaces_kept) = &namespaces_kept {
            namespaces_kept.abort();
        }
    };
    tokio::select! {
        _ = terminated.recv() => {
            admin.readiness.pend(Part::Drain);
            drop((plugin, taking_over, awaited));
            tracing::info!(?deadline, "draining; pods stay guarded");
            attend_to_nobody();
            pods.drain(deadline).await;
            registry.abort();
            source.end().await;
        }
        _ = handed_over.recv() => {
            admin.readiness.pend(Part::Drain);
            drop((plugin, taking_over, awaited));
            tracing::info!(?deadline, "draining; a successor serves the pods");
            attend_to_nobody();
            let quiet = || {
                if let Err(error) = link.quiet() {
                    tracing::warn!(%error, "the parent does not hear that the node is the successor's");
                }
            };
            pods.hand_over(deadline, quiet).await;
        }
    }
    tracing::info!("drained");
    Ok(())
}

/// What may take long, or never be reached, and must not hold up the start: followed until the set is dropped.
fn follow_parts(
    config: &NodeConfig,
    readiness: &Readiness,
    certificates: &Certificates,
    kubernetes: Option<&Kubernetes>,
    plugin: Option<&Installed>,
) -> JoinSet<()> {
    let mut awaited = JoinSet::new();
    let given = awaited::certificates(readiness.clone(), config.common.clone(), certificates.clone());
    awaited.spawn(given);
    if let Some(kubernetes) = kubernetes {
        awaited.spawn(awaited::enrolment(readiness.clone(), kubernetes.standing()));
    }
    if let Some(plugin) = plugin {
        awaited.spawn(awaited::plugin(readiness.clone(), plugin.status.clone()));
    }
    let taint = config
        .kubernetes
        .as_ref()
        .and_then(|settings| settings.startup_taint.clone());
    awaited.spawn(awaited::reached(readiness.clone(), kubernetes.cloned().zip(taint)));
    awaited
}

/// Before anything is taken over: an agent that cannot enrol must not succeed one that can.
async fn way_to_kubernetes(config: &NodeConfig) -> Result<Option<Way>, StartError> {
    let Some(settings) = &config.kubernetes else {
        return Ok(None);
    };
    let step = "finding the way to Kubernetes' API server (pods can be enrolled without it: --kubernetes=false)";
    Way::find(settings, &config.node).await.map(Some).map_err(failed(step))
}

async fn redirect(config: &NodeConfig, pins: &Pins, node: &Netns) -> Result<(NodePrograms, PodPrograms), StartError> {
    let cgroup = match &config.cgroup {
        Some(path) => path.clone(),
        None => cgroup2::mounted()
            .map_err(failed(CGROUP2))?
            .ok_or("there is none")
            .map_err(failed(CGROUP2))?,
    };
    let ground = Ground {
        pins: pins.clone(),
        cgroup: &cgroup,
        node,
        log: config.ebpf_log,
    };
    let programs = NodePrograms::attach(&ground).map_err(failed("attaching the node's programs"))?;
    let pods = PodPrograms::new(pins, config.ebpf_log);
    if config.ebpf_log {
        ebpf_log::follow(&programs).map_err(failed("reading the log of the eBPF programs"))?;
    }
    selftest::run(&programs, &pods)
        .await
        .map_err(failed("proving that connects are redirected"))?;
    tracing::info!(
        adopted = programs.adopted(),
        generation = pins.generation(),
        "redirection works on this kernel"
    );
    Ok((programs, pods))
}

fn prepare_run_directory(path: &Path) -> Result<(), StartError> {
    let step = || format!("making the run directory {}", path.display());
    fs::create_dir_all(path).map_err(failed(step()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed(step()))
}

fn bind_control(path: &Path, keeper: &Keeper) -> Result<std::os::unix::net::UnixListener, StartError> {
    let step = || format!("listening on {}", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(step())(error)),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed(step()))?;
    listener.set_nonblocking(true).map_err(failed(step()))?;
    keeper.hold("control", listener.as_fd()).map_err(failed(step()))?;
    Ok(listener)
}
