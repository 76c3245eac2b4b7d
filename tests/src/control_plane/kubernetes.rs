//! An etcd and a kube-apiserver, without any of the controllers behind them.
//!
//! The apiserver serves at 443, so that the address of the Service `kubernetes` is its own: nobody here translates addresses.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::KeyPair;
use serde_json::{Value, json};

use super::{
    api::Api,
    programs::built,
    roots::{Roots, write},
};
use crate::{
    failure::{Failure, Result},
    lab::{World, lock},
    netns::Netns,
    process::Process,
    wait::within,
};

const PORT: u16 = 443;
/// Cold, on two busy cores.
const UP: Duration = Duration::from_secs(180);
/// What members of `system:masters` show. The apiserver listens in namespaces of the lab only.
const TOKEN: &str = "lab";
/// A cluster has so many nodes at most whose kubelets are known to the apiserver.
const MOST_KUBELETS: u8 = 8;

/// Who runs the pods that a cluster is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// The test plays kubelet.
    Played,
    /// Kubelets do.
    Run,
}

/// An apiserver with its etcd.
#[derive(Debug)]
pub(super) struct Kubernetes {
    /// As the lab speaks to it.
    pub(super) api: Api,
    root: String,
    inner: IpAddr,
    outer: IpAddr,
    /// None while it is away.
    apiserver: Mutex<Option<Process>>,
    log: PathBuf,
    begin: Begin,
    // Ended after who uses it.
    _etcd: Process,
}

/// What is needed to start an apiserver, again and again.
#[derive(Debug)]
struct Begin {
    world: Arc<World>,
    name: String,
    machine: Machine,
    dir: PathBuf,
    pods: Pods,
}

/// Where the machine of a control plane is.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Its namespace.
    pub(super) netns: Arc<Netns>,
    /// Its address in its network.
    pub(super) inner: IpAddr,
    /// Its address on the internet.
    pub(super) outer: IpAddr,
    /// The second number of its network's addresses.
    pub(super) index: u8,
}

impl Kubernetes {
    /// Starts both and waits until the apiserver is ready.
    pub(super) fn start(world: &Arc<World>, name: &str, machine: &Machine, dir: &Path, pods: Pods) -> Result<Self> {
        let root = Roots::new(&format!("{name} kubernetes"))?;
        let own_service = IpAddr::from([10, 96, machine.index, 1]);
        let [certificate, key] = root.server(
            &["kubernetes.default.svc", "localhost"],
            &[machine.inner, machine.outer, own_service],
        )?;
        let signer = KeyPair::generate()?;
        let files = [
            ("apiserver.pem", certificate),
            ("apiserver-key.pem", key),
            ("service-account.pem", signer.public_key_pem()),
            ("service-account-key.pem", signer.serialize_pem()),
            ("root.pem", root.pem()),
            ("tokens.csv", tokens(name)),
        ];
        for (file, text) in files {
            write(&dir.join(file), &text)?;
        }
        let etcd = etcd(world, name, machine, dir)?;
        let begin = Begin {
            world: Arc::clone(world),
            name: name.to_owned(),
            machine: machine.clone(),
            dir: dir.to_owned(),
            pods,
        };
        let api = Api::new(
            &machine.netns,
            &format!("https://{}:{PORT}", machine.inner),
            &root.pem(),
            TOKEN,
        )?;
        let apiserver = begin.start(&api)?;
        Ok(Self {
            api,
            root: root.pem(),
            inner: machine.inner,
            outer: machine.outer,
            log: apiserver.errors().path().to_owned(),
            apiserver: Mutex::new(Some(apiserver)),
            begin,
            _etcd: etcd,
        })
    }

    /// Kills the apiserver. What it told its etcd stays there.
    pub(super) fn kill(&self) {
        if let Some(mut apiserver) = lock(&self.apiserver).take() {
            apiserver.kill();
        }
    }

    /// Starts it again after [`Kubernetes::kill`] and waits until it is ready.
    pub(super) fn restart(&self) -> Result {
        let apiserver = self.begin.start(&self.api)?;
        *lock(&self.apiserver) = Some(apiserver);
        Ok(())
    }

    /// A kubeconfig for who is in its own namespace or network.
    pub(super) fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("kubeconfig");
        write(&path, &self.config_at(self.inner, TOKEN).to_string())?;
        Ok(path)
    }

    /// The same for who shows another token.
    pub(super) fn kubeconfig_of(&self, path: &Path, token: &str) -> Result {
        write(path, &self.config_at(self.inner, token).to_string())
    }

    /// A kubeconfig for the kubelet of a node that [`node_name`] calls so.
    pub(super) fn kubeconfig_of_node(&self, path: &Path, node: &str) -> Result {
        write(path, &self.config_at(self.inner, &node_token(node)).to_string())
    }

    /// Where its files are: `root.pem` and `service-account-key.pem` among them, which controllers want.
    pub(super) fn dir(&self) -> &Path {
        &self.begin.dir
    }

    /// A kubeconfig for who comes over the internet: the value of a remote secret.
    pub(super) fn remote_config(&self) -> Value {
        self.config_at(self.outer, TOKEN)
    }

    fn config_at(&self, ip: IpAddr, token: &str) -> Value {
        let (name, root) = ("lab", base64(self.root.as_bytes()));
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{ "name": name, "cluster": {
                "server": format!("https://{ip}:{PORT}"), "certificate-authority-data": root,
            } }],
            "users": [{ "name": name, "user": { "token": token } }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        })
    }

    /// What the apiserver writes.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

