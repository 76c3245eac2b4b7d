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

impl PodSockets {
    /// Has the pod this address and others of its family? Otherwise the kernel's choice is the right one.
    fn is_one_of_several(&self, address: IpAddr) -> bool {
        let addresses = self.addresses.load();
        addresses.contains(&address)
            && addresses
                .iter()
                .filter(|other| other.is_ipv4() == address.is_ipv4())
                .nth(1)
                .is_some()
    }
}

impl Sockets for PodSockets {
    fn dialler(&self, from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpSocket> {
        let from = from.filter(|from| self.is_one_of_several(*from) && from.is_ipv4() == to.is_ipv4());
        sockets::dialler(&self.netns, &self.own, from, to).map(TcpSocket::from_std_stream)
    }

    fn delivery(&self, client: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket> {
        sockets::delivery(&self.netns, &self.own, client, to).map(TcpSocket::from_std_stream)
    }

    fn owns(&self, ip: IpAddr) -> bool {
        self.addresses.load().contains(&ip)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.load().to_vec()
    }

    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        // The listener serves both families, so that IPv4 comes as IPv4-mapped.
        accepted
            .local_addr()
            .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}
