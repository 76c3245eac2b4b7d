//! The agent's unix socket: enrol, release, status. One request a connection; see `isthmus_wire`.

use std::{io, sync::Arc, time::Duration};

use isthmus_wire::{LINE_LIMIT_BYTES, Request, Response};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{pods::Pods, status::Desk};

/// How long an asker may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Askers at a time; more wait in the socket's queue.
const AT_ONCE: usize = 64;

/// Serves askers until dropped.
pub async fn serve(listener: UnixListener, pods: Pods, desk: Desk) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (pods, desk) = (pods.clone(), desk.clone());
                tokio::spawn(async move {
                    if let Err(error) = attend(stream, &pods, &desk).await {
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

async fn attend(mut stream: UnixStream, pods: &Pods, desk: &Desk) -> io::Result<()> {
    let mut line = String::new();
    let (reading, mut writing) = stream.split();
    timeout(
        PATIENCE,
        BufReader::new(reading.take(LINE_LIMIT_BYTES)).read_line(&mut line),
    )
    .await??;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(request, pods, desk).await,
        Err(error) => Response::Refused {
            reason: format!("the request is not understood: {error}"),
            retriable: false,
        },
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    timeout(PATIENCE, writing.write_all(&text)).await?
}

async fn answer(request: Request, pods: &Pods, desk: &Desk) -> Response {
    match request {
        Request::Enrol(pod) => pods.enrol(pod).await,
        Request::Release { uid } => pods.release(uid).await,
        Request::Status => Response::Status(desk.status().await),
    }
}
