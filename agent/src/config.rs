//! The configuration of what serves: read once from flags and variables, checked as a whole, typed from there on.
//!
//! A flag comes before a variable, a variable before the default. All mistakes are told at once. Nothing here looks at
//! the machine: what is read is a function of the command line and the environment.
//!
//! | file | what it knows |
//! |---|---|
//! | `settings` | the table of settings |
//! | `variables` | what becomes of each variable, ztunnel's and ours |
//! | `given` | texts and where they stand |
//! | `reader` | texts into values within bounds |
//! | `istiod` | what is kept for talking to istiod |
//! | `kubernetes` | who is enrolled by Kubernetes |
//! | `print` | `--print-config`, `--help`, the tables of the document |

mod asked;
mod cni;
mod given;
mod istiod;
mod kind;
mod kubernetes;
mod mistakes;
mod print;
mod proxy_config;
mod reader;
mod settings;
mod threads;
mod value;
mod variables;
mod verb;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use self::{
    asked::{Asked, Format},
    cni::Cni,
    given::{Note, Source},
    istiod::{Istiod, OwnPod},
    kind::Kind,
    mistakes::{Mistake, Mistakes},
    print::{Printed, help, tables},
    reader::Effective,
    settings::{Fallback, Setting, settings, settings_of},
    threads::{CpuShare, Threads},
    variables::{Treatment, VARIABLES, Variable},
    verb::Verb,
};
use self::{given::Given, reader::Reader};
use crate::{
    hbone,
    identity::SpiffeId,
    mesh::HBONE_PORT,
    proxy::{PoolLimits, SocketOptions, Tuning},
};

#[cfg(test)]
mod tests;

/// Name of the file in an agent's directory in which what istiod told is kept.
pub const MESH_SNAPSHOT: &str = "mesh.snapshot";

/// What a serving command is asked to do.
#[derive(Clone, Debug)]
pub enum Order<C> {
    /// Serve.
    Serve(Box<C>),
    /// Print this, and end.
    Say(String),
}

/// What run and gateway have in common.
#[derive(Clone, Debug)]
pub struct Config {
    /// Network of the process.
    pub network: String,
    /// Trust domain of its own identity.
    pub trust_domain: String,
    /// Its cluster, as istiod knows it.
    pub cluster_id: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// The mesh file; without one, istiod tells of the mesh.
    pub mesh: Option<PathBuf>,
    /// File in which what istiod told is kept.
    pub mesh_snapshot: Option<PathBuf>,
    /// Directory of the embedded CA; without one, istiod's CA signs.
    pub embedded_ca: Option<PathBuf>,
    /// How long certificates are asked for.
    pub secret_ttl: Duration,
    /// Only post-quantum key exchange.
    pub post_quantum_only: bool,
    /// How long open connections may go on after SIGTERM.
    pub drain_deadline: Duration,
    /// Numbers of tunnels, sockets and pools.
    pub tuning: Tuning,
    /// Whether the process's own listeners take IPv6.
    pub ipv6: bool,
    /// Which log lines, and how.
    pub log: Log,
    /// Ports of what an operator looks at.
    pub ports: Ports,
    /// Where spans go.
    pub otlp_endpoint: Option<String>,
    /// For talking to istiod.
    pub istiod: Istiod,
    /// To be read once, at the start.
    pub notes: Vec<Note>,
    /// Everything as it holds.
    pub printed: Printed,
}

/// Which log lines are written, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A filter as `RUST_LOG` has it.
    pub filter: String,
    /// JSON rather than lines for people.
    pub json: bool,
}

/// Ports of what an operator looks at; `None` is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The admin server, on localhost.
    pub admin: Option<u16>,
    /// Metrics.
    pub stats: Option<u16>,
    /// The readiness probe.
    pub readiness: Option<u16>,
}

/// `isthmus run`.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What the gateway has too.
    pub common: Config,
    /// Name of the node.
    pub node: String,
    /// Directory of the agent's socket and records.
    pub run_dir: PathBuf,
    /// Directory of what the CNI plugin knows while no agent runs.
    pub state_dir: PathBuf,
    /// Where to pin.
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy; `None` when it is to be found.
    pub cgroup: Option<PathBuf>,
    /// Path of the node's network namespace.
    pub node_netns: PathBuf,
    /// Threads that serve pods, for [`Threads::on`].
    pub threads: Threads,
    /// What those are counted with.
    pub cpus: CpuShare,
    /// How long a data thread may stay awake for more work.
    pub vigil: Duration,
    /// How long connections of a released pod may go on.
    pub release_deadline: Duration,
    /// Whether the eBPF programs log.
    pub ebpf_log: bool,
    /// Whether connects to destinations outside the mesh are left alone.
    pub leave_non_mesh: bool,
    /// Enrolment by Kubernetes, if it is on.
    pub kubernetes: Option<crate::kubernetes::Settings>,
    /// The CNI plugin on the node.
    pub cni: Cni,
    /// Namespaces whose pods are never enrolled.
    pub exclude_namespaces: BTreeSet<String>,
}

