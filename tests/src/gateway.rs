//! An east-west gateway: `isthmus gateway` between a network and the internet.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, ExitStatus},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    agent::IstiodOptions,
    authority::spiffe,
    failure::{Because as _, Failure, Result},
    lab::{World, lock},
    log::{Log, message},
    netns::Netns,
    network::Network,
    process::Process,
    wait::within,
};

/// Where gateways live in Kubernetes.
pub const NAMESPACE: &str = "istio-system";

/// A gateway; ended when it is dropped.
#[derive(Debug)]
#[must_use = "a gateway that is dropped is stopped"]
pub struct Gateway {
    name: String,
    network: Network,
    netns: Arc<Netns>,
    inner: IpAddr,
    outer: IpAddr,
    world: Arc<World>,
    options: Options,
    process: Mutex<Option<Process>>,
    log: Log,
}

#[derive(Clone, Debug)]
struct Options {
    account: String,
    authority: Option<std::path::PathBuf>,
    istiod: Option<IstiodOptions>,
    drain_deadline: Duration,
}

/// A gateway in the making.
#[derive(Debug)]
pub struct GatewayBuilder {
    world: Arc<World>,
    network: Network,
    name: String,
    index: u8,
    over_v6: bool,
    options: Options,
}

impl GatewayBuilder {
    pub(crate) fn new(world: &Arc<World>, network: &Network, name: &str, index: u8) -> Self {
        let options = Options {
            account: name.to_owned(),
            authority: None,
            istiod: None,
            drain_deadline: Duration::from_secs(1),
        };
        Self {
            world: Arc::clone(world),
            network: network.clone(),
            name: name.to_owned(),
            index,
            over_v6: false,
            options,
        }
    }

    /// The mesh reaches it at its outer IPv6 address.
    #[must_use]
    pub fn over_v6(mut self) -> Self {
        self.over_v6 = true;
        self
    }

    /// It runs under an account other than the one the mesh file tells.
    #[must_use]
    pub fn pretending(mut self, account: &str) -> Self {
        account.clone_into(&mut self.options.account);
        self
    }

    /// Its certificates come from another authority directory.
    #[must_use]
    pub fn authority(mut self, directory: &std::path::Path) -> Self {
        self.options.authority = Some(directory.to_owned());
        self
    }

    /// `--drain-deadline`; a second when not said.
    #[must_use]
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.options.drain_deadline = deadline;
        self
    }

    /// Makes its namespace and lists it in the mesh file, without running anything there.
    pub fn stopped(self) -> Result<Gateway> {
        let (net, index) = (self.network.index(), self.index);
        let last = net * 10 + index;
        let netns = self.world.netns(&format!("{}-{}", self.network.name(), self.name))?;
        self.world
            .cable((&netns, "eth0"), (self.network.wire(), &format!("gw{index}")))?;
        self.world
            .cable((&netns, "eth1"), (self.world.internet(), &format!("gw{last}")))?;
        netns.ip(&format!(
            "addr add 10.{net}.0.{inner}/24 dev eth0\n\
             addr add fd00:10:{net}::{inner}/64 dev eth0 nodad\n\
             addr add 198.51.100.{last}/24 dev eth1\n\
             addr add 2001:db8:51::{last}/64 dev eth1 nodad\n\
             link set eth0 up\nlink set eth1 up\n\
             route add 10.{net}.0.0/16 via 10.{net}.0.254\n\
             route add fd00:10:{net}::/48 via fd00:10:{net}::254\n\
             route add default via 198.51.100.254\n\
             route add ::/0 via 2001:db8:51::254\n",
            inner = 200 + index,
        ))?;
        let outer_v4 = IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
        let outer_v6: IpAddr = format!("2001:db8:51::{last}").parse().because("an IPv6 address")?;
        let outer = if self.over_v6 { outer_v6 } else { outer_v4 };
        let uid = format!("NetworkGateway/{}/{outer}/15008", self.network.name());
        let workload = json!({
            "uid": uid,
            "name": self.name,
            "namespace": NAMESPACE,
            "serviceAccount": self.name,
            "trustDomain": "cluster.local",
            "workloadIps": [outer_v4, outer_v6],
            "network": self.network.name(),
            "protocol": "TCP",
            "services": {},
        });
        let mut mesh = self.world.mesh();
        mesh.workloads.insert(uid, workload);
        mesh.gateways.insert(
            self.network.name().to_owned(),
            format!("{}/{outer}", self.network.name()),
        );
        drop(mesh);
        let log = Log::new(&self.world.dir().join(format!("gateway-{}.log", self.name)));
        let (name, network, world, options) = (self.name, self.network, self.world, self.options);
        Ok(Gateway {
            name,
            network,
            netns,
            inner: [10, net, 0, 200 + index].into(),
            outer,
            world,
            options,
            process: Mutex::new(None),
            log,
        })
    }

    /// As [`GatewayBuilder::stopped`]; istiod tells it of the mesh and certifies it.
    pub(crate) fn told_by(self, options: impl FnOnce(&Arc<Netns>) -> Result<IstiodOptions>) -> Result<Gateway> {
        let mut gateway = self.stopped()?;
        gateway.options.istiod = Some(options(&gateway.netns)?);
        Ok(gateway)
    }

    /// Makes it and runs it.
    pub fn start(self) -> Result<Gateway> {
        let gateway = self.stopped()?;
        gateway.restart()?;
        Ok(gateway)
    }
}

