//! The composition root: the only place that knows every part.

use std::{
    error::Error,
    fs, io,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    signal::{SigSet, Signal},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

pub use crate::pods::registry::chain;
use crate::{
    cli::{GatewayArgs, LogFormat, MeshArgs, RunArgs, WorkerArgs},
    control::{self, Facts},
    drain::drain,
    identity::{Certificates, SpiffeId, embedded_ca::EmbeddedCa},
    mesh::{self, Mesh, Snapshot},
    parent::keeper::Keeper,
    pods::{
        Registry,
        record::Records,
        registry::{Parts, Stirred},
    },
    proxy::{
        self,
        gateway::{Gateway, GatewayParts},
    },
    redirect::{Netns, NodePrograms, Pins, PodPrograms, ebpf_log, netns, node::Ground, objects, selftest},
    shards::{self, Shards},
    telemetry::{
        self, Telemetry,
        log::{LineFormat, LogHandle},
        spans,
    },
};

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct StartError {
    step: String,
    #[source]
    cause: Box<dyn Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn Error + Send + Sync>>>(step: impl Into<String>) -> impl FnOnce(E) -> StartError {
    move |cause| StartError {
        step: step.into(),
        cause: cause.into(),
    }
}

/// Logs to standard error; `RUST_LOG` filters.
pub fn start_log(format: LogFormat) -> LogHandle {
    telemetry::log::start(line_format(format), &log_filter())
}

/// The same for the parent process, which has no threads.
pub fn start_parents_log(format: LogFormat) -> LogHandle {
    telemetry::log::start_at_once(line_format(format), &log_filter())
}

fn log_filter() -> String {
    std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned())
}

fn line_format(format: LogFormat) -> LineFormat {
    match format {
        LogFormat::Json => LineFormat::Json,
        LogFormat::Plain => LineFormat::Plain,
    }
}

/// Counters of this process. Sends spans where `OTEL_EXPORTER_OTLP_ENDPOINT` says, if it says so.
fn start_telemetry(log: &LogHandle, node: &str) -> Result<Arc<Telemetry>, StartError> {
    let version = std::env::var("ISTIO_META_ISTIO_VERSION").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    let telemetry = Telemetry::new(&version);
    log.describe_in(&telemetry.exposition);
    telemetry.exposition.add(proxy::describe_descriptors);
    if let Ok(endpoint) = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT") {
        let resource = [
            ("service.name", "isthmus"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("k8s.node.name", node),
        ];
        let spans = spans::start(&endpoint, &resource).map_err(failed("reading OTEL_EXPORTER_OTLP_ENDPOINT"))?;
        telemetry.export_spans(spans);
    }
    Ok(telemetry)
}

/// The worker: serves the pods of a node until SIGTERM.
pub fn worker(arguments: WorkerArgs, log: &LogHandle) -> Result<(), StartError> {
    // The parent blocks signals for itself; and a worker without a parent would hold pods nobody restarts.
    SigSet::all().thread_unblock().map_err(failed("unblocking signals"))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("asking to end with the parent"))?;
    raise_descriptor_limit();
    netns::remember_home().map_err(failed("opening this process's network namespace"))?;
    let threads = arguments.run.threads.unwrap_or_else(shards::default_count);
    let data = Shards::start(threads, arguments.run.vigil).map_err(failed("starting data threads"))?;
    let control = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting the control runtime"))?;
    control.block_on(serve_node(arguments, data, log))
}

async fn serve_node(arguments: WorkerArgs, data: Shards, log: &LogHandle) -> Result<(), StartError> {
    let WorkerArgs { run, restarts } = arguments;
    let (keeper, mut held) =
        Keeper::greet().map_err(failed("talking to the parent process; `isthmus run` starts workers"))?;
    prepare_run_directory(&run.run_dir)?;
    let telemetry = start_telemetry(log, &run.node)?;
    let (mesh, mesh_state) = follow_mesh(&run.mesh).await;
    let certificates = open_certificates(&run.mesh)?;

    let node_netns = Netns::open(&run.node_netns).map_err(failed(
        "opening the node's network namespace (an agent that is in it may say --node-netns /proc/self/ns/net)",
    ))?;
    let pins = Pins::new(&run.bpffs, &run.node, objects::generation());
    let (node, programs) = redirect(&run, &pins, &node_netns).await?;

    let path = run.run_dir.join(isthmus_wire::SOCKET_NAME);
    let control = match held.remove("control") {
        Some(socket) => socket.into(),
        None => bind_control(&path, &keeper)?,
    };
    let control = UnixListener::from_std(control).map_err(failed("listening on the control socket"))?;

    let (stirred, stirrings) = mpsc::channel::<Stirred>(256);
    let network: Arc<str> = run.mesh.network.as_str().into();
    let parts = Parts {
        node,
        programs,
        node_cookie: node_netns.cookie(),
        records: Records::open(&run.run_dir).map_err(failed("opening the records of pods"))?,
        keeper,
        mesh: mesh.clone(),
        certificates,
        network: Arc::clone(&network),
        shards: data,
        leave_strangers: run.leave_strangers,
        release_deadline: run.release_deadline,
        stirred,
        telemetry,
    };
    drop(node_netns);
    let (registry, pods) = Registry::adopt(parts, stirrings, held).await;
    if registry.is_whole() {
        registry.remove_other_generations();
    }
    registry.tell_ready().map_err(failed("telling the parent process"))?;
    let facts = Facts {
        node: run.node.as_str().into(),
        network,
        restarts,
        mesh_state,
        mesh,
    };
    let control = tokio::spawn(control::serve(control, pods.clone(), facts));
    tracing::info!(node = run.node, "ready");
    let registry = tokio::spawn(registry.run());

    wait_for_end().await?;
    tracing::info!(deadline = ?run.mesh.drain_deadline, "draining; pods stay guarded");
    control.abort();
    pods.drain(run.mesh.drain_deadline).await;
    registry.abort();
    tracing::info!("drained");
    Ok(())
}

