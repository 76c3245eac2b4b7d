//! The agent's unix socket: what the CNI plugin asks, enrol, release, status. One request a connection; see
//! `isthmus_wire`.

pub mod additions;
pub mod admission;
mod turns;

use std::{io, sync::Arc, time::Duration};

use isthmus_wire::{LINE_LIMIT_BYTES, Request, Response};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use self::additions::Additions;
use crate::status::Desk;

/// How long an asker may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Askers at a time; more wait in the socket's queue. More than pods start on a node at once: each may wait for its
/// certificate, and status must not wait for them.
const AT_ONCE: usize = 512;

/// Serves askers until dropped.
pub async fn serve(listener: UnixListener, additions: Additions, desk: Desk) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (additions, desk) = (additions.clone(), desk.clone());
                tokio::spawn(async move {
                    if let Err(error) = attend(stream, &additions, &desk).await {
                        tracing::debug!(%error, "an asker on the control socket went away");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn attend(mut stream: UnixStream, additions: &Additions, desk: &Desk) -> io::Result<()> {
    let mut line = String::new();
    let (reading, mut writing) = stream.split();
    timeout(
        PATIENCE,
        BufReader::new(reading.take(LINE_LIMIT_BYTES)).read_line(&mut line),
    )
    .await??;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(request, additions, desk).await,
        Err(error) => Response::Refused {
            reason: format!("the request is not understood: {error}"),
            retriable: false,
        },
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    timeout(PATIENCE, writing.write_all(&text)).await?
}

async fn answer(request: Request, additions: &Additions, desk: &Desk) -> Response {
    match request {
        Request::Add(pod) => additions.add(pod).await,
        Request::Delete { uid, netns } => additions.pods().delete(uid, netns).await,
        Request::Check(pod) => additions.check(pod).await,
        Request::Ready => ready(&desk.pending_for_pods()),
        Request::Enrol(pod) => additions.pods().enrol(pod).await,
        Request::Release { uid } => additions.pods().release(uid).await,
        Request::Status => Response::Status(desk.status().await),
    }
}

fn ready(pending: &[&str]) -> Response {
    if pending.is_empty() {
        return Response::Done;
    }
    Response::Refused {
        reason: format!("the agent is not ready, waiting for: {}", pending.join(", ")),
        retriable: true,
    }
}
