//! What the connections of a scripted istiod and the test that scripts it have in common.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::broadcast;
use tonic::{Code, Status, metadata::MetadataMap};

use super::{
    certificates::Signer,
    resource::{Kind, News, Resources},
    script::{Answer, Script},
    seen::{Event, Seen},
    wire,
};
use crate::lab::lock;

/// News that a slow stream may lag behind before it is ended.
const NEWS: usize = 8192;

/// Something that happens to all connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// They are closed without a word.
    Drop,
    /// They are told to go away (GOAWAY), as at the end of their greatest age.
    GoAway,
}

/// Everything.
pub(super) struct Shared {
    script: Mutex<Script>,
    resources: Mutex<Resources>,
    seen: Mutex<Vec<Seen>>,
    progress: Mutex<Progress>,
    pub(super) signer: Mutex<Arc<Signer>>,
    news: broadcast::Sender<Arc<News>>,
    pub(super) blows: broadcast::Sender<Blow>,
    /// Bytes that may yet be written before a connection is cut.
    pub(super) left: Arc<AtomicU64>,
    numbers: AtomicU64,
}

/// How far streams are.
#[derive(Default)]
pub(super) struct Progress {
    /// By stream and kind: the number of the change that was answered last.
    answered: BTreeMap<(u64, Kind), u64>,
    /// By nonce: when it was sent, and the number of the change in it.
    under_way: HashMap<String, (Instant, u64)>,
    /// From sent to acknowledged, of changes.
    lags: Vec<Duration>,
}

impl Progress {
    fn streams(&self) -> usize {
        let count = |wanted| self.answered.keys().filter(|(_, kind)| *kind == wanted).count();
        count(Kind::Address).min(count(Kind::Authorization))
    }
}

impl Shared {
    pub(super) fn new(script: Script, signer: Signer) -> Self {
        Self {
            script: Mutex::new(script),
            resources: Mutex::default(),
            seen: Mutex::default(),
            progress: Mutex::default(),
            signer: Mutex::new(Arc::new(signer)),
            news: broadcast::channel(NEWS).0,
            blows: broadcast::channel(16).0,
            left: Arc::new(AtomicU64::new(wire::NEVER)),
            numbers: AtomicU64::new(1),
        }
    }

    pub(super) fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut lock(&self.script))
    }

    pub(super) fn resources<T>(&self, look: impl FnOnce(&Resources) -> T) -> T {
        look(&lock(&self.resources))
    }

    /// Changes resources and tells streams.
    pub(super) fn change(&self, change: impl FnOnce(&mut Resources) -> Option<News>) {
        let mut resources = lock(&self.resources);
        if let Some(news) = change(&mut resources) {
            // Nobody listens when no agent is connected. Sent under the lock, so that news come in their order.
            let _listeners = self.news.send(Arc::new(news));
        }
    }

    pub(super) fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn note(&self, event: Event) {
        let at = Instant::now();
        lock(&self.seen).push(Seen { at, event });
    }

    pub(super) fn seen<T>(&self, look: impl FnOnce(&[Seen]) -> T) -> T {
        look(&lock(&self.seen))
    }

    /// What becomes of a call; `Err` when it is refused, also for what the caller did not show.
    pub(super) fn admit(&self, headers: &MetadataMap, answer: &Answer) -> Result<(), Status> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (tokens, cluster) = self.script(|script| (script.tokens.clone(), script.cluster.clone()));
        let token = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let refused = if !token.is_some_and(|token| tokens.contains(token)) {
            Err(Status::unauthenticated("authentication failure"))
        } else if text("clusterid") != Some(&cluster) {
            Err(Status::unauthenticated("could not get cluster's kube client"))
        } else if let Answer::Refused(code, message) = answer {
            Err(Status::new(*code, message.clone()))
        } else {
            Ok(())
        };
        if let Err(status) = &refused {
            self.refused(status);
        }
        refused
    }

    pub(super) fn refused(&self, status: &Status) {
        let reason = format!("{}: {}", code_name(status.code()), status.message());
        self.note(Event::Refused { reason });
    }

    /// A response has gone out; `change` is the newest change in it.
    pub(super) fn sent(&self, nonce: &str, change: u64) {
        let mut progress = lock(&self.progress);
        progress.under_way.insert(nonce.to_owned(), (Instant::now(), change));
    }

    /// A response was answered, well or not.
    pub(super) fn answered(&self, stream: u64, kind: Kind, nonce: &str) {
        let mut progress = lock(&self.progress);
        if let Some((sent, change)) = progress.under_way.remove(nonce) {
            progress.lags.push(sent.elapsed());
            let answered = progress.answered.entry((stream, kind)).or_default();
            *answered = change.max(*answered);
        }
    }

    /// A stream has asked for a kind.
    pub(super) fn asked(&self, stream: u64, kind: Kind) {
        lock(&self.progress).answered.entry((stream, kind)).or_default();
    }

    /// A stream has ended.
    pub(super) fn ended(&self, stream: u64) {
        lock(&self.progress).answered.retain(|(its, _), _| *its != stream);
        self.note(Event::Closed { stream });
    }

    /// Streams that have asked for both kinds.
    pub(super) fn streams(&self) -> usize {
        lock(&self.progress).streams()
    }

    /// Whether there are so many streams, and each has answered the newest change of each kind.
    pub(super) fn is_served(&self, streams: usize) -> bool {
        let newest = lock(&self.resources).newest();
        let progress = lock(&self.progress);
        progress.streams() == streams
            && (progress.answered.iter()).all(|((_, kind), number)| *number >= newest(*kind).max(1))
    }

    /// All streams are gone with the process that served them.
    pub(super) fn forget_streams(&self) {
        let mut progress = lock(&self.progress);
        progress.answered.clear();
        progress.under_way.clear();
    }

    /// From sent to acknowledged, of every response since the last time this was asked.
    pub(super) fn lags(&self) -> Vec<Duration> {
        std::mem::take(&mut lock(&self.progress).lags)
    }
}

fn code_name(code: Code) -> String {
    format!("{code:?}")
}
