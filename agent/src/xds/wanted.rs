//! Names that istiod is asked for one by one: who waits for which, what it said of them, and which are not used any more.
//!
//! istiod follows a resource, not a question. It pushes what becomes of a resource it has sent, but a name it had nothing
//! for stays without an answer when there is something at last, and of a service's endpoints it pushes those it has named
//! before, not those that came later (pilot/pkg/xds/workload.go, `generateDeltasOndemand`: what has changed is
//! intersected with the names that are followed, and what changes are called by are uids and host names). Hence answers
//! grow old, and what is in use is asked for again. istiod answers a name it follows already only when it was
//! unsubscribed from before. And a request that asks for nothing it answers as if everything it follows had gone (there
//! the same function gives no delta, and `pushDeltaXds` fills in): so whatever is unsubscribed from, something is asked
//! for.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use isthmus_istio::discovery::DeltaDiscoveryRequest;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{held::Held, kind::Kind, told::OnDemand};
use crate::mesh::demand::{Ask, Asks, Need, Unanswered, WAIT, Want};

/// What is asked for where nothing is wanted. There is no such service (RFC 2606 §2).
const NOTHING: &str = "isthmus/nothing.invalid";
/// How long it is believed that there is nothing under a name. What comes later is passed by in clear until then, as it is
/// by an agent that is told of it so much later.
const BELIEVED: Duration = Duration::from_secs(5);
/// How old the endpoints of a service in use may be. Those that have gone are told of at once.
const REFRESHED: Duration = Duration::from_secs(10);
/// How long an answer that is too old is waited for anew before the old one holds.
const RECHECK: Duration = Duration::from_secs(1);
/// A question without an answer is repeated after so long, when somebody has it again.
const REPEATED: Duration = Duration::from_secs(2);
/// A name that nobody has used for so long is given up.
const IDLE: Duration = Duration::from_secs(600);
/// How often that is looked at.
const TIDY: Duration = Duration::from_secs(60);
/// Most names: who tries every address of a network must not make the agent hold all of them. A node's pods talk to some
/// hundreds.
const MOST: usize = 8192;
/// With this many, so many of the least recently used are given up.
const SURPLUS: usize = MOST / 8;
/// Endpoints listed in one request, about: well below the size that istiod takes.
const MOST_LISTED: usize = 8192;
/// Connections that may wait at once.
const MOST_WAITING: usize = 65_536;

/// All names, for the life of the agent.
#[derive(Debug)]
pub(super) struct Wanted {
    asks: Asks,
    names: HashMap<Arc<str>, Name>,
    waiting: Vec<Waiting>,
    /// Names to be asked for on this stream.
    due: Vec<Arc<str>>,
    /// Names to be given up on this stream.
    dropped: Vec<String>,
    line: Line,
    /// Names there was nothing for when istiod last said something.
    absent: usize,
    /// Until policies are known too, what istiod tells is not published and decides nothing.
    is_withheld: bool,
    tidy: Instant,
    /// From when on what nobody asked for is given up: what was loaded from disk may be asked for yet.
    settled: Instant,
}

/// The way to istiod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Closed,
    /// The first request was sent.
    Opening,
    /// It was answered.
    Open,
}

#[derive(Debug)]
struct Name {
    used: Instant,
    /// When istiod last said what there is; none when it never did, or when what it said holds no more.
    answered: Option<Instant>,
    /// Whether there was anything.
    found: bool,
    /// An answer is waited for.
    is_asked: bool,
    /// istiod follows it on this stream: it was asked for, or is the name of a resource that was sent or removed.
    is_followed: bool,
    /// When it was asked for last.
    said: Option<Instant>,
    /// A pod served here.
    is_own: bool,
}

/// A connection that waits.
#[derive(Debug)]
struct Waiting {
    names: Vec<Arc<str>>,
    by: Instant,
    /// All of them were answered before.
    remembered: bool,
    answer: oneshot::Sender<Result<(), Unanswered>>,
}

