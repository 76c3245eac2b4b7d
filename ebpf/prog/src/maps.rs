//! All maps, once. The agent pins each under its name; both objects and every pod's instance share them.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, SkStorage, SockMap},
    macros::btf_map,
};
use isthmus_abi::{
    CaptureRule, GuestInterface, LISTENERS, MAX_ADDRESSES, MAX_CAPTURE_RULES, MAX_PROBES, MAX_RANGES, MAX_REROUTED,
    MAX_SLOTS, MESH_PAGES, MeshPage, Plaintext, Pod, PodAddress, Rules, Tuple, Verdict,
};

/// Netns cookie → pod, while its connects are redirected.
#[btf_map]
pub static PODS: HashMap<u64, Pod, { MAX_SLOTS as usize }> = HashMap::new();

/// Sockets of the agent, and those left alone. Only the agent (through the socket's fd) and `connect` write here, which no
/// mark, cgroup or pid can promise.
#[btf_map]
pub static OURS: SkStorage<u32> = SkStorage::new();

/// The agent's listeners, at `slot * LISTENERS + kind`.
#[btf_map]
pub static SOCKETS: SockMap<{ (MAX_SLOTS * LISTENERS) as usize }> = SockMap::new();

/// What `claim` decides by, per slot.
#[btf_map]
pub static RULES: Array<Rules, { MAX_SLOTS as usize }> = Array::new();

/// Addresses of enrolled pods, for the pod's own programs.
#[btf_map]
pub static ADDRESSES: HashMap<PodAddress, u32, { MAX_ADDRESSES as usize }> = HashMap::new();

/// Addresses of enrolled pods, for the node's: address → slot.
#[btf_map]
pub static ENROLLED: HashMap<[u8; 16], u32, { MAX_ADDRESSES as usize }> = HashMap::new();

/// Interfaces behind which guests of pods sit.
#[btf_map]
pub static REROUTED: HashMap<GuestInterface, u32, { MAX_REROUTED as usize }> = HashMap::new();

/// What annotations of pods say of ports and ranges → `LEFT` or `TAKEN`. Asked only for pods whose flags say so.
#[btf_map]
pub static CAPTURE: LpmTrie<CaptureRule, u32, { MAX_CAPTURE_RULES as usize }> = LpmTrie::new();

/// Connections the node makes to enrolled pods → time of connect().
#[btf_map]
pub static PROBES: HashMap<Tuple, u64, { MAX_PROBES as usize }> = HashMap::new();

/// Counters, at `slot * Verdict::COUNT + verdict`.
#[btf_map]
pub static VERDICTS: Array<u64, { (MAX_SLOTS * Verdict::COUNT) as usize }> = Array::new();

/// Connections that reached a pod without the mesh, per slot.
#[btf_map]
pub static PLAINTEXT: Array<Plaintext, { MAX_SLOTS as usize }> = Array::new();

/// Filter over all addresses of the mesh.
#[btf_map]
pub static MESH: Array<MeshPage, { MESH_PAGES as usize }> = Array::new();

/// Ranges of addresses that belong to the mesh.
#[btf_map]
pub static RANGES: LpmTrie<[u8; 16], u32, { MAX_RANGES as usize }> = LpmTrie::new();

/// Until when `MESH` and `RANGES` may be believed, in nanoseconds of `CLOCK_MONOTONIC`. The agent keeps moving it on; what
/// an agent knew that is gone must not decide who is a stranger.
#[btf_map]
pub static BELIEVED: Array<u64, 1> = Array::new();
