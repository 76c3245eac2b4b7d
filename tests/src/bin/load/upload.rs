//! Bulk: as many bytes as go through.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{Answer, PATIENCE, Span, sink::CHUNK_BYTES, window::Window};

/// Sends on every stream until the window ends; the sink's counts must be what was sent.
pub(crate) fn run(to: SocketAddr, streams: usize, span: Span) -> Answer<Value> {
    let ready = (0..streams).map(|_| connect(to)).collect::<Answer<Vec<_>>>()?;
    let is_over = Arc::new(AtomicBool::new(false));
    let (failed, failures) = mpsc::channel();
    let window = Window::starting_now(span)?;
    let senders: Vec<_> = ready
        .into_iter()
        .map(|stream| {
            let (is_over, failed) = (Arc::clone(&is_over), failed.clone());
            thread::spawn(move || send_and_tell(stream, &is_over, &failed))
        })
        .collect();
    drop(failed);
    window.watch(&failures)?;
    is_over.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().map_err(|_| "a sending thread panicked")?;
    }
    if let Ok(failure) = failures.try_recv() {
        return Err(failure.into());
    }
    Ok(json!({ "streams": streams, "seconds": window.seconds() }))
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

fn send_and_tell(stream: TcpStream, is_over: &AtomicBool, failed: &Sender<String>) {
    if let Err(failure) = send(stream, is_over) {
        // Nobody listens any more when another stream failed before.
        let _ended = failed.send(failure.to_string());
    }
}

fn send(mut stream: TcpStream, is_over: &AtomicBool) -> Answer<()> {
    let chunk: Vec<u8> = (0..=u8::MAX).cycle().take(CHUNK_BYTES).collect();
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        stream.write_all(&chunk).map_err(|error| format!("sending: {error}"))?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut counted = [0; 8];
    stream
        .read_exact(&mut counted)
        .map_err(|error| format!("waiting for the sink's count: {error}"))?;
    let counted = u64::from_be_bytes(counted);
    if counted != sent {
        return Err(format!("{sent} bytes were sent and {counted} arrived").into());
    }
    Ok(())
}
