use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::SubscriberExt as _};

use crate::{
    dns::Names,
    drain::{DrainTrigger, drain},
    identity::{Certificates, SpiffeId, embedded_ca::EmbeddedCa},
    mesh::{Asks, Builder, Draft, HBONE_PORT, Mesh, Policy, Publisher, Service, workload::Protocol},
    proxy::{Gateway, GatewayParts, PlainSockets, PodFacts, PodProxy, ProxyParts, Sockets, Tuning},
    telemetry::{Format, Telemetry},
};

pub(super) const NETWORK: &str = "net1";

/// A mesh that lives in this process.
pub(super) struct World {
    pub(super) mesh: Mesh,
    publisher: Publisher,
    builder: Mutex<Builder>,
    pub(super) certificates: Certificates,
    /// Of pods made from now on.
    pub(super) names: Names,
    /// Of pods and gateways made from now on.
    pub(super) tuning: Tuning,
    directory: Option<PathBuf>,
    pub(super) log: AccessLog,
    pub(super) telemetry: Arc<Telemetry>,
    subscriber: Option<tracing::subscriber::DefaultGuard>,
}

/// A pod with its proxy, served.
pub(super) struct Pod {
    pub(super) ip: IpAddr,
    pub(super) proxy: Arc<PodProxy>,
    pub(super) sockets: Arc<TestSockets>,
    pub(super) trigger: DrainTrigger,
    pub(super) outbound: JoinHandle<()>,
    pub(super) inbound: JoinHandle<()>,
    listener: SocketAddr,
}

/// Plain sockets that remember what was dialled. What a client wants is told by its source port, because nothing is
/// redirected here.
#[derive(Default)]
pub(super) struct TestSockets {
    wanted: Mutex<HashMap<u16, SocketAddr>>,
    pub(super) dialled: Mutex<Vec<SocketAddr>>,
    pub(super) delivered: Mutex<Vec<(SocketAddr, SocketAddr)>>,
    own: Mutex<Vec<IpAddr>>,
}

impl Sockets for TestSockets {
    fn dialler(&self, _: Option<std::net::IpAddr>, to: SocketAddr) -> io::Result<TcpSocket> {
        self.dialled.lock().unwrap().push(to);
        let socket = PlainSockets.dialler(None, to)?;
        // As in the pod's network namespace, where its address is the source.
        let own = self.own.lock().unwrap()[0];
        socket.bind((own, 0).into())?;
        Ok(socket)
    }

    fn delivery(&self, client: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket> {
        self.delivered.lock().unwrap().push((client, to));
        PlainSockets.dialler(None, to)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.own.lock().unwrap().clone()
    }

    fn owns(&self, ip: IpAddr) -> bool {
        self.own.lock().unwrap().contains(&ip)
    }

    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        let port = accepted.peer_addr()?.port();
        Ok(*self
            .wanted
            .lock()
            .unwrap()
            .get(&port)
            .expect("a client that said what it wants"))
    }

    fn is_self_call(&self, destination: SocketAddr) -> bool {
        // Every address here is loopback.
        self.owns(destination.ip())
    }
}

/// An address of this machine which no other test uses.
pub(super) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id() % 250 + 1;
    Ipv4Addr::new(127, process as u8, (n / 250) as u8, (n % 250 + 1) as u8).into()
}

pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

pub(super) fn workload(name: &str, ip: Option<IpAddr>) -> Draft {
    Draft {
        network: NETWORK.into(),
        addresses: ip.into_iter().collect(),
        service_account: name.into(),
        protocol: Protocol::Hbone,
        workload_name: name.into(),
        ..Draft::new(&format!("Kubernetes//Pod/demo/{name}"), "demo", name)
    }
}

impl World {
    pub(super) fn new() -> Self {
        let (publisher, mesh) = Mesh::new(Builder::new().build());
        Self::of(publisher, mesh)
    }

    /// A mesh that is told on demand, and where it is asked for.
    pub(super) fn on_demand() -> (Self, Asks) {
        let (publisher, mesh, asks) = Mesh::on_demand(Builder::new().build());
        (Self::of(publisher, mesh), asks)
    }

