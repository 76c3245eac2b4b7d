//! A server that sends back.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    thread,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Answer, listening};

const BACKLOG: i32 = 4096;
const BUFFER_BYTES: usize = 4096;

/// Serves every connection in one thread until the process ends.
pub(crate) fn serve(listen: SocketAddr, ports: u16) -> Answer<Value> {
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for port in 0..ports {
        let at = SocketAddr::new(listen.ip(), listen.port() + port);
        let mut listener = TcpListener::from_std(listener(at)?);
        let token = Token(listeners.len());
        poll.registry().register(&mut listener, token, Interest::READABLE)?;
        listeners.push(listener);
    }
    let mut served = Served {
        first: listeners.len(),
        ..Served::default()
    };
    listening(listen);
    let mut events = Events::with_capacity(1024);
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        for event in &events {
            match listeners.get(event.token().0) {
                Some(listener) => served.accept(&poll, listener)?,
                None => served.bounce(event.token(), event.is_read_closed()),
            }
        }
    }
}

/// Serves every connection in a blocking thread of its own until the process ends.
pub(crate) fn serve_with_threads(listen: SocketAddr) -> Answer<Value> {
    let listener: std::net::TcpListener = listener(listen)?;
    listener.set_nonblocking(false)?;
    listening(listen);
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        thread::spawn(move || {
            let mut buffer = [0; BUFFER_BYTES];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
    }
}

fn listener(at: SocketAddr) -> Answer<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&at.into())
        .map_err(|error| format!("binding {at}: {error}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Open connections by token; tokens of closed ones are given again.
#[derive(Default)]
struct Served {
    first: usize,
    streams: Vec<Option<TcpStream>>,
    free: Vec<usize>,
}

impl Served {
    fn accept(&mut self, poll: &Poll, listener: &TcpListener) -> Answer<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client has gone again.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let index = self.free.pop().unwrap_or(self.streams.len());
            poll.registry()
                .register(&mut stream, Token(self.first + index), Interest::READABLE)?;
            match self.streams.get_mut(index) {
                Some(place) => *place = Some(stream),
                None => self.streams.push(Some(stream)),
            }
        }
    }

    /// Events are edges: what came together with the end must be read together with it.
    fn bounce(&mut self, token: Token, has_ended: bool) {
        let index = token.0 - self.first;
        let Some(place) = self.streams.get_mut(index) else {
            return;
        };
        if let Some(stream) = place
            && !answer(stream, has_ended)
        {
            *place = None;
            self.free.push(index);
        }
    }
}

/// Sends back what is there; answers whether the connection goes on.
fn answer(stream: &mut TcpStream, has_ended: bool) -> bool {
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => {
                if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                    return false;
                }
                if length < buffer.len() && !has_ended {
                    return true;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}