async fn redirect(run: &RunArgs, pins: &Pins, node: &Netns) -> Result<(NodePrograms, PodPrograms), StartError> {
    let cgroup = match &run.cgroup {
        Some(path) => path.clone(),
        None => cgroup2_root()?,
    };
    let ground = Ground {
        pins: pins.clone(),
        cgroup: &cgroup,
        node,
        log: run.ebpf_log,
    };
    let programs = NodePrograms::attach(&ground).map_err(failed("attaching the node's programs"))?;
    let pods = PodPrograms::new(pins, run.ebpf_log);
    if run.ebpf_log {
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

/// The east-west gateway: serves until SIGTERM.
pub fn gateway(arguments: GatewayArgs, log: &LogHandle) -> Result<(), StartError> {
    raise_descriptor_limit();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting the runtime"))?;
    runtime.block_on(serve_gateway(arguments, log))
}

async fn serve_gateway(arguments: GatewayArgs, log: &LogHandle) -> Result<(), StartError> {
    let (namespace, account) = arguments
        .identity
        .split_once('/')
        .ok_or("it must be NAMESPACE/SERVICE-ACCOUNT")
        .map_err(failed(format!("reading --identity {}", arguments.identity)))?;
    let identity = SpiffeId::new(&arguments.trust_domain, namespace, account)
        .map_err(failed(format!("reading --identity {}", arguments.identity)))?;
    let (mesh, _state) = follow_mesh(&arguments.mesh).await;
    let parts = GatewayParts {
        identity,
        network: arguments.mesh.network.as_str().into(),
        mesh,
        certificates: open_certificates(&arguments.mesh)?,
        telemetry: start_telemetry(log, "")?,
    };
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(failed(format!("listening on {}", arguments.listen)))?;
    let (trigger, signal) = drain();
    let serving = tokio::spawn(Gateway::new(parts).serve(listener, signal));
    tracing::info!(listen = %arguments.listen, network = arguments.mesh.network, "ready");
    wait_for_end().await?;
    tracing::info!(deadline = ?arguments.mesh.drain_deadline, "draining");
    trigger.start(arguments.mesh.drain_deadline);
    serving.await.map_err(failed("draining"))?;
    tracing::info!("drained");
    Ok(())
}

/// Serves from the file as it is now, if it loads, and follows it from here on.
async fn follow_mesh(arguments: &MeshArgs) -> (Mesh, watch::Receiver<String>) {
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    let (state, mut told) = watch::channel(String::new());
    tokio::spawn(mesh::watch::follow(arguments.mesh.clone(), publisher, state));
    // Pods are taken up with the policies that hold for them, or refused plaintext while the file cannot be read.
    let first = tokio::time::timeout(Duration::from_secs(10), told.changed()).await;
    if !matches!(first, Ok(Ok(()))) {
        tracing::warn!(file = %arguments.mesh.display(), "the mesh file takes long to load; serving without it");
    }
    (mesh, told)
}

fn open_certificates(arguments: &MeshArgs) -> Result<Certificates, StartError> {
    let ca = EmbeddedCa::open(&arguments.embedded_ca)
        .map_err(failed("opening the embedded CA (make one with `isthmus ca init DIR`)"))?;
    Ok(Certificates::new(Arc::new(ca)))
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

/// Sockets are what the agent is made of.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptor limit"),
        Err(error) => tracing::warn!(%error, "RLIMIT_NOFILE stays as it is"),
    }
}

fn cgroup2_root() -> Result<PathBuf, StartError> {
    let step = "finding the cgroup2 hierarchy in /proc/self/mountinfo (mount one, or say --cgroup)";
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed(step))?;
    // proc_pid_mountinfo(5): the mount point is the fifth field, the type follows a lone hyphen.
    let found = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    });
    found.ok_or("there is none").map_err(failed(step))
}

async fn wait_for_end() -> Result<(), StartError> {
    let mut terminated = signal(SignalKind::terminate()).map_err(failed("listening for SIGTERM"))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed("listening for SIGINT"))?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}
