use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::SocketOptions;

/// The TCP connection of a tunnel. It ends in order, so that the last streams' ends still arrive, unless its owner is
/// being torn down: a socket with unsent data would keep the pod's network namespace alive.
#[derive(Debug)]
pub(crate) struct TunnelSocket {
    tcp: TcpStream,
    abrupt: Abrupt,
}

/// Shared word that sockets are to be aborted rather than closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abrupt(Arc<AtomicBool>);

impl Abrupt {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl TunnelSocket {
    pub(crate) fn new(tcp: TcpStream, abrupt: Abrupt, options: &SocketOptions) -> io::Result<Self> {
        let socket = SockRef::from(&tcp);
        // An accepted one inherited its listener's setting.
        socket.set_linger(None)?;
        options.apply(&socket)?;
        Ok(Self { tcp, abrupt })
    }
}

impl Drop for TunnelSocket {
    fn drop(&mut self) {
        if self.abrupt.0.load(Ordering::Relaxed) {
            // It fails only for a socket that is gone already.
            drop(SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl AsyncRead for TunnelSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, out)
    }
}

impl AsyncWrite for TunnelSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
