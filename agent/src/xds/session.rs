//! What is said on one stream with istiod: first requests, and an answer to every response (wire-facts §1.2 to §1.5).
//!
//! istiod answers the first request of each kind, also when nothing changed since: in full but for what was listed with
//! the version it has, and it names what was listed and is no more (pilot/pkg/xds/workload.go, `GenerateDeltas`). So what
//! was neither listed nor sent with that answer has gone, and is swept. Policies have no versions: all of them are sent.
//!
//! On demand the first request asks for what is listed and for names that are wanted, and its answer is about these and
//! what istiod tells unasked. The same holds then: what was not listed, for want of room, nobody follows any more.

use std::mem;

use isthmus_istio::discovery::{self, DeltaDiscoveryRequest, Resource};

use super::{
    held::Held,
    kind::{Kind, Rejected},
    node::Node,
    response::Event,
};

/// Rejected resources of one response that are told apart; the others are counted.
const MOST_REJECTED: usize = 64;
/// Bytes of a refusal's text.
const MOST_REFUSAL_BYTES: usize = 4 << 10;
/// Bytes of what a refusal says of one resource.
const MOST_REASON_BYTES: usize = 512;
/// Bytes of a request that a name takes beside its own.
const MOST_AROUND_A_NAME: usize = 8;
/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

/// One stream. Made anew for each.
#[derive(Debug)]
pub struct Session {
    answered: Vec<Kind>,
    on_demand: bool,
    /// What was refused on this stream and did not come right since; [`MOST_REJECTED`] at most, with names of a sane length.
    bad: Vec<(Kind, String)>,
    response: Response,
}

/// How a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Workloads and services are asked for one by one, these first; none when all are.
    pub on_demand: Option<Vec<String>>,
    /// Bytes that what is held may take in the first request of a kind.
    pub resume_bytes: usize,
}

/// What became of a response.
#[derive(Debug)]
pub struct Taken {
    /// Its type.
    pub url: String,
    /// Its kind; none when nobody asked for it.
    pub kind: Option<Kind>,
    /// Whether all kinds were answered on this stream, this response included.
    pub synced: bool,
    /// Its size.
    pub bytes: u64,
    /// Resources that came and were taken.
    pub upserted: u64,
    /// Names that were removed.
    pub removed: u64,
    /// What was dropped because istiod does not have it any more.
    pub swept: usize,
    /// What was not taken, the first of them.
    pub rejected: Vec<Rejected>,
    /// What was refused before and is right now, or gone.
    pub healed: Vec<String>,
    /// Whether it is the first of its kind on this stream: what was refused on another is told of again, if it is still bad.
    pub is_first: bool,
    /// On demand: the names of the workloads and services that came, by which they may have been asked for.
    pub there: Vec<String>,
    /// On demand: the names of which istiod says that there is nothing.
    pub gone: Vec<String>,
    /// What to answer; nothing to a response that wants none.
    pub answer: Option<DeltaDiscoveryRequest>,
}

/// The parts of a response come in another order than protobuf's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a removed name came before the type of its response")]
pub struct OutOfOrder;

/// The response that is arriving.
#[derive(Debug, Default)]
struct Response {
    url: Option<String>,
    touched: Vec<Kind>,
    /// Resources of no kind, without their contents: what the response is of is not known yet.
    strangers: Vec<Resource>,
    refused: Refused,
    upserted: u64,
    removed: u64,
    healed: Vec<String>,
    there: Vec<String>,
    gone: Vec<String>,
}

#[derive(Debug, Default)]
struct Refused {
    first: Vec<Rejected>,
    more: u64,
}

impl Session {
    /// Begins a stream: its first requests, in order.
    pub fn open(node: &Node, manner: Manner, held: &mut Held) -> (Self, Vec<DeltaDiscoveryRequest>) {
        let Manner {
            on_demand,
            resume_bytes,
        } = manner;
        let is_on_demand = on_demand.is_some();
        let names = on_demand.unwrap_or_default();
        let taken = names.iter().map(|name| name.len() + MOST_AROUND_A_NAME).sum();
        let mut names = Some(names);
        let requests = Kind::ALL.into_iter().map(|kind| {
            let mut request = DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            let mut most_bytes = resume_bytes;
            // A request that names nothing asks for all. To ask for little or nothing, everything is asked for and taken
            // back.
            if is_on_demand && kind == Kind::Address {
                let all = "*".to_owned();
                request.resource_names_unsubscribe = vec![all.clone()];
                request.resource_names_subscribe = vec![all];
                request
                    .resource_names_subscribe
                    .extend(names.take().unwrap_or_default());
                most_bytes = most_bytes.saturating_sub(taken);
            }
            request.initial_resource_versions = held.open_stream(kind, most_bytes).into_iter().collect();
            request
        });
        let mut requests: Vec<_> = requests.collect();
        if let Some(first) = requests.first_mut() {
            first.node = Some(node.message());
        }
        let session = Self {
            answered: Vec::new(),
            on_demand: is_on_demand,
            bad: Vec::new(),
            response: Response::default(),
        };
        (session, requests)
    }

