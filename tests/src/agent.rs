//! An agent on a node: `isthmus run`, its status and its log.

use std::{
    fs,
    process::{Command, ExitStatus},
    sync::{Arc, Mutex},
    time::Duration,
};

use isthmus_wire::Status;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    failure::{Because as _, Failure, Result},
    lab::{World, lock, status},
    log::{Log, is_access},
    node::Node,
    process::Process,
    wait::within,
};

mod istiod;

pub use istiod::IstiodOptions;

const READY: Duration = Duration::from_secs(15);

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The only capabilities it has, as `net_admin`; all that the test has when not said.
    pub capabilities: Option<Vec<String>>,
    /// Its soft and hard limit of open files.
    pub open_files: Option<u64>,
    /// It has a mount namespace of its own, in which a test may change what it finds.
    pub own_mounts: bool,
    /// `--drain-deadline`.
    pub drain_deadline: Duration,
    /// A directory for `--embedded-ca` other than the lab's.
    pub authority: Option<std::path::PathBuf>,
    /// A control plane, instead of the lab's mesh file and authority. [`Lab::publish`](crate::Lab::publish) does not wait
    /// for such an agent.
    pub istiod: Option<IstiodOptions>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            capabilities: None,
            open_files: None,
            own_mounts: false,
            drain_deadline: Duration::from_secs(1),
            authority: None,
            istiod: None,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// The agent of a node; ended when it is dropped.
#[derive(Debug)]
#[must_use = "an agent that is dropped is stopped"]
pub struct Agent {
    node: Node,
    world: Arc<World>,
    options: AgentOptions,
    process: Mutex<Option<Process>>,
    log: Log,
}

