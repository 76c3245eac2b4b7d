//! A hand-made HBONE client and server on another TLS library: for certificates no agent would show, and for
//! requests no agent would send.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    authority::Issued,
    failure::{Because as _, Result},
    netns::Netns,
    pod::Pod,
    process::Process,
};

const SCRIPT: &str = include_str!("forger/hbone.py");
const BOUND: Duration = Duration::from_secs(20);

/// One side of an HBONE connection in the making.
#[derive(Clone, Debug)]
pub struct Forger {
    config: Value,
}

/// What a forger's connection came to.
#[derive(Debug)]
pub struct Outcome {
    events: Vec<Value>,
}

impl Forger {
    /// A client that will connect to `at`.
    pub fn client(at: SocketAddr) -> Self {
        Self {
            config: json!({ "role": "client", "at": [at.ip(), at.port()] }),
        }
    }

    /// A server on port 15008 of all addresses. It answers any CONNECT with 200 and echoes what comes.
    pub fn server() -> Self {
        Self {
            config: json!({ "role": "server", "at": ["::", 15008] }),
        }
    }

    /// Shows this certificate.
    #[must_use]
    pub fn certificate(mut self, issued: &Issued) -> Self {
        self.put("certificate", json!([issued.chain, issued.key]));
        self
    }

    /// Demands that the peer's certificate chains to the root given with `issued`.
    #[must_use]
    pub fn believing(mut self, issued: &Issued) -> Self {
        self.put("root", json!(issued.root));
        self
    }

    /// Asks for this authority once TLS stands.
    #[must_use]
    pub fn connect(mut self, authority: &str) -> Self {
        self.put("authority", json!(authority));
        self
    }

    /// Speaks TLS again inside its stream, as `inner` says.
    #[must_use]
    pub fn inner(mut self, inner: &Self) -> Self {
        self.put("inner", inner.config.clone());
        self
    }

    /// Offers other protocols than h2.
    #[must_use]
    pub fn protocols(mut self, protocols: &[&str]) -> Self {
        self.put("alpn", json!(protocols));
        self
    }

    /// Sends this text in the end, and waits for as much to come back.
    #[must_use]
    pub fn payload(mut self, text: &str) -> Self {
        self.put("payload", json!(text));
        self
    }

    /// Keeps the stream open afterwards, until its standard input is closed.
    #[must_use]
    pub fn stay(mut self) -> Self {
        self.put("stay", json!(true));
        self
    }

    fn put(&mut self, key: &str, value: Value) {
        if let Some(fields) = self.config.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
    }

    /// Starts it in a pod.
    pub fn start(&self, pod: &Pod) -> Result<Process> {
        pod.python(SCRIPT, &[&self.config.to_string()])
    }

    /// Starts it in a namespace that is no pod, such as a gateway's.
    pub fn start_in(&self, lab: &crate::Lab, netns: &Netns) -> Result<Process> {
        let mut command = netns.command("python3");
        command.args(["-u", "-c", SCRIPT, &self.config.to_string()]);
        lab.start("forger", command)
    }

    /// Runs a client in a pod to its end.
    pub fn run(&self, pod: &Pod) -> Result<Outcome> {
        let ended = self
            .start(pod)?
            .finish(BOUND)?
            .success()
            .because("running the forged client")?;
        let events = ended
            .output
            .lines()
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>();
        Ok(Outcome {
            events: events.because("reading the forged client's events")?,
        })
    }
}

impl Outcome {
    /// A field of the last event of a kind at a place (`only`, `outer`, `inner`); empty when there was none.
    pub fn text(&self, event: &str, place: &str, key: &str) -> String {
        let is = |line: &&Value| {
            line.get("event").is_some_and(|kind| kind == event) && line.get("where").is_none_or(|its| its == place)
        };
        let found = self
            .events
            .iter()
            .rev()
            .find(is)
            .and_then(|line| line.get(key))
            .and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    }

    /// The HTTP status a CONNECT was answered with.
    pub fn status(&self, place: &str) -> String {
        self.text("status", place, "status")
    }

    /// Whether the peer spoke HTTP/2 at that place, which it does only when it accepted our certificate.
    pub fn accepted(&self, place: &str) -> bool {
        self.events.iter().any(|line| {
            line.get("event").is_some_and(|kind| kind == "settings")
                && line.get("where").is_some_and(|its| its == place)
        })
    }

    /// Why the connection failed at that place; empty when it did not.
    pub fn error(&self, place: &str) -> String {
        self.text("failed", place, "error")
    }

    /// What came back of the payload.
    pub fn payload(&self) -> String {
        self.text("payload", "", "back")
    }
}
