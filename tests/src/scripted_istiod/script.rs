//! What a scripted istiod is to do, until it is told otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tonic::Code;

/// What becomes of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer {
    /// It is answered.
    #[default]
    Served,
    /// It is answered, each response so much later.
    After(Duration),
    /// It is refused with this status and message.
    Refused(Code, String),
    /// It is accepted and nothing comes.
    Never,
    /// It is answered with these bytes instead of gRPC frames.
    Bytes(Vec<u8>),
}

/// What becomes of a new connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// It speaks HTTP/2 over TLS.
    #[default]
    Served,
    /// It is accepted and never answered, not even by TLS.
    Silent,
    /// It is answered in bytes that are no TLS.
    NoTls,
    /// It speaks TLS, and in it bytes that are no HTTP/2.
    NoHttp2,
    /// It speaks HTTP/2 over TLS, so many bytes at a time with a pause after each.
    Dribbling {
        /// Most bytes of a piece.
        bytes: usize,
        /// After each piece.
        pause: Duration,
    },
}

/// From when to when certificates are valid, from the moment they are signed, in seconds; both may be in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Seconds from now to the first moment.
    pub begins: i64,
    /// Seconds from now to the last moment.
    pub ends: i64,
}

impl Terms {
    /// A day, and a minute before it.
    pub const DAY: Self = Self {
        begins: -60,
        ends: 86_400,
    };
    /// Ended a minute ago.
    pub const EXPIRED: Self = Self {
        begins: -3600,
        ends: -60,
    };
    /// Begins in an hour.
    pub const FUTURE: Self = Self {
        begins: 3600,
        ends: 90_000,
    };

    /// Begins now and ends in so many seconds.
    pub fn seconds(seconds: i64) -> Self {
        Self {
            begins: -1,
            ends: seconds,
        }
    }
}

/// All of it. Changed as a whole by [`super::ScriptedIstiod::script`].
#[derive(Clone, Debug)]
pub struct Script {
    /// Of new streams of discovery, and of responses on open ones.
    pub discovery: Answer,
    /// Of calls for certificates.
    pub ca: Answer,
    /// Of calls for certificates of one identity (`spiffe://…`), instead of `ca`.
    pub ca_for: BTreeMap<String, Answer>,
    /// Of new connections.
    pub wire: Wire,
    /// Of certificates that it signs.
    pub terms: Terms,
    /// Bearer tokens that it believes.
    pub tokens: BTreeSet<String>,
    /// The cluster that `clusterid` must say.
    pub cluster: String,
}

impl Script {
    /// Serves everything to whoever has this token.
    pub(super) fn serving(token: &str, cluster: &str) -> Self {
        Self {
            discovery: Answer::Served,
            ca: Answer::Served,
            ca_for: BTreeMap::new(),
            wire: Wire::Served,
            terms: Terms::DAY,
            tokens: BTreeSet::from([token.to_owned()]),
            cluster: cluster.to_owned(),
        }
    }

    /// Refuses calls of both kinds.
    pub fn refuse(&mut self, code: Code, message: &str) {
        let refused = Answer::Refused(code, message.to_owned());
        (self.discovery, self.ca) = (refused.clone(), refused);
    }
}
