//! What the eBPF programs and the agent must agree on: map keys, map values, constants.
//!
//! Typed once, here. Only fixed-width integers and arrays of bytes, no hidden padding; sizes and offsets are asserted
//! at compile time, so that a change which would shift a field does not build. Addresses are in network byte order;
//! IPv4 addresses are written as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2). Ports are host byte order.
#![no_std]

use core::mem::{align_of, offset_of, size_of};

/// Mark of a pod's redirected connections: "IS", outbound. In the pod, `rule fwmark` sends it to `lo`.
pub const MARK_OUT: u32 = 0x4953_0001;
/// Mark of deliveries to the application; the application's socket inherits it and its replies return over `lo`.
pub const MARK_IN: u32 = 0x4953_0002;
/// Routing table of both marks inside the pod.
pub const TABLE: u32 = 0x4953;
/// rtnetlink protocol number of the rules and routes above: they are found and swept by it.
pub const ROUTE_PROTOCOL: u8 = 73;
/// Priority of the two rules inside the pod.
pub const RULE_PRIORITY: u32 = 73;
/// TCP port of HBONE (wire-facts §3.1).
pub const HBONE_PORT: u16 = 15008;

/// Most pods one agent serves at a time. Slot 0 is the node itself.
pub const MAX_SLOTS: u32 = 1024;
/// Counts what no single pod can be told of.
pub const NODE_SLOT: u32 = 0;
/// Addresses of enrolled pods, all together.
pub const MAX_ADDRESSES: u32 = MAX_SLOTS * 8;
/// Guest interfaces of all pods together.
pub const MAX_REROUTED: u32 = MAX_SLOTS;
/// Connections of the node to enrolled pods that are being set up or open.
pub const MAX_PROBES: u32 = 65_536;
/// How long after `connect()` a node's connection may still be taken for a probe.
pub const PROBE_WINDOW_NS: u64 = 10_000_000_000;
/// Interface index of `lo` in every network namespace (Linux: `LOOPBACK_IFINDEX`).
pub const LOOPBACK_IFINDEX: u32 = 1;

/// The two listeners of a pod in the map `SOCKETS`, at `slot * LISTENERS + kind`.
pub const LISTENERS: u32 = 2;
/// Takes connections the pod makes.
pub const LISTENER_OUTBOUND: u32 = 0;
/// Takes tunnels of peers.
pub const LISTENER_HBONE: u32 = 1;

/// Plaintext from outside is refused.
pub const FLAG_MTLS_REQUIRED: u32 = 1;
/// Connects to addresses that are not in the mesh are left alone.
pub const FLAG_LEAVE_STRANGERS: u32 = 2;
/// Map `CAPTURE` tells of ports of this pod that plaintext comes to. Without it the map is not asked.
pub const FLAG_INBOUND_RULES: u32 = 4;
/// Plaintext is captured at the ports that the map lists as taken, and at no other.
pub const FLAG_INBOUND_LISTED: u32 = 8;
/// Map `CAPTURE` tells of destinations of this pod. Without it the map is not asked.
pub const FLAG_OUTBOUND_RULES: u32 = 16;
/// Connects are redirected to destinations that the map lists as taken, and to no other.
pub const FLAG_OUTBOUND_LISTED: u32 = 32;

/// Value in map `OURS`: a socket of the agent. Whatever else is there was put there by `connect`.
pub const SOCKET_AGENT: u32 = 1;
/// Value in map `OURS`: a pod's socket that was left alone, because its destination is not in the mesh.
pub const SOCKET_STRANGER: u32 = 2;
/// Value in map `OURS`: a pod's socket that was left alone, because the pod's map `CAPTURE` leaves its destination out. The
/// pod's slot stands above these bits: the guard serves all pods and must know whose rules to look at again.
pub const SOCKET_LEFT: u32 = 3;
/// Value in map `OURS`: was left alone once, and is redirected now.
pub const SOCKET_NOBODY: u32 = 0;
/// Where the slot begins beside [`SOCKET_LEFT`].
pub const SOCKET_SLOT_SHIFT: u32 = 8;

/// Pages of the filter in map `MESH`.
pub const MESH_PAGES: u32 = 128;
/// Words of one page.
pub const MESH_PAGE_WORDS: usize = 512;
/// Ranges of addresses that belong to the mesh.
pub const MAX_RANGES: u32 = 1024;
/// Ports and ranges in map `CAPTURE`, all pods together. Only those in use take memory.
pub const MAX_CAPTURE_RULES: u32 = MAX_SLOTS * 16;

/// Value in map `CAPTURE`: stays outside of the mesh.
pub const LEFT: u32 = 0;
/// Value in map `CAPTURE`: is captured.
pub const TAKEN: u32 = 1;

