//! Trying out, without touching the node, whether this kernel takes everything redirection is made of: the programs
//! themselves are loaded and attached, to a cgroup, a network namespace and a link made for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use super::{
    Interior, Listeners, Netns, NodePrograms, Pins, PodPrograms, PodRouting, RedirectError,
    node::Ground,
    objects,
    policy_routing::Link,
    scratch::Scratch,
    selftest::{SLOT, scratch_addresses},
    unpin,
};

/// What is tried, in this order. One that fails ends the trial: the others need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// Places to try in: pins, a cgroup, a network namespace.
    Place,
    /// The node's programs, attached to a cgroup.
    Node,
    /// `claim`, attached to a network namespace.
    Claim,
    /// The guard, attached to a link.
    Guard,
    /// Sysctls, listeners, rules and routes.
    Routing,
}

impl Piece {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Place, Self::Node, Self::Claim, Self::Guard, Self::Routing];
}

/// A name that is used while something is tried out; it bears our process id.
const PREFIX: &str = "isthmus_check_";

/// Where the trial is held.
pub struct Trial<'a> {
    /// Where the agent pins: a directory on bpffs, which need not exist yet.
    pub bpffs: &'a Path,
    /// The root of the cgroup2 hierarchy.
    pub cgroup: &'a Path,
}

impl Trial<'_> {
    /// Tries everything. Answers what failed; nothing is left behind either way.
    pub async fn run(&self) -> Result<(), (Piece, RedirectError)> {
        let at = |piece| move |error| (piece, error);
        let places = Places::make(self).map_err(at(Piece::Place))?;
        let home = Netns::open(Path::new("/proc/thread-self/ns/net")).map_err(|error| (Piece::Place, error.into()))?;
        let pins = Pins::new(&places.pins, "node", objects::generation());
        let ground = Ground {
            pins: pins.clone(),
            cgroup: &places.cgroup,
            node: &home,
            log: false,
        };
        let _node = NodePrograms::attach(&ground).map_err(at(Piece::Node))?;
        let scratch = Scratch::make().map_err(|cause| (Piece::Place, namespace(cause)))?;
        let netns = Netns::open(scratch.path()).map_err(|error| (Piece::Place, error.into()))?;
        let programs = PodPrograms::new(&pins, false);
        programs.install(SLOT, &netns).map_err(at(Piece::Claim))?;
        let link = Link {
            index: isthmus_abi::LOOPBACK_IFINDEX,
            name: "lo".into(),
            ethernet: true,
        };
        programs.guard(SLOT, &netns, &link).map_err(at(Piece::Guard))?;
        routing(&netns).await.map_err(at(Piece::Routing))
    }
}

async fn routing(netns: &Netns) -> Result<(), RedirectError> {
    Listeners::open(netns).map_err(|cause| RedirectError::Path {
        what: "opening transparent listeners in",
        path: netns.path().to_owned(),
        cause,
    })?;
    let routing = PodRouting::open(netns)?;
    let interior = Interior {
        addresses: scratch_addresses(&routing).await?,
        ..Interior::default()
    };
    Ok(routing.install(netns, &interior, &[]).await?)
}

fn namespace(cause: io::Error) -> RedirectError {
    RedirectError::Path {
        what: "making a scratch network namespace, as in",
        path: "/proc/self/ns/net".into(),
        cause,
    }
}

/// Directories made for a trial; gone when dropped, with those above the pins that were not there before.
struct Places {
    pins: PathBuf,
    cgroup: PathBuf,
    made: Vec<PathBuf>,
}

impl Places {
    fn make(trial: &Trial<'_>) -> Result<Self, RedirectError> {
        let name = format!("{PREFIX}{}", process::id());
        let mut places = Self {
            pins: trial.bpffs.join(&name),
            cgroup: trial.cgroup.join(&name),
            made: Vec::new(),
        };
        let above = trial.bpffs.ancestors().take_while(|path| !path.exists());
        places.made = above.map(Path::to_owned).collect();
        Pins::make(&places.pins)?;
        match fs::create_dir(&places.cgroup) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(RedirectError::Path {
                what: "making a cgroup to try in,",
                path: places.cgroup.clone(),
                cause,
            }),
            _ => Ok(places),
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        unpin::all(&self.pins, &mut |removed| {
            if let Some(error) = removed.failure {
                eprintln!("isthmus: {} stays behind: {error}", removed.path.display());
            }
        });
        // Absent when making it failed.
        let _absent = fs::remove_dir(&self.cgroup);
        for directory in &self.made {
            // Somebody may have begun to use it meanwhile.
            let _used = fs::remove_dir(directory);
        }
    }
}

/// Is this what a trial left whose process died in the middle?
pub fn is_abandoned(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Is this the place of a trial, running or not?
pub fn is_place(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|pid| pid.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_abandoned_when_its_process_is_dead() {
        assert!(is_abandoned("isthmus_check_4294967295"));
        assert!(!is_abandoned(&format!("{PREFIX}{}", process::id())));
        assert!(is_place(&format!("{PREFIX}{}", process::id())));
        assert!(!is_abandoned("node1") && !is_place("isthmus_check_node"));
    }
}
