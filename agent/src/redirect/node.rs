//! The node's programs: setsockopt, connect4, connect6 and probes, attached once at the root cgroup; the guards, attached
//! to links of pods later.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, Program, SchedClassifier,
        links::{FdLink, PinnedLink},
    },
};

use super::{Maps, Netns, Pins, RedirectError, kernel_calls, maps, objects};

/// Links every agent of a node has, by program name.
pub const LINKS: [&str; 4] = ["setsockopt", "connect4", "connect6", "probes"];

/// The guards: for links with and without an Ethernet header.
pub const GUARDS: [&str; 2] = ["guard_ether", "guard_ip"];

/// The node's programs are attached and pinned while the pins exist, whether this value lives or not.
pub struct NodePrograms {
    pins: Pins,
    maps: Maps,
    adopted: bool,
}

/// What attaching the node's programs needs.
pub struct Ground<'a> {
    /// Where to pin.
    pub pins: Pins,
    /// The root of the cgroup2 hierarchy.
    pub cgroup: &'a Path,
    /// The node's network namespace: connections made there are probes.
    pub node: &'a Netns,
    /// Let the programs log what they do (`aya-log`). Only programs loaded now obey it.
    pub log: bool,
}

impl NodePrograms {
    /// Adopts what an earlier agent with the same programs left, or loads and attaches.
    pub fn attach(ground: &Ground<'_>) -> Result<Self, RedirectError> {
        let pins = ground.pins.clone();
        let object = objects::node()?;
        // They are pinned last, so that a generation which has them all is whole.
        if LINKS
            .iter()
            .all(|program| PinnedLink::from_pin(pins.node_link(program)).is_ok())
        {
            return Ok(Self {
                maps: Maps::open(&pins)?,
                pins,
                adopted: true,
            });
        }
        // A half-made generation has armed nothing yet.
        Pins::remove(&pins.directory())?;
        Pins::make(&pins.directory())?;
        let cookie = ground.node.cookie();
        let level = log_level(ground.log);
        let mut loader = EbpfLoader::new();
        // As in `PodPrograms::new`: nothing is relocated.
        loader.btf(None);
        share_maps(&mut loader, &pins);
        let mut loaded = loader
            .override_global("NODE_COOKIE", &cookie, true)
            .override_global(aya_log::LEVEL, &level, false)
            .load(object)
            .map_err(|cause| RedirectError::Load {
                object: "node",
                cause: Box::new(cause),
            })?;
        let cgroup = File::open(ground.cgroup).map_err(|cause| RedirectError::Path {
            what: "opening the cgroup2 root",
            path: ground.cgroup.to_owned(),
            cause,
        })?;
        for name in GUARDS {
            load_guard(&mut loaded, &pins, name)?;
        }
        for name in LINKS {
            let program = loaded.program_mut(name).ok_or(RedirectError::NoObjects)?;
            attach(program, name, &cgroup, &pins.node_link(name))?;
        }
        Ok(Self {
            maps: Maps::open(&pins)?,
            pins,
            adopted: false,
        })
    }

    /// The maps of this generation.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Where this generation is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Were the programs already attached?
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// (name, link id, program id) of the node's links.
    pub fn links(&self) -> Vec<(String, u32, u32)> {
        LINKS
            .iter()
            .filter_map(|program| {
                let link = FdLink::from(PinnedLink::from_pin(self.pins.node_link(program)).ok()?);
                let info = link.info().ok()?;
                Some(((*program).to_owned(), info.id(), info.program_id()))
            })
            .collect()
    }

    /// Removes generations of other programs. Call it when every pod is armed in this one.
    pub fn remove_other_generations(&self) -> Result<(), RedirectError> {
        self.pins
            .other_generations()
            .iter()
            .try_for_each(|directory| Pins::remove(directory))
    }
}

/// Loads a guard and pins it, for [`super::PodPrograms::guard`].
fn load_guard(loaded: &mut Ebpf, pins: &Pins, name: &'static str) -> Result<(), RedirectError> {
    let program = loaded.program_mut(name).ok_or(RedirectError::NoObjects)?;
    let guard: &mut SchedClassifier = program.try_into().map_err(failed(name, "reading"))?;
    guard.load().map_err(failed(name, "loading"))?;
    guard.pin(pins.program(name)).map_err(failed(name, "pinning"))
}

/// aya gives both kinds the same methods, but no trait for them.
macro_rules! attach_as {
    ($program:expr, $name:expr, $cgroup:expr, $pin:expr) => {{
        $program.load().map_err(failed($name, "loading"))?;
        let id = $program
            .attach($cgroup, CgroupAttachMode::Single)
            .map_err(failed($name, "attaching"))?;
        let link = $program.take_link(id).map_err(failed($name, "attaching"))?;
        let link = FdLink::try_from(link).map_err(failed($name, "attaching"))?;
        link.pin($pin).map(drop).map_err(failed($name, "pinning"))
    }};
}

/// Loads a program, attaches it to the root cgroup and pins the link.
fn attach(program: &mut Program, name: &'static str, cgroup: &File, pin: &Path) -> Result<(), RedirectError> {
    match program {
        Program::SockOps(program) => attach_as!(program, name, cgroup, pin),
        Program::CgroupSockAddr(program) => attach_as!(program, name, cgroup, pin),
        Program::CgroupSockopt(program) => {
            program.load().map_err(failed(name, "loading"))?;
            let program = program.fd().map_err(failed(name, "loading"))?;
            kernel_calls::pin_setsockopt(program.as_fd(), cgroup.as_fd(), pin).map_err(failed(name, "attaching"))
        }
        _ => Err(RedirectError::NoObjects),
    }
}

/// An error of aya, with the program and the step it belongs to.
pub(super) fn failed<E>(program: &'static str, step: &'static str) -> impl FnOnce(E) -> RedirectError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |cause| RedirectError::Program {
        program,
        step,
        cause: Box::new(cause),
    }
}

/// Makes every object use the maps of this generation.
pub(super) fn share_maps(loader: &mut EbpfLoader<'_>, pins: &Pins) {
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
}

/// aya-log's level: 0 is off, 4 is debug.
pub(super) fn log_level(on: bool) -> u8 {
    if on { 4 } else { 0 }
}
