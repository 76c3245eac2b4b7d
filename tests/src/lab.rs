//! The lab itself: what it needs of the machine, and everything it has made.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use isthmus_wire::{Request, Response, Status};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use crate::{
    authority::Authority,
    failure::{Because as _, Failure, Result},
    mesh_file::{MeshFile, ServiceBuilder},
    netns::{Netns, ip},
    network::Network,
    process::Process,
    sweep, within,
};

/// Every name the lab gives begins so, followed by the process id.
pub const PREFIX: &str = "isth";
const BPFFS: &str = "/sys/fs/bpf";
static LABS: AtomicU32 = AtomicU32::new(0);

/// A world of networks, alive until the last handle to anything in it is dropped.
#[derive(Clone, Debug)]
pub struct Lab {
    world: Arc<World>,
}

/// What every handle shares.
#[derive(Debug)]
pub(crate) struct World {
    name: String,
    title: String,
    dir: PathBuf,
    bpffs: PathBuf,
    binary: PathBuf,
    keep: bool,
    files: AtomicU32,
    internet: Arc<Netns>,
    authority: Authority,
    networks: AtomicU8,
    spaces: Mutex<Vec<Arc<Netns>>>,
    mesh: Mutex<MeshFile>,
    agents: Mutex<BTreeMap<String, PathBuf>>,
}

impl Lab {
    /// An empty world: an internet without networks, and a certificate authority.
    ///
    /// `KEEP=1` in the environment leaves it standing.
    pub fn new(title: &str) -> Result<Self> {
        Self::with(title, env::var_os("KEEP").is_some())
    }

