//! One byte there and back.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use isthmus_tests::histogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use crate::{
    Answer, PATIENCE, Span,
    window::{self, Place, Window},
};

/// One connection in a blocking thread.
pub(crate) fn one(to: SocketAddr, span: Span) -> Answer<Value> {
    let mut stream = connect(to)?;
    let mut trips = Trips::starting_now(span)?;
    let mut sent = Instant::now();
    loop {
        stream.write_all(&[7]).map_err(|error| format!("sending: {error}"))?;
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .map_err(|error| format!("waiting for the echo: {error}"))?;
        let back = Instant::now();
        if !trips.count(sent, back) {
            return Ok(trips.report());
        }
        sent = back;
    }
}

/// Some connections in one thread, a byte under way on each of them.
pub(crate) fn many(to: SocketAddr, connections: usize, span: Span) -> Answer<Value> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = connect(to)?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, Token(index), Interest::READABLE)?;
        streams.push((stream, Instant::now()));
    }
    let mut trips = Trips::starting_now(span)?;
    for (stream, sent) in &mut streams {
        *sent = Instant::now();
        stream.write_all(&[7])?;
    }
    let mut events = Events::with_capacity(connections);
    loop {
        match poll.poll(&mut events, Some(PATIENCE)) {
            Ok(()) if events.is_empty() => return Err("no echo came any more".into()),
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        for event in &events {
            let Some((stream, sent)) = streams.get_mut(event.token().0) else {
                continue;
            };
            let mut byte = [0; 2];
            match stream.read(&mut byte) {
                Ok(1) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(other) => return Err(format!("{other} bytes came where one was sent").into()),
                Err(error) => return Err(format!("waiting for an echo: {error}").into()),
            }
            let back = Instant::now();
            if !trips.count(*sent, back) {
                return Ok(trips.report());
            }
            *sent = back;
            stream.write_all(&[7])?;
        }
    }
}

/// Connects and has one byte there and back, so that everything on the way is warm.
fn connect(to: SocketAddr) -> Answer<TcpStream> {
    let mut stream =
        TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| format!("connecting to {to}: {error}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[7])?;
    let mut byte = [0];
    stream
        .read_exact(&mut byte)
        .map_err(|error| format!("waiting for the first echo: {error}"))?;
    Ok(stream)
}

/// Trips that ended in the window.
struct Trips {
    window: Window,
    place: Place,
    seen: Histogram,
}

impl Trips {
    fn starting_now(span: Span) -> Answer<Self> {
        Ok(Self {
            window: Window::starting_now(span)?,
            place: Place::Before,
            seen: Histogram::default(),
        })
    }

    /// Answers whether to go on.
    fn count(&mut self, sent: Instant, back: Instant) -> bool {
        let place = self.window.place(back);
        if place != self.place {
            if self.place == Place::Before {
                window::begins();
            }
            if place == Place::After {
                window::ends();
            }
            self.place = place;
        }
        if place == Place::Within {
            self.seen.record(back - sent);
        }
        place != Place::After
    }

    fn report(&self) -> Value {
        let us = |share| self.seen.quantile(share).as_secs_f64() * 1e6;
        json!({
            "trips": self.seen.total(),
            "seconds": self.window.seconds(),
            "p50_us": us(0.5),
            "p99_us": us(0.99),
            "p999_us": us(0.999),
        })
    }
}
