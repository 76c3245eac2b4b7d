//! Bulk: as many bytes as go through.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Answer, PATIENCE, sink::CHUNK_BYTES, window};

/// How long what lies in buffers may take to arrive.
const DRAIN: Duration = Duration::from_secs(60);

/// Sends on every stream for so many seconds. What is reported is all that was sent, and the time until the sink had
/// counted all of it: what still lies in buffers is not yet carried, and on a busy machine that is much.
pub(crate) fn run(to: SocketAddr, streams: usize, seconds: f64) -> Answer<Value> {
    let ready = (0..streams).map(|_| connect(to)).collect::<Answer<Vec<_>>>()?;
    let span = Duration::try_from_secs_f64(seconds)?;
    window::begins();
    let begin = Instant::now();
    let senders: Vec<_> = ready
        .into_iter()
        .map(|stream| thread::spawn(move || send(stream, begin + span)))
        .collect();
    let mut bytes = 0;
    for sender in senders {
        bytes += sender.join().map_err(|_| "a sending thread panicked")??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    window::ends();
    Ok(json!({ "bytes": bytes, "seconds": seconds }))
}

fn connect(to: SocketAddr) -> Answer<TcpStream> {
    let mut stream =
        TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| format!("connecting to {to}: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut hello = [0];
    stream
        .read_exact(&mut hello)
        .map_err(|error| format!("waiting for the sink's hello: {error}"))?;
    Ok(stream)
}

/// Answers how many bytes have arrived.
fn send(mut stream: TcpStream, end: Instant) -> Answer<u64> {
    let chunk: Vec<u8> = (0..=u8::MAX).cycle().take(CHUNK_BYTES).collect();
    let mut sent = 0;
    while Instant::now() < end {
        stream.write_all(&chunk).map_err(|error| format!("sending: {error}"))?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(DRAIN))?;
    let mut counted = [0; 8];
    stream
        .read_exact(&mut counted)
        .map_err(|error| format!("waiting for the sink's count: {error}"))?;
    let counted = u64::from_be_bytes(counted);
    if counted != sent {
        return Err(format!("{sent} bytes were sent and {counted} arrived").into());
    }
    Ok(sent)
}
