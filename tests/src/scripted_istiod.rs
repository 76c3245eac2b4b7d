//! An istiod that does on cue what the real one cannot: it is slow, refuses, sends nonsense, cuts connections, signs
//! certificates that end in seconds. Everything else is tested with the real one.
//!
//! It serves the lab's mesh from the namespace between the networks, where every node reaches it, and signs with the
//! lab's authority, so that agents under it and agents under the embedded CA believe each other. It is a thread of the
//! test; [`ScriptedIstiod::kill`] takes its connections away as the end of a process does.
//!
//! Where it is simpler than istiod: changes are sent one by one and not merged while an agent is busy, versions are
//! hashes of another kind, and nobody's rights are checked beyond the token.
//!
//! | file | what it knows |
//! |---|---|
//! | `script` | what it is to do |
//! | `seen` | what it was asked |
//! | `resource` | what it serves |
//! | `convert`, `many` | where that comes from: the lab's mesh, or a large one |
//! | `discovery`, `ca` | the two services |
//! | `certificates` | its own, and those it signs |
//! | `serve`, `wire` | connections |
//! | `shared` | what all of them have in common |

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use isthmus_istio::discovery::Resource;
use rustls::ServerConfig;

use crate::{
    agent::IstiodOptions,
    authority::Authority,
    failure::{Because as _, Result},
    lab::{Lab, lock},
    wait::within,
};

mod ca;
mod certificates;
pub mod convert;
mod discovery;
pub mod many;
pub mod resource;
pub mod script;
pub mod seen;
mod serve;
mod shared;
mod wire;

use certificates::Signer;
pub use resource::Kind;
pub use script::{Answer, Script, Terms, Wire};
pub use seen::{Event, Seen};
use serve::Running;
use shared::{Blow, Shared};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254));
const PORT: u16 = 15012;
/// What its first token says.
pub const TOKEN: &str = "header.lab.signature";
const SOON: Duration = Duration::from_secs(15);

/// A scripted istiod; it dies when it is dropped.
pub struct ScriptedIstiod {
    lab: Lab,
    shared: Arc<Shared>,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
    running: Mutex<Option<Running>>,
    roots: PathBuf,
    token: PathBuf,
}

impl ScriptedIstiod {
    /// Starts it, serving the lab's mesh as it is now.
    pub fn start(lab: &Lab) -> Result<Self> {
        let istiod = Self::empty(lab)?;
        istiod.publish()?;
        Ok(istiod)
    }

    /// Starts it with nothing to serve yet.
    pub fn empty(lab: &Lab) -> Result<Self> {
        let (roots, token) = (lab.dir().join("istiod-root.pem"), lab.dir().join("istiod-token"));
        let tls = certificates::server(IP, &roots)?;
        certificates::replace(&token, TOKEN)?;
        let signer = Signer::open(lab.authority().dir(), &[])?;
        let istiod = Self {
            lab: lab.clone(),
            shared: Arc::new(Shared::new(Script::serving(TOKEN, convert::CLUSTER), signer)),
            tls: Arc::new(Mutex::new(tls)),
            running: Mutex::new(None),
            roots,
            token,
        };
        istiod.restart()?;
        Ok(istiod)
    }

    /// What agents under it are started with.
    pub fn options(&self) -> IstiodOptions {
        IstiodOptions {
            address: format!("https://{}", SocketAddr::new(IP, PORT)),
            ca_address: None,
            signs: true,
            roots: self.roots.clone(),
            other_name: None,
            token: self.token.clone(),
            cluster: convert::CLUSTER.to_owned(),
            network: None,
            namespace: "istio-system".to_owned(),
            pod: "ztunnel-lab".to_owned(),
            service_account: "ztunnel".to_owned(),
        }
    }

    /// Kills it: its connections are gone, and new ones are refused. What it was told to serve is kept.
    pub fn kill(&self) {
        drop(lock(&self.running).take());
        self.shared.forget_streams();
    }

    /// Starts it again.
    pub fn restart(&self) -> Result {
        let at = SocketAddr::new(IP, PORT);
        let listener = self
            .lab
            .internet()
            .enter(|| TcpListener::bind(at))?
            .because(format!("listening on {at}"))?;
        let running = Running::start(listener, Arc::clone(&self.shared), Arc::clone(&self.tls))?;
        *lock(&self.running) = Some(running);
        Ok(())
    }

