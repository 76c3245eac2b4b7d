//! What of a pod's traffic its annotations leave outside of the mesh. Asked only where a pod's flags say that there is
//! something to ask for.

use aya_ebpf::btf_maps::lpm_trie::Key;
use isthmus_abi::{CaptureRule, FLAG_INBOUND_LISTED, FLAG_OUTBOUND_LISTED, LEFT, TAKEN};

use crate::{address, maps::CAPTURE};

/// Is plaintext to this port of the pod left to the application?
#[inline(always)]
pub fn leaves_inbound(slot: u32, flags: u32, port: u16) -> bool {
    match of_port(slot, CaptureRule::INBOUND_PORT, port) {
        Some(said) => said == LEFT,
        None => flags & FLAG_INBOUND_LISTED != 0,
    }
}

/// Is a connect to this destination left alone? In the order in which sidecars look: a port that is left, a range that is
/// left, a port that is taken, a range that is taken.
#[inline(always)]
pub fn leaves_outbound(slot: u32, flags: u32, destination: &[u8; 16], port: u16) -> bool {
    let by_port = of_port(slot, CaptureRule::OUTBOUND_PORT, port);
    if by_port == Some(LEFT) {
        return true;
    }
    let by_range = of_address(slot, destination);
    if by_range == Some(LEFT) {
        return true;
    }
    by_port != Some(TAKEN) && by_range != Some(TAKEN) && flags & FLAG_OUTBOUND_LISTED != 0
}

#[inline(always)]
fn of_port(slot: u32, kind: u32, port: u16) -> Option<u32> {
    let key = Key::new(CaptureRule::PORT_BITS, CaptureRule::port(slot, kind, port));
    CAPTURE.get(&key).copied()
}

#[inline(always)]
fn of_address(slot: u32, address: &[u8; 16]) -> Option<u32> {
    let kind = if address::is_v4(address) {
        CaptureRule::IPV4
    } else {
        CaptureRule::IPV6
    };
    let value = *address;
    let key = Key::new(CaptureRule::ADDRESS_BITS, CaptureRule { slot, kind, value });
    CAPTURE.get(&key).copied()
}
