use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Tuning,
    sockets::Sockets,
    tunnel_socket::{Abrupt, TunnelSocket},
};
use crate::{
    hbone::{
        ReadAhead,
        client::{self, HandshakeError, OpenError, Tunnel},
    },
    identity::{Certificate, CertificateError, Certificates, SpiffeId},
    tls::with_causes,
};

/// How long a TCP connect may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long TLS and HTTP/2 together may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take to answer a CONNECT. Longer than it may take to reach its application, so that its own
/// answer says what was wrong.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an application on this node may take to answer a SYN before another source port is tried. What is in the
/// way may be an old connection with the same addresses and ports.
const FIRST_REDIAL: Duration = Duration::from_millis(200);

/// Why the other side was not reached.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// The kernel gave no socket.
    #[error("no socket to reach {to}: {cause}")]
    Socket {
        to: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// The connect failed.
    #[error("cannot connect to {to}: {cause}")]
    Connect {
        to: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// Nobody answered.
    #[error("no answer from {to} within {} s", .within.as_secs())]
    ConnectTimeout { to: SocketAddr, within: Duration },
    /// We have no certificate to show.
    #[error("{}", with_causes(.0))]
    Certificate(#[source] CertificateError),
    /// The source of certificates takes too long.
    #[error("no certificate for {id} within {} s; see the certificate source", .within.as_secs())]
    CertificateTimeout { id: SpiffeId, within: Duration },
    /// TLS or HTTP/2 failed.
    #[error("no tunnel to {to}: {cause}")]
    Handshake {
        to: SocketAddr,
        #[source]
        cause: HandshakeError,
    },
    /// TLS or HTTP/2 did not come to an end.
    #[error("no tunnel to {to}: it accepted the connection and then said nothing for {} s", .within.as_secs())]
    HandshakeTimeout { to: SocketAddr, within: Duration },
    /// The peer did not take the connection on.
    #[error("{peer}: {cause}")]
    Open {
        peer: SocketAddr,
        #[source]
        cause: OpenError,
    },
    /// The peer did not answer the CONNECT.
    #[error("{peer} did not answer our CONNECT within {} s", .within.as_secs())]
    AnswerTimeout { peer: SocketAddr, within: Duration },
    /// The one who dialled for all went away.
    #[error("the dial to {to} was abandoned")]
    Abandoned { to: SocketAddr },
}

/// The certificate of a pod's identity, as of now.
pub(crate) async fn certificate(certificates: &Certificates, id: &SpiffeId) -> Result<Arc<Certificate>, DialError> {
    match timeout(HANDSHAKE_TIMEOUT, certificates.get(id)).await {
        Ok(got) => got.map_err(DialError::Certificate),
        Err(_) => Err(DialError::CertificateTimeout {
            id: id.clone(),
            within: HANDSHAKE_TIMEOUT,
        }),
    }
}

/// Connects as the agent, from the address the application has.
pub(crate) async fn connect(
    sockets: &dyn Sockets,
    from: Option<IpAddr>,
    to: SocketAddr,
    within: Duration,
) -> Result<TcpStream, DialError> {
    let socket = sockets
        .dialler(from, to)
        .map_err(|cause| DialError::Socket { to, cause })?;
    match timeout(within, socket.connect(to)).await {
        Ok(connected) => connected.map_err(|cause| DialError::Connect { to, cause }),
        Err(_) => Err(DialError::ConnectTimeout { to, within }),
    }
}

/// Makes a tunnel for an identity, from its address. The returned future drives it and must be spawned.
pub(crate) async fn tunnel(
    sockets: &dyn Sockets,
    certificates: &Certificates,
    (source, from): (&SpiffeId, IpAddr),
    expected: Arc<[SpiffeId]>,
    to: SocketAddr,
    (abrupt, tuning): (Abrupt, &Tuning),
) -> Result<(Tunnel, impl Future<Output = ()> + Send + use<>), DialError> {
    let certificate = certificate(certificates, source).await?;
    let tcp = connect(sockets, Some(from), to, CONNECT_TIMEOUT).await?;
    let socket = TunnelSocket::new(tcp, abrupt, &tuning.sockets).map_err(|cause| DialError::Socket { to, cause })?;
    let shaken = client::handshake(ReadAhead::new(socket), &certificate, expected, tuning.tunnels);
    match timeout(HANDSHAKE_TIMEOUT, shaken).await {
        Ok(shaken) => shaken.map_err(|cause| DialError::Handshake { to, cause }),
        Err(_) => Err(DialError::HandshakeTimeout {
            to,
            within: HANDSHAKE_TIMEOUT,
        }),
    }
}

/// Connects to the pod's application with the client's address, and its port where that can be had.
///
/// An attempt that is not answered soon is dropped and made again from another port.
pub(crate) async fn deliver(
    sockets: &dyn Sockets,
    mut client: SocketAddr,
    to: SocketAddr,
) -> Result<TcpStream, DialError> {
    let give_up = Instant::now() + CONNECT_TIMEOUT;
    let mut patience = FIRST_REDIAL;
    loop {
        let attempt = async { sockets.delivery(client, to)?.connect(to).await };
        match timeout_at(give_up.min(Instant::now() + patience), attempt).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) if client.port() != 0 && is_about_the_port(&error) => {}
            Ok(Err(cause)) => return Err(DialError::Connect { to, cause }),
            Err(_) if Instant::now() >= give_up => {
                return Err(DialError::ConnectTimeout {
                    to,
                    within: CONNECT_TIMEOUT,
                });
            }
            Err(_) => patience *= 2,
        }
        client.set_port(0);
    }
}

