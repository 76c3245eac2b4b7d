//! Programs loaded once a node.
#![no_std]
#![no_main]

#[path = "connect.rs"]
mod connect;
#[path = "guard.rs"]
mod guard;
#[path = "probes.rs"]
mod probes;
#[path = "setsockopt.rs"]
mod setsockopt;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