/// An enrolled pod. Map `PODS`, keyed by netns cookie; present while the pod's new connections are redirected.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Index of the pod in every per-pod map, 1 to `MAX_SLOTS - 1`.
    pub slot: u32,
}

/// What `claim` decides by. Map `RULES`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `FLAG_*`.
    pub flags: u32,
    /// Port the outbound listener is bound to; a connect to it is refused.
    pub outbound_port: u16,
    /// Port the HBONE listener is bound to; a connect to it is refused.
    pub hbone_port: u16,
}

/// An address of a pod. Key of map `ADDRESSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PodAddress {
    /// IPv6, or IPv4-mapped.
    pub address: [u8; 16],
    /// The pod's slot.
    pub slot: u32,
}

/// An interface of a pod behind which guests sit (a virtual machine, containers in the pod): what comes in from it towards
/// the world is the pod's outbound traffic. Key of map `REROUTED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestInterface {
    /// The pod's slot.
    pub slot: u32,
    /// Interface index in the pod's namespace.
    pub index: u32,
}

/// What a pod's annotations say of one port or range of addresses. Key of the trie `CAPTURE`: a key of a port has
/// [`CaptureRule::PORT_BITS`] of prefix, one of a range those of the range and [`CaptureRule::HEAD_BITS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaptureRule {
    /// The pod's slot.
    pub slot: u32,
    /// `CaptureRule::INBOUND_PORT` and its neighbours. IPv4 is apart from IPv6, or `::/0` would be both.
    pub kind: u32,
    /// A port in network byte order, the rest zero; or an address, IPv6 or IPv4-mapped.
    pub value: [u8; 16],
}

impl CaptureRule {
    /// A port of the pod.
    pub const INBOUND_PORT: u32 = 0;
    /// A port the pod connects to.
    pub const OUTBOUND_PORT: u32 = 1;
    /// IPv4 addresses the pod connects to.
    pub const IPV4: u32 = 2;
    /// IPv6 addresses the pod connects to.
    pub const IPV6: u32 = 3;

    /// Bits before the value.
    pub const HEAD_BITS: u32 = 64;
    /// Bits of a port's key.
    pub const PORT_BITS: u32 = Self::HEAD_BITS + 16;
    /// Bits of an address's key.
    pub const ADDRESS_BITS: u32 = Self::HEAD_BITS + 128;

    /// The key of a port, inbound or outbound.
    #[inline(always)]
    #[must_use]
    pub const fn port(slot: u32, kind: u32, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        let value = [high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Self { slot, kind, value }
    }
}

/// A connection of the node to an enrolled pod. Key of map `PROBES`; the value is the time of connect() in
/// nanoseconds of `CLOCK_MONOTONIC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The node's address.
    pub source: [u8; 16],
    /// The pod's address.
    pub destination: [u8; 16],
    /// The node's port.
    pub source_port: u16,
    /// The pod's port.
    pub destination_port: u16,
}

/// Connections that reached a pod without the mesh. Map `PLAINTEXT`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plaintext {
    /// Accepted.
    pub opened: u64,
    /// Ended.
    pub closed: u64,
    /// Payload bytes received from the clients, added as connections end.
    pub received_bytes: u64,
    /// Payload bytes sent to the clients and acknowledged, added as connections end.
    pub sent_bytes: u64,
}

/// A page of a Bloom filter over every address of the mesh: an address whose bits are not all set is not in it. One whose
/// bits are may still not be, and is then redirected for nothing. Map `MESH`, indexed by [`MeshBits::page`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshPage(pub [u64; MESH_PAGE_WORDS]);

impl MeshPage {
    /// A page without any address.
    pub const EMPTY: Self = Self([0; MESH_PAGE_WORDS]);
}

/// Where an address stands in the filter: one page, so that one lookup finds it, and four bits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshBits {
    /// Index of the page.
    pub page: u32,
    hash: u64,
}

impl MeshBits {
    /// Of an address, IPv6 or IPv4-mapped.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: &[u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
        let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_ne_bytes([i, j, k, l, m, n, o, p]);
        let mut hash = (high ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ low;
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        Self {
            page: (hash >> 57) as u32,
            hash,
        }
    }

    /// (word, bit in it) of each of the four.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> [(usize, u64); 4] {
        [
            place(self.hash),
            place(self.hash >> 15),
            place(self.hash >> 30),
            place(self.hash >> 45),
        ]
    }
}