    fn of(publisher: Publisher, mesh: Mesh) -> Self {
        let directory = std::env::temp_dir().join(format!("isthmus-proxy-{:032x}", rand::random::<u128>()));
        std::fs::create_dir(&directory).unwrap();
        let ca = EmbeddedCa::create(&directory).unwrap();
        let builder = Builder::new();
        let log = AccessLog::default();
        let subscriber = tracing_subscriber::registry().with(log.clone());
        Self {
            mesh,
            publisher,
            builder: Mutex::new(builder),
            certificates: Certificates::new(Arc::new(ca)),
            names: Names::of_process(),
            tuning: Tuning::default(),
            directory: Some(directory),
            log,
            telemetry: Telemetry::new("test"),
            subscriber: Some(tracing::subscriber::set_default(subscriber)),
        }
    }

    /// Another mesh of the same trust: what a control plane of another cluster tells.
    pub(super) fn beside(&self) -> Self {
        let builder = Builder::new();
        let (publisher, mesh) = Mesh::new(builder.build());
        let (certificates, log) = (self.certificates.clone(), self.log.clone());
        Self {
            mesh,
            publisher,
            builder: Mutex::new(builder),
            certificates,
            names: self.names.clone(),
            tuning: self.tuning,
            directory: None,
            log,
            telemetry: Telemetry::new("test"),
            subscriber: None,
        }
    }

    /// Changes the mesh and tells everybody.
    pub(super) fn change(&self, change: impl FnOnce(&mut Builder)) {
        let mut builder = self.builder.lock().unwrap();
        change(&mut builder);
        self.publisher.publish(builder.build());
    }

    pub(super) fn add_workload(&self, workload: Draft) {
        self.change(|mesh| mesh.add_workload(workload));
    }

    pub(super) fn add_service(&self, service: Service) {
        self.change(|mesh| mesh.add_service(service));
    }

    pub(super) fn add_policy(&self, policy: Policy) {
        self.change(|mesh| mesh.add_policy(policy));
    }

    /// A pod that the mesh knows, with an HBONE listener at its address.
    pub(super) async fn pod(&self, name: &str) -> Pod {
        let ip = fresh_ip();
        self.add_workload(workload(name, Some(ip)));
        self.unknown_pod(name, ip, NETWORK).await
    }

    /// A served pod of which the mesh has not been told.
    pub(super) async fn unknown_pod(&self, name: &str, ip: IpAddr, network: &str) -> Pod {
        let parts = (
            self.mesh.clone(),
            self.certificates.clone(),
            self.tuning,
            Arc::clone(&self.telemetry),
        );
        serve_pod_with(self.names.clone(), name, ip, network, parts).await
    }

