//! A pod's sockets, as its proxy uses them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    proxy::sockets::Sockets,
    redirect::{Netns, maps::OwnSockets, sockets},
};

/// Makes sockets in one pod's network namespace. It holds the namespace open: whoever serves the pod lets go of it when
/// the pod is gone.
pub struct PodSockets {
    netns: Arc<Netns>,
    own: OwnSockets,
    addresses: Arc<ArcSwap<Vec<IpAddr>>>,
}

impl PodSockets {
    /// `addresses` are kept current by the pod's keeper.
    pub fn new(netns: Arc<Netns>, own: OwnSockets, addresses: Arc<ArcSwap<Vec<IpAddr>>>) -> Self {
        Self { netns, own, addresses }
    }
}

impl Sockets for PodSockets {
    fn dialler(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        sockets::dialler(&self.netns, &self.own, to).map(TcpSocket::from_std_stream)
    }

    fn delivery(&self, client: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket> {
        sockets::delivery(&self.netns, &self.own, client, to).map(TcpSocket::from_std_stream)
    }

    fn owns(&self, ip: IpAddr) -> bool {
        self.addresses.load().contains(&ip)
    }

    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        // The listener serves both families, so that IPv4 comes as IPv4-mapped.
        accepted
            .local_addr()
            .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}
