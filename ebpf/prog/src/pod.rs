//! The program loaded once a pod, with the pod's slot as a constant: sk_lookup cannot ask for the netns cookie.
#![no_std]
#![no_main]

#[path = "claim.rs"]
mod claim;

/// The pod's index in every per-pod map; set by the loader.
#[unsafe(no_mangle)]
static POD_SLOT: u32 = 0;

#[inline(always)]
fn pod_slot() -> u32 {
    // SAFETY: a constant of this object; volatile, or the compiler would take its value here for the loader's.
    unsafe { core::ptr::read_volatile(&raw const POD_SLOT) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