/// `isthmus gateway`.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// What an agent has too.
    pub common: Config,
    /// Who it is.
    pub identity: SpiffeId,
    /// Where it listens.
    pub listen: SocketAddr,
}

impl NodeConfig {
    /// Understands the arguments behind `run` and the environment.
    ///
    /// # Errors
    /// With all mistakes there are.
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Order<Self>, Mistakes> {
        let (mut reader, asked) = begin(Verb::Run, arguments, environment);
        if asked.help {
            return Ok(Order::Say(help(Verb::Run)));
        }
        let node = reader.needed("node", "the name of this node is needed");
        if node.contains('/') || node.starts_with('.') {
            let why = "it names a directory, so it must have no slash and not begin with a dot";
            reader.contradiction("node", why.to_owned());
        }
        let run_dir = reader.path("run-dir");
        let common = Config::read(&mut reader, Some(run_dir.join(MESH_SNAPSHOT)));
        let exclude_namespaces = kubernetes::excluded(&mut reader);
        let config = Self {
            node,
            state_dir: reader.optional_path("state-dir").unwrap_or_else(|| run_dir.clone()),
            run_dir,
            bpffs: reader.path("bpffs"),
            cgroup: reader.optional_path("cgroup"),
            node_netns: reader.path("node-netns"),
            threads: reader.threads("threads"),
            cpus: CpuShare {
                limit: reader.cpus("cpu-limit"),
                request: reader.cpus("cpu-request"),
            },
            vigil: reader.duration("vigil"),
            release_deadline: reader.duration("release-deadline"),
            ebpf_log: reader.switch("ebpf-log"),
            leave_non_mesh: reader.switch("leave-non-mesh"),
            kubernetes: kubernetes::read(&mut reader, &common.istiod.pod, &exclude_namespaces),
            cni: Cni::read(&mut reader),
            exclude_namespaces,
            common,
        };
        finish(reader, asked, |notes, printed| Self {
            common: Config {
                notes,
                printed,
                ..config.common
            },
            ..config
        })
    }
}

impl GatewayConfig {
    /// Understands the arguments behind `gateway` and the environment.
    ///
    /// # Errors
    /// With all mistakes there are.
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Order<Self>, Mistakes> {
        let (mut reader, asked) = begin(Verb::Gateway, arguments, environment);
        if asked.help {
            return Ok(Order::Say(help(Verb::Gateway)));
        }
        let common = Config::read(&mut reader, None);
        if common.istiod.on_demand && common.mesh.is_none() {
            let why = "a gateway serves whoever asks: it must know every workload of its network";
            reader.contradiction("xds-on-demand", why.to_owned());
        }
        reader.must_be_given(
            "identity",
            "the identity of the gateway is needed, as NAMESPACE/SERVICE-ACCOUNT",
        );
        let identity = reader.parsed("identity", |text| {
            let (namespace, account) = text.split_once('/').ok_or("it must be NAMESPACE/SERVICE-ACCOUNT")?;
            let id = SpiffeId::new(&common.trust_domain, namespace, account).map_err(|error| error.to_string())?;
            Ok((id, text.into()))
        });
        let standard = if common.ipv6 {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, HBONE_PORT))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, HBONE_PORT))
        };
        let listen = reader.address("listen", standard);
        let Some(identity) = identity else {
            return Err(reader.mistakes);
        };
        finish(reader, asked, |notes, printed| Self {
            common: Config {
                notes,
                printed,
                ..common
            },
            identity,
            listen,
        })
    }
}

