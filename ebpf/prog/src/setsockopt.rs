//! setsockopt(): refuses pods the two ways to send a frame past the guard: packet sockets that bypass queueing
//! disciplines (packet(7), `PACKET_QDISC_BYPASS`) and AF_XDP sockets. Both hand frames to the driver, behind tcx.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_netns_cookie, macros::cgroup_sockopt, programs::SockoptContext,
};
use isthmus_abi::Verdict;
use isthmus_ebpf::{maps::PODS, seen::seen};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const SOL_PACKET: i32 = 263;
const PACKET_QDISC_BYPASS: i32 = 20;
const SOL_XDP: i32 = 283;
/// What the kernel copies of an option for us at most; of a longer one it must be told that we changed nothing.
const PAGE_BYTES: i32 = 4096;

/// setsockopt() of every socket of the node.
#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: the kernel hands a valid context, whose `optlen` may be written.
    let (level, option) = unsafe {
        let sockopt = ctx.sockopt;
        if (*sockopt).optlen > PAGE_BYTES {
            (*sockopt).optlen = 0;
        }
        ((*sockopt).level, (*sockopt).optname)
    };
    let bypass = level == SOL_XDP || (level == SOL_PACKET && option == PACKET_QDISC_BYPASS);
    if !bypass {
        return ALLOW;
    }
    // SAFETY: the helper reads the socket of this context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: one aligned word; a torn read is not possible.
    match unsafe { PODS.get(cookie) } {
        Some(pod) => {
            seen(pod.slot, Verdict::BypassRefused);
            REFUSE
        }
        None => ALLOW,
    }
}
