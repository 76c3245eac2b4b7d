//! Answering HTTP requests, with everything bounded: connections, heads, bodies, and how long a reader may stand still.
//!
//! One connection carries one request. A port that has as many connections as it may cuts the oldest one for a newcomer, so
//! that readers who never read keep nobody out, and hold no more answers in memory than the port has connections.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    query::Query,
    reply::{self, Reply},
};

/// How long a request's head and body may take to arrive.
const ASKING: Duration = Duration::from_secs(10);
/// How long a reader may take nothing of its answer.
const READING: Duration = Duration::from_secs(30);
/// How long it may take for all of it.
const READING_ALL: Duration = Duration::from_secs(300);
/// Longest head of a request in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// Longest body in bytes; what it says is ignored.
const BODY_BYTES: usize = 16 << 10;
/// Wait after a failed accept, which lacks descriptors as a rule.
const RECOVER: Duration = Duration::from_millis(100);

/// What is served on one port.
pub(super) trait Site: Send + Sync + 'static {
    /// Methods, paths and what they are for.
    const PATHS: &'static [(Method, &'static str, &'static str)];

    /// Those of the paths that answer whatever the method.
    const ANY_METHOD: &'static [&'static str] = &[];

    /// Answers a request for one of the paths.
    fn answer(&self, asked: Asked) -> impl Future<Output = Reply> + Send;
}

/// A request, as far as it matters.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Query,
    /// The header `accept`.
    pub(super) accept: Option<String>,
}

/// Connections of one port; all are cut when it is dropped.
struct Open {
    most: usize,
    oldest_first: VecDeque<AbortHandle>,
}

/// Serves until dropped. At most `most` connections live at a time.
pub(super) async fn serve<S: Site>(listener: TcpListener, site: Arc<S>, most: usize) {
    let mut open = Open {
        most,
        oldest_first: VecDeque::new(),
    };
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => open.admit(|| tokio::spawn(attend(tcp, Arc::clone(&site))).abort_handle()),
            Err(error) => {
                tracing::warn!(%error, "accepting on an admin port");
                sleep(RECOVER).await;
            }
        }
    }
}

impl Open {
    fn admit(&mut self, start: impl FnOnce() -> AbortHandle) {
        self.oldest_first.retain(|connection| !connection.is_finished());
        while self.oldest_first.len() >= self.most {
            let Some(oldest) = self.oldest_first.pop_front() else {
                break;
            };
            tracing::debug!("an admin port is full of slow readers; the oldest one is cut");
            oldest.abort();
        }
        self.oldest_first.push_back(start());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.oldest_first.iter().for_each(AbortHandle::abort);
    }
}

async fn attend<S: Site>(tcp: TcpStream, site: Arc<S>) {
    let taken = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (site, taken) = (&site, Arc::clone(&taken));
        async move {
            let reply = answer(&**site, request).await;
            Ok::<_, Infallible>(reply.map(|body| body.ringing(taken)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKING)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    let late = async {
        taken.notified().await;
        let standing_still = async { while timeout(READING, taken.notified()).await.is_ok() {} };
        // Whichever way it took too long.
        drop(timeout(READING_ALL, standing_still).await);
    };
    tokio::select! {
        served = connection => if let Err(error) = served {
            tracing::debug!(%error, "a connection to an admin port broke");
        },
        () = late => tracing::debug!("an answer of an admin port was not read in time; cut"),
    }
}

async fn answer<S: Site>(site: &S, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    match timeout(ASKING, Limited::new(body, BODY_BYTES).collect()).await {
        Ok(Ok(_ignored)) => {}
        Ok(Err(_)) => return reply::text(StatusCode::PAYLOAD_TOO_LARGE, "no body is wanted\n"),
        Err(_) => return reply::text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive\n"),
    }
    let path = head.uri.path().to_owned();
    let query = match Query::parse(head.uri.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(wrong) => return reply::bad(wrong),
    };
    let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let asked = Asked {
        method: head.method,
        path,
        query,
        accept: accept.map(str::to_owned),
    };
    match refusal::<S>(&asked) {
        Some(refusal) => refusal,
        None => site.answer(asked).await,
    }
}

/// The answer to what is not among the paths.
fn refusal<S: Site>(asked: &Asked) -> Option<Reply> {
    let paths = S::PATHS;
    let here: Vec<&Method> = paths
        .iter()
        .filter(|(_, path, _)| *path == asked.path)
        .map(|(method, ..)| method)
        .collect();
    if here.is_empty() {
        let text = format!("there is no {}; there are:\n{}", asked.path, listed(paths));
        return Some(reply::text(StatusCode::NOT_FOUND, text));
    }
    let fits = |method: &&Method| **method == asked.method || (**method == Method::GET && asked.method == Method::HEAD);
    if here.iter().any(fits) || S::ANY_METHOD.contains(&asked.path.as_str()) {
        return None;
    }
    let allow = here.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
    let text = format!("{} takes {allow}\n", asked.path);
    let mut refusal = reply::text(StatusCode::METHOD_NOT_ALLOWED, text);
    if let Ok(allow) = HeaderValue::from_str(&allow) {
        refusal.headers_mut().insert(header::ALLOW, allow);
    }
    Some(refusal)
}

/// Paths, one a line.
pub(super) fn listed(paths: &[(Method, &'static str, &'static str)]) -> String {
    let width = paths.iter().map(|(_, path, _)| path.len()).max().unwrap_or_default();
    let line = |(method, path, purpose): &(Method, &str, &str)| format!("{method:<5} {path:<width$}  {purpose}\n");
    paths.iter().map(line).collect()
}

#[cfg(test)]
pub(super) mod tests;