fn is_about_the_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// The client's own port where `said` (the header `forwarded`) is about the host that dialled us; else any port.
pub(crate) fn client_of(from: IpAddr, said: Option<SocketAddr>) -> SocketAddr {
    let port = said
        .filter(|said| said.ip().to_canonical() == from)
        .map_or(0, |said| said.port());
    SocketAddr::new(from, port)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::proxy::sockets::PlainSockets;

    /// Remembers the client addresses asked for; the first `stuck` attempts go where nobody answers.
    struct Recorder {
        asked: Mutex<Vec<SocketAddr>>,
        port_taken: bool,
    }

    impl Sockets for Recorder {
        fn dialler(&self, _: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpSocket> {
            PlainSockets.dialler(None, to)
        }

        fn delivery(&self, client: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket> {
            self.asked.lock().unwrap().push(client);
            if self.port_taken && client.port() != 0 {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            PlainSockets.dialler(None, to)
        }

        fn owns(&self, _: IpAddr) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_port_which_cannot_be_had_is_done_without() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sockets = Recorder {
            asked: Mutex::default(),
            port_taken: true,
        };
        let client = "10.0.0.1:4000".parse().unwrap();
        deliver(&sockets, client, listener.local_addr().unwrap()).await.unwrap();
        let expected: Vec<SocketAddr> = vec![client, "10.0.0.1:0".parse().unwrap()];
        assert_eq!(*sockets.asked.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_closed_port_is_an_answer_and_not_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let sockets = Recorder {
            asked: Mutex::default(),
            port_taken: false,
        };
        let error = deliver(&sockets, "10.0.0.1:4000".parse().unwrap(), closed)
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Connect { .. }), "{error}");
        assert_eq!(sockets.asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_unanswered_attempt_is_made_again_from_another_port() {
        // A listener whose queue is full drops SYNs, as a tuple in the way does.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _queued = TcpStream::connect(address).await.unwrap();
        let sockets = Arc::new(Recorder {
            asked: Mutex::default(),
            port_taken: false,
        });
        let delivered = {
            let sockets = Arc::clone(&sockets);
            tokio::spawn(async move {
                deliver(&*sockets, "10.0.0.1:4000".parse().unwrap(), address)
                    .await
                    .map(drop)
            })
        };
        while sockets.asked.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        let _first = listener.accept().await.unwrap();
        delivered.await.unwrap().unwrap();
        let asked = sockets.asked.lock().unwrap();
        assert_eq!(asked[0].port(), 4000);
        assert!(asked[1..].iter().all(|client| client.port() == 0));
    }

    #[test]
    fn the_clients_port_counts_only_if_it_is_said_of_the_host_that_dials() {
        let from: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(client_of(from, "10.0.0.1:4000".parse().ok()).port(), 4000);
        assert_eq!(client_of(from, "[::ffff:10.0.0.1]:4000".parse().ok()).port(), 4000);
        assert_eq!(client_of(from, "10.0.0.2:4000".parse().ok()).port(), 0);
        assert_eq!(client_of(from, None).port(), 0);
    }
}
