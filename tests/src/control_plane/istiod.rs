//! An istiod, as its chart starts it for an ambient mesh of several networks.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;

use super::{
    kubernetes::{Machine, last_words},
    programs::built,
    roots::write,
};
use crate::{
    failure::{Failure, Result},
    lab::{World, lock},
    log::Log,
    pod::connect_from,
    process::Process,
    wait::within,
};

/// Where it serves workloads and certificates.
pub(super) const PORT: u16 = 15012;
/// Where it serves workloads without TLS, in its own namespace only.
pub(super) const PLAIN_PORT: u16 = 15010;
const HTTP_PORT: u16 = 8080;
const UP: Duration = Duration::from_secs(180);

/// An istiod; it may be ended and started again.
#[derive(Debug)]
pub(super) struct Istiod {
    cluster: String,
    world: Arc<World>,
    machine: Machine,
    dir: PathBuf,
    kubeconfig: PathBuf,
    roots: PathBuf,
    log: Log,
    process: Mutex<Option<Process>>,
}

impl Istiod {
    /// One that does not run yet. `roots` is a directory as [`super::Intermediate`] has one.
    pub(super) fn new(
        world: &Arc<World>,
        cluster: &str,
        machine: Machine,
        dir: &Path,
        kubeconfig: PathBuf,
        roots: &Path,
    ) -> Result<Self> {
        let mesh = json!({
            "rootNamespace": "istio-system",
            "trustDomain": "cluster.local",
            "serviceScopeConfigs": [{
                "servicesSelector": {
                    "matchExpressions": [{ "key": "istio.io/global", "operator": "In", "values": ["true"] }],
                },
                "scope": "GLOBAL",
            }],
        });
        write(&dir.join("mesh.yaml"), &mesh.to_string())?;
        write(&dir.join("networks.yaml"), "networks: {}\n")?;
        Ok(Self {
            cluster: cluster.to_owned(),
            world: Arc::clone(world),
            machine,
            kubeconfig,
            roots: roots.to_owned(),
            log: Log::new(&dir.join("istiod.log")),
            dir: dir.to_owned(),
            process: Mutex::new(None),
        })
    }

    /// Starts it (again) and waits until it is ready.
    pub(super) fn start(&self) -> Result {
        let mut process = Process::start_into(
            &self.world,
            &format!("{}-istiod", self.cluster),
            &mut self.command()?,
            self.log.path(),
            self.log.path(),
        )?;
        let up = within(UP, &format!("istiod of {} is ready", self.cluster), || {
            if self.is_ready() {
                Some(true)
            } else {
                (!process.runs()).then_some(false)
            }
        });
        if up.as_ref().is_ok_and(|up| *up) {
            *lock(&self.process) = Some(process);
            return Ok(());
        }
        let said = last_words(self.log.path());
        Err(Failure::new(format!(
            "istiod of {} did not come up; it says:\n{said}",
            self.cluster
        )))
    }

    fn command(&self) -> Result<Command> {
        let mut command = self
            .machine
            .netns
            .command(&built("pilot-discovery")?.display().to_string());
        let local = |port| format!("127.0.0.1:{port}");
        command
            .args([
                "discovery",
                "--domain",
                "cluster.local",
                "--log_output_level",
                "default:info",
            ])
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--meshConfig")
            .arg(self.dir.join("mesh.yaml"))
            .arg("--networksConfig")
            .arg(self.dir.join("networks.yaml"))
            .args(["--httpAddr", &local(HTTP_PORT), "--monitoringAddr", &local(15014)])
            .args(["--ctrlz_port", "0", "--grpcAddr", &local(PLAIN_PORT)])
            .args(["--secureGRPCAddr", &format!(":{PORT}"), "--httpsAddr", &local(15017)])
            .current_dir(&self.dir)
            .envs([
                ("PILOT_ENABLE_AMBIENT", "true"),
                ("AMBIENT_ENABLE_MULTI_NETWORK", "true"),
                ("CLUSTER_ID", &self.cluster),
                ("POD_NAME", "istiod"),
                ("POD_NAMESPACE", "istio-system"),
                ("SERVICE_ACCOUNT", "istiod"),
                ("JWT_POLICY", "third-party-jwt"),
                ("PILOT_CERT_PROVIDER", "istiod"),
                ("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
                // There is one; after a kill nobody waits for the lease of the dead.
                ("ENABLE_LEADER_ELECTION", "false"),
            ])
            .env("ROOT_CA_DIR", &self.roots);
        Ok(command)
    }

    fn is_ready(&self) -> bool {
        let ask = || -> Result<String> {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
            let mut stream = connect_from(&self.machine.netns, at, Duration::from_secs(5))?;
            stream.write_all(b"GET /ready HTTP/1.1\r\nHost: istiod\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        // Dropped, it is killed and waited for.
        drop(lock(&self.process).take());
    }

    /// What it writes.
    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Where agents of its cluster reach it.
    pub(super) fn at(&self) -> SocketAddr {
        SocketAddr::new(self.machine.inner, PORT)
    }

    /// The machine it runs on.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }
}
