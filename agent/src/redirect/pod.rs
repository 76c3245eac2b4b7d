//! What is attached to a pod: `claim` in its network namespace, the guard on each of its links.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::{
    EbpfLoader,
    programs::{LinkOrder, SchedClassifier, SkLookup, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use isthmus_abi::MAX_SLOTS;

use super::{
    Netns, Pins, RedirectError, grace,
    kernel_calls::{self, KernelLink},
    node::{failed, log_level, share_maps},
    objects,
    policy_routing::Link,
};

/// The slot constants of the programs; the loader wants references that outlive it.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated when it compiles; out of bounds would not"
)]
static SLOTS: [u32; MAX_SLOTS as usize] = {
    let mut slots = [0; MAX_SLOTS as usize];
    let mut slot = 0;
    while slot < slots.len() {
        slots[slot] = slot as u32;
        slot += 1;
    }
    slots
};

static LOG_LEVELS: [u8; 2] = [0, 4];

/// Attaches to pods. One a worker: making the loader takes 15 ms.
pub struct PodPrograms {
    pins: Pins,
    loader: Mutex<EbpfLoader<'static>>,
}

/// A link's ids, as the kernel and its tools show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// `claim` or `guard_IFINDEX`.
    pub name: String,
    /// Link id.
    pub id: u32,
    /// Id of the program behind it.
    pub program_id: u32,
}

/// State of a pod's `claim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Attached to a living namespace.
    Alive,
    /// The namespace is gone.
    Gone,
    /// There is no such link.
    Never,
}

impl PodPrograms {
    /// `log`: let the programs say what they do.
    pub fn new(pins: &Pins, log: bool) -> Self {
        let mut loader = EbpfLoader::new();
        // Nothing here is relocated against the kernel's types, which take 30 MB.
        loader.btf(None);
        share_maps(&mut loader, pins);
        let level = LOG_LEVELS.iter().find(|level| **level == log_level(log)).unwrap_or(&0);
        loader.override_global(aya_log::LEVEL, level, false);
        Self {
            pins: pins.clone(),
            loader: Mutex::new(loader),
        }
    }

    /// Loads `claim` for a slot, attaches and pins it.
    /// Where `claim` is already attached to this namespace, it is left as it is.
    pub fn install(&self, slot: u32, netns: &Netns) -> Result<(), RedirectError> {
        if self.claimed(slot) == Claimed::Alive {
            return Ok(());
        }
        let directory = self.pins.pod(slot);
        Pins::remove(&directory)?;
        Pins::make(&directory)?;
        let slot_constant = usize::try_from(slot)
            .ok()
            .and_then(|slot| SLOTS.get(slot))
            .ok_or(RedirectError::NoObjects)?;
        let _short = grace::Short::begin();
        let mut object = {
            let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
            loader
                .override_global("POD_SLOT", slot_constant, true)
                .load(objects::pod()?)
                .map_err(|cause| RedirectError::Load {
                    object: "pod",
                    cause: Box::new(cause),
                })?
        };
        let claim: &mut SkLookup = object
            .program_mut("claim")
            .ok_or(RedirectError::NoObjects)?
            .try_into()
            .map_err(failed("claim", "reading"))?;
        claim.load().map_err(failed("claim", "loading"))?;
        let id = claim.attach(netns.as_fd()).map_err(failed("claim", "attaching"))?;
        let taken = claim.take_link(id).map_err(failed("claim", "attaching"))?;
        FdLink::from(taken)
            .pin(self.pins.claim(slot))
            .map_err(failed("claim", "pinning"))?;
        Ok(())
    }

    /// Puts the guard on one of the pod's links, unless it stands there already.
    pub fn guard(&self, slot: u32, netns: &Netns, link: &Link) -> Result<(), RedirectError> {
        let pin = self.pins.guard(slot, link.index);
        match inspect(&pin) {
            Some(found) if found.attached => return Ok(()),
            // An interface index was used again.
            Some(_) => Pins::remove_file(&pin)?,
            None => {}
        }
        let name = if link.ethernet { "guard_ether" } else { "guard_ip" };
        let mut program =
            SchedClassifier::from_pin(self.pins.program(name)).map_err(failed(name, "opening its pin"))?;
        let short = grace::Short::begin();
        let attached = netns
            .run(|| {
                program.attach_with_options(
                    &link.name,
                    TcAttachType::Egress,
                    TcAttachOptions::TcxOrder(LinkOrder::first()),
                )
            })
            .map_err(failed(name, "entering the pod"))?;
        drop(short);
        let id = attached.map_err(failed(name, "attaching to a link"))?;
        let taken = program.take_link(id).map_err(failed(name, "attaching to a link"))?;
        let fd_link = FdLink::try_from(taken).map_err(failed(name, "attaching to a link"))?;
        fd_link.pin(&pin).map_err(failed(name, "pinning"))?;
        Ok(())
    }

    /// Takes the guards off the pod's links.
    pub fn unguard(&self, slot: u32) -> Result<(), RedirectError> {
        let _short = grace::Short::begin();
        self.pins.guards(slot).into_iter().try_for_each(|interface| {
            let pin = self.pins.guard(slot, interface);
            kernel_calls::detach(&pin).map_err(failed("guard", "detaching"))?;
            Pins::remove_file(&pin)
        })
    }

    /// Removes the guard's pin of an interface that is gone.
    pub fn forget_link(&self, slot: u32, interface: u32) -> Result<(), RedirectError> {
        let pin = self.pins.guard(slot, interface);
        match inspect(&pin) {
            Some(found) if !found.attached => Pins::remove_file(&pin),
            _ => Ok(()),
        }
    }

    /// Is the pod's `claim` attached, and to a living namespace?
    pub fn claimed(&self, slot: u32) -> Claimed {
        match inspect(&self.pins.claim(slot)) {
            None => Claimed::Never,
            Some(link) if link.attached => Claimed::Alive,
            Some(_) => Claimed::Gone,
        }
    }

    /// The pod's links.
    pub fn links(&self, slot: u32) -> Vec<PodLink> {
        let guards = self
            .pins
            .guards(slot)
            .into_iter()
            .map(|index| (format!("guard_{index}"), self.pins.guard(slot, index)));
        guards
            .chain([("claim".to_owned(), self.pins.claim(slot))])
            .filter_map(|(name, pin)| {
                let found = inspect(&pin)?;
                Some(PodLink {
                    name,
                    id: found.id,
                    program_id: found.program_id,
                })
            })
            .collect()
    }

    /// Detaches and unpins everything of the slot.
    pub fn remove(&self, slot: u32) -> Result<(), RedirectError> {
        self.unguard(slot)?;
        kernel_calls::detach(&self.pins.claim(slot)).map_err(failed("claim", "detaching"))?;
        Pins::remove(&self.pins.pod(slot))
    }
}

fn inspect(pin: &Path) -> Option<KernelLink> {
    kernel_calls::inspect(pin).ok()
}