    /// Changes what it does from now on.
    pub fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        self.shared.script(change)
    }

    /// Serves the lab's mesh as it is now, and nothing else.
    pub fn publish(&self) -> Result {
        for kind in [Kind::Address, Kind::Authorization] {
            let all = self.lab.mesh(|mesh| convert::resources(mesh, kind))?;
            self.shared.change(|resources| resources.replace(kind, all));
        }
        Ok(())
    }

    /// Serves this too, in one response.
    pub fn put(&self, kind: Kind, resources: Vec<Resource>) {
        self.change(kind, resources, Vec::new());
    }

    /// Serves this no more, in one response.
    pub fn remove(&self, kind: Kind, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.change(kind, Vec::new(), names);
    }

    /// Both in one response.
    pub fn change(&self, kind: Kind, put: Vec<Resource>, removed: Vec<String>) {
        self.shared
            .change(|resources| Some(resources.change(kind, put, removed)));
    }

    /// Waits until so many agents have answered everything they were sent.
    #[track_caller]
    pub fn served(&self, agents: usize) -> Result {
        within(SOON, &format!("{agents} agents have answered everything"), || {
            self.is_served(agents).then_some(())
        })
    }

    /// Whether so many agents are there and have answered everything.
    pub fn is_served(&self, agents: usize) -> bool {
        self.shared.is_served(agents)
    }

    /// How many agents have asked for both kinds and are still there.
    pub fn agents(&self) -> usize {
        self.shared.streams()
    }

    /// From sent to acknowledged, of every response since the last time this was asked.
    pub fn lags(&self) -> Vec<Duration> {
        self.shared.lags()
    }

    /// Closes every connection without a word.
    pub fn drop_connections(&self) {
        // Nobody listens when there is no connection.
        let _connections = self.shared.blows.send(Blow::Drop);
    }

    /// Tells every connection to go away, as it does when a connection has reached its greatest age.
    pub fn go_away(&self) {
        let _connections = self.shared.blows.send(Blow::GoAway);
    }

    /// Cuts the connection which writes the byte after so many more.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.left.store(bytes, Ordering::Relaxed);
    }

    /// Has a connection been cut since [`ScriptedIstiod::cut_after`]?
    pub fn has_cut(&self) -> bool {
        self.shared.left.load(Ordering::Relaxed) == wire::NEVER
    }

    /// Has a new certificate of a new root, which is written where agents look for it unless it is to be `unknown`.
    pub fn change_root(&self, unknown: bool) -> Result {
        let aside = self.roots.with_extension("aside");
        let config = certificates::server(IP, if unknown { &aside } else { &self.roots })?;
        *lock(&self.tls) = config;
        Ok(())
    }

    /// Signs with another authority, whose root is told beside those of `others`.
    pub fn sign_with(&self, authority: &Authority, others: &[&Authority]) -> Result {
        let others: Vec<PathBuf> = others.iter().map(|other| other.dir().to_owned()).collect();
        let signer = Signer::open(authority.dir(), &others)?;
        *lock(&self.shared.signer) = Arc::new(signer);
        Ok(())
    }

    /// Where agents find their token.
    pub fn token(&self) -> &PathBuf {
        &self.token
    }

    /// Replaces the token: agents find the new one, and only that is believed.
    pub fn rotate_token(&self, token: &str) -> Result {
        self.script(|script| script.tokens = [token.to_owned()].into());
        certificates::replace(&self.token, token)
    }

    /// Replaces the file that agents read their token from, and believes what it believed.
    pub fn write_token(&self, token: &str) -> Result {
        certificates::replace(&self.token, token)
    }

    /// How much has been seen; give it to the others to ignore that.
    pub fn mark(&self) -> usize {
        self.shared.seen(<[Seen]>::len)
    }

    /// Everything seen after `mark` that `wanted` accepts.
    pub fn seen(&self, mark: usize, wanted: impl Fn(&Event) -> bool) -> Vec<Seen> {
        self.shared.seen(|all| {
            let after = all.iter().skip(mark);
            after.filter(|seen| wanted(&seen.event)).cloned().collect()
        })
    }

    /// The first that was seen after `mark` and that `wanted` accepts, waiting for it.
    #[track_caller]
    pub fn wait_for(&self, mark: usize, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        self.wait_within(mark, SOON, what, wanted)
    }

    /// As [`ScriptedIstiod::wait_for`], with a bound.
    #[track_caller]
    pub fn wait_within(
        &self,
        mark: usize,
        bound: Duration,
        what: &str,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let begin = Instant::now();
        within(bound, &format!("the scripted istiod sees {what}"), || {
            self.shared.seen(|all| {
                let mut after = all.iter().skip(mark);
                after.find(|seen| wanted(&seen.event)).map(|seen| seen.event.clone())
            })
        })
        .because(format!("asked for {:?}", begin.elapsed()))
    }
}

impl std::fmt::Debug for ScriptedIstiod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptedIstiod")
            .field("agents", &self.agents())
            .finish()
    }
}