    /// As [`Lab::new`], told whether to leave the world standing.
    pub fn with(title: &str, keep: bool) -> Result<Self> {
        let binary = ready()?;
        sweep::dead(false)?;
        let name = format!("{PREFIX}{}x{}", process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir = env::temp_dir().join(&name);
        fs::create_dir(&dir).because(format!("making {}", dir.display()))?;
        if keep {
            fs::write(dir.join(sweep::KEPT), title)?;
        }
        let bpffs = Path::new(BPFFS).join(&name);
        let authority = Authority::create(&binary, &dir.join("ca"))?;
        let internet = Netns::create(&format!("{name}-internet"), keep)?;
        internet.route_packets()?;
        internet.ip("link add br0 type bridge mcast_snooping 0\n\
             addr add 198.51.100.254/24 dev br0\n\
             addr add 2001:db8:51::254/64 dev br0 nodad\n\
             link set br0 up\n")?;
        let world = World {
            name,
            title: title.to_owned(),
            bpffs,
            binary,
            keep,
            files: AtomicU32::new(0),
            internet: Arc::new(internet),
            authority,
            networks: AtomicU8::new(1),
            spaces: Mutex::default(),
            mesh: Mutex::new(MeshFile::new(dir.join("mesh.yaml"))),
            agents: Mutex::default(),
            dir,
        };
        Ok(Self { world: Arc::new(world) })
    }

    /// Adds a network, joined to the others through the internet.
    pub fn network(&self, name: &str) -> Result<Network> {
        Network::create(&self.world, name, self.world.networks.fetch_add(1, Ordering::Relaxed))
    }

    /// Declares a service of namespace `demo`; end with [`ServiceBuilder::add`].
    pub fn service(&self, name: &str) -> ServiceBuilder {
        ServiceBuilder::new(&self.world, name)
    }

    /// Changes what the mesh file will say. Nothing is written before [`Lab::publish`].
    pub fn mesh<T>(&self, change: impl FnOnce(&mut MeshFile) -> T) -> T {
        change(&mut self.world.mesh())
    }

    /// Writes the mesh file whole and waits until every running agent serves it.
    ///
    /// Agents tell the sizes of what they serve; a change that leaves all sizes alone must be waited for by its effect.
    pub fn publish(&self) -> Result {
        self.world.publish()
    }

    /// Its name, with which all its names begin.
    pub fn name(&self) -> &str {
        &self.world.name
    }

    /// The certificate authority of all agents of this world.
    pub fn authority(&self) -> &Authority {
        &self.world.authority
    }

    /// The namespace between the networks.
    pub fn internet(&self) -> &Arc<Netns> {
        &self.world.internet
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Starts a command made by [`Netns::command`].
    pub fn start(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(&self.world, name, command)
    }

    /// The directory of all files of this world.
    pub fn dir(&self) -> &Path {
        &self.world.dir
    }

    /// The agent's binary.
    pub fn binary(&self) -> &Path {
        &self.world.binary
    }
}

impl World {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn keeps(&self) -> bool {
        self.keep
    }

    pub(crate) fn internet(&self) -> &Netns {
        &self.internet
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn mesh(&self) -> MutexGuard<'_, MeshFile> {
        lock(&self.mesh)
    }

    /// A file name not used before, for a process called `name`.
    pub(crate) fn file_for(&self, name: &str) -> PathBuf {
        self.dir
            .join(format!("{name}-{}", self.files.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes a namespace that lives as long as the world.
    pub(crate) fn netns(&self, name: &str) -> Result<Arc<Netns>> {
        let netns = Arc::new(Netns::create(&format!("{}-{name}", self.name), self.keep)?);
        lock(&self.spaces).push(Arc::clone(&netns));
        Ok(netns)
    }

    /// Joins a link `inside` of one namespace to a link of another, on a bridge there.
    pub(crate) fn cable(&self, inside: (&Netns, &str), outside: (&Netns, &str)) -> Result {
        let ((netns, link), (wire, port)) = (inside, outside);
        ip(
            &[],
            &format!(
                "link add {port} netns {} type veth peer name {link} netns {}\n",
                wire.name(),
                netns.name()
            ),
        )?;
        wire.ip(&format!("link set {port} master br0\nlink set {port} up\n"))
    }

    /// From now on [`World::publish`] waits for the agent behind this socket too.
    pub(crate) fn agent_runs(&self, node: &str, socket: &Path) {
        lock(&self.agents).insert(node.to_owned(), socket.to_owned());
    }

    pub(crate) fn agent_stopped(&self, node: &str) {
        lock(&self.agents).remove(node);
    }

    pub(crate) fn publish(&self) -> Result {
        let sizes = self.mesh().write()?;
        let agents = lock(&self.agents).clone();
        for (node, socket) in agents {
            within(
                Duration::from_secs(5),
                &format!("the agent of {node} serves {sizes:?} of the mesh file"),
                || status(&socket).ok().filter(|status| status.mesh_size == sizes),
            )?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("lab: kept {} ({})", self.name, self.title);
            eprintln!(
                "lab:   files in {}, programs in {}",
                self.dir.display(),
                self.bpffs.display()
            );
            eprintln!(
                "lab:   ip netns list | grep {}; nsenter --net=/run/netns/NAME curl ..",
                self.name
            );
            eprintln!("lab:   remove it with: cargo xtask demo --sweep");
            return;
        }
        // Unpinning detaches whatever an agent left to its successor.
        sweep::bpffs(&self.bpffs);
        lock(&self.spaces).clear();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("lab: removing {}: {error}", self.dir.display());
        }
    }
}

/// Asks the agent behind `socket` what it holds.
pub(crate) fn status(socket: &Path) -> Result<Status> {
    match isthmus_wire::ask(socket, &Request::Status, Duration::from_secs(5))? {
        Response::Status(status) => Ok(status),
        other => Err(Failure::new(format!(
            "asked for its status the agent answered {other:?}"
        ))),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks root, the binary and bpffs; answers the binary.
fn ready() -> Result<PathBuf> {
    if !geteuid().is_root() {
        return Err(Failure::new(
            "the lab makes network namespaces and loads eBPF programs: run it as root",
        ));
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/isthmus");
    let binary = env::var_os("ISTHMUS_BIN").map_or(built, PathBuf::from);
    let binary = binary.canonicalize().because(format!(
        "finding the agent at {} (cargo xtask build, or ISTHMUS_BIN=PATH)",
        binary.display()
    ))?;
    let mounted = statfs(BPFFS).is_ok_and(|kind| kind.filesystem_type() == BPF_FS_MAGIC);
    if !mounted {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .because(format!("mounting bpf on {BPFFS}"))?;
    }
    Ok(binary)
}
