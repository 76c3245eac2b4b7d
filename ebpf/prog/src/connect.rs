//! connect(): marks what leaves an enrolled pod, so that its SYN comes back on `lo` with its destination intact.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use isthmus_abi::{
    FLAG_LEAVE_STRANGERS, FLAG_OUTBOUND_RULES, MARK_OUT, SOCKET_AGENT, SOCKET_LEFT, SOCKET_NOBODY, SOCKET_SLOT_SHIFT,
    SOCKET_STRANGER, Verdict,
};
use isthmus_ebpf::{
    address, capture,
    maps::{OURS, PODS, RULES},
    mesh, pace,
    seen::seen,
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;
const SO_BINDTODEVICE: i32 = 25;

/// connect() of IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel hands a valid context.
    let destination = address::from_v4(unsafe { (*ctx.sock_addr).user_ip4 });
    decide(&ctx, &destination)
}

/// connect() of IPv6 sockets, also to IPv4-mapped destinations.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel hands a valid context; the address is four words of it.
    let destination = unsafe { address::from_v6(&raw const (*ctx.sock_addr).user_ip6) };
    decide(&ctx, &destination)
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, destination: &[u8; 16]) -> i32 {
    // SAFETY: the kernel hands a valid context.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    if kind != SOCK_STREAM || (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP) {
        return ALLOW;
    }
    // SAFETY: the helper reads the socket of this context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: one aligned word; a torn read is not possible.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else {
        return ALLOW;
    };
    let slot = pod.slot;
    // SAFETY: the entry is the socket's, which this context holds; one aligned word.
    let kind = unsafe { OURS.get_ptr_mut(ctx).as_mut() };
    if let Some(&mut SOCKET_AGENT) = kind {
        seen(slot, Verdict::OutAgent);
        return ALLOW;
    }
    if address::is_loopback(destination) || address::is_own(slot, destination) {
        return ALLOW;
    }
    if address::is_link_local(destination) {
        seen(slot, Verdict::OutLinkLocal);
        return ALLOW;
    }
    // A subflow of MPTCP is another socket, which the guard would not know again.
    let flags = if protocol == IPPROTO_TCP { flags(slot) } else { 0 };
    if flags & FLAG_OUTBOUND_RULES != 0 && capture::leaves_outbound(slot, flags, destination, port(ctx)) {
        return leave(ctx, slot, SOCKET_LEFT | slot << SOCKET_SLOT_SHIFT, Verdict::OutLeft);
    }
    if flags & FLAG_LEAVE_STRANGERS != 0 && mesh::is_believed() && mesh::is_stranger(destination) {
        return leave(ctx, slot, SOCKET_STRANGER, Verdict::OutStranger);
    }
    // It may have been left alone before.
    if let Some(kind) = kind {
        *kind = SOCKET_NOBODY;
    }
    if mark(ctx) {
        // SAFETY: the context's socket.
        unsafe { pace::never(ctx.as_ptr()) };
        debug!(ctx, "pod slot {}: connect redirected", slot);
        seen(slot, Verdict::OutRedirected);
        ALLOW
    } else {
        // Unmarked it would leave in clear.
        seen(slot, Verdict::OutRefused);
        REFUSE
    }
}

#[inline(always)]
fn flags(slot: u32) -> u32 {
    RULES.get(slot).map_or(0, |rules| rules.flags)
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the kernel hands a valid context; the port is in network byte order in the lower half of the word.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

/// Notes at the socket that its SYN may leave, and why, for the guard.
#[inline(always)]
fn leave(ctx: &SockAddrContext, slot: u32, why: u32, verdict: Verdict) -> i32 {
    let mut noted = why;
    // SAFETY: the entry is the socket's, which this context holds; one aligned word.
    let Some(kind) = (unsafe { OURS.get_or_insert_ptr_mut(ctx, Some(&mut noted)).as_mut() }) else {
        // Without a note the guard would drop its SYN.
        seen(slot, Verdict::OutRefused);
        return REFUSE;
    };
    *kind = why;
    seen(slot, verdict);
    ALLOW
}

/// Sets our mark, whatever was there, and undoes a binding to a device, which would keep the SYN off `lo`.
#[inline(always)]
fn mark(ctx: &SockAddrContext) -> bool {
    let mut mark = MARK_OUT;
    let mut no_device = 0u8;
    // SAFETY: the helpers read as many bytes as the values have; the socket is this context's.
    unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_MARK, (&raw mut mark).cast::<c_void>(), 4) == 0
            && bpf_setsockopt(
                ctx.as_ptr(),
                SOL_SOCKET,
                SO_BINDTODEVICE,
                (&raw mut no_device).cast::<c_void>(),
                1,
            ) == 0
    }
}
