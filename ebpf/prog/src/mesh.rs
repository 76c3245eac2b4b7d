//! Who belongs to the mesh, as the agent has written it down.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::generated::bpf_ktime_get_ns};
use isthmus_abi::MeshBits;

use crate::maps::{BELIEVED, MESH, RANGES};

/// Is what is written down of the mesh still looked after?
#[inline(always)]
pub fn is_believed() -> bool {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    BELIEVED.get(0).is_some_and(|until| now < *until)
}

/// Certainly no address of the mesh?
#[inline(always)]
pub fn is_stranger(address: &[u8; 16]) -> bool {
    let place = MeshBits::of(address);
    let Some(page) = MESH.get(place.page) else {
        return false;
    };
    let bits = place.bits();
    let known = bits.iter().all(|&(word, bit)| page.0[word] & bit != 0);
    !known && RANGES.get(&Key::new(128, *address)).is_none()
}
