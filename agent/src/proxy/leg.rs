use std::{io, time::Duration};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::SocketOptions;

/// A TCP connection to an application. Unless it is [finished](Leg::finish), its end is a reset: a clean FIN tells the
/// application that all was said, and that must not come from an error path, nor from the kernel when the agent dies.
#[derive(Debug)]
pub(crate) struct Leg(TcpStream);

impl Leg {
    /// A connection from a listener which [`arm_listener`] has prepared. One that waited there from before lacks the
    /// options and gets them now.
    pub(crate) fn accepted(tcp: TcpStream, options: &SocketOptions) -> io::Result<Self> {
        if SockRef::from(&tcp).linger()? == Some(Duration::ZERO) {
            return Ok(Self(tcp));
        }
        Self::dialled(tcp, options)
    }

    /// A connection we dialled.
    pub(crate) fn dialled(tcp: TcpStream, options: &SocketOptions) -> io::Result<Self> {
        arm(&SockRef::from(&tcp), options)?;
        Ok(Self(tcp))
    }

    /// A connection we dialled to an application of this kernel: whether its host is still there need not be asked.
    pub(crate) fn delivered(tcp: TcpStream) -> io::Result<Self> {
        let socket = SockRef::from(&tcp);
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(Self(tcp))
    }

    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        &mut self.0
    }

    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.0
    }

    /// Both directions are done: what is queued is still delivered and the end is clean.
    pub(crate) fn finish(self) {
        // A failure means that the connection is gone already.
        drop(SockRef::from(&self.0).set_linger(None));
    }
}

/// Prepares a listener so that what it accepts from now on is a [`Leg`] from the first moment. Accepted sockets inherit
/// these options on Linux, which saves five system calls for each.
pub(crate) fn arm_listener(listener: &tokio::net::TcpListener, options: &SocketOptions) -> io::Result<()> {
    arm(&SockRef::from(listener), options)
}

fn arm(socket: &SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    options.apply(socket)?;
    // Last, because it stands for all of them.
    socket.set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn accepted() -> (Leg, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        arm_listener(&listener, &SocketOptions::default()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        (Leg(tcp), client)
    }

    #[tokio::test]
    async fn accepted_sockets_inherit_every_option() {
        let (leg, _client) = accepted().await;
        let socket = SockRef::from(leg.get_ref());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(180));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn one_that_waited_before_the_listener_was_prepared_gets_them_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        arm_listener(&listener, &SocketOptions::default()).unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        assert_eq!(SockRef::from(&tcp).linger().unwrap(), None);
        let leg = Leg::accepted(tcp, &SocketOptions::default()).unwrap();
        assert!(SockRef::from(leg.get_ref()).tcp_nodelay().unwrap());
        drop(leg);
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_dropped_leg_resets_and_a_finished_one_ends_cleanly() {
        let (leg, mut client) = accepted().await;
        drop(leg);
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        let (leg, mut client) = accepted().await;
        leg.finish();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
