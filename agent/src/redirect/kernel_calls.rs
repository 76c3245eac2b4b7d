//! The few kernel calls no crate wraps.
#![expect(
    unsafe_code,
    reason = "SO_NETNS_COOKIE, IP_LOCAL_PORT_RANGE, bpf(BPF_OBJ_GET) and bpf(BPF_OBJ_GET_INFO_BY_FD) have no safe wrapper"
)]

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `bpf(2)` commands.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// linux/bpf.h, `enum bpf_link_type`.
const BPF_LINK_TYPE_NETNS: u32 = 5;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// Netns cookie of a socket (Linux 5.14).
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(mem::size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is what `cookie` has.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// linux/in.h (Linux 6.3).
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Narrows the ports the kernel may choose for a socket.
pub(super) fn limit_local_ports(socket: BorrowedFd<'_>, ports: &std::ops::RangeInclusive<u16>) -> io::Result<()> {
    let range = u32::from(*ports.end()) << 16 | u32::from(*ports.start());
    let length = libc::socklen_t::try_from(mem::size_of::<u32>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes, which is what `range` has.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            length,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The head of `struct bpf_link_info`: what is common, then what a netns or tcx link says of its target.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    _padding: u32,
    /// netns: inode of the namespace; tcx: interface index. Zero once the target is gone.
    target: u32,
    attach_type: u32,
    _rest: [u64; 8],
}

/// The head of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoRequest {
    fd: u32,
    length: u32,
    info: u64,
}

/// The head of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct GetRequest {
    path: u64,
    fd: u32,
    flags: u32,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelLink {
    /// Link id.
    pub id: u32,
    /// Id of its program.
    pub program_id: u32,
    /// Its namespace or interface still exists.
    pub attached: bool,
}

/// Asks the kernel about a pinned sk_lookup, tcx or cgroup link. aya tells ids, but not whether the target still exists.
pub(super) fn inspect(pin: &Path) -> io::Result<KernelLink> {
    let link = open_pin(pin)?;
    let mut info = LinkInfo::default();
    let request = InfoRequest {
        fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        length: u32::try_from(mem::size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attribute is of the size given, and the kernel writes at most `length` bytes to `info`, which lives
    // until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const request,
            mem::size_of::<InfoRequest>(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let bound = matches!(info.kind, BPF_LINK_TYPE_NETNS | BPF_LINK_TYPE_TCX);
    Ok(KernelLink {
        id: info.id,
        program_id: info.program_id,
        attached: !bound || info.target != 0,
    })
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let request = GetRequest {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attribute is of the size given and names a string that lives until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const request,
            mem::size_of::<GetRequest>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel made this descriptor for us just now; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
