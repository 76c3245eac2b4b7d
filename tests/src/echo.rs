//! A plain echo server inside a namespace, which tells whom it saw.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    failure::{Because as _, Failure, Result},
    lab::lock,
    netns::Netns,
};

/// Sends back what it receives; a client's half-close is answered by its own.
#[derive(Debug)]
pub struct Echo {
    listener: Socket,
    peers: Mutex<Receiver<SocketAddr>>,
    streams: Arc<Mutex<Vec<Weak<TcpStream>>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens at `at` inside `netns`.
    pub fn start(netns: &Netns, at: SocketAddr) -> Result<Self> {
        let listener = netns
            .enter(|| listen(at))?
            .because(format!("listening on {at} in {}", netns.name()))?;
        let accepting: TcpListener = listener.try_clone()?.into();
        let (sender, peers) = channel();
        let streams = Arc::default();
        let seen = Arc::clone(&streams);
        let acceptor = thread::spawn(move || accept(&accepting, &sender, &seen));
        Ok(Self {
            listener,
            peers: Mutex::new(peers),
            streams,
            acceptor: Some(acceptor),
        })
    }

    /// The source address of the next client, as the server sees it.
    #[track_caller]
    pub fn peer(&self) -> Result<SocketAddr> {
        lock(&self.peers)
            .recv_timeout(Duration::from_secs(10))
            .because("waiting for a client at the echo server")
    }

    /// How many clients came since it was last asked. Who has had an answer is counted.
    pub fn taken(&self) -> usize {
        lock(&self.peers).try_iter().count()
    }

    /// Fails if a client comes within `span`, or came since it was last asked.
    #[track_caller]
    pub fn must_not_accept(&self, span: Duration) -> Result {
        match lock(&self.peers).recv_timeout(span) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(gone) => Err(gone.into()),
            Ok(peer) => Err(Failure::new(format!(
                "the server accepted {peer}, which must not have reached it"
            ))),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Ends accept() and every read(); each fails only when it is closed already.
        let _closed = self.listener.shutdown(Shutdown::Both);
        for stream in lock(&self.streams).drain(..).filter_map(|stream| stream.upgrade()) {
            let _closed = stream.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _panicked = acceptor.join();
        }
    }
}

fn listen(at: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

fn accept(listener: &TcpListener, peers: &Sender<SocketAddr>, streams: &Mutex<Vec<Weak<TcpStream>>>) {
    while let Ok((stream, peer)) = listener.accept() {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let stream = Arc::new(stream);
        let mut open = lock(streams);
        open.retain(|stream| stream.strong_count() > 0);
        open.push(Arc::downgrade(&stream));
        drop(open);
        if peers.send(peer).is_err() {
            return;
        }
        thread::spawn(move || echo(&stream));
    }
}

fn echo(mut stream: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
    // The client may be gone already.
    let _closed = stream.shutdown(Shutdown::Write);
}

/// Sends `bytes` and reads as many back; fails unless they are the same.
#[track_caller]
pub fn roundtrip(stream: &mut TcpStream, bytes: &[u8]) -> Result {
    stream.write_all(bytes).because("writing to the echo server")?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).because("reading from the echo server")?;
    if back == bytes {
        Ok(())
    } else {
        Err(Failure::new("the echo is not what was sent"))
    }
}

/// The peer has reset the connection: no clean end, and not merely silence.
#[track_caller]
pub fn must_be_reset(mut stream: &TcpStream) {
    let ended = stream.read(&mut [0]);
    assert_eq!(
        ended.as_ref().map_err(io::Error::kind),
        Err(ErrorKind::ConnectionReset),
        "{ended:?}"
    );
}
