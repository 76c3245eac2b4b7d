//! Typed handles to the pinned maps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, SkStorage, SockMap};
use isthmus_abi::{GuestInterface, LISTENERS, MAX_SLOTS, Plaintext, Pod, PodAddress, Rules, Verdict};

use super::{Pins, RedirectError};

/// Every map the programs share, by name; the log ring is aya-log's.
pub const NAMES: [&str; 11] = [
    "PODS",
    "OURS",
    "SOCKETS",
    "RULES",
    "ADDRESSES",
    "ENROLLED",
    "REROUTED",
    "PROBES",
    "VERDICTS",
    "PLAINTEXT",
    "AYA_LOGS",
];

/// Handles to the maps of one generation. Used by the control side only, but for [`OwnSockets`].
pub struct Maps {
    pins: Pins,
    tables: Mutex<Tables>,
}

struct Tables {
    pods: HashMap<MapData, u64, Pod>,
    sockets: SockMap<MapData>,
    rules: Array<MapData, Rules>,
    addresses: HashMap<MapData, PodAddress, u32>,
    enrolled: HashMap<MapData, [u8; 16], u32>,
    rerouted: HashMap<MapData, GuestInterface, u32>,
    verdicts: Array<MapData, u64>,
    plaintext: Array<MapData, Plaintext>,
}

impl Maps {
    /// Opens the maps where they are pinned.
    pub fn open(pins: &Pins) -> Result<Self, RedirectError> {
        let tables = Tables {
            pods: open(pins, "PODS", Map::HashMap)?,
            sockets: open(pins, "SOCKETS", Map::SockMap)?,
            rules: open(pins, "RULES", Map::Array)?,
            addresses: open(pins, "ADDRESSES", Map::HashMap)?,
            enrolled: open(pins, "ENROLLED", Map::HashMap)?,
            rerouted: open(pins, "REROUTED", Map::HashMap)?,
            verdicts: open(pins, "VERDICTS", Map::Array)?,
            plaintext: open(pins, "PLAINTEXT", Map::Array)?,
        };
        Ok(Self {
            pins: pins.clone(),
            tables: Mutex::new(tables),
        })
    }

    /// A handle that can mark sockets as the agent's own, and nothing else.
    pub fn own_sockets(&self) -> Result<OwnSockets, RedirectError> {
        Ok(OwnSockets(Mutex::new(open(&self.pins, "OURS", Map::SkStorage)?)))
    }

    /// Redirects the connects of the namespace from now on.
    pub fn arm(&self, cookie: u64, slot: u32) -> Result<(), RedirectError> {
        self.with(|tables| tables.pods.insert(cookie, Pod { slot }, 0))
            .map_err(failed("PODS", "arming a pod"))
    }

    /// Redirects no new connects of the namespace.
    pub fn disarm(&self, cookie: u64) -> Result<(), RedirectError> {
        absent_is_fine(self.with(|tables| tables.pods.remove(&cookie))).map_err(failed("PODS", "disarming a pod"))
    }

    /// Cookies of armed namespaces and their slots.
    pub fn armed(&self) -> Vec<(u64, u32)> {
        self.with(|tables| {
            tables
                .pods
                .iter()
                .filter_map(|entry| entry.ok().map(|(cookie, pod)| (cookie, pod.slot)))
                .collect()
        })
    }

    /// Sets what `claim` decides by.
    pub fn set_rules(&self, slot: u32, rules: Rules) -> Result<(), RedirectError> {
        self.with(|tables| tables.rules.set(slot, rules, 0))
            .map_err(failed("RULES", "setting a pod's rules"))
    }

    /// Hands SYNs to a listener. The entry goes when the last descriptor of the listener is closed.
    pub fn set_listener(&self, slot: u32, kind: u32, socket: &impl AsRawFd) -> Result<(), RedirectError> {
        self.with(|tables| tables.sockets.set(slot * LISTENERS + kind, socket, 0))
            .map_err(failed("SOCKETS", "registering a listener"))
    }

