//! tcx egress on the pod's links: no SYN leaves the pod but the agent's own.
//!
//! Marks, device bindings, rules and sockets are the pod's to change; the entry in `OURS` is not. A socket that was left
//! alone may speak only to whom it was left alone for, strangers or what the pod's annotations leave outside: its
//! destination is looked at again, since the pod may have rewritten it. Connections
//! older than enrolment and replies of servers carry no bare SYN and are not touched. Headers are read from the frame itself:
//! what `skb->protocol` says is the sender's claim. One instance a node, because verifying it takes milliseconds; hence its
//! verdicts are counted for the node.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_sk_storage_get, macros::classifier, programs::TcContext};
use isthmus_abi::{
    FLAG_OUTBOUND_RULES, NODE_SLOT, SOCKET_AGENT, SOCKET_LEFT, SOCKET_NOBODY, SOCKET_SLOT_SHIFT, SOCKET_STRANGER,
    Verdict,
};
use isthmus_ebpf::{
    address, capture,
    maps::{OURS, RULES},
    mesh,
    seen::seen,
};

/// `TC_ACT_UNSPEC`: go on with the next program.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const ETHERNET_HEADER_BYTES: usize = 14;
const IPPROTO_TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Extension headers looked through before a packet counts as unreadable (RFC 8200 §4.1 knows fewer).
const EXTENSIONS: usize = 8;

/// Links with an Ethernet header.
#[classifier]
pub fn guard_ether(ctx: TcContext) -> i32 {
    let mut network = ETHERNET_HEADER_BYTES;
    let Ok(mut ethertype) = ctx.load::<u16>(12).map(u16::from_be) else {
        return NEXT;
    };
    for _ in 0..2 {
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
            let Ok(inner) = ctx.load::<u16>(network + 2).map(u16::from_be) else {
                return shot(Verdict::GuardUnreadable);
            };
            ethertype = inner;
            network += 4;
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(&ctx, network),
        ETHERTYPE_IPV6 => ipv6(&ctx, network),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => shot(Verdict::GuardUnreadable),
        _ => NEXT,
    }
}

/// Links whose packets begin with the IP header (tun, ipip, wireguard).
#[classifier]
pub fn guard_ip(ctx: TcContext) -> i32 {
    match ctx.load::<u8>(0).map(|first| first >> 4) {
        Ok(4) => ipv4(&ctx, 0),
        Ok(6) => ipv6(&ctx, 0),
        _ => NEXT,
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, network: usize) -> i32 {
    let (Ok(first), Ok(fragment), Ok(protocol)) = (
        ctx.load::<u8>(network),
        ctx.load::<u16>(network + 6).map(u16::from_be),
        ctx.load::<u8>(network + 9),
    ) else {
        return shot(Verdict::GuardUnreadable);
    };
    if protocol != IPPROTO_TCP {
        return NEXT;
    }
    // More fragments, or not the first: the rest of the header may lie, or overlap it later.
    if fragment & 0x3fff != 0 {
        return match socket_kind(ctx) {
            SOCKET_AGENT => NEXT,
            _ => shot(Verdict::GuardFragment),
        };
    }
    let Ok(destination) = ctx.load::<[u8; 4]>(network + 16) else {
        return shot(Verdict::GuardUnreadable);
    };
    let destination = isthmus_abi::mapped_v4(destination);
    tcp(ctx, network + usize::from(first & 0x0f) * 4, &destination)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, network: usize) -> i32 {
    let (Ok(mut next), Ok(destination)) = (ctx.load::<u8>(network + 6), ctx.load::<[u8; 16]>(network + 24)) else {
        return shot(Verdict::GuardUnreadable);
    };
    let mut offset = network + 40;
    for _ in 0..EXTENSIONS {
        match next {
            IPPROTO_TCP => return tcp(ctx, offset, &destination),
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6: length in 8 bytes, the first not counted.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let (Ok(following), Ok(length)) = (ctx.load::<u8>(offset), ctx.load::<u8>(offset + 1)) else {
                    return shot(Verdict::GuardUnreadable);
                };
                next = following;
                offset += (usize::from(length) + 1) * 8;
            }
            // Authentication header: length in 4 bytes, less two.
            51 => {
                let (Ok(following), Ok(length)) = (ctx.load::<u8>(offset), ctx.load::<u8>(offset + 1)) else {
                    return shot(Verdict::GuardUnreadable);
                };
                next = following;
                offset += (usize::from(length) + 2) * 4;
            }
            44 => {
                let Ok(following) = ctx.load::<u8>(offset) else {
                    return shot(Verdict::GuardUnreadable);
                };
                let may_be_tcp = matches!(following, IPPROTO_TCP | 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140);
                return match socket_kind(ctx) {
                    SOCKET_AGENT => NEXT,
                    _ if may_be_tcp => shot(Verdict::GuardFragment),
                    _ => NEXT,
                };
            }
            _ => return NEXT,
        }
    }
    shot(Verdict::GuardUnreadable)
}

#[inline(always)]
fn tcp(ctx: &TcContext, transport: usize, destination: &[u8; 16]) -> i32 {
    let Ok(flags) = ctx.load::<u8>(transport + 13) else {
        return shot(Verdict::GuardUnreadable);
    };
    if flags & (SYN | ACK) != SYN || address::is_link_local(destination) {
        return NEXT;
    }
    match socket_kind(ctx) {
        SOCKET_AGENT => NEXT,
        SOCKET_STRANGER if mesh::is_stranger(destination) => NEXT,
        kind if may_leave(ctx, kind, transport, destination) => NEXT,
        _ => shot(Verdict::GuardSyn),
    }
}

/// Was it left alone for its pod's annotations, and do they leave out where this SYN goes?
#[inline(always)]
fn may_leave(ctx: &TcContext, kind: u32, transport: usize, destination: &[u8; 16]) -> bool {
    let slot = kind >> SOCKET_SLOT_SHIFT;
    if kind != SOCKET_LEFT | slot << SOCKET_SLOT_SHIFT {
        return false;
    }
    let Ok(port) = ctx.load::<u16>(transport + 2).map(u16::from_be) else {
        return false;
    };
    let flags = RULES.get(slot).map_or(0, |rules| rules.flags);
    flags & FLAG_OUTBOUND_RULES != 0 && capture::leaves_outbound(slot, flags, destination, port)
}

/// What the map `OURS` says of the packet's socket; of one it does not know, what stands for nobody.
#[inline(always)]
fn socket_kind(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context; each pointer is checked before it is followed.
    unsafe {
        let socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return SOCKET_NOBODY;
        }
        let map = (&raw const OURS).cast_mut().cast::<c_void>();
        let kind = bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0).cast::<u32>();
        if kind.is_null() { SOCKET_NOBODY } else { *kind }
    }
}

#[inline(always)]
fn shot(verdict: Verdict) -> i32 {
    seen(NODE_SLOT, verdict);
    SHOT
}
