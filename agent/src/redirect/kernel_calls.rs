//! The few kernel calls no crate wraps.
#![expect(
    unsafe_code,
    reason = "SO_NETNS_COOKIE, IP_LOCAL_PORT_RANGE, SIOCGIFHWADDR, SIOCGIFINDEX, bpf(2) on pinned links and on hooks have no safe wrapper"
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
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;
/// linux/bpf.h, `enum bpf_attach_type`.
const BPF_CGROUP_SETSOCKOPT: u32 = 22;
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

/// `ARPHRD_` of an interface in the calling thread's network namespace (netdevice(7)).
pub(super) fn link_type(socket: BorrowedFd<'_>, name: &str) -> io::Result<u16> {
    let request = about_link(socket, libc::SIOCGIFHWADDR, name)?;
    // SAFETY: the kernel has filled in this member of the union, and any bytes are a sockaddr.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family)
}

/// Index of an interface in the calling thread's network namespace.
pub(super) fn link_index(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let request = about_link(socket, libc::SIOCGIFINDEX, name)?;
    // SAFETY: the kernel has filled in this member of the union, and any bytes are an integer.
    u32::try_from(unsafe { request.ifr_ifru.ifru_ifindex }).map_err(io::Error::other)
}

fn about_link(socket: BorrowedFd<'_>, question: libc::Ioctl, name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeroes are an interface without a name, and zero in every member of the union.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len();
    // The last byte ends the name.
    if name.len() >= room {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is too long for an interface's name"),
        ));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: both questions read and write one `ifreq`, which is what is given.
    match unsafe { libc::ioctl(socket.as_raw_fd(), question, &raw mut request) } {
        0 => Ok(request),
        _ => Err(io::Error::last_os_error()),
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

/// The head of `union bpf_attr` for `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
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
    /// Inode of the namespace of a sk_lookup link; no other kind has one, and no namespace that is gone.
    pub netns: Option<u32>,
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
        netns: (info.kind == BPF_LINK_TYPE_NETNS && info.target != 0).then_some(info.target),
    })
}

/// Most programs that are told of one hook; the kernel allows 64.
const MOST_ON_A_HOOK: usize = 64;

/// `union bpf_attr` for `BPF_PROG_QUERY`, up to what Linux 4.10 had of it.
#[repr(C)]
struct QueryRequest {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    _padding: u32,
}

/// Who is attached to a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Occupied {
    /// Program ids, in the order they run.
    pub programs: Vec<u32>,
    /// `BPF_F_ALLOW_OVERRIDE` (1), `BPF_F_ALLOW_MULTI` (2) or nothing: how the first was attached to the cgroup.
    pub flags: u32,
}

/// Asks which programs are attached to a cgroup, or to a network namespace, by `enum bpf_attach_type`.
pub(super) fn occupied(target: BorrowedFd<'_>, attach_type: u32) -> io::Result<Occupied> {
    let mut programs = vec![0u32; MOST_ON_A_HOOK];
    let mut request = QueryRequest {
        target: u32::try_from(target.as_raw_fd()).map_err(io::Error::other)?,
        attach_type,
        flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr() as u64,
        count: u32::try_from(programs.len()).map_err(io::Error::other)?,
        _padding: 0,
    };
    // SAFETY: the attribute is of the size given; the kernel writes at most `count` ids to `programs`, which has as many
    // and lives until the call returns, and `attach_flags` and `count` of the attribute itself.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut request,
            mem::size_of::<QueryRequest>(),
        )
    };
    match io::Error::last_os_error() {
        _ if done == 0 => {}
        // There are more than fit; those that fit are told.
        error if error.raw_os_error() == Some(libc::ENOSPC) => {}
        error => return Err(error),
    }
    let count = usize::try_from(request.count).unwrap_or(usize::MAX);
    programs.truncate(count);
    Ok(Occupied {
        programs,
        flags: request.attach_flags,
    })
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkRequest {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a setsockopt program to a cgroup and pins the link: aya 0.14 makes this one link, but cannot pin it.
pub(super) fn pin_setsockopt(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let request = LinkRequest {
        program: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        target: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type: BPF_CGROUP_SETSOCKOPT,
        flags: 0,
    };
    // SAFETY: the attribute is of the size given; both descriptors are open until the call returns.
    let link = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const request,
            mem::size_of::<LinkRequest>(),
        )
    };
    let link = made(link)?;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let fd = u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?;
    let request = GetRequest {
        path: path.as_ptr() as u64,
        fd,
        flags: 0,
    };
    // SAFETY: the attribute is of the size given and names a string and a descriptor that live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_PIN,
            &raw const request,
            mem::size_of::<GetRequest>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the descriptor that a call has just made, or its error.
fn made(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel made this descriptor for us just now; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches a pinned link at once. A link that only loses its pin goes after a grace period, and until then its place is
/// taken. Gone already is no error.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = match open_pin(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let fd = u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: the attribute is one descriptor, of the size given, which is open until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const fd, mem::size_of::<u32>()) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // Its namespace or interface has gone before it.
        error if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        error => Err(error),
    }
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let request = GetRequest {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attribute is of the size given and names a string that lives until the call returns.
    made(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const request,
            mem::size_of::<GetRequest>(),
        )
    })
}