    /// Takes a piece of a response. The last one gives what became of the whole.
    ///
    /// # Errors
    /// When the piece cannot be understood without one that comes behind it.
    pub fn take(&mut self, event: Event, held: &mut Held) -> Result<Option<Taken>, OutOfOrder> {
        let response = &mut self.response;
        match event {
            Event::Resource(resource) => {
                if self.on_demand {
                    response.there.push(resource.name.clone());
                    response.there.extend_from_slice(&resource.aliases);
                }
                let name = (!self.bad.is_empty()).then(|| resource.name.clone());
                let taken = response.upsert(resource, held);
                if let Some((kind, name)) = taken.zip(name) {
                    response.heal(&mut self.bad, kind, name);
                }
            }
            Event::Unreadable(reason) => response.refused.add(Rejected {
                name: String::new(),
                reason,
            }),
            Event::Type(url) => response.url = Some(url),
            Event::Removed(name) => {
                let url = response.url.as_deref().ok_or(OutOfOrder)?;
                if let Some(kind) = Kind::of_url(url) {
                    held.remove(kind, &name);
                    response.removed += 1;
                    if self.on_demand {
                        response.gone.push(name.clone());
                    }
                    response.heal(&mut self.bad, kind, name);
                }
            }
            Event::End { nonce, bytes } => return Ok(Some(self.end(nonce, bytes, held))),
        }
        Ok(None)
    }

    fn end(&mut self, nonce: String, bytes: u64, held: &mut Held) -> Taken {
        let mut response = mem::take(&mut self.response);
        let url = response.url.take().unwrap_or_default();
        let kind = Kind::of_url(&url);
        let (mut swept, mut is_first) = (0, false);
        match kind {
            Some(kind) => {
                for stranger in mem::take(&mut response.strangers) {
                    if let Err(rejected) = held.upsert(kind, stranger) {
                        response.refused.add(rejected);
                    }
                }
                if !self.answered.contains(&kind) {
                    self.answered.push(kind);
                    is_first = true;
                    swept = held.sweep(kind);
                }
                if !response.touched.contains(&kind) {
                    response.touched.push(kind);
                }
            }
            // Nobody asked for it, so nothing is missed; but istiod wants to hear that it came.
            None => response.refused = Refused::default(),
        }
        let room = MOST_REJECTED.saturating_sub(self.bad.len());
        if let Some(kind) = kind {
            let names = response.refused.first.iter().map(|rejected| &rejected.name);
            let names = names.filter(|name| name.len() <= MOST_REASON_BYTES).take(room);
            self.bad.extend(names.map(|name| (kind, name.clone())));
        }
        response.touched.iter().for_each(|kind| held.finish(*kind));
        if self.is_synced() {
            held.release();
        }
        let answer = (!nonce.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: url.clone(),
            response_nonce: nonce,
            error_detail: response.refused.detail(),
            ..DeltaDiscoveryRequest::default()
        });
        Taken {
            url,
            kind,
            synced: self.is_synced(),
            bytes,
            upserted: response.upserted,
            removed: response.removed,
            swept,
            rejected: response.refused.first,
            healed: response.healed,
            is_first,
            there: response.there,
            gone: response.gone,
            answer,
        }
    }

    /// Whether istiod answered anything on this stream.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        !self.answered.is_empty()
    }

    /// Whether istiod answered all on this stream.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.answered.len() == Kind::ALL.len()
    }
}

impl Response {
    /// Gives the kind of a resource that was taken.
    fn upsert(&mut self, mut resource: Resource, held: &mut Held) -> Option<Kind> {
        let url = resource.resource.as_ref().map(|any| &*any.type_url);
        let Some(kind) = url.and_then(Kind::of_url) else {
            if self.strangers.len() >= MOST_REJECTED {
                self.refused.more += 1;
                return None;
            }
            if let Some(any) = &mut resource.resource {
                any.value.clear();
            }
            self.strangers.push(resource);
            return None;
        };
        if !self.touched.contains(&kind) {
            self.touched.push(kind);
        }
        match held.upsert(kind, resource) {
            Ok(()) => {
                self.upserted += 1;
                Some(kind)
            }
            Err(rejected) => {
                self.refused.add(rejected);
                None
            }
        }
    }

    fn heal(&mut self, bad: &mut Vec<(Kind, String)>, kind: Kind, name: String) {
        let count = bad.len();
        bad.retain(|(other, bad)| (*other, bad) != (kind, &name));
        if bad.len() < count {
            self.healed.push(name);
        }
    }
}

impl Refused {
    fn add(&mut self, rejected: Rejected) {
        if self.first.len() < MOST_REJECTED {
            self.first.push(rejected);
        } else {
            self.more += 1;
        }
    }

    fn detail(&self) -> Option<discovery::Status> {
        if self.first.is_empty() && self.more == 0 {
            return None;
        }
        let mut message = String::new();
        let mut told = 0;
        for rejected in &self.first {
            let text = format!("{}: {}", rejected.name, rejected.reason);
            let text = begin_of(&text, MOST_REASON_BYTES);
            if message.len() + text.len() > MOST_REFUSAL_BYTES {
                break;
            }
            if !message.is_empty() {
                message.push_str("; ");
            }
            message.push_str(text);
            told += 1;
        }
        let more = self.more + (self.first.len() as u64).saturating_sub(told);
        if more > 0 {
            message.push_str(&format!("; and {more} more"));
        }
        Some(discovery::Status {
            code: INVALID_ARGUMENT,
            message,
        })
    }
}

/// As much of `text` as fits into `most` bytes.
pub(super) fn begin_of(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