fn begin(
    verb: Verb,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> (Reader, Asked) {
    let mut mistakes = Mistakes::default();
    let given = Given::read(verb, arguments.into_iter(), environment.into_iter(), &mut mistakes);
    let asked = given.asked;
    let reader = Reader {
        verb,
        given,
        mistakes,
        effective: Vec::new(),
    };
    (reader, asked)
}

fn finish<C>(reader: Reader, asked: Asked, config: impl FnOnce(Vec<Note>, Printed) -> C) -> Result<Order<C>, Mistakes> {
    let Reader {
        given,
        mut mistakes,
        effective,
        ..
    } = reader;
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let printed = Printed::new(&effective, &given);
    if asked.print_config {
        return match printed.text(asked.format) {
            Ok(text) => Ok(Order::Say(text)),
            Err(why) => {
                mistakes.add(Mistake::new("--print-config", None, why));
                Err(mistakes)
            }
        };
    }
    Ok(Order::Serve(Box::new(config(given.notes, printed))))
}

impl Config {
    /// Notes and what is printed are filled in when all is read.
    fn read(reader: &mut Reader, mesh_snapshot: Option<PathBuf>) -> Self {
        let istiod = Istiod::read(reader);
        let mesh = reader.optional_path("mesh");
        // An address that cannot be read is a mistake of its own.
        let without_istiod = reader.is_emptied("xds-address");
        if mesh.is_none() && without_istiod {
            let why = "a mesh source is needed: istiod's address, or a mesh file (--mesh, docs/mesh-file.md)";
            reader.contradiction("xds-address", why.to_owned());
        }
        let embedded_ca = reader.optional_path("embedded-ca");
        let without_ca = match reader.given.text("ca-address") {
            None => without_istiod,
            Some(_) => reader.is_emptied("ca-address"),
        };
        if embedded_ca.is_none() && without_ca {
            let why = "a source of certificates is needed: the address of istiod's CA, or --embedded-ca";
            reader.contradiction("ca-address", why.to_owned());
        }
        Self {
            network: reader.text("network"),
            trust_domain: reader.text("trust-domain"),
            cluster_id: reader.text("cluster-id"),
            cluster_domain: reader.text("cluster-domain"),
            mesh,
            mesh_snapshot: match reader.optional_text("mesh-snapshot").as_deref() {
                None | Some("") => mesh_snapshot,
                Some("off") => None,
                Some(path) => Some(path.into()),
            },
            embedded_ca,
            secret_ttl: reader.duration("secret-ttl"),
            post_quantum_only: reader.one_of("compliance-policy") == "pqc",
            drain_deadline: reader.duration("drain-deadline"),
            tuning: tuning(reader),
            ipv6: reader.switch("ipv6"),
            log: Log {
                filter: log_filter(reader),
                json: reader.one_of("log-format") == "json",
            },
            ports: ports(reader),
            otlp_endpoint: reader.endpoint("otlp-endpoint", "http", None),
            istiod,
            notes: Vec::new(),
            printed: Printed::new(&[], &Given::default()),
        }
    }

    /// Says in the log, once, what an operator should know of variables.
    pub fn say_notes(&self) {
        for note in &self.notes {
            match note {
                Note::Ignored { variable, why } => tracing::info!(variable, why, "a variable changes nothing here"),
                Note::Unknown { variable, meant } => {
                    tracing::warn!(variable, did_you_mean = meant, "nobody reads this variable");
                }
            }
        }
    }
}

fn tuning(reader: &mut Reader) -> Tuning {
    let tunnels = hbone::Settings {
        stream_window_bytes: reader.number("stream-window"),
        tunnel_window_bytes: reader.number("tunnel-window"),
        frame_bytes: reader.number("frame-size"),
    };
    // 0 stands for what was not understood.
    if (1..=tunnels.stream_window_bytes).contains(&tunnels.tunnel_window_bytes) {
        let why = format!(
            "it must exceed --stream-window ({}): otherwise one stream that nobody reads holds up all others",
            tunnels.stream_window_bytes
        );
        reader.contradiction("tunnel-window", why);
    }
    let pool = if reader.has("pool-streams") {
        PoolLimits {
            streams: reader.number("pool-streams"),
            idle: reader.duration("pool-idle"),
        }
    } else {
        PoolLimits::default()
    };
    Tuning {
        tunnels,
        pool,
        sockets: SocketOptions {
            keepalive: reader.switch("keepalive"),
            keepalive_time: reader.duration("keepalive-time"),
            keepalive_interval: reader.duration("keepalive-interval"),
            keepalive_retries: reader.number("keepalive-retries"),
            user_timeout: reader.switch("user-timeout"),
        },
        response_baggage: !reader.has("response-baggage") || reader.switch("response-baggage"),
    }
}

fn log_filter(reader: &mut Reader) -> String {
    let parsed = reader.parsed("log", |text| {
        tracing_subscriber::EnvFilter::builder()
            .parse(text)
            .map(|_| (text.to_owned(), text.into()))
            .map_err(|error| format!("it must be a filter as info,isthmus::proxy=debug: {error}"))
    });
    parsed.unwrap_or_default()
}

fn ports(reader: &mut Reader) -> Ports {
    let ports = Ports {
        admin: reader.port("admin-port"),
        stats: reader.port("stats-port"),
        readiness: reader.port("readiness-port"),
    };
    let pairs = [
        ("stats-port", ports.stats, "admin-port", ports.admin),
        ("readiness-port", ports.readiness, "admin-port", ports.admin),
        ("readiness-port", ports.readiness, "stats-port", ports.stats),
    ];
    for (flag, port, other, taken) in pairs {
        if port.is_some() && port == taken {
            reader.contradiction(flag, format!("it is the port of --{other} as well"));
        }
    }
    ports
}