#[inline(always)]
const fn place(hash: u64) -> (usize, u64) {
    ((hash >> 6) as usize & (MESH_PAGE_WORDS - 1), 1 << (hash & 63))
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident = $value:literal $name:literal,)*) => {
        /// Why a program let something pass, turned it, or dropped it. Counted per pod in map `VERDICTS` at
        /// `slot * Verdict::COUNT + verdict`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Verdict { $($(#[$doc])* $variant = $value,)* }

        impl Verdict {
            /// All of them, in order of their number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// Name in metrics and status, `direction_outcome_reason`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

verdicts! {
    /// connect(): marked for redirection.
    OutRedirected = 0 "connect_redirected",
    /// connect(): the agent's own socket.
    OutAgent = 1 "connect_agent_own",
    /// connect(): link-local destination, left alone.
    OutLinkLocal = 2 "connect_link_local",
    /// connect(): refused, because the socket could not be marked.
    OutRefused = 3 "connect_refused_unmarkable",
    /// SYN claimed by the outbound listener.
    ClaimOutbound = 4 "syn_to_outbound",
    /// SYN claimed by the HBONE listener.
    ClaimHbone = 5 "syn_to_hbone",
    /// SYN passed: the pod talks to itself, or a delivery to the application.
    PassOwn = 6 "syn_passed_own_address",
    /// SYN passed: made by the node, a probe.
    PassProbe = 7 "syn_passed_probe",
    /// SYN passed: plaintext from outside, admitted.
    PassPlaintext = 8 "syn_passed_plaintext",
    /// SYN dropped: plaintext from outside, and mTLS is required.
    DropPlaintext = 9 "syn_dropped_mtls_required",
    /// SYN dropped: nobody listens; the agent is away.
    DropNobody = 10 "syn_dropped_no_listener",
    /// SYN dropped: it asked for one of the agent's own listeners.
    DropOwnListener = 11 "syn_dropped_agent_listener",
    /// SYN leaving the pod dropped: its socket is not the agent's.
    GuardSyn = 12 "guard_dropped_syn",
    /// Fragment of TCP leaving the pod dropped: what it carries cannot be seen.
    GuardFragment = 13 "guard_dropped_fragment",
    /// Packet leaving the pod dropped: headers too short, too deep or too many to see whether it is a SYN.
    GuardUnreadable = 14 "guard_dropped_unreadable",
    /// A probe's tuple was noted on the node.
    ProbeNoted = 15 "probe_noted",
    /// A probe's tuple could not be noted: the map is full.
    ProbeLost = 16 "probe_not_noted",
    /// setsockopt(): refused, the option would send frames past the guard.
    BypassRefused = 17 "setsockopt_refused_bypass",
    /// connect(): left alone, the destination is not in the mesh.
    OutStranger = 18 "connect_left_alone",
    /// connect(): left alone, the pod's annotations leave the destination outside of the mesh.
    OutLeft = 19 "connect_not_captured",
    /// SYN passed: plaintext from outside to a port that the pod's annotations leave outside of the mesh.
    PassLeft = 20 "syn_passed_not_captured",
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated when it compiles; out of bounds would not"
)]
const _: () = {
    assert!(size_of::<Pod>() == 4 && align_of::<Pod>() == 4);
    assert!(size_of::<Rules>() == 8 && offset_of!(Rules, outbound_port) == 4 && offset_of!(Rules, hbone_port) == 6);
    assert!(size_of::<PodAddress>() == 20 && offset_of!(PodAddress, slot) == 16);
    assert!(size_of::<Tuple>() == 36 && offset_of!(Tuple, destination) == 16 && offset_of!(Tuple, source_port) == 32);
    assert!(size_of::<GuestInterface>() == 8 && offset_of!(GuestInterface, index) == 4);
    assert!(
        size_of::<CaptureRule>() == 24 && offset_of!(CaptureRule, kind) == 4 && offset_of!(CaptureRule, value) == 8
    );
    assert!(SOCKET_LEFT >> SOCKET_SLOT_SHIFT == 0 && MAX_SLOTS <= u32::MAX >> SOCKET_SLOT_SHIFT);
    assert!(size_of::<Plaintext>() == 32 && offset_of!(Plaintext, sent_bytes) == 24);
    assert!(size_of::<MeshPage>() == 4096 && MESH_PAGE_WORDS.is_power_of_two() && MESH_PAGES == 1 << 7);
    let mut index = 0;
    while index < Verdict::ALL.len() {
        assert!(Verdict::ALL[index] as usize == index);
        index += 1;
    }
};

/// The address as map keys have it.
#[must_use]
pub const fn mapped_v4(octets: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = octets;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya::Pod is an unsafe marker")]
    use super::{CaptureRule, GuestInterface, MeshPage, Plaintext, Pod, PodAddress, Rules, Tuple};
    // SAFETY: plain integers and byte arrays, no padding (asserted above), any bit pattern is valid.
    unsafe impl aya::Pod for Pod {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Rules {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PodAddress {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Tuple {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GuestInterface {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CaptureRule {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Plaintext {}
    // SAFETY: as above.
    unsafe impl aya::Pod for MeshPage {}
}