    /// Makes the pod's addresses `new`, given that they were `old`. Added first: an address is never briefly unknown.
    pub fn set_addresses(&self, slot: u32, old: &[IpAddr], new: &[IpAddr]) -> Result<(), RedirectError> {
        self.with(|tables| {
            for address in new.iter().copied().map(key) {
                tables.addresses.insert(PodAddress { address, slot }, slot, 0)?;
                tables.enrolled.insert(address, slot, 0)?;
            }
            for address in old.iter().filter(|address| !new.contains(address)).copied().map(key) {
                absent_is_fine(tables.addresses.remove(&PodAddress { address, slot }))?;
                // Another pod may have been given it meanwhile.
                if tables.enrolled.get(&address, 0).is_ok_and(|owner| owner == slot) {
                    absent_is_fine(tables.enrolled.remove(&address))?;
                }
            }
            Ok(())
        })
        .map_err(failed("ADDRESSES", "changing a pod's addresses (is the map full?)"))
    }

    /// Makes these the pod's interfaces behind which guests sit.
    pub fn set_guest_interfaces(&self, slot: u32, interfaces: &[u32]) -> Result<(), RedirectError> {
        self.with(|tables| {
            let keys = tables.rerouted.keys().filter_map(Result::ok);
            let gone: Vec<_> = keys
                .filter(|key| key.slot == slot && !interfaces.contains(&key.index))
                .collect();
            for interface in gone {
                absent_is_fine(tables.rerouted.remove(&interface))?;
            }
            let mut wanted = interfaces.iter().map(|index| GuestInterface { slot, index: *index });
            wanted.try_for_each(|interface| tables.rerouted.insert(interface, slot, 0))
        })
        .map_err(failed("REROUTED", "noting a pod's guest interfaces (is the map full?)"))
    }

    /// Addresses noted for every slot. It reads the whole map: for taking up what an earlier agent left.
    pub fn addresses(&self) -> BTreeMap<u32, Vec<IpAddr>> {
        self.with(|tables| {
            let mut found: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
            for key in tables.addresses.keys().filter_map(Result::ok) {
                found
                    .entry(key.slot)
                    .or_default()
                    .push(IpAddr::from(key.address).to_canonical());
            }
            found
        })
    }

    /// Forgets a slot: its addresses, which these are, its rules and counters. Its listeners go with their sockets.
    pub fn clear(&self, slot: u32, addresses: &[IpAddr]) -> Result<(), RedirectError> {
        self.set_addresses(slot, addresses, &[])?;
        self.set_guest_interfaces(slot, &[])?;
        self.set_rules(slot, Rules::default())?;
        self.with(|tables| {
            for verdict in Verdict::ALL {
                tables.verdicts.set(slot * Verdict::COUNT + *verdict as u32, 0, 0)?;
            }
            tables.plaintext.set(slot, Plaintext::default(), 0)
        })
        .map_err(failed("VERDICTS", "clearing a slot"))
    }

    /// Verdicts counted for a slot, by name; those never given are left out.
    pub fn verdicts(&self, slot: u32) -> BTreeMap<String, u64> {
        self.with(|tables| {
            Verdict::ALL
                .iter()
                .filter_map(|verdict| {
                    let count = tables
                        .verdicts
                        .get(&(slot * Verdict::COUNT + *verdict as u32), 0)
                        .ok()?;
                    (count > 0).then(|| (verdict.name().to_owned(), count))
                })
                .collect()
        })
    }

    /// Plaintext connections counted for a slot.
    pub fn plaintext(&self, slot: u32) -> Plaintext {
        self.with(|tables| tables.plaintext.get(&slot, 0)).unwrap_or_default()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        work(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Marks sockets as the agent's own: `connect` leaves them alone and `guard` lets their SYNs out.
pub struct OwnSockets(Mutex<SkStorage<MapData, u8>>);

impl OwnSockets {
    /// Marks one. It must be done before its connect().
    pub fn own(&self, socket: &impl AsRawFd) -> Result<(), RedirectError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(socket, 1u8, 0)
            .map_err(failed("OURS", "marking a socket of the agent"))
    }
}

/// The address as map keys have it.
pub fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address).octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Slots a pod may have; 0 is the node.
pub fn slots() -> std::ops::Range<u32> {
    1..MAX_SLOTS
}

fn open<T>(pins: &Pins, name: &'static str, kind: fn(MapData) -> Map) -> Result<T, RedirectError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(pins.map(name)).map_err(failed(name, "opening its pin"))?;
    T::try_from(kind(data)).map_err(failed(name, "reading its layout"))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn failed(map: &'static str, step: &'static str) -> impl FnOnce(MapError) -> RedirectError {
    move |cause| RedirectError::Map {
        map,
        step,
        cause: Box::new(cause),
    }
}