impl Begin {
    fn start(&self, api: &Api) -> Result<Process> {
        let name = &self.name;
        let mut apiserver = apiserver(&self.world, name, &self.machine, &self.dir, self.pods)?;
        let up = within(UP, &format!("the apiserver of {name} is ready"), || {
            if api.is_ready() {
                Some(true)
            } else {
                (!apiserver.runs()).then_some(false)
            }
        });
        if up.as_ref().is_ok_and(|up| *up) {
            return Ok(apiserver);
        }
        let said = last_words(apiserver.errors().path());
        Err(Failure::new(format!(
            "the apiserver of {name} did not come up; it says:\n{said}"
        )))
    }
}

fn etcd(world: &Arc<World>, name: &str, machine: &Machine, dir: &Path) -> Result<Process> {
    let mut command = machine.netns.command("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", "http://127.0.0.1:2379"])
        .args(["--advertise-client-urls", "http://127.0.0.1:2379"])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
        .args(["--logger", "zap", "--log-level", "warn"]);
    Process::start(world, &format!("{name}-etcd"), command)
}

fn apiserver(world: &Arc<World>, name: &str, machine: &Machine, dir: &Path, pods: Pods) -> Result<Process> {
    let index = machine.index;
    let mut command = machine.netns.command(&built("kube-apiserver")?.display().to_string());
    for (flag, file) in [
        ("--tls-cert-file", "apiserver.pem"),
        ("--tls-private-key-file", "apiserver-key.pem"),
        ("--service-account-key-file", "service-account.pem"),
        ("--service-account-signing-key-file", "service-account-key.pem"),
        ("--token-auth-file", "tokens.csv"),
        ("--cert-dir", "certs"),
    ] {
        command.arg(flag).arg(dir.join(file));
    }
    command
        .args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0"])
        .arg(format!("--secure-port={PORT}"))
        .arg(format!("--advertise-address={}", machine.inner))
        .arg(format!(
            "--service-cluster-ip-range=10.96.{index}.0/24,fd00:96:{index}::/112"
        ))
        .args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            "--endpoint-reconciler-type=none",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
        ]);
    if pods == Pods::Played {
        // It would want a token mounted into pods, which nobody here makes.
        command.arg("--disable-admission-plugins=ServiceAccount");
    }
    Process::start(world, &format!("{name}-apiserver"), command)
}

/// The apiserver's `--token-auth-file`: the lab's own token, and one of each kubelet that may come.
fn tokens(cluster: &str) -> String {
    let own = format!("{TOKEN},lab,lab,system:masters\n");
    let kubelets = (1..=MOST_KUBELETS).map(|number| {
        let node = node_name(cluster, number);
        format!("{},system:node:{node},{node},system:nodes\n", node_token(&node))
    });
    [own].into_iter().chain(kubelets).collect()
}

/// A node that a kubelet runs is called so.
pub(crate) fn node_name(cluster: &str, number: u8) -> String {
    format!("{cluster}-node{number}")
}

fn node_token(node: &str) -> String {
    format!("token-of-{node}")
}

/// The end of a log, for a developer.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(20)..)
        .unwrap_or_default()
        .join("\n")
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk
            .iter()
            .chain(&[0, 0])
            .take(3)
            .fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        for place in 0..4 {
            let digit = DIGITS.get(number >> (18 - 6 * place) & 63).copied().unwrap_or(b'=');
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Where a control plane of `network` runs: a machine on the network's wire and on the internet.
impl Machine {
    pub(super) fn make(world: &Arc<World>, network: &crate::Network) -> Result<Self> {
        let (net, outer) = (network.index(), 200 + network.index());
        let netns = world.netns(&format!("{}-plane", network.name()))?;
        world.cable((&netns, "eth0"), (network.wire(), "plane"))?;
        world.cable((&netns, "eth1"), (world.internet(), &format!("plane{net}")))?;
        netns.ip(&format!(
            "addr add 10.{net}.0.90/24 dev eth0\n\
             addr add fd00:10:{net}::90/64 dev eth0 nodad\n\
             addr add 198.51.100.{outer}/24 dev eth1\n\
             addr add 10.96.{net}.1/32 dev lo\naddr add 10.96.{net}.2/32 dev lo\n\
             link set eth0 up\nlink set eth1 up\n\
             route add 10.{net}.0.0/16 via 10.{net}.0.254\n\
             route add fd00:10:{net}::/48 via fd00:10:{net}::254\n\
             route add default via 198.51.100.254\n"
        ))?;
        // Addresses of the Services `kubernetes` and `istiod`.
        network.wire().ip(&format!(
            "route add 10.96.{net}.1/32 via 10.{net}.0.90\nroute add 10.96.{net}.2/32 via 10.{net}.0.90\n"
        ))?;
        Ok(Self {
            netns,
            inner: [10, net, 0, 90].into(),
            outer: [198, 51, 100, outer].into(),
            index: net,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_rfc_4648_section_10() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }
}