    /// The value of a metric, summed over the samples whose labels contain all of `parts`.
    pub(super) fn metric(&self, name: &str, parts: &[&str]) -> u64 {
        let text = self.telemetry.exposition.render(Format::Prometheus);
        let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let meant = samples.filter(|line| parts.iter().all(|part| line.contains(part)));
        meant
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// An east-west gateway of `network`, served at a fresh address.
    pub(super) async fn gateway(&self, account: &str, network: &str) -> (SocketAddr, Arc<Gateway>, DrainTrigger) {
        let gateway = Gateway::new(GatewayParts {
            network: network.into(),
            identity: id(account),
            mesh: self.mesh.clone(),
            certificates: self.certificates.clone(),
            tuning: self.tuning,
            telemetry: Arc::clone(&self.telemetry),
        });
        let listener = TcpListener::bind((fresh_ip(), HBONE_PORT)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, signal) = drain();
        tokio::spawn(Arc::clone(&gateway).serve(listener, signal));
        (address, gateway, trigger)
    }
}

/// Serves a pod on the runtime of the caller.
pub(super) async fn serve_pod(
    name: &str,
    ip: IpAddr,
    network: &str,
    parts: (Mesh, Certificates, Tuning, Arc<Telemetry>),
) -> Pod {
    serve_pod_with(Names::of_process(), name, ip, network, parts).await
}

async fn serve_pod_with(
    names: Names,
    name: &str,
    ip: IpAddr,
    network: &str,
    (mesh, certificates, tuning, telemetry): (Mesh, Certificates, Tuning, Arc<Telemetry>),
) -> Pod {
    let sockets = Arc::new(TestSockets::default());
    sockets.own.lock().unwrap().push(ip);
    let facts = PodFacts {
        uid: format!("uid-{name}"),
        namespace: "demo".into(),
        name: name.into(),
        service_account: None,
    };
    let network = network.into();
    let parts = ProxyParts {
        sockets: Arc::clone(&sockets) as Arc<dyn Sockets>,
        mesh,
        certificates,
        names,
        network,
        tuning,
        telemetry,
    };
    let proxy = PodProxy::new(facts, parts);
    let (trigger, signal) = drain();
    let outbound = TcpListener::bind((ip, 0)).await.unwrap();
    let listener = outbound.local_addr().unwrap();
    let inbound = TcpListener::bind((ip, HBONE_PORT)).await.unwrap();
    let outbound = tokio::spawn(Arc::clone(&proxy).outbound(outbound, signal.clone()));
    let inbound = tokio::spawn(Arc::clone(&proxy).inbound(inbound, signal));
    Pod {
        ip,
        proxy,
        sockets,
        trigger,
        outbound,
        inbound,
        listener,
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.subscriber.take());
        if let Some(directory) = &self.directory {
            drop(std::fs::remove_dir_all(directory));
        }
    }
}

impl Pod {
    /// An application of the pod connects to `to`.
    pub(super) async fn dial(&self, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.ip, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        self.sockets.wanted.lock().unwrap().insert(port, to);
        socket.connect(self.listener).await.unwrap()
    }

    /// The same for an application that blocks.
    pub(super) fn dial_blocking(&self, to: SocketAddr) -> std::net::TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(self.ip, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        self.sockets.wanted.lock().unwrap().insert(port, to);
        socket.connect(&self.listener.into()).unwrap();
        socket.into()
    }

    /// An application of the pod that listens.
    pub(super) async fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((self.ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A connection from an application of this pod to one of `to`, both ends.
    pub(super) async fn connect(&self, to: &Pod) -> (TcpStream, TcpStream) {
        let (listener, address) = to.listen().await;
        let client = self.dial(address).await;
        let (server, _) = listener.accept().await.unwrap();
        (client, server)
    }

    pub(super) fn dialled(&self) -> Vec<SocketAddr> {
        self.sockets.dialled.lock().unwrap().clone()
    }
}

/// Waits for a condition that other tasks bring about.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let give_up = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < give_up, "{what} did not come about");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// The lines written to the target `access`, as fields.
#[derive(Clone, Default)]
pub(super) struct AccessLog(Arc<Mutex<Vec<HashMap<String, String>>>>);

impl AccessLog {
    pub(super) fn lines(&self) -> Vec<HashMap<String, String>> {
        self.0.lock().unwrap().clone()
    }

    /// The first line of this direction, once it is there.
    pub(super) async fn line(&self, direction: &str) -> HashMap<String, String> {
        let find = || self.lines().into_iter().find(|line| line["direction"] == direction);
        until("an access log line", || find().is_some()).await;
        find().unwrap()
    }
}

struct Fields(HashMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for AccessLog {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() != "access" || *metadata.level() == tracing::Level::DEBUG {
            return;
        }
        let mut fields = Fields(HashMap::from([(
            "level".to_owned(),
            event.metadata().level().to_string(),
        )]));
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
}

/// `length` bytes that differ by seed.
pub(super) fn pattern(length: u32, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ seed).collect()
}

/// Writes all of `sent` and closes its direction, while it reads the other to its end.
pub(super) async fn exchange(stream: TcpStream, sent: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let write = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.unwrap();
    write.await.unwrap();
    got
}
