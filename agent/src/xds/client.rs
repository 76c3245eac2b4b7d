//! One stream with istiod after the other, for the life of the agent.
//!
//! A stream is opened, asked, listened to until it ends, and then the next one is. Token and roots are read anew for each.
//! What istiod told before stays as it is meanwhile: connections go on, and new ones are decided by it.

use std::{
    convert::Infallible,
    error::Error as _,
    mem,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::{
    back_off::{self, BackOff, Ending},
    counters::{Counters, Termination},
    held::Held,
    kind::Kind,
    node::Node,
    response::{Garbage, Responses},
    session::{Manner, OutOfOrder, Session, Taken, begin_of},
    store::Store,
    stream::{Answers, Requests, Unread, is_go_away, requests},
    told::{State, Told},
    wanted::Wanted,
};
use crate::{
    istiod::{ConnectError, Contact, TokenError},
    mesh::{Asks, watch::GOOD},
    tls::with_causes,
};

/// Bytes of a first request: istiod takes 4 MiB as a rule (gRPC's default), and the request has more in it than what is
/// listed.
const RESUME_BYTES: usize = 3_584 << 10;
/// Below this it is not worth listing anything.
const LEAST_RESUME_BYTES: usize = 64 << 10;
/// How long istiod may keep silent to first requests; doubled when it did, because a busy one gets no faster by being asked
/// again. A connection that is dead is noticed earlier, by its pings.
const PATIENCE: Duration = Duration::from_secs(60);
/// No patience is longer.
const MOST_PATIENCE: Duration = Duration::from_secs(600);
/// What fails again for the same reason sooner than this is not logged again.
const OFTEN: Duration = Duration::from_secs(5);
/// Bytes of an error that are kept.
const MOST_ERROR_BYTES: usize = 1 << 10;

/// What the client is made of.
#[derive(Debug)]
pub struct ClientParts {
    /// istiod.
    pub contact: Contact,
    /// Who we are.
    pub node: Node,
    /// What is known already, and where the rest goes.
    pub held: Held,
    /// Where questions come from when workloads and services are asked for one by one; none when all are asked for.
    pub asks: Option<Asks>,
    /// Metrics.
    pub counters: Arc<Counters>,
    /// When what `held` holds was written to disk, if it was loaded from there.
    pub resumed_from_disk: Option<SystemTime>,
    /// Where what istiod tells is written to.
    pub store: Option<Store>,
}

/// The client.
#[derive(Debug)]
pub struct Client {
    parts: ClientParts,
    /// What is asked for one by one.
    wanted: Option<Wanted>,
    told: watch::Sender<Told>,
    /// [`GOOD`] or what is wrong.
    state: watch::Sender<String>,
    back_off: BackOff,
    resume_bytes: usize,
    patience: Duration,
    /// Something has changed that the store does not know of.
    unstored: bool,
}

/// What a client tells while it runs.
#[derive(Clone, Debug)]
pub struct News {
    /// All of it.
    pub told: watch::Receiver<Told>,
    /// [`GOOD`], or what is wrong.
    pub state: watch::Receiver<String>,
}

/// Why a stream ended or was not opened.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("istiod ended the stream: {:?}: {}", .0.code(), .0.message())]
    Status(Status),
    #[error("istiod ended the stream without an error")]
    Complete,
    #[error("istiod has not answered the first requests within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("what istiod sends is no response of discovery")]
    Garbage(#[from] Garbage),
    #[error("what istiod sends is no response of discovery")]
    OutOfOrder(#[from] OutOfOrder),
    #[error(transparent)]
    Unread(#[from] Unread),
}

impl Client {
    /// A client that does nothing yet.
    #[must_use]
    pub fn new(mut parts: ClientParts) -> (Self, News) {
        let mut wanted = parts.asks.take().map(Wanted::new);
        if let Some(wanted) = wanted.as_mut().filter(|_| parts.resumed_from_disk.is_some()) {
            wanted.release();
        }
        let address = parts.contact.uri().to_string();
        let first = match parts.resumed_from_disk {
            Some(_) => GOOD.to_owned(),
            None => format!("{address} has not told of the mesh yet"),
        };
        let (state, state_seen) = watch::channel(first);
        let (told, told_seen) = watch::channel(Told {
            resumed_from_disk: parts.resumed_from_disk,
            on_demand: wanted.as_ref().map(Wanted::told_of),
            ..Told::new(address)
        });
        let client = Self {
            parts,
            wanted,
            told,
            state,
            back_off: BackOff::default(),
            resume_bytes: RESUME_BYTES,
            patience: PATIENCE,
            unstored: false,
        };
        let news = News {
            told: told_seen,
            state: state_seen,
        };
        (client, news)
    }

    /// Follows istiod until `ending`; then writes to disk what was not written yet.
    pub async fn run(mut self, ending: impl Future<Output = ()>) {
        tokio::select! {
            never = self.follow() => match never {},
            () = ending => {}
        }
        if let Some(store) = &mut self.parts.store {
            store.finish().await;
            if store.is_due() {
                store.write(|| self.parts.held.contents()).await;
            }
            store.finish().await;
        }
    }

    async fn follow(&mut self) -> Infallible {
        loop {
            let begun = Instant::now();
            let mut answered = false;
            let ended = match self.stream(&mut answered).await {
                Ok(never) => match never {},
                Err(ended) => ended,
            };
            if let Some(wanted) = &mut self.wanted {
                wanted.end();
            }
            let ending = Ending {
                manner: ended.manner(),
                answered,
                lived: begun.elapsed(),
            };
            self.learn(&ended, answered);
            let wait = self.back_off.after(ending, rand::random_range(0.0..=1.0));
            self.tell_end(&ended, ending, wait);
            let waited = sleep(wait);
            tokio::pin!(waited);
            while self.or_else(&mut waited).await.is_none() {}
            self.told.send_modify(|told| {
                told.reconnects += 1;
                told.turn(State::Connecting);
            });
        }
    }

    /// One stream, from its opening to its end.
    async fn stream(&mut self, answered: &mut bool) -> Result<Infallible, Ended> {
        let contact = self.parts.contact.clone();
        let headers = contact.headers()?;
        let connecting = contact.connect();
        tokio::pin!(connecting);
        let channel = loop {
            if let Some(connected) = self.or_else(&mut connecting).await {
                break connected?;
            }
        };
        let manner = Manner {
            on_demand: self.wanted.as_mut().map(Wanted::begin),
            resume_bytes: self.resume_bytes,
        };
        let (mut session, first) = Session::open(&self.parts.node, manner, &mut self.parts.held);
        let (requests, body) = requests();
        let mut listed = 0;
        for request in first {
            listed += request.initial_resource_versions.len();
            requests.send(&request)?;
        }
        debug!(istiod = %self.parts.contact.uri(), listed, "connected; asking for the mesh");
        self.told.send_modify(|told| {
            told.connected_since = Some(SystemTime::now());
            told.turn(State::Syncing);
        });
        let patience = self.patience;
        let opening = async {
            let mut answers = Answers::call(channel, headers, body).await?;
            let first = answers.next().await?;
            Ok::<_, Status>((answers, first))
        };
        let opening = timeout(patience, opening);
        tokio::pin!(opening);
        let (mut answers, first) = loop {
            if let Some(opened) = self.or_else(&mut opening).await {
                break opened.map_err(|_| Ended::Silent(patience))??;
            }
        };
        let mut responses = Responses::default();
        let mut chunk = first.ok_or(Ended::Complete)?;
        loop {
            self.take(chunk, &mut responses, &mut session, &requests)?;
            *answered = session.is_answered();
            // A whole mesh is some thousand chunks, and others want this thread as well.
            tokio::task::yield_now().await;
            chunk = loop {
                self.demand(&requests)?;
                if let Some(next) = self.or_else(answers.next()).await {
                    break next?.ok_or(Ended::Complete)?;
                }
            };
        }
    }

    /// Waits for something, or does what else is due: to write to disk, to hear what is asked for. Nothing is lost of what
    /// is not waited for to the end.
    async fn or_else<F: Future>(&mut self, awaited: F) -> Option<F::Output> {
        let Self { parts, wanted, .. } = self;
        let to_store = async {
            match &parts.store {
                Some(store) => store.due().await,
                None => std::future::pending().await,
            }
        };
        let asked = async {
            match wanted {
                Some(wanted) => wanted.stir().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = awaited => return Some(done),
            () = to_store => {
                if let Some(store) = &mut parts.store {
                    store.write(|| parts.held.contents()).await;
                }
            }
            () = asked => self.hear(),
        }
        None
    }

    /// Takes in what is asked for, and tells of it.
    fn hear(&mut self) {
        let Some(wanted) = &mut self.wanted else { return };
        wanted.look();
        let now = Some(wanted.told_of());
        self.told
            .send_if_modified(|told| std::mem::replace(&mut told.on_demand, now) != now);
    }

    /// Says to istiod what is asked for now, and what not any more.
    fn demand(&mut self, requests: &Requests) -> Result<(), Ended> {
        self.hear();
        let Some(wanted) = &mut self.wanted else { return Ok(()) };
        let dropped = wanted.tidy(&mut self.parts.held, &self.parts.node.node_name);
        if dropped > 0 {
            info!(dropped, "what no pod has used for long is given up");
            if let Some(store) = &mut self.parts.store {
                store.changed();
            }
        }
        if requests.has_room() {
            for request in wanted.requests(&self.parts.held) {
                requests.send(&request)?;
            }
        }
        Ok(())
    }

    /// Takes what arrived, and answers what is complete.
    fn take(
        &mut self,
        chunk: Bytes,
        responses: &mut Responses,
        session: &mut Session,
        requests: &Requests,
    ) -> Result<(), Ended> {
        responses.feed(chunk);
        while let Some(event) = responses.event()? {
            if let Some(taken) = session.take(event, &mut self.parts.held)? {
                self.answer(&taken);
                if let Some(answer) = &taken.answer {
                    requests.send(answer)?;
                }
                self.tell(&taken);
            }
        }
        Ok(())
    }

    /// Lets those go on who waited for what istiod has said now.
    fn answer(&mut self, taken: &Taken) {
        let Some(wanted) = &mut self.wanted else { return };
        if taken.synced {
            wanted.release();
        }
        if taken.kind == Some(Kind::Address) {
            wanted.told(&taken.there, &taken.gone);
        }
        self.hear();
    }

    fn tell(&mut self, taken: &Taken) {
        let Taken {
            url,
            kind,
            synced,
            bytes,
            upserted,
            removed,
            swept,
            rejected,
            healed,
            is_first,
            there: _,
            gone: _,
            answer: _,
        } = taken;
        self.parts.counters.message(*kind, *bytes);
        for rejected in rejected {
            warn!(
                name = rejected.name,
                reason = rejected.reason,
                "a resource of istiod is not taken"
            );
        }
        let Some(kind) = *kind else {
            info!(
                url = begin_of(url, MOST_ERROR_BYTES),
                "istiod tells of what nobody asked for"
            );
            return;
        };
        self.patience = PATIENCE;
        self.unstored |= upserted + removed + *swept as u64 > 0;
        // What is not complete is no mesh to begin with.
        if let Some(store) = &mut self.parts.store
            && *synced
            && mem::take(&mut self.unstored)
        {
            store.changed();
        }
        debug!(?kind, bytes, upserted, removed, swept, "told by istiod");
        if *swept > 0 {
            info!(?kind, swept, "what istiod does not have any more is dropped");
        }
        self.told.send_modify(|told| {
            told.of_mut(kind).took(rejected, healed, *is_first);
            if *synced && told.state != State::Synced {
                told.last_error = None;
                told.turn(State::Synced);
            }
        });
        if *synced
            && self
                .state
                .send_if_modified(|state| *state != GOOD && replace(state, GOOD))
        {
            let [workloads, services, policies] = self.parts.held.sizes();
            info!(workloads, services, policies, "the mesh is as istiod tells it");
        }
    }

    /// What the next stream does differently.
    fn learn(&mut self, ended: &Ended, answered: bool) {
        match ended {
            Ended::Silent(patience) => self.patience = (*patience * 2).min(MOST_PATIENCE),
            Ended::Status(status) if !answered && is_too_large(status) && self.resume_bytes > 0 => {
                self.resume_bytes /= 2;
                if self.resume_bytes < LEAST_RESUME_BYTES {
                    self.resume_bytes = 0;
                }
                warn!(
                    most_bytes = self.resume_bytes,
                    "istiod takes no request of this size; less of what is held is listed, and sent again instead"
                );
            }
            _ => {}
        }
    }

    fn tell_end(&self, ended: &Ended, ending: Ending, wait: Duration) {
        let error = ended.text();
        let error = begin_of(&error, MOST_ERROR_BYTES).to_owned();
        self.parts.counters.termination(ended.termination());
        let is_failure = ending.manner != back_off::Manner::Clean || !ending.answered;
        if is_failure {
            let is_new = self
                .state
                .send_if_modified(|state| *state != error && replace(state, &error));
            if is_new || wait >= OFTEN {
                warn!(error, again_after = ?wait, "no stream with istiod; what it told before serves on");
            }
        } else {
            info!(lived = ?ending.lived, "istiod ended the stream; asking again");
        }
        self.told.send_modify(|told| {
            told.connected_since = None;
            told.last_error = is_failure.then_some(error);
            told.turn(State::Waiting {
                until: Instant::now() + wait,
            });
        });
    }
}

fn replace(state: &mut String, text: &str) -> bool {
    text.clone_into(state);
    true
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Ended {
    /// With causes. A status that this side made up, because the connection broke, says in its own what happened.
    fn text(&self) -> String {
        match self {
            Self::Status(status) => {
                let cause = status.source().map(with_causes);
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{self}{cause}")
            }
            other => with_causes(other),
        }
    }

    fn manner(&self) -> back_off::Manner {
        use back_off::Manner::{Clean, Failed, Ordinary};
        match self {
            Self::Complete => Clean,
            Self::Status(status) if is_go_away(status) => Clean,
            Self::Status(status) => match status.code() {
                Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => Ordinary,
                Code::Unavailable
                    if ["transport is closing", "received prior goaway"]
                        .iter()
                        .any(|text| status.message().contains(text)) =>
                {
                    Ordinary
                }
                _ => Failed,
            },
            _ => Failed,
        }
    }

    fn termination(&self) -> Termination {
        match (self, self.manner()) {
            (Self::Connect(_) | Self::Token(_), _) => Termination::ConnectionError,
            (_, back_off::Manner::Clean) => Termination::Complete,
            (_, back_off::Manner::Ordinary) => Termination::Reconnect,
            (_, back_off::Manner::Failed) => Termination::Error,
        }
    }
}

/// Whether a message of ours was larger than its reader takes. A limit of requests per second has the same code.
fn is_too_large(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) && !status.message().contains("rate limit")
}

#[cfg(test)]
mod tests;