impl Gateway {
    /// Starts it (again) and waits until it is ready.
    pub fn restart(&self) -> Result {
        self.world.publish()?;
        let mark = self.log.mark();
        let mut process = Process::start_into(
            &self.world,
            &format!("gateway-{}", self.name),
            &mut self.command(),
            self.log.path(),
            self.log.path(),
        )?;
        let ready = within(
            Duration::from_secs(10),
            &format!("the gateway {} is ready", self.name),
            || {
                let said = !self.log.all_from(mark, |line| message(line) == "ready").is_empty();
                if said {
                    Some(true)
                } else {
                    (!process.runs()).then_some(false)
                }
            },
        );
        if !ready.as_ref().is_ok_and(|ready| *ready) {
            let said = fs::read_to_string(self.log.path()).unwrap_or_default();
            return Err(Failure::new(format!(
                "the gateway {} did not come up; it says:\n{said}",
                self.name
            )));
        }
        *lock(&self.process) = Some(process);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.netns.command("env");
        command
            .arg(self.world.binary())
            .args([
                "gateway",
                "--network",
                self.network.name(),
                "--listen",
                "[::]:15008",
                "--log-format",
                "json",
            ])
            .args(["--identity", &format!("{NAMESPACE}/{}", self.options.account)])
            .arg("--drain-deadline")
            .arg(format!("{}ms", self.options.drain_deadline.as_millis()));
        if let Some(istiod) = &self.options.istiod {
            command.envs(istiod.environment());
            return command;
        }
        let authority = self.options.authority.as_deref();
        command
            .arg("--mesh")
            .arg(self.world.mesh().path())
            .arg("--embedded-ca")
            .arg(authority.unwrap_or_else(|| self.world.authority().dir()));
        command
    }

    /// Its name, which is also its service account in the mesh file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// Its address in its own network.
    pub fn inner(&self) -> IpAddr {
        self.inner
    }

    /// The address other networks dial.
    pub fn outer(&self) -> IpAddr {
        self.outer
    }

    /// The address and port other networks dial.
    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(self.outer, 15008)
    }

    /// The identity the mesh file tells of it.
    pub fn identity(&self) -> String {
        spiffe(NAMESPACE, &self.name)
    }

    /// What it writes.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        let pid = lock(&self.process).as_ref().map(Process::pid);
        pid.because(format!("the gateway {} does not run", self.name))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result {
        lock(&self.process)
            .as_ref()
            .because("the gateway does not run")?
            .signal(signal)
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&self, bound: Duration) -> Result<ExitStatus> {
        lock(&self.process)
            .as_mut()
            .because("the gateway does not run")?
            .wait(bound)
    }

    /// Kills it.
    pub fn kill(&self) {
        // Dropped, it is killed and waited for.
        drop(lock(&self.process).take());
    }
}
