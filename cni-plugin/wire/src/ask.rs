//! One question, one answer, in bounded time.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::{LINE_LIMIT_BYTES, Request, Response};

/// Why an exchange with the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent answers on that socket.
    #[error("no agent answers on {path} (is the agent of this node running, and is this its run directory?)")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The connection failed or ran into the bound.
    #[error("the agent's answer did not arrive within {}s", .bound.as_secs())]
    Exchange {
        /// How long was waited.
        bound: Duration,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The agent said something this version does not understand.
    #[error("the agent's answer is not understood (are plugin and agent of one version?)")]
    Answer(#[source] serde_json::Error),
}

/// Sends one request and waits for its answer, no longer than `bound` for all of it.
pub fn ask(socket: &Path, request: &Request, bound: Duration) -> Result<Response, AskError> {
    let until = Instant::now() + bound;
    let exchange = |cause| AskError::Exchange { bound, cause };
    let mut line = serde_json::to_vec(request).map_err(AskError::Answer)?;
    line.push(b'\n');
    let mut stream = connect(socket, bound).map_err(|cause| match cause.kind() {
        // The queue of a socket that somebody holds and nobody serves is full.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => exchange(cause),
        _ => AskError::Connect {
            path: socket.to_owned(),
            cause,
        },
    })?;
    let answer = speak(&mut stream, &line, until).map_err(exchange)?;
    serde_json::from_slice(&answer).map_err(AskError::Answer)
}

/// Connecting to a unix socket waits for room in its queue, as long as a write may take (unix(7)).
fn connect(path: &Path, bound: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(bound))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

fn speak(stream: &mut UnixStream, line: &[u8], until: Instant) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(line)?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 << 10];
    while !answer.ends_with(b"\n") && (answer.len() as u64) < LINE_LIMIT_BYTES {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => answer.extend(piece.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// What is left until then; never zero, which sockets take for ever.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixListener,
        sync::mpsc::{Receiver, channel},
        thread,
    };

    use super::*;

    const BOUND: Duration = Duration::from_millis(300);

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("isthmus-ask-{name}-{}.sock", std::process::id())))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    fn answering(name: &str, answer: impl FnOnce(UnixStream) + Send + 'static) -> (Place, Receiver<()>) {
        let place = Place::new(name);
        let listener = UnixListener::bind(&place.0).unwrap();
        let (done, ended) = channel();
        thread::spawn(move || {
            answer(listener.accept().unwrap().0);
            done.send(()).unwrap();
        });
        (place, ended)
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let (place, ended) = answering("pieces", |mut stream| {
            for piece in ["{\"answer\"", ":\"done\"}", "\n"] {
                stream.write_all(piece.as_bytes()).unwrap();
            }
        });
        assert_eq!(ask(&place.0, &Request::Ready, BOUND).unwrap(), Response::Done);
        ended.recv().unwrap();
    }

    #[test]
    fn an_agent_that_ends_in_the_middle_has_not_answered() {
        let (place, ended) = answering("half", |mut stream| {
            let mut asked = [0; 64];
            let _read = stream.read(&mut asked).unwrap();
            stream.write_all(b"{\"answer\":\"done\"}").unwrap();
        });
        let error = ask(&place.0, &Request::Ready, BOUND).unwrap_err();
        assert!(matches!(error, AskError::Exchange { .. }), "{error}");
        ended.recv().unwrap();
    }

    #[test]
    fn an_agent_that_trickles_does_not_stretch_the_bound() {
        let (place, ended) = answering("trickle", |mut stream| while stream.write_all(b" ").is_ok() {});
        let began = Instant::now();
        let error = ask(&place.0, &Request::Ready, BOUND).unwrap_err();
        // Either the time or the length of a line came to its end.
        assert!(
            matches!(error, AskError::Exchange { .. } | AskError::Answer(_)),
            "{error}"
        );
        assert!(began.elapsed() < BOUND * 20);
        ended.recv().unwrap();
    }

    #[test]
    fn a_socket_that_is_held_and_not_served_is_given_up_also_when_its_queue_is_full() {
        let place = Place::new("full");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&place.0).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let error = ask(&place.0, &Request::Ready, BOUND).unwrap_err();
        assert!(
            matches!(error, AskError::Exchange { .. }),
            "taken into the queue: {error}"
        );
        let error = ask(&place.0, &Request::Ready, BOUND).unwrap_err();
        assert!(
            matches!(error, AskError::Exchange { .. }),
            "no room in the queue: {error}"
        );
    }

    #[test]
    fn nobody_there_is_told_apart_from_no_answer() {
        let error = ask(Path::new("/nonexistent/agent.sock"), &Request::Ready, BOUND).unwrap_err();
        assert!(matches!(error, AskError::Connect { .. }), "{error}");
    }
}
