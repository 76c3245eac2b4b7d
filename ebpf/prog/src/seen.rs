//! Counting. Every verdict is counted where it is given; user space names the counters.

use core::arch::asm;

use isthmus_abi::Verdict;

use crate::maps::VERDICTS;

/// Counts one verdict for a pod.
#[inline(always)]
pub fn seen(slot: u32, verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(slot * Verdict::COUNT + verdict as u32) {
        add(counter, 1);
    }
}

/// Adds to a counter in a map. The target has no read-modify-write in `core`, but the instruction exists since Linux 3.18.
#[inline(always)]
pub fn add(counter: *mut u64, by: u64) {
    // SAFETY: the pointer is to a live, aligned element of an array map, and every access to it is atomic.
    unsafe { asm!("lock *(u64 *)({counter} + 0) += {by}", counter = in(reg) counter, by = in(reg) by) };
}
