//! Sockops: notes the connections which the node itself makes to enrolled pods, so that `claim` can let probes pass
//! with their source untouched, and counts plaintext connections of pods.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_getsockopt, bpf_ktime_get_ns},
    macros::sock_ops,
    programs::SockOpsContext,
};
use isthmus_abi::{HBONE_PORT, MARK_IN, Tuple, Verdict};
use isthmus_ebpf::{
    AF_INET, AF_INET6, address,
    maps::{ENROLLED, PLAINTEXT, PODS, PROBES},
    pace,
    seen::{add, seen},
};

const TCP_CLOSE: u32 = 7;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// Netns cookie of the node; set by the loader.
#[unsafe(no_mangle)]
static NODE_COOKIE: u64 = 0;

/// TCP socket events of the whole node.
#[sock_ops]
pub fn probes(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => note(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => opened(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn by_node(ctx: &SockOpsContext) -> bool {
    // SAFETY: a constant of this object (volatile: set by the loader); the helper reads this context's socket.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) == core::ptr::read_volatile(&raw const NODE_COOKIE) }
}

#[inline(always)]
fn note(ctx: &SockOpsContext) {
    if !by_node(ctx) {
        return;
    }
    let Some(tuple) = tuple(ctx) else { return };
    // SAFETY: one aligned word.
    let Some(&slot) = (unsafe { ENROLLED.get(tuple.destination) }) else {
        return;
    };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    if PROBES.insert(tuple, now, 0).is_err() {
        seen(slot, Verdict::ProbeLost);
        return;
    }
    seen(slot, Verdict::ProbeNoted);
    watch(ctx);
}

/// Asks for the socket's later states.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    // Refused only for request sockets, which have no states to tell of.
    let _refused = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// What an accepted connection of a pod is.
enum Arrival {
    /// Made by the agent, over `lo`.
    Delivery,
    /// From outside without a tunnel, at the pod of this slot.
    Plaintext(u32),
    /// Anything else.
    Other,
}

#[inline(always)]
fn opened(ctx: &SockOpsContext) {
    match arrival(ctx) {
        // SAFETY: the context's socket.
        Arrival::Delivery => unsafe { pace::never(ctx.as_ptr()) },
        Arrival::Plaintext(slot) => {
            let Some(counters) = PLAINTEXT.get_ptr_mut(slot) else {
                return;
            };
            // SAFETY: a live element; the field is only ever added to atomically.
            add(unsafe { &raw mut (*counters).opened }, 1);
            watch(ctx);
        }
        Arrival::Other => {}
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    if by_node(ctx) {
        if let Some(tuple) = tuple(ctx) {
            // Absent for connections that were never probes.
            let _absent = PROBES.remove(tuple);
        }
        return;
    }
    if let Arrival::Plaintext(slot) = arrival(ctx)
        && let Some(counters) = PLAINTEXT.get_ptr_mut(slot)
    {
        // SAFETY: the kernel hands a valid context; the counters are a live element, only ever added to atomically.
        unsafe {
            add(&raw mut (*counters).closed, 1);
            add(&raw mut (*counters).received_bytes, (*ctx.ops).bytes_received);
            add(&raw mut (*counters).sent_bytes, (*ctx.ops).bytes_acked);
        }
    }
}

#[inline(always)]
fn arrival(ctx: &SockOpsContext) -> Arrival {
    // SAFETY: the helper reads this context's socket.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: one aligned word.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else {
        return Arrival::Other;
    };
    let slot = pod.slot;
    if ctx.local_port() == u32::from(HBONE_PORT) {
        return Arrival::Other;
    }
    let Some(tuple) = tuple(ctx) else {
        return Arrival::Other;
    };
    // Deliveries come from the agent, and what a pod says to itself never left it.
    if address::is_loopback(&tuple.source)
        || !address::is_own(slot, &tuple.source)
        || address::is_own(slot, &tuple.destination)
    {
        return Arrival::Other;
    }
    let mut mark = 0u32;
    // SAFETY: the helper writes the four bytes it is given.
    let told = unsafe { bpf_getsockopt(ctx.as_ptr(), SOL_SOCKET, SO_MARK, (&raw mut mark).cast::<c_void>(), 4) };
    match mark {
        _ if told != 0 => Arrival::Other,
        MARK_IN => Arrival::Delivery,
        _ => Arrival::Plaintext(slot),
    }
}

/// The connection as this socket sees it: its own address is the source.
#[inline(always)]
fn tuple(ctx: &SockOpsContext) -> Option<Tuple> {
    let (source, destination) = match ctx.family() {
        AF_INET => (address::from_v4(ctx.local_ip4()), address::from_v4(ctx.remote_ip4())),
        // SAFETY: the addresses are four words each of a valid context.
        AF_INET6 => unsafe {
            (
                address::from_v6(&raw const (*ctx.ops).local_ip6),
                address::from_v6(&raw const (*ctx.ops).remote_ip6),
            )
        },
        _ => return None,
    };
    // Of the two ports only the remote one is in network order, in the upper half of the word.
    let destination_port = (u32::from_be(ctx.remote_port()) & 0xffff) as u16;
    Some(Tuple {
        source,
        destination,
        source_port: ctx.local_port() as u16,
        destination_port,
    })
}
