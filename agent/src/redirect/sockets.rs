//! The agent's sockets inside a pod's network namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    ops::RangeInclusive,
    os::fd::AsFd as _,
};

use isthmus_abi::{MARK_IN, Rules};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Netns, kernel_calls, maps::OwnSockets};

/// Connections waiting for accept(); the kernel caps it at `net.core.somaxconn`. They also wait here while the worker
/// restarts.
const BACKLOG: i32 = 4096;

/// What may wait in the kernel between an application and the agent, in bytes (it takes up to twice as much, and not more
/// than `net.core.rmem_max` and `wmem_max` allow). Both are on one machine, so more would carry nothing faster; left to
/// itself the kernel lets megabytes wait, which have left the processor's cache when they are read.
const NEAR_BUFFER_BYTES: usize = 256 << 10;

/// Congestion control between an application and the agent: the plainest, which every kernel has. The node's own choice may
/// meter segments out by a timer (BBR), and over `lo` there is nothing to spare. The eBPF programs do the same with the
/// applications' sockets.
const NEAR_CONGESTION: &[u8] = b"reno";

/// Ports a delivery may use when the client's own is not known or taken. Apart from where clients' ports usually are
/// (32768 and above): a delivery must not meet a live plaintext connection of the same client.
const DELIVERY_PORTS: RangeInclusive<u16> = 10_240..=32_767;

/// A pod's two listeners, non-blocking. They are bound to a port of the kernel's choice; SYNs reach them only through
/// `claim`.
#[derive(Debug)]
pub struct Listeners {
    /// Takes connections the pod makes: `local_addr()` of an accepted one is its original destination.
    pub outbound: TcpListener,
    /// Takes tunnels of peers.
    pub hbone: TcpListener,
}

impl Listeners {
    /// Opens both in the pod's namespace.
    pub fn open(netns: &Netns) -> io::Result<Self> {
        netns
            .run(|| {
                let outbound = listener()?;
                // Accepted sockets inherit both.
                let near = SockRef::from(&outbound);
                near.set_recv_buffer_size(NEAR_BUFFER_BYTES)?;
                near.set_tcp_congestion(NEAR_CONGESTION)?;
                Ok(Self {
                    outbound,
                    hbone: listener()?,
                })
            })
            .and_then(|opened| opened)
    }

    /// What `claim` must know of them.
    pub fn rules(&self, flags: u32) -> io::Result<Rules> {
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Rules {
            flags,
            outbound_port: port(&self.outbound)?,
            hbone_port: port(&self.hbone)?,
        })
    }
}

/// One socket for both families, unless the kernel has no IPv6.
fn listener() -> io::Result<TcpListener> {
    let bound = match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            listen(&socket, (Ipv6Addr::UNSPECIFIED, 0).into())?;
            socket
        }
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            listen(&socket, (Ipv4Addr::UNSPECIFIED, 0).into())?;
            socket
        }
        Err(error) => return Err(error),
    };
    Ok(bound.into())
}

fn listen(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // The kernel answers from the original destination, an address that is not the pod's.
    socket.set_ip_transparent_v4(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it, which saves a call each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)
}

/// A socket in the pod that dials as the agent: not redirected, and let out by the guard. `from` is one of the pod's
/// addresses, or none for the kernel's choice.
pub fn dialler(netns: &Netns, own: &OwnSockets, from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = netns.run(|| stream(to)).and_then(|made| made)?;
    own.own(&socket).map_err(io::Error::other)?;
    if let Some(from) = from {
        // The port is chosen at connect(), when the whole tuple is known.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(socket.into())
}

/// A socket in the pod that reaches its application over `lo` with the client's address as its source. Port 0 leaves
/// the choice to the kernel.
pub fn delivery(netns: &Netns, own: &OwnSockets, client: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = netns.run(|| stream(to)).and_then(|made| made)?;
    own.own(&socket).map_err(io::Error::other)?;
    socket.set_mark(MARK_IN)?;
    // The application's replies return over `lo` by the mark its socket inherits, and find a socket that is bound there.
    socket.bind_device(Some(b"lo"))?;
    socket.set_ip_transparent_v4(true)?;
    socket.set_reuse_address(true)?;
    socket.set_send_buffer_size(NEAR_BUFFER_BYTES)?;
    socket.set_tcp_congestion(NEAR_CONGESTION)?;
    if client.port() == 0 {
        // The port is chosen at connect(), when the whole tuple is known.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        if let Err(error) = kernel_calls::limit_local_ports(socket.as_fd(), &DELIVERY_PORTS) {
            tracing::debug!(%error, "a delivery may meet a live connection and be redialled (Linux 6.3 keeps them apart)");
        }
    }
    socket.bind(&client.into())?;
    Ok(socket.into())
}

fn stream(to: SocketAddr) -> io::Result<Socket> {
    let domain = match to.ip() {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}
