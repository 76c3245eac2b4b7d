//! A pod: a namespace with an identity, in which unmodified programs run.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};

use isthmus_wire::{Capture, Enrol, PodStatus, Request, Response};
use serde_json::{Value, json};

use crate::{
    authority::spiffe,
    echo::Echo,
    failure::{Because as _, Failure, Result},
    lab::{World, status},
    netns::Netns,
    network::Network,
    node::Node,
    process::{Ended, Process},
};

mod builder;

pub use builder::PodBuilder;

const ASK: Duration = Duration::from_secs(10);

/// A pod, enrolled or not; or a machine on a network that is on no node.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
    node: Option<Node>,
    world: Arc<World>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    account: String,
    netns: Arc<Netns>,
    ips: Vec<IpAddr>,
}

impl Pod {
    pub(crate) fn host(world: &Arc<World>, network: &Network, name: &str, last: u8) -> Result<Self> {
        let netns = world.netns(&format!("{}-{name}", network.name()))?;
        let net = network.index();
        world.cable((&netns, "eth0"), (network.wire(), &format!("host{last}")))?;
        let v4 = Ipv4Addr::new(10, net, 0, last);
        let v6 = pod_v6(net, 0, last);
        netns.ip(&format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.{net}.0.254\nroute add ::/0 via fd00:10:{net}::254\n"
        ))?;
        let (name, ips) = (name.to_owned(), vec![IpAddr::V4(v4), IpAddr::V6(v6)]);
        let inner = Inner {
            account: name.clone(),
            name,
            namespace: String::new(),
            netns,
            ips,
        };
        Ok(Self {
            inner: Arc::new(inner),
            node: None,
            world: Arc::clone(world),
        })
    }

    fn list(&self, protocol: &str) {
        let node = self.node.as_ref();
        let workload = json!({
            "uid": self.workload_uid(),
            "name": self.name(),
            "namespace": self.namespace(),
            "serviceAccount": self.service_account(),
            "trustDomain": "cluster.local",
            "workloadIps": self.inner.ips,
            "network": node.map(|node| node.network().name()),
            "node": node.map(Node::name),
            "protocol": protocol,
            "services": {},
        });
        self.world.mesh().workloads.insert(self.workload_uid(), workload);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// Its Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.inner.account
    }

    /// Its SPIFFE ID.
    pub fn identity(&self) -> String {
        spiffe(self.namespace(), self.service_account())
    }

    /// Its UID at the agent.
    pub fn uid(&self) -> String {
        format!("uid-{}", self.name())
    }

    /// Its uid in the mesh file.
    pub fn workload_uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace(), self.name())
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.inner.netns
    }

    /// The node it runs on; a host of a network has none.
    pub fn node(&self) -> Result<&Node> {
        self.node.as_ref().because(format!("{} is on no node", self.name()))
    }

    /// Its addresses: IPv4, IPv6, then the second ones if it has two.
    pub fn ips(&self) -> &[IpAddr] {
        &self.inner.ips
    }

    /// Its first IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.inner
            .ips
            .first()
            .copied()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Its first IPv6 address.
    pub fn ip6(&self) -> IpAddr {
        self.inner
            .ips
            .get(1)
            .copied()
            .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    /// Its first IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// Its first IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip6(), port)
    }

    /// Brings it into the mesh; plaintext from outside is admitted.
    pub fn enrol(&self) -> Result {
        self.enrol_with(Some(false))
    }

    /// Brings it into the mesh, and says whether plaintext from outside is refused (`None`: as policies say).
    pub fn enrol_with(&self, mtls_required: Option<bool>) -> Result {
        self.ask(&Request::Enrol(self.as_enrolled(mtls_required)))
    }

    /// Brings it into the mesh with what its owner says of capturing its traffic; plaintext from outside is refused where it
    /// is captured.
    pub fn enrol_capturing(&self, capture: &Capture) -> Result {
        self.ask(&Request::Enrol(Enrol {
            capture: Box::new(capture.clone()),
            ..self.as_enrolled(Some(true))
        }))
    }

    /// Brings it into the mesh together with the guests that sit behind these of its interfaces.
    pub fn enrol_with_guests(&self, interfaces: &[&str]) -> Result {
        self.ask(&Request::Enrol(Enrol {
            reroute_interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            ..self.as_enrolled(Some(false))
        }))
    }

    fn as_enrolled(&self, mtls_required: Option<bool>) -> Enrol {
        Enrol {
            uid: self.uid(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            service_account: Some(self.service_account().to_owned()),
            netns: self.netns().path(),
            mtls_required,
            reroute_interfaces: Vec::new(),
            capture: Box::default(),
        }
    }

    /// Lets it out of the mesh.
    pub fn release(&self) -> Result {
        self.ask(&Request::Release { uid: self.uid() })
    }

    fn ask(&self, request: &Request) -> Result {
        match isthmus_wire::ask(&self.node()?.socket(), request, ASK)? {
            Response::Done => Ok(()),
            other => Err(Failure::new(format!(
                "{}: {request:?} was answered {other:?}",
                self.name()
            ))),
        }
    }

    /// What the agent says of it; `None` when the agent does not have it.
    pub fn status(&self) -> Result<Option<PodStatus>> {
        Ok(status(&self.node()?.socket())?.pods.remove(&self.uid()))
    }

    /// Connects from inside, within 10 seconds; reads and writes are bounded too.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.connect_within(to, Duration::from_secs(10))
    }

    /// Connects from inside.
    pub fn connect_within(&self, to: SocketAddr, bound: Duration) -> Result<TcpStream> {
        connect_from(self.netns(), to, bound)
    }

    /// An echo server inside, on every address of both families.
    pub fn echo(&self, port: u16) -> Result<Echo> {
        self.echo_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// An echo server inside, on one address.
    pub fn echo_at(&self, at: SocketAddr) -> Result<Echo> {
        Echo::start(self.netns(), at)
    }

    /// A command to be run inside.
    pub fn command(&self, program: &str) -> Command {
        self.netns().command(program)
    }

    /// Starts a program inside.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.command(program);
        command.args(arguments);
        let short = program.rsplit('/').next().unwrap_or(program);
        Process::start(&self.world, &format!("{}-{short}", self.name()), command)
    }

    /// Runs a program inside to its end.
    pub fn run(&self, bound: Duration, program: &str, arguments: &[&str]) -> Result<Ended> {
        self.spawn(program, arguments)?.finish(bound)
    }

    /// Starts a Python script inside; its arguments are `sys.argv[1:]`.
    pub fn python(&self, script: &str, arguments: &[&str]) -> Result<Process> {
        self.spawn("python3", &[&["-u", "-c", script], arguments].concat())
    }

    /// Starts the lab's own load program inside (`peer --help`); it knows nothing of the agent.
    pub fn peer(&self, arguments: &[&str]) -> Result<Process> {
        self.spawn(&beside_us("peer")?, arguments)
    }

    /// Starts the program that bench rows are measured with (`load --help`); it knows nothing of the agent.
    pub fn load(&self, arguments: &[&str]) -> Result<Process> {
        self.spawn(&beside_us("load")?, arguments)
    }

    /// Runs the lab's own load program to its end and answers its report.
    pub fn measure(&self, bound: Duration, arguments: &[&str]) -> Result<Value> {
        self.peer(arguments)?.report(bound)
    }

    /// Takes the namespace's name away, as a container runtime does at the end of a pod.
    pub fn delete(&self) -> Result {
        self.netns().delete()
    }

    /// Sends `mark` in a UDP datagram, which no agent touches: what a capture has not seen when it sees this never
    /// passed before.
    pub fn fence(&self, to: IpAddr, mark: &[u8]) -> Result {
        let unspecified: IpAddr = if to.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        self.netns().enter(|| {
            let socket = std::net::UdpSocket::bind((unspecified, 0))?;
            socket
                .send_to(mark, (to, 9))
                .because(format!("sending a datagram to {to}"))
        })??;
        Ok(())
    }

    /// Writes a file that programs inside can read; answers its path.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<String> {
        let path = self.world.file_for(&format!("{}-{name}", self.name()));
        let mut file = std::fs::File::create(&path)?;
        file.write_all(content)?;
        Ok(path.display().to_string())
    }
}

/// Connects from inside a namespace; reads and writes of the stream are bounded by 10 seconds.
pub fn connect_from(netns: &Netns, to: SocketAddr, bound: Duration) -> Result<TcpStream> {
    let stream = netns.enter(|| TcpStream::connect_timeout(&to, bound))?;
    let stream = stream.because(format!("connecting from {} to {to}", netns.name()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn pod_v6(net: u8, node: u8, last: u8) -> Ipv6Addr {
    // Written in decimal digits, as the IPv4 address is: pod 11 is ::11.
    let digits = |number: u8| u16::from_str_radix(&number.to_string(), 16).unwrap_or_default();
    Ipv6Addr::new(0xfd00, 0x10, digits(net), digits(node), 0, 0, 0, digits(last))
}

/// A program of this package, beside the binary of the test, the demo or the bench.
fn beside_us(name: &str) -> Result<String> {
    let own = std::env::current_exe()?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.exists());
    Ok(found
        .because(format!(
            "finding the program {name} (cargo build -p isthmus-tests --bins)"
        ))?
        .display()
        .to_string())
}