impl Agent {
    pub(crate) fn start(world: &Arc<World>, node: &Node, options: AgentOptions) -> Result<Self> {
        let log = Log::new(&world.dir().join(format!("agent-{}.log", node.name())));
        let agent = Self {
            node: node.clone(),
            world: Arc::clone(world),
            options,
            process: Mutex::new(None),
            log,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it again after [`Agent::kill`] or [`Agent::stop`], and waits until it is ready.
    pub fn restart(&self) -> Result {
        self.world.publish()?;
        let node = self.node.name();
        let mut process = Process::start_into(
            &self.world,
            &format!("agent-{node}"),
            &mut self.command(),
            self.log.path(),
            self.log.path(),
        )?;
        let ready = within(READY, &format!("the agent of {node} is ready"), || {
            match status(&self.node.socket()) {
                Ok(_) => Some(true),
                Err(_) => (!process.runs()).then_some(false),
            }
        })
        .because(format!("starting the agent of {node}; it says:\n{}", self.last_words()))?;
        if !ready {
            return Err(Failure::new(format!(
                "the agent of {node} ended:\n{}",
                self.last_words()
            )));
        }
        if self.options.istiod.is_none() {
            self.world.agent_runs(node, &self.node.socket());
        }
        *lock(&self.process) = Some(process);
        Ok(())
    }

    /// Starts a successor beside it, as a DaemonSet that surges does, with these arguments besides; waits until that one
    /// serves, and answers the process of the old one. In Kubernetes each has ports of its own, so the second has none here.
    pub fn succeeded(&self, more: &[&str]) -> Result<Process> {
        let before = self.status()?.worker_pid;
        let mut process = self.second(more)?;
        let serves = within(READY, "the successor serves", || {
            match self.status().ok().filter(|status| status.worker_pid != before) {
                Some(_) => Some(true),
                None => (!process.runs()).then_some(false),
            }
        });
        match serves.because(self.last_words())? {
            true => lock(&self.process).replace(process).because("an agent ran before"),
            false => Err(Failure::new(format!("the successor ended:\n{}", self.last_words()))),
        }
    }

    /// Starts a second agent beside it.
    pub fn second(&self, more: &[&str]) -> Result<Process> {
        let mut command = self.command();
        command
            .args(["--admin-port=off", "--stats-port=off", "--readiness-port=off"])
            .args(more);
        let name = format!("second-agent-{}", self.node.name());
        Process::start_into(&self.world, &name, &mut command, self.log.path(), self.log.path())
    }

    fn command(&self) -> Command {
        // Each becomes what comes behind it.
        let mut command = self.node.netns().command("env");
        if let Some(limit) = self.options.open_files {
            command.arg("prlimit").arg(format!("--nofile={limit}:{limit}"));
        }
        if self.options.own_mounts {
            command.args(["unshare", "--mount"]);
        }
        if let Some(capabilities) = &self.options.capabilities {
            let only: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
            command
                .args(["setpriv", "--inh-caps=-all"])
                .arg(format!("--bounding-set=-all{only}"));
        }
        command
            .arg(self.world.binary())
            .args(["run", "--node", self.node.name()]);
        self.tell_sources(&mut command);
        command
            .arg("--run-dir")
            .arg(self.node.run_dir())
            .arg("--bpffs")
            .arg(self.world.bpffs())
            .arg("--node-netns")
            .arg(self.node.netns().path())
            .args(["--log-format", "json", "--drain-deadline"])
            .arg(format!("{}ms", self.options.drain_deadline.as_millis()))
            .args(&self.options.arguments)
            .envs(self.options.environment.iter().cloned());
        command
    }

    /// Who tells it of the mesh, and who signs its certificates.
    fn tell_sources(&self, command: &mut Command) {
        let istiod = self.options.istiod.as_ref();
        let network = istiod.and_then(|istiod| istiod.network.as_deref());
        command.args(["--network", network.unwrap_or_else(|| self.node.network().name())]);
        match istiod {
            Some(istiod) => command.envs(istiod.environment()),
            None => command.arg("--mesh").arg(self.world.mesh().path()),
        };
        if istiod.is_none_or(|istiod| !istiod.signs) {
            let authority = self.options.authority.as_deref();
            let authority = authority.unwrap_or_else(|| self.world.authority().dir());
            command.arg("--embedded-ca").arg(authority);
        }
    }

    /// What it holds now.
    pub fn status(&self) -> Result<Status> {
        status(&self.node.socket())
    }

    /// Process ids of the parent and of the worker that serves now.
    pub fn pids(&self) -> Result<[u32; 2]> {
        let parent = lock(&self.process).as_ref().map(Process::pid);
        Ok([
            parent.because(format!("the agent of {} does not run", self.node.name()))?,
            self.status()?.worker_pid,
        ])
    }

    /// The node it runs on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What it writes.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Waits up to 10 seconds for a line after `mark` (see [`Log::mark`]).
    #[track_caller]
    pub fn wait_log(&self, mark: usize, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.log.wait_from(mark, Duration::from_secs(10), wanted)
    }

    /// Waits for an access-log line of `direction` (`inbound`, `outbound`) after `mark`.
    #[track_caller]
    pub fn wait_access(&self, mark: usize, direction: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_log(mark, |line| is_access(line, direction) && wanted(line))
            .because(format!("waiting for the {direction} access log of {}", self.node.name()).as_str())
    }

    /// Kills the worker and leaves the parent to start another; answers the pid it had.
    pub fn kill_worker(&self) -> Result<u32> {
        let pid = self.status()?.worker_pid;
        kill_pid(pid)?;
        Ok(pid)
    }

    /// Kills parent and worker as a machine that runs out of memory would.
    pub fn kill(&self) -> Result {
        let worker = self.status()?.worker_pid;
        self.world.agent_stopped(self.node.name());
        if let Some(mut process) = lock(&self.process).take() {
            process.kill();
        }
        // The parent may have taken its worker along.
        let _gone = kill_pid(worker);
        within(Duration::from_secs(5), "the killed worker is gone", || {
            (!alive(worker)).then_some(())
        })
    }

    /// Ends it as a DaemonSet upgrade does, and waits for its end.
    pub fn stop(&self) -> Result {
        let Some(mut process) = lock(&self.process).take() else {
            return Ok(());
        };
        self.world.agent_stopped(self.node.name());
        let worker = self.status().map(|status| status.worker_pid);
        process.signal(Signal::SIGTERM)?;
        let bound = self.options.drain_deadline + Duration::from_secs(5);
        let ended = process.wait(bound);
        process.kill();
        if let Ok(worker) = worker
            && alive(worker)
        {
            kill_pid(worker)?;
        }
        ended
            .map(|_| ())
            .because(format!("stopping the agent of {}", self.node.name()).as_str())
    }

    /// Sends a signal to the parent, which is what an operator knows.
    pub fn signal(&self, signal: Signal) -> Result {
        self.world.agent_stopped(self.node.name());
        lock(&self.process)
            .as_ref()
            .because("the agent does not run")?
            .signal(signal)
    }

    /// Sends a signal to the worker; answers its pid.
    pub fn signal_worker(&self, signal: Signal) -> Result<u32> {
        let pid = self.status()?.worker_pid;
        send(pid, signal)?;
        Ok(pid)
    }

    /// Waits for its end after [`Agent::signal`].
    #[track_caller]
    pub fn ended(&self, bound: Duration) -> Result<ExitStatus> {
        let mut process = lock(&self.process);
        let status = process.as_mut().because("the agent does not run")?.wait(bound)?;
        *process = None;
        Ok(status)
    }

    /// The end of its log, for an operator.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(self.log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(12)..)
            .unwrap_or_default()
            .join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "lab: the agent of {} says last:\n{}",
                self.node.name(),
                self.last_words()
            );
        }
        if !self.world.keeps()
            && let Err(failure) = self.stop()
        {
            eprintln!("lab: {failure}");
        }
    }
}

fn kill_pid(pid: u32) -> Result {
    send(pid, Signal::SIGKILL)
}

fn send(pid: u32, signal: Signal) -> Result {
    let raw = i32::try_from(pid).because("the pid is a positive i32")?;
    kill(Pid::from_raw(raw), signal).because(format!("sending {signal} to {pid}"))
}

/// Whether a process has anything open. A process that ends with several threads is a zombie before the last of them
/// has let go of its files.
fn alive(pid: u32) -> bool {
    let zombie = |stat: &str| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    };
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count();
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !zombie(&stat) || threads() > 1)
}
