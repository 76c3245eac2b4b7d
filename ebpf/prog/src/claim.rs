//! sk_lookup in the pod: which socket takes a SYN. One instance a pod.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::debug;
use isthmus_abi::{
    FLAG_INBOUND_RULES, FLAG_MTLS_REQUIRED, GuestInterface, HBONE_PORT, LISTENER_HBONE, LISTENER_OUTBOUND, LISTENERS,
    LOOPBACK_IFINDEX, PROBE_WINDOW_NS, Rules, Tuple, Verdict,
};
use isthmus_ebpf::{
    AF_INET, AF_INET6, TCP, address, capture,
    maps::{PROBES, REROUTED, RULES, SOCKETS},
    seen::seen,
};

use crate::pod_slot;

const PASS: u32 = 1;
const DROP: u32 = 0;
/// `BPF_SK_LOOKUP_F_REPLACE`: ours is the answer even where another program chose first.
const REPLACE: u64 = 1;

/// A SYN reached the pod, from its links or over `lo`.
#[sk_lookup]
pub fn claim(ctx: SkLookupContext) -> u32 {
    // SAFETY: the kernel hands a valid context; the addresses are four words each.
    let (protocol, tuple, ifindex) = unsafe {
        let lookup = ctx.lookup;
        let (source, destination) = match (*lookup).family {
            AF_INET => (
                address::from_v4((*lookup).remote_ip4),
                address::from_v4((*lookup).local_ip4),
            ),
            AF_INET6 => (
                address::from_v6(&raw const (*lookup).remote_ip6),
                address::from_v6(&raw const (*lookup).local_ip6),
            ),
            _ => return PASS,
        };
        let source_port = u16::from_be((*lookup).remote_port);
        let destination_port = (*lookup).local_port as u16;
        let tuple = Tuple {
            source,
            destination,
            source_port,
            destination_port,
        };
        ((*lookup).protocol, tuple, (*lookup).ingress_ifindex)
    };
    if protocol != TCP {
        return PASS;
    }
    let slot = pod_slot();
    let Some(rules) = RULES.get(slot) else {
        return drop(slot, Verdict::DropNobody);
    };

    let to_itself = address::is_own(slot, &tuple.destination) || address::is_loopback(&tuple.destination);
    if ifindex == LOOPBACK_IFINDEX {
        return if to_itself {
            own(slot, rules, &tuple)
        } else {
            turn(&ctx, slot, LISTENER_OUTBOUND)
        };
    }
    // From a guest towards the world: the pod's outbound traffic as well.
    if !to_itself && REROUTED.get_ptr(GuestInterface { slot, index: ifindex }).is_some() {
        return turn(&ctx, slot, LISTENER_OUTBOUND);
    }
    // What the pod says to its own address shows the real link here; from outside that source is a martian.
    if address::is_own(slot, &tuple.source) {
        return own(slot, rules, &tuple);
    }
    if tuple.destination_port == HBONE_PORT {
        return turn(&ctx, slot, LISTENER_HBONE);
    }
    if is_agents(rules, tuple.destination_port) {
        return drop(slot, Verdict::DropOwnListener);
    }
    if is_probe(&tuple) {
        return pass(slot, Verdict::PassProbe);
    }
    let flags = rules.flags;
    if flags & FLAG_INBOUND_RULES != 0 && capture::leaves_inbound(slot, flags, tuple.destination_port) {
        return pass(slot, Verdict::PassLeft);
    }
    if flags & FLAG_MTLS_REQUIRED != 0 {
        debug!(&ctx, "pod slot {}: plaintext refused", slot);
        return drop(slot, Verdict::DropPlaintext);
    }
    pass(slot, Verdict::PassPlaintext)
}

/// Towards the pod's own address: the application's, never the agent's listeners.
#[inline(always)]
fn own(slot: u32, rules: &Rules, tuple: &Tuple) -> u32 {
    if is_agents(rules, tuple.destination_port) {
        return drop(slot, Verdict::DropOwnListener);
    }
    pass(slot, Verdict::PassOwn)
}

#[inline(always)]
fn is_agents(rules: &Rules, port: u16) -> bool {
    port == rules.outbound_port || port == rules.hbone_port
}

#[inline(always)]
fn is_probe(tuple: &Tuple) -> bool {
    // SAFETY: one aligned word.
    let Some(&since) = (unsafe { PROBES.get(tuple) }) else {
        return false;
    };
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }.wrapping_sub(since) < PROBE_WINDOW_NS
}

#[inline(always)]
fn turn(ctx: &SkLookupContext, slot: u32, kind: u32) -> u32 {
    match SOCKETS.redirect_sk_lookup(ctx, slot * LISTENERS + kind, REPLACE) {
        Ok(()) if kind == LISTENER_HBONE => pass(slot, Verdict::ClaimHbone),
        Ok(()) => pass(slot, Verdict::ClaimOutbound),
        // The agent is away, or the socket is of another family. Nothing may reach the wire or the application.
        Err(_) => drop(slot, Verdict::DropNobody),
    }
}

#[inline(always)]
fn pass(slot: u32, verdict: Verdict) -> u32 {
    seen(slot, verdict);
    PASS
}

#[inline(always)]
fn drop(slot: u32, verdict: Verdict) -> u32 {
    seen(slot, verdict);
    DROP
}