impl Wanted {
    /// Nothing was asked yet.
    pub(super) fn new(asks: Asks) -> Self {
        let now = Instant::now();
        Self {
            asks,
            names: HashMap::new(),
            waiting: Vec::new(),
            due: Vec::new(),
            dropped: Vec::new(),
            line: Line::Closed,
            absent: 0,
            is_withheld: true,
            tidy: now + TIDY,
            settled: now + IDLE,
        }
    }

    /// Waits until something is to be done, and takes it in. Nothing is lost when this is dropped before it resolves.
    pub(super) async fn stir(&mut self) {
        let waits = self.waiting.iter().map(|waiting| waiting.by);
        // Without a stream nothing is tidied.
        let due = waits.chain((self.line == Line::Open).then_some(self.tidy)).min();
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ask = self.asks.next() => self.hear(ask, Instant::now()),
            () = due => {}
        }
    }

    /// Takes in all questions that are there, and ends the waits that are over.
    pub(super) fn look(&mut self) {
        while let Some(ask) = self.asks.next_now() {
            self.hear(ask, Instant::now());
        }
        let now = Instant::now();
        if self.waiting.iter().any(|waiting| waiting.by <= now) {
            self.settle(now);
        }
    }

    /// A stream begins: the names to be asked for at once. These are the ones that somebody waits for, and those there was
    /// nothing for. What was found under the others is resumed by itself, as a resource.
    pub(super) fn begin(&mut self) -> Vec<String> {
        self.line = Line::Opening;
        self.due.clear();
        self.dropped.clear();
        let mut asked = Vec::new();
        for (text, name) in &mut self.names {
            name.is_asked |= name.answered.is_some() && !name.found;
            name.is_followed = name.is_asked;
            name.said = None;
            if name.is_asked {
                asked.push(text.to_string());
            }
        }
        asked
    }

    /// The stream has ended, or could not be opened. Whoever can go by an older answer does so.
    pub(super) fn end(&mut self) {
        self.line = Line::Closed;
        self.settle(Instant::now());
    }

    /// What istiod told serves: it is published as it comes.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.is_withheld) {
            self.settle(Instant::now());
        }
    }

    /// A response is taken, which has something under the names `there` and nothing under those of `gone`.
    pub(super) fn told(&mut self, there: &[String], gone: &[String]) {
        let now = Instant::now();
        // For a name only the end is pushed of what was found under it. What took its place must be asked for, at once.
        let asked = |text: &String| text == NOTHING || self.names.get(text.as_str()).is_some_and(|name| name.is_asked);
        if !gone.iter().all(asked) {
            for name in self.names.values_mut().filter(|name| name.found && !name.is_asked) {
                name.answered = None;
            }
        }
        // The endpoints of a service have come with it, under whatever name it was asked for.
        for (texts, found) in [(gone, false), (there, true)] {
            for text in texts {
                let is_known = self.names.contains_key(text.as_str());
                if is_known || (is_service(text) && text != NOTHING) {
                    let name = self.insert(text.as_str().into(), now);
                    name.answer(found, now);
                    name.is_followed |= !is_known || !is_address(text);
                }
            }
        }
        if self.line == Line::Opening {
            self.line = Line::Open;
            // What is held in the version that istiod has is neither sent nor gone.
            for name in self.names.values_mut().filter(|name| name.is_asked && name.is_followed) {
                name.answer(true, now);
            }
        }
        let absent = |name: &&Name| name.answered.is_some() && !name.found;
        self.absent = self.names.values().filter(absent).count();
        self.settle(now);
    }

    /// What is to be said to istiod, if the stream is there to say it on.
    pub(super) fn requests(&mut self, held: &Held) -> Vec<DeltaDiscoveryRequest> {
        // The first answer is to the first request, and to that alone.
        if self.line != Line::Open || (self.due.is_empty() && self.dropped.is_empty()) {
            return Vec::new();
        }
        let mut unsubscribe = std::mem::take(&mut self.dropped);
        let mut subscribe = Vec::new();
        let mut versions = Vec::new();
        for text in std::mem::take(&mut self.due) {
            let Some(name) = self.names.get_mut(&text).filter(|name| name.is_asked) else {
                continue;
            };
            if name.is_followed || held.is_called(&text) {
                unsubscribe.push(text.to_string());
            }
            name.is_followed = true;
            name.said = Some(Instant::now());
            if versions.len() < MOST_LISTED {
                versions.extend(held.endpoints_of(&text));
            }
            subscribe.push(text.to_string());
        }
        let request = |subscribe: Vec<String>, unsubscribe: Vec<String>| DeltaDiscoveryRequest {
            type_url: Kind::Address.url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        };
        let mut requests = Vec::with_capacity(2);
        // Not in one: istiod subscribes first.
        if !unsubscribe.is_empty() {
            requests.push(request(vec![NOTHING.to_owned()], unsubscribe));
        }
        if !subscribe.is_empty() {
            let mut request = request(subscribe, Vec::new());
            // Endpoints that have not changed need not be sent again.
            request.initial_resource_versions = versions.into_iter().collect();
            requests.push(request);
        }
        requests
    }

    /// Gives up, now and then, what nobody has used for long: names, and the resources that only these brought. Says how
    /// many resources that were. What istiod tells of `node` unasked stays.
    pub(super) fn tidy(&mut self, held: &mut Held, node: &str) -> usize {
        let now = Instant::now();
        if now < self.tidy {
            return 0;
        }
        self.tidy = now + TIDY;
        // While istiod is away nobody could ask for it again.
        if self.line != Line::Open || self.is_withheld {
            return 0;
        }
        let Self { names, dropped, .. } = self;
        names.retain(|text, name| {
            let served = name.is_own && held.has(text);
            let stays = name.is_asked || served || now.duration_since(name.used) < IDLE;
            if !stays && name.is_followed {
                dropped.push(text.to_string());
            }
            stays
        });
        if now < self.settled {
            return 0;
        }
        let gone = held.keep_only(self.names.keys().map(|text| &**text), node);
        let count = gone.len();
        // A service may have been a name as well, and is unsubscribed from once.
        let said: HashSet<String> = self.dropped.iter().cloned().collect();
        self.dropped
            .extend(gone.into_iter().filter(|name| !said.contains(name)));
        count
    }

    /// As of now.
    pub(super) fn told_of(&self) -> OnDemand {
        OnDemand {
            names: self.names.len(),
            absent: self.absent,
            waiting: self.waiting.len(),
        }
    }

    fn hear(&mut self, ask: Ask, now: Instant) {
        let Ask { wants, by, answer } = ask;
        let is_open = self.line != Line::Closed;
        let mut open = Vec::new();
        let mut remembered = true;
        for want in wants {
            let is_missing = want.is_missing();
            let Want { name: text, need } = want;
            let text: Arc<str> = text.into();
            let name = self.insert(Arc::clone(&text), now);
            name.used = now;
            name.is_own |= need == Need::Own;
            let old = match need {
                Need::Held => None,
                Need::Endpoints => Some(REFRESHED),
                Need::Missing | Need::Own => Some(BELIEVED),
            };
            let is_old = |old| name.answered.is_none_or(|answered| now.duration_since(answered) >= old);
            let is_late = |said| now.duration_since(said) >= REPEATED;
            let is_new = match name.is_asked {
                true => name.said.is_some_and(is_late),
                false => old.is_some_and(is_old),
            };
            if is_new {
                name.is_asked = true;
                name.said = None;
            }
            if is_missing && name.is_asked {
                remembered &= name.answered.is_some();
                open.push(Arc::clone(&text));
            }
            if is_new && is_open {
                self.due.push(text);
            }
        }
        let Some(answer) = answer else { return };
        let by = if remembered { by.min(now + RECHECK) } else { by };
        if self.waiting.len() >= MOST_WAITING {
            let _gone = answer.send(Err(Unanswered::Silent));
            return;
        }
        let waiting = Waiting {
            names: open,
            by,
            remembered,
            answer,
        };
        match self.outcome(&waiting, now) {
            // Who has gone wants no answer.
            Some(outcome) => {
                let _gone = waiting.answer.send(outcome);
            }
            None => self.waiting.push(waiting),
        }
    }

    /// Ends the waits that are over, one way or the other.
    fn settle(&mut self, now: Instant) {
        for at in (0..self.waiting.len()).rev() {
            let Some(outcome) = self.waiting.get(at).and_then(|waiting| self.outcome(waiting, now)) else {
                continue;
            };
            let Waiting { answer, .. } = self.waiting.swap_remove(at);
            // Who has gone wants no answer.
            let _gone = answer.send(outcome);
        }
    }

    fn outcome(&self, waiting: &Waiting, now: Instant) -> Option<Result<(), Unanswered>> {
        let is_open = |text: &Arc<str>| self.names.get(text).is_some_and(|name| name.is_asked);
        let is_over = waiting.by <= now || waiting.answer.is_closed();
        if !self.is_withheld {
            if !waiting.names.iter().any(is_open) {
                return Some(Ok(()));
            }
            if waiting.remembered && (is_over || self.line == Line::Closed) {
                return Some(Ok(()));
            }
        }
        is_over.then_some(Err(match self.line {
            Line::Open => Unanswered::Silent,
            Line::Closed | Line::Opening => Unanswered::Away,
        }))
    }

    fn insert(&mut self, text: Arc<str>, now: Instant) -> &mut Name {
        if self.names.len() >= MOST && !self.names.contains_key(&text) {
            self.make_room();
        }
        self.names.entry(text).or_insert(Name {
            used: now,
            answered: None,
            found: false,
            is_asked: false,
            is_followed: false,
            said: None,
            is_own: false,
        })
    }

    /// What they brought goes with the next [`Wanted::tidy`].
    fn make_room(&mut self) {
        let mut oldest: Vec<(Instant, Arc<str>)> = self
            .names
            .iter()
            .filter(|(_, name)| !name.is_own)
            .map(|(text, name)| (name.used, Arc::clone(text)))
            .collect();
        oldest.sort_unstable();
        for (_, text) in oldest.into_iter().take(SURPLUS) {
            if let Some(name) = self.names.remove(&text)
                && name.is_followed
                && self.line != Line::Closed
            {
                self.dropped.push(text.to_string());
            }
            // Who waits for it must not take it for answered.
            self.refuse(&text);
        }
    }

    fn refuse(&mut self, text: &str) {
        for at in (0..self.waiting.len()).rev() {
            let concerned = |waiting: &Waiting| waiting.names.iter().any(|name| &**name == text);
            if self.waiting.get(at).is_some_and(concerned) {
                let _gone = self.waiting.swap_remove(at).answer.send(Err(Unanswered::Silent));
            }
        }
    }
}

impl Name {
    fn answer(&mut self, found: bool, now: Instant) {
        self.answered = Some(now);
        self.found = found;
        self.is_asked = false;
    }
}

/// `NAMESPACE/HOSTNAME`, and neither a uid, which has more parts, nor an address.
fn is_service(name: &str) -> bool {
    name.bytes().filter(|byte| *byte == b'/').count() == 1 && !is_address(name)
}

/// `NETWORK/IP`, which is the name of no resource.
fn is_address(name: &str) -> bool {
    let parts = name.split_once('/');
    parts.is_some_and(|(_, second)| second.parse::<IpAddr>().is_ok())
}

const _: () = assert!(RECHECK.as_secs() < WAIT.as_secs());

#[cfg(test)]
mod tests;
