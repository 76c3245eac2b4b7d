//! Typed handles to the pinned maps.

pub mod capture;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, SkStorage, SockMap, lpm_trie::Key};
use ipnet::IpNet;
use isthmus_abi::{
    CaptureRule, GuestInterface, LISTENERS, MAX_SLOTS, MESH_PAGES, MeshBits, MeshPage, Plaintext, Pod, PodAddress,
    Rules, SOCKET_AGENT, Verdict,
};
use nix::time::{ClockId, clock_gettime};

use super::{Pins, RedirectError};

/// Every map the programs share, by name; the log ring is aya-log's.
pub const NAMES: [&str; 15] = [
    "PODS",
    "OURS",
    "SOCKETS",
    "RULES",
    "ADDRESSES",
    "ENROLLED",
    "REROUTED",
    "CAPTURE",
    "PROBES",
    "VERDICTS",
    "PLAINTEXT",
    "MESH",
    "RANGES",
    "BELIEVED",
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
    capture: LpmTrie<MapData, CaptureRule, u32>,
    verdicts: Array<MapData, u64>,
    plaintext: Array<MapData, Plaintext>,
    mesh: Array<MapData, MeshPage>,
    ranges: LpmTrie<MapData, [u8; 16], u32>,
    believed: Array<MapData, u64>,
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
            capture: open(pins, "CAPTURE", Map::LpmTrie)?,
            verdicts: open(pins, "VERDICTS", Map::Array)?,
            plaintext: open(pins, "PLAINTEXT", Map::Array)?,
            mesh: open(pins, "MESH", Map::Array)?,
            ranges: open(pins, "RANGES", Map::LpmTrie)?,
            believed: open(pins, "BELIEVED", Map::Array)?,
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

    /// Forgets a slot: its addresses, which these are, its rules, those of its annotations, and counters. Its listeners go with their sockets.
    pub fn clear(&self, slot: u32, addresses: &[IpAddr]) -> Result<(), RedirectError> {
        self.set_addresses(slot, addresses, &[])?;
        self.set_guest_interfaces(slot, &[])?;
        self.set_rules(slot, Rules::default())?;
        self.leave(slot, &capture::Rules::new())?;
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

    /// Adds to those who belong to the mesh. Nobody is taken away.
    pub fn add_to_mesh(&self, addresses: &[IpAddr], ranges: &[IpNet]) -> Result<(), RedirectError> {
        let mut places: Vec<MeshBits> = addresses.iter().map(|address| MeshBits::of(&key(*address))).collect();
        places.sort_unstable_by_key(|place| place.page);
        self.with(|tables| {
            for range in ranges {
                let (length, address) = prefix(*range);
                tables.ranges.insert(&Key::new(length, address), 1, 0)?;
            }
            for places in places.chunk_by(|one, other| one.page == other.page) {
                let Some(index) = places.first().map(|place| place.page) else {
                    continue;
                };
                let held = tables.mesh.get(&index, 0)?;
                let mut page = held;
                places.iter().for_each(|place| set(&mut page, *place));
                if page != held {
                    tables.mesh.set(index, page, 0)?;
                }
            }
            Ok(())
        })
        .map_err(failed(
            "MESH",
            "adding to the addresses of the mesh (too many CIDR services?)",
        ))
    }

    /// Writes down who belongs to the mesh. In no moment is an address unknown that was known before and still is: the
    /// kernel copies a page word by word, and what goes is taken away last.
    pub fn set_mesh(
        &self,
        addresses: impl Iterator<Item = IpAddr>,
        ranges: impl Iterator<Item = IpNet>,
    ) -> Result<(), RedirectError> {
        let filter = filter(addresses);
        let wanted: BTreeSet<(u32, [u8; 16])> = ranges.map(prefix).collect();
        self.with(|tables| {
            let noted = tables.ranges.keys().filter_map(Result::ok);
            let gone: Vec<_> = noted
                .filter(|key| !wanted.contains(&(key.prefix_len(), key.data())))
                .collect();
            let forget = |tables: &mut Tables| {
                gone.iter()
                    .try_for_each(|key| absent_is_fine(tables.ranges.remove(key)))
            };
            for (length, address) in &wanted {
                if let Err(full) = tables.ranges.insert(&Key::new(*length, *address), 1, 0) {
                    // Room for the next attempt.
                    forget(tables)?;
                    return Err(full);
                }
            }
            for (index, page) in (0..MESH_PAGES).zip(&filter) {
                if tables.mesh.get(&index, 0)? != *page {
                    tables.mesh.set(index, page, 0)?;
                }
            }
            forget(tables)
        })
        .map_err(failed(
            "MESH",
            "writing down the addresses of the mesh (too many CIDR services?)",
        ))
    }

    /// What [`Maps::set_mesh`] wrote holds for so long from now. Zero: it holds no longer.
    pub fn believe_mesh_for(&self, time: Duration) -> Result<(), RedirectError> {
        let until = match time {
            Duration::ZERO => 0,
            time => {
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
                u64::try_from((now + time).as_nanos()).unwrap_or(u64::MAX)
            }
        };
        self.with(|tables| tables.believed.set(0, until, 0))
            .map_err(failed("BELIEVED", "vouching for the addresses of the mesh"))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        work(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Marks sockets as the agent's own: `connect` leaves them alone and `guard` lets their SYNs out.
pub struct OwnSockets(Mutex<SkStorage<MapData, u32>>);

impl OwnSockets {
    /// Marks one. It must be done before its connect().
    pub fn own(&self, socket: &impl AsRawFd) -> Result<(), RedirectError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(socket, SOCKET_AGENT, 0)
            .map_err(failed("OURS", "marking a socket of the agent"))
    }
}

fn filter(addresses: impl Iterator<Item = IpAddr>) -> Vec<MeshPage> {
    let mut pages = vec![MeshPage::EMPTY; MESH_PAGES as usize];
    for address in addresses {
        let place = MeshBits::of(&key(address));
        if let Some(page) = pages.get_mut(place.page as usize) {
            set(page, place);
        }
    }
    pages
}

fn set(page: &mut MeshPage, place: MeshBits) {
    for (word, bit) in place.bits() {
        if let Some(word) = page.0.get_mut(word) {
            *word |= bit;
        }
    }
}

/// A range as the keys of tries have it.
pub fn prefix(range: IpNet) -> (u32, [u8; 16]) {
    let length = u32::from(range.prefix_len());
    let mapped = if range.addr().is_ipv4() { 96 } else { 0 };
    (length + mapped, key(range.network()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(pages: &[MeshPage], address: IpAddr) -> bool {
        let place = MeshBits::of(&key(address));
        place
            .bits()
            .iter()
            .all(|(word, bit)| pages[place.page as usize].0[*word] & bit != 0)
    }

    #[test]
    fn the_filter_knows_every_address_and_takes_few_others_for_known() {
        let v4 = |n: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
        let v6 = |n: u32| IpAddr::from(std::net::Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(n)));
        let members = || (0..100_000).flat_map(|n| [v4(n), v6(n)]);
        let pages = filter(members());
        assert!(members().all(|address| contains(&pages, address)));
        let strangers = (0..100_000).flat_map(|n| [v4(0x0100_0000 + n), v6(0x0100_0000 + n)]);
        let taken = strangers.filter(|address| contains(&pages, *address)).count();
        assert!(taken < 2_000, "{taken} of 200 000 strangers are taken for members");
        assert!(!members().any(|address| contains(&filter([].into_iter()), address)));
    }

    #[test]
    fn a_range_is_written_as_a_prefix_of_the_mapped_address() {
        let (length, address) = prefix("240.240.7.0/16".parse().unwrap());
        assert_eq!((length, address[12..].to_vec()), (112, vec![240, 240, 0, 0]));
        let (length, address) = prefix("fd00:1::/32".parse().unwrap());
        assert_eq!((length, &address[..4]), (32, &[0xfd, 0, 0, 1][..]));
    }
}
