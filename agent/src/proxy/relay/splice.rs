use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    LegError,
    pump::{Fault, Pump, Source as _},
    tcp::{TcpSink, TcpSource},
};
use crate::proxy::descriptors::{Descriptors, Lease};

/// Bytes after which a direction gets a pipe: most connections never need one, and it costs two descriptors.
const AFTER_BYTES: u64 = 64 << 10;

/// Size asked for the pipe, in bytes.
const PIPE_BYTES: i32 = 256 << 10;

/// Most bytes taken into the pipe at once.
const READ_BYTES: usize = 256 << 10;

/// One direction between two TCP connections: copied at first, spliced once it is worth a pipe.
pub(super) struct Direction<'a> {
    pump: Pump<TcpSource<'a>, TcpSink<'a>>,
    descriptors: &'a Descriptors,
    spliced: Spliced,
}

enum Spliced {
    NotYet,
    /// No pipe could be had: copying goes on.
    Never,
    Pipe(Pipe),
    /// The pipe's work is done and so is the direction.
    Done {
        moved: u64,
    },
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    holds: usize,
    ended: bool,
    moved: u64,
    _lease: Lease,
}

impl<'a> Direction<'a> {
    pub(super) fn new(source: TcpSource<'a>, sink: TcpSink<'a>, descriptors: &'a Descriptors) -> Self {
        Self {
            pump: Pump::new(source, sink),
            descriptors,
            spliced: Spliced::NotYet,
        }
    }

    pub(super) fn moved(&self) -> u64 {
        self.pump.moved()
            + match &self.spliced {
                Spliced::NotYet | Spliced::Never => 0,
                Spliced::Pipe(pipe) => pipe.moved,
                Spliced::Done { moved } => *moved,
            }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if matches!(self.spliced, Spliced::NotYet)
            && self.pump.moved() >= AFTER_BYTES
            && self.pump.idle_ends().is_some()
        {
            self.spliced = Pipe::open(self.descriptors).map_or(Spliced::Never, Spliced::Pipe);
        }
        match &mut self.spliced {
            Spliced::NotYet | Spliced::Never => self.pump.poll(cx),
            Spliced::Pipe(pipe) => {
                let Some((source, sink)) = self.pump.idle_ends() else {
                    return Poll::Pending;
                };
                let Some(from) = source.tcp() else { return Poll::Pending };
                ready!(pipe.poll(cx, from, sink.tcp()))?;
                source.end();
                self.spliced = Spliced::Done { moved: pipe.moved };
                Poll::Ready(Ok(()))
            }
            Spliced::Done { .. } => match self.pump.idle_ends() {
                Some((source, _)) => match source.poll_broken(cx) {
                    Poll::Ready(error) => Poll::Ready(Err(Fault::Source(error))),
                    Poll::Pending => Poll::Ready(Ok(())),
                },
                None => Poll::Ready(Ok(())),
            },
        }
    }
}

impl Pipe {
    fn open(descriptors: &Descriptors) -> Option<Self> {
        let lease = descriptors.take(2)?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        // A smaller pipe works as well, only slower.
        if let Err(error) = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)) {
            tracing::trace!(%error, "pipe stays at its default size");
        }
        Some(Self {
            reader,
            writer,
            holds: 0,
            ended: false,
            moved: 0,
            _lease: lease,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<Result<(), Fault>> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        loop {
            if self.holds > 0 {
                ready!(to.poll_write_ready(cx)).map_err(sink)?;
                let write = || Ok(splice(&self.reader, None, to, None, self.holds, flags)?);
                match to.try_io(Interest::WRITABLE, write) {
                    Ok(count) => {
                        self.holds = self.holds.saturating_sub(count);
                        self.moved += count as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(sink(error))),
                }
            } else if self.ended {
                SockRef::from(to).shutdown(std::net::Shutdown::Write).map_err(sink)?;
                return Poll::Ready(Ok(()));
            } else {
                ready!(from.poll_read_ready(cx)).map_err(source)?;
                // The pipe is empty, so "would block" can only mean the socket.
                let read = || Ok(splice(from, None, &self.writer, None, READ_BYTES, flags)?);
                match from.try_io(Interest::READABLE, read) {
                    Ok(0) => self.ended = true,
                    Ok(count) => self.holds = count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(source(error))),
                }
            }
        }
    }
}

fn source(error: io::Error) -> Fault {
    Fault::Source(LegError::Tcp(error))
}

fn sink(error: io::Error) -> Fault {
    Fault::Sink(LegError::Tcp(error))
}
