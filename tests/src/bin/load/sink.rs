//! A server that reads.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use serde_json::Value;

use crate::{Answer, listening};

/// Bytes of each read and each write of a bulk transfer.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// Serves until the process ends.
pub(crate) fn serve(listen: SocketAddr) -> Answer<Value> {
    let listener = TcpListener::bind(listen)?;
    listening(listen);
    loop {
        let (stream, _) = listener.accept()?;
        // A client that resets its connection is an ordinary client.
        thread::spawn(move || count(stream).is_ok());
    }
}

fn count(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(&[1])?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut count = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => count += length as u64,
        }
    }
    stream.write_all(&count.to_be_bytes())?;
    stream.shutdown(Shutdown::Write)
}
