//! What a scripted istiod was asked and what it answered, for assertions.

use std::{collections::BTreeMap, time::Instant};

use super::resource::Kind;

/// One thing that happened, in the order in which it did.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}

/// What happened. Streams and connections have numbers that are given once.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A connection was accepted.
    Connected,
    /// A call was refused, with this reason.
    Refused {
        /// What the caller was told.
        reason: String,
    },
    /// A stream of discovery was opened.
    Opened {
        /// Its number.
        stream: u64,
    },
    /// A stream of discovery has ended.
    Closed {
        /// Its number.
        stream: u64,
    },
    /// Resources of a kind were asked for.
    Asked {
        /// Stream.
        stream: u64,
        /// Kind.
        kind: Kind,
        /// The caller's id, where it said it.
        node: Option<String>,
        /// Texts of the metadata it said.
        metadata: BTreeMap<String, String>,
        /// Names it asked for.
        subscribe: Vec<String>,
        /// Names it does not want.
        unsubscribe: Vec<String>,
        /// Names it has, with their versions.
        initial: BTreeMap<String, String>,
    },
    /// Resources were sent.
    Sent {
        /// Stream.
        stream: u64,
        /// Kind.
        kind: Kind,
        /// Names of what was sent; only the first thousand.
        names: Vec<String>,
        /// How many there were.
        count: usize,
        /// Names of what is no more.
        removed: Vec<String>,
    },
    /// What was sent was taken.
    Acked {
        /// Stream.
        stream: u64,
        /// Kind.
        kind: Kind,
    },
    /// What was sent was refused.
    Nacked {
        /// Stream.
        stream: u64,
        /// Kind.
        kind: Kind,
        /// The reason given.
        reason: String,
    },
    /// A certificate was asked for.
    Certificate {
        /// Of whom; empty for the caller itself.
        identity: String,
        /// Seconds it was asked to be valid.
        seconds: i64,
        /// Whether it was signed.
        signed: bool,
    },
}

impl Event {
    /// Asked for resources of this kind, as the first request of a stream does.
    pub fn asks(&self, wanted: Kind) -> bool {
        matches!(self, Self::Asked { kind, .. } if *kind == wanted)
    }

    /// A certificate of this identity was asked for.
    pub fn is_certificate_of(&self, wanted: &str) -> bool {
        matches!(self, Self::Certificate { identity, .. } if identity == wanted)
    }
}
