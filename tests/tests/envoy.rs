//! Envoy as client, as server and as gateway: ours with ours proves no compatibility.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use isthmus_tests::{
    Agent, Because as _, Echo, Failure, Lab, Netns, Pod, Result,
    authority::Issued,
    envoy::{Envoy, Tunnel},
    log::Log,
    pod::connect_from,
    roundtrip, within,
};
use serde_json::{Value, json};

#[path = "envoy/client.rs"]
mod client;
#[path = "envoy/gateway.rs"]
mod gateway;
#[path = "envoy/server.rs"]
mod server;

const PORT: u16 = 8080;
const OTHER: u16 = 9000;
const SOON: Duration = Duration::from_secs(10);
const BULK: usize = 20 << 20;

/// A pod of Envoy's, which no agent serves, and an enrolled pod on another node.
struct Scene {
    agent: Agent,
    envoy: Pod,
    pod: Pod,
    lab: Lab,
}

impl Scene {
    fn start() -> Result<Self> {
        let lab = Lab::new("envoy")?;
        let network = lab.network("net1")?;
        let (node1, node2) = (network.node("node1")?, network.node("node2")?);
        let envoy = node1.pod("envoy").start()?;
        let pod = node2.pod("pod").start()?;
        name_workloads(&lab);
        let agent = node2.agent()?;
        pod.enrol()?;
        Ok(Self { agent, envoy, pod, lab })
    }

    /// Envoy takes connections at `listen` for an application of the enrolled pod.
    fn client(&self, listen: SocketAddr, to: SocketAddr, certificate: &Issued) -> Result<Envoy> {
        let tunnel = Tunnel {
            certificate,
            expected: &self.pod.identity(),
            peer: SocketAddr::new(to.ip(), 15008),
            authority: &to.to_string(),
        };
        Envoy::client(&self.lab, self.envoy.netns(), listen, &tunnel)
    }

    /// Envoy takes tunnels for two ports of its own pod, and shows this certificate.
    fn server(&self, certificate: &Issued) -> Result<Envoy> {
        let ports = [PORT, OTHER].into_iter();
        let apps = ports.flat_map(|port| [self.envoy.at(port), self.envoy.at6(port)]);
        let routes: Vec<_> = apps.map(|at| (at.to_string(), vec![at])).collect();
        Envoy::server(&self.lab, self.envoy.netns(), certificate, &routes)
    }

    fn certificate(&self) -> Result<Issued> {
        self.lab.authority().issue("demo", "envoy")
    }
}

/// The lab's mesh file leaves out what goes into baggage.
fn name_workloads(lab: &Lab) {
    lab.mesh(|mesh| {
        for workload in mesh.workloads.values_mut() {
            workload["workloadName"] = workload["name"].clone();
            workload["workloadType"] = json!("pod");
        }
    });
}

fn connect(netns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    connect_from(netns, to, SOON)
}

/// Both ends of a connection that `connect` makes and one of `pods` accepts.
fn ends(pods: &[&Pod], connect: impl FnOnce() -> Result<TcpStream>) -> Result<(TcpStream, TcpStream)> {
    let mut listeners = Vec::new();
    for pod in pods {
        // A program that is being started elsewhere holds the listener of before for a moment.
        let listener = within(SOON, "the port is free", || {
            pod.netns().enter(|| TcpListener::bind(("::", PORT))).ok()?.ok()
        })?;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    let near = connect()?;
    let far = within(SOON, "a server accepts", || {
        listeners.iter().find_map(|listener| listener.accept().ok())
    });
    let (far, _) = far?;
    far.set_nonblocking(false)?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
    }
    Ok((near, far))
}

/// Bytes that repeat nowhere, different for each `seed`.
fn bulk(seed: u64) -> Arc<[u8]> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..BULK / 8).flat_map(word).collect()
}

/// 20 MB both ways at once, then FIN after FIN: `near` ends first and is answered after that.
fn carries_everything(near: TcpStream, mut far: TcpStream) -> Result {
    let (forth, back) = (bulk(1), bulk(2));
    let (sent, mut sender) = (Arc::clone(&forth), near.try_clone()?);
    let sending = thread::spawn(move || sender.write_all(&sent).and_then(|()| sender.shutdown(Shutdown::Write)));
    let (answer, mut answerer) = (Arc::clone(&back), far.try_clone()?);
    let answering = thread::spawn(move || answerer.write_all(&answer));
    let mut reader = near;
    let reading = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    let mut arrived = Vec::new();
    far.read_to_end(&mut arrived).because("reading at the server")?;
    assert!(*arrived == *forth, "{} of {BULK} bytes arrived", arrived.len());
    let joined = |ended: thread::Result<std::io::Result<()>>| ended.unwrap_or_else(|_| Err(ErrorKind::Other.into()));
    joined(sending.join()).because("writing at the client")?;
    joined(answering.join()).because("writing at the server")?;
    assert!(!reading.is_finished(), "the server has not ended yet");
    far.write_all(b"a late answer")?;
    far.shutdown(Shutdown::Write)?;
    let came = reading.join().map_err(|_| Failure::new("the reader panicked"))?;
    let came = came.because("reading at the client")?;
    let (first, late) = came.split_at(BULK.min(came.len()));
    assert!(*first == *back, "{} of {BULK} bytes came back", first.len());
    assert_eq!(late, b"a late answer");
    Ok(())
}

/// The stream ends in a reset and not in an end that looks clean.
fn ends_in_reset(mut stream: TcpStream) -> Result {
    stream.set_read_timeout(Some(SOON))?;
    let ended = stream.read(&mut [0; 16]);
    assert_eq!(
        ended.as_ref().map_err(std::io::Error::kind),
        Err(ErrorKind::ConnectionReset),
        "{ended:?}"
    );
    Ok(())
}

/// Nobody answers through this connection.
fn is_refused(stream: Result<TcpStream>) {
    if let Ok(mut stream) = stream {
        assert!(roundtrip(&mut stream, b"hello?").is_err(), "an echo came back");
    }
}

fn open(count: usize, connect: impl Fn() -> Result<TcpStream>) -> Result<Vec<TcpStream>> {
    let one = |_| {
        let mut stream = connect()?;
        roundtrip(&mut stream, b"hello")?;
        Ok(stream)
    };
    (0..count).map(one).collect()
}

fn accepted(echo: &Echo) -> usize {
    std::iter::from_fn(|| echo.must_not_accept(Duration::from_millis(20)).err()).count()
}

fn said(log: &Log, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    log.wait_from(0, SOON, |line| line.is_object() && wanted(line))
}
