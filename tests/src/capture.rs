//! What passes on the links of a namespace, heard with a packet socket.

use std::{
    io::ErrorKind,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use memchr::memmem::Finder;
use nix::sys::{
    socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use socket2::{SockFilter, Socket};

use crate::{
    failure::{Because as _, Result},
    lab::lock,
    netns::Netns,
    wait::within,
};

mod frame;

pub use frame::Segment;

/// The kernel's queue for us; an upload at full speed must fit while the listener is not scheduled.
const QUEUE_BYTES: usize = 64 << 20;
/// A segment before it is cut to the wire's size is at most this long.
const FRAME_BYTES: usize = 256 << 10;
/// How many connection attempts are remembered.
const SYNS: usize = 100_000;

/// A thread that hears every frame on every link of a namespace (loopback too) until it is dropped.
#[derive(Debug)]
pub struct Capture {
    name: String,
    socket: Socket,
    heard: Arc<Heard>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Heard {
    stop: AtomicBool,
    frames: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    marks: Mutex<Vec<Mark>>,
    syns: Mutex<Vec<Segment>>,
}

#[derive(Debug)]
struct Mark {
    finder: Finder<'static>,
    seen: u64,
}

impl Capture {
    /// Begins to listen. What is to be counted must be named with [`Capture::listen_for`] before it passes.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns
            .enter(|| {
                socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    Some(SockProtocol::EthAll),
                )
            })?
            .because("opening a packet socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).because("enlarging the packet socket's queue")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
        let control = Socket::from(socket.try_clone()?);
        let heard = Arc::<Heard>::default();
        let hearing = Arc::clone(&heard);
        let listener = thread::spawn(move || listen(&socket, &hearing));
        Ok(Self {
            name: netns.name().to_owned(),
            socket: control,
            heard,
            listener: Some(listener),
        })
    }

    /// The namespace it listens in.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on hears only frames of up to 256 bytes: handshakes and small talk, at no cost to bulk transfers.
    pub fn ignore_bulk(&self) -> Result {
        // Classic BPF: load the length; if it is greater, skip to the second return; take all; take nothing.
        let filter = [
            (0x80, 0, 0, 0),
            (0x25, 1, 0, 256),
            (0x06, 0, 0, u32::MAX),
            (0x06, 0, 0, 0),
        ];
        let filter = filter.map(|(code, jump, or, value)| SockFilter::new(code, jump, or, value));
        self.socket.attach_filter(&filter).because("filtering the capture")
    }

    /// Hears everything again.
    pub fn hear_all(&self) -> Result {
        self.socket.detach_filter().because("lifting the capture's filter")
    }

    /// Counts frames that contain `mark` from now on.
    pub fn listen_for(&self, mark: &[u8]) {
        lock(&self.heard.marks).push(Mark {
            finder: Finder::new(mark).into_owned(),
            seen: 0,
        });
    }

    /// How many frames contained `mark`.
    pub fn count(&self, mark: &[u8]) -> u64 {
        lock(&self.heard.marks)
            .iter()
            .filter(|known| known.finder.needle() == mark)
            .map(|known| known.seen)
            .sum()
    }

    /// Whether a frame contained `mark`.
    pub fn saw(&self, mark: &[u8]) -> bool {
        self.count(mark) > 0
    }

    /// Waits until a frame contained `mark`.
    #[track_caller]
    pub fn wait_for(&self, mark: &[u8], bound: Duration) -> Result {
        let text = String::from_utf8_lossy(mark);
        within(bound, &format!("{} hears {text:?}", self.name), || {
            self.saw(mark).then_some(())
        })
    }

    /// The connection attempts heard so far: SYN without ACK.
    pub fn syns(&self) -> Vec<Segment> {
        lock(&self.heard.syns)
            .iter()
            .filter(|segment| segment.opens())
            .copied()
            .collect()
    }

    /// The positive answers heard so far that a server gave: SYN with ACK.
    pub fn answers_from(&self, ip: IpAddr, port: u16) -> Vec<Segment> {
        let from = |segment: &&Segment| segment.accepts() && segment.source == ip && segment.source_port == port;
        lock(&self.heard.syns).iter().filter(from).copied().collect()
    }

    /// The connection attempts towards one address and port.
    pub fn syns_to(&self, ip: IpAddr, port: u16) -> Vec<Segment> {
        self.syns()
            .into_iter()
            .filter(|syn| syn.destination == ip && syn.destination_port == port)
            .collect()
    }

    /// Forgets the connection attempts and answers heard so far.
    pub fn forget_syns(&self) {
        lock(&self.heard.syns).clear();
    }

    /// How many frames were heard.
    pub fn frames(&self) -> u64 {
        self.heard.frames.load(Ordering::Relaxed)
    }

    /// How many bytes were heard.
    pub fn bytes(&self) -> u64 {
        self.heard.bytes.load(Ordering::Relaxed)
    }

    /// How many frames passed unheard because the queue was full.
    pub fn lost(&self) -> u64 {
        self.heard.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.heard.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _panicked = listener.join();
        }
    }
}

fn listen(socket: &OwnedFd, heard: &Heard) {
    let mut buffer = vec![0_u8; FRAME_BYTES];
    while !heard.stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => hear(buffer.get(..length).unwrap_or_default(), heard),
            Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => lost(socket, heard),
            // The links may go down before we do; the socket itself stays.
            Err(_) => {}
        }
    }
    lost(socket, heard);
}

fn hear(frame: &[u8], heard: &Heard) {
    heard.frames.fetch_add(1, Ordering::Relaxed);
    heard.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
    for mark in lock(&heard.marks).iter_mut() {
        if mark.finder.find(frame).is_some() {
            mark.seen += 1;
        }
    }
    if let Some(segment) = Segment::of_ethernet(frame)
        && (segment.opens() || segment.accepts())
    {
        let mut syns = lock(&heard.syns);
        if syns.len() < SYNS {
            syns.push(segment);
        }
    }
}

/// Adds what the kernel had to drop since it was last asked (packet(7), `PACKET_STATISTICS`).
#[expect(unsafe_code, reason = "no crate in use wraps PACKET_STATISTICS")]
fn lost(socket: &OwnedFd, heard: &Heard) {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or_default();
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel writes at most `length` bytes
    // into a structure of that length which outlives the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut statistics).cast(),
            &raw mut length,
        )
    };
    if answer == 0 {
        heard.lost.fetch_add(statistics.tp_drops.into(), Ordering::Relaxed);
    }
}
