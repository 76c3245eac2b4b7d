//! Sockets whose other end is on this machine are not paced.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_setsockopt;

const SOL_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;

/// Takes the plainest congestion control, which every kernel has. What the node has chosen for its network (BBR, say) meters
/// out segments by a timer; over `lo` there is nothing to spare. A refusal changes nothing but speed.
///
/// # Safety
/// `ctx` is a context with a socket, from the kernel.
#[inline(always)]
pub unsafe fn never(ctx: *mut c_void) {
    let mut name = *b"reno\0";
    // SAFETY: the helper reads as many bytes as the name has; the context is the caller's.
    unsafe {
        bpf_setsockopt(
            ctx,
            SOL_TCP,
            TCP_CONGESTION,
            name.as_mut_ptr().cast::<c_void>(),
            name.len() as i32,
        )
    };
}
