//! Envoy in a namespace of the lab: a client, server and gateway of HBONE that shares no code with the agent.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    authority::Issued,
    failure::{Because as _, Failure, Result},
    lab::Lab,
    log::Log,
    netns::Netns,
    pod::connect_from,
    process::Process,
    wait::within,
};

/// The release that `cargo xtask setup` brings.
const VERSION: &str = include_str!("envoy/version");
const CLIENT: &str = include_str!("envoy/client.yaml");
const SERVER: &str = include_str!("envoy/server.yaml");
const CLIENT_ADMIN: &str = "127.0.0.1:9901";
const SERVER_ADMIN: &str = "127.0.0.1:9902";
const READY: Duration = Duration::from_secs(20);

/// Streams that [`Envoy::server`] allows on one tunnel; fewer than the agent would open.
pub const SERVER_STREAMS: usize = 60;

/// What an Envoy client makes of each TCP connection.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// What it shows, and whom it trusts.
    pub certificate: &'a Issued,
    /// The one identity it accepts.
    pub expected: &'a str,
    /// Where the tunnel goes.
    pub peer: SocketAddr,
    /// What its CONNECT asks for.
    pub authority: &'a str,
}

/// An Envoy; ended when it is dropped.
#[derive(Debug)]
#[must_use = "an Envoy that is dropped is stopped"]
pub struct Envoy {
    process: Process,
    netns: Arc<Netns>,
    admin: SocketAddr,
}

impl Envoy {
    /// Takes TCP connections at `listen` and sends each through its tunnel to one peer.
    pub fn client(lab: &Lab, netns: &Arc<Netns>, listen: SocketAddr, tunnel: &Tunnel<'_>) -> Result<Self> {
        let config = fill(
            CLIENT,
            &[
                ("LISTEN_IP", &listen.ip().to_string()),
                ("LISTEN_PORT", &listen.port().to_string()),
                ("PEER_IP", &tunnel.peer.ip().to_string()),
                ("PEER_PORT", &tunnel.peer.port().to_string()),
                ("AUTHORITY", tunnel.authority),
                ("EXPECTED", tunnel.expected),
            ],
            tunnel.certificate,
        );
        Self::start(lab, netns, "client", &config, CLIENT_ADMIN)
    }

    /// Serves HBONE on port 15008 of all addresses to everybody of the trust domain. The bytes of a CONNECT go to one
    /// of the addresses told with its authority, in turn; other authorities are answered with 404.
    pub fn server(
        lab: &Lab,
        netns: &Arc<Netns>,
        certificate: &Issued,
        routes: &[(String, Vec<SocketAddr>)],
    ) -> Result<Self> {
        let hosts: Vec<Value> = routes.iter().map(|(authority, _)| host(authority)).collect();
        let clusters: Vec<Value> = routes.iter().map(|(authority, to)| cluster(authority, to)).collect();
        let config = fill(
            SERVER,
            &[
                ("VIRTUAL_HOSTS", &Value::from(hosts).to_string()),
                ("CLUSTERS", &Value::from(clusters).to_string()),
                ("STREAMS", &SERVER_STREAMS.to_string()),
            ],
            certificate,
        );
        Self::start(lab, netns, "server", &config, SERVER_ADMIN)
    }

    fn start(lab: &Lab, netns: &Arc<Netns>, role: &str, config: &str, admin: &str) -> Result<Self> {
        let path = lab.dir().join(format!("envoy-{role}-{}.yaml", netns.name()));
        fs::write(&path, config).because(format!("writing {}", path.display()))?;
        let mut command = netns.command(&program()?.display().to_string());
        command
            .arg("--config-path")
            .arg(&path)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            // Its access log is waited for.
            .args(["--file-flush-interval-msec", "10"]);
        let mut envoy = Self {
            process: lab.start(&format!("envoy-{role}"), command)?,
            netns: Arc::clone(netns),
            admin: admin.parse().because("reading an address")?,
        };
        let ready = within(READY, "Envoy is ready", || match envoy.ask("/ready") {
            Ok(answer) if answer.contains("LIVE") => Some(true),
            _ => (!envoy.process.runs()).then_some(false),
        });
        if ready.as_ref().is_ok_and(|ready| *ready) {
            return Ok(envoy);
        }
        let said = fs::read_to_string(envoy.process.errors().path()).unwrap_or_default();
        Err(Failure::new(format!("Envoy did not come up; it says:\n{said}")))
    }

    /// Its access log: a line of JSON per finished stream.
    pub fn log(&self) -> &Log {
        self.process.output()
    }

    /// One of its counters or gauges; zero when it has none of that name yet.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let answer = self.ask("/stats")?;
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map_or(Ok(0), |value| {
            value.trim().parse().because(format!("reading Envoy's {name}"))
        })
    }

    /// Tunnels that were ever made to it.
    pub fn tunnels_taken(&self) -> Result<u64> {
        self.stat("listener.[__]_15008.downstream_cx_total")
    }

    /// Streams that are open to it now.
    pub fn streams_taken(&self) -> Result<u64> {
        self.stat("http.hbone.downstream_rq_active")
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn ask(&self, path: &str) -> Result<String> {
        let mut stream = connect_from(&self.netns, self.admin, Duration::from_secs(5))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// The program, brought by `cargo xtask setup`.
fn program() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/envoy");
    let program = target.join(VERSION.trim()).join("envoy");
    program
        .canonicalize()
        .because(format!("finding Envoy at {} (cargo xtask setup)", program.display()))
}

/// Puts values in the place of names in at-signs.
fn fill(template: &str, values: &[(&str, &str)], certificate: &Issued) -> String {
    let files = [
        ("CHAIN", &certificate.chain),
        ("KEY", &certificate.key),
        ("ROOT", &certificate.root),
    ];
    let mut text = template.to_owned();
    for (name, path) in files {
        text = text.replace(&format!("@{name}@"), &path.display().to_string());
    }
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

/// A virtual host that takes the CONNECT of one authority for raw TCP.
fn host(authority: &str) -> Value {
    json!({
        "name": authority,
        "domains": [authority],
        "routes": [{
            "match": { "connect_matcher": {} },
            "route": {
                "cluster": authority,
                "timeout": "0s",
                "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
            },
        }],
    })
}

fn cluster(authority: &str, to: &[SocketAddr]) -> Value {
    let endpoint = |at: &SocketAddr| json!({ "endpoint": { "address": { "socket_address": { "address": at.ip(), "port_value": at.port() } } } });
    let endpoints: Vec<Value> = to.iter().map(endpoint).collect();
    json!({
        "name": authority,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": authority, "endpoints": [{ "lb_endpoints": endpoints }] },
    })
}
