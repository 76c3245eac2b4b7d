//! Where a pod's sockets come from.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpSocket, TcpStream};

/// Sockets in a pod's network namespace. The pod's enrolment makes them; [`PlainSockets`] are those of this process.
pub trait Sockets: Send + Sync + 'static {
    /// A socket that dials `to` as the agent: it is never redirected. `from` is the address which the application that
    /// wants it has as its source; one that is not the pod's is left out.
    ///
    /// # Errors
    /// When the kernel gives none.
    fn dialler(&self, from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpSocket>;

    /// A socket that reaches the pod's application at `to` with `client` as its source; port 0 is any port.
    ///
    /// # Errors
    /// When the kernel gives none; `AddrInUse` or `AddrNotAvailable` when the client's port cannot be had.
    fn delivery(&self, client: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket>;

    /// Is this one of the pod's own addresses?
    fn owns(&self, ip: IpAddr) -> bool;

    /// The pod's own addresses, as far as they are known.
    fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    /// Where the application that dialled `accepted` wanted to go. A redirected connection keeps it as its local
    /// address.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        accepted.local_addr()
    }

    /// Whether an outbound connection to `destination` can only be somebody dialling our listener: traffic to the
    /// pod's own addresses and to loopback is never redirected.
    fn is_self_call(&self, destination: SocketAddr) -> bool {
        destination.ip().is_loopback() || destination.ip().is_unspecified() || self.owns(destination.ip())
    }
}

/// Sockets of this process's own network namespace, as the east-west gateway uses them.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainSockets;

impl Sockets for PlainSockets {
    fn dialler(&self, _: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpSocket> {
        if to.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
    }

    fn delivery(&self, _: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket> {
        self.dialler(None, to)
    }

    fn owns(&self, _: IpAddr) -> bool {
        false
    }
}
