//! Addresses as map keys have them, and the few kinds that matter.

use isthmus_abi::PodAddress;

use crate::maps::ADDRESSES;

/// An IPv4 address as the kernel's contexts have it: four bytes in network order, read as a native integer.
#[inline(always)]
pub fn from_v4(raw: u32) -> [u8; 16] {
    isthmus_abi::mapped_v4(raw.to_ne_bytes())
}

/// An IPv6 address as the kernel's contexts have it. Read word by word: a merged load is refused by the verifier.
///
/// # Safety
/// `words` points into a context that holds four words.
#[inline(always)]
pub unsafe fn from_v6(words: *const [u32; 4]) -> [u8; 16] {
    let words = words.cast::<u32>();
    // SAFETY: within the four words the caller promises.
    let [a, b, c, d] = unsafe {
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    };
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&a.to_ne_bytes());
    bytes[4..8].copy_from_slice(&b.to_ne_bytes());
    bytes[8..12].copy_from_slice(&c.to_ne_bytes());
    bytes[12..16].copy_from_slice(&d.to_ne_bytes());
    bytes
}

/// IPv4-mapped?
#[inline(always)]
pub fn is_v4(address: &[u8; 16]) -> bool {
    address[0..8] == [0; 8] && address[8..12] == [0, 0, 0xff, 0xff]
}

/// 127.0.0.0/8 or ::1.
#[inline(always)]
pub fn is_loopback(address: &[u8; 16]) -> bool {
    if is_v4(address) {
        return address[12] == 127;
    }
    address[0..8] == [0; 8] && address[8..16] == [0, 0, 0, 0, 0, 0, 0, 1]
}

/// 169.254.0.0/16 or fe80::/10: never a mesh destination, and without its interface meaningless to a proxy.
#[inline(always)]
pub fn is_link_local(address: &[u8; 16]) -> bool {
    if is_v4(address) {
        return address[12] == 169 && address[13] == 254;
    }
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// One of the pod's own?
#[inline(always)]
pub fn is_own(slot: u32, address: &[u8; 16]) -> bool {
    ADDRESSES
        .get_ptr(PodAddress {
            address: *address,
            slot,
        })
        .is_some()
}
