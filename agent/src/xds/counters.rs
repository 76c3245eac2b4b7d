//! Metrics of the way to istiod.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::kind::Kind;
use crate::telemetry::{exposition::Families, metric};

/// What is counted, under the labels that ztunnel's dashboards know (wire-facts §8.2).
#[derive(Debug, Default)]
pub struct Counters {
    messages: [Messages; 3],
    terminations: [AtomicU64; 4],
}

#[derive(Debug, Default)]
struct Messages {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// Why there is no stream any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// istiod was not reached.
    ConnectionError,
    /// A stream broke.
    Error,
    /// A stream ended as streams do when istiod is restarted.
    Reconnect,
    /// A stream ended without an error.
    Complete,
}

impl Termination {
    const ALL: [(Self, &'static str); 4] = [
        (Self::ConnectionError, "ConnectionError"),
        (Self::Error, "Error"),
        (Self::Reconnect, "Reconnect"),
        (Self::Complete, "Complete"),
    ];
}

/// What responses are of that nobody asked for: their types are not ours to bound.
const OTHER: &str = "other";

impl Counters {
    pub(super) fn message(&self, kind: Option<Kind>, bytes: u64) {
        let [addresses, authorizations, others] = &self.messages;
        let messages = match kind {
            Some(Kind::Address) => addresses,
            Some(Kind::Authorization) => authorizations,
            None => others,
        };
        messages.count.fetch_add(1, Ordering::Relaxed);
        messages.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn termination(&self, termination: Termination) {
        for ((other, _), count) in Termination::ALL.iter().zip(&self.terminations) {
            if *other == termination {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// For the metrics' text.
    pub fn describe(&self, families: &mut Families) {
        for ((_, reason), count) in Termination::ALL.iter().zip(&self.terminations) {
            let labels = [("reason", Arc::from(*reason))];
            families.labelled(&metric::XDS_TERMINATIONS, labels, count.load(Ordering::Relaxed));
        }
        let urls = [Kind::Address.url(), Kind::Authorization.url(), OTHER];
        for (url, messages) in urls.into_iter().zip(&self.messages) {
            let labels = || [("url", Arc::from(url))];
            families.labelled(&metric::XDS_MESSAGES, labels(), messages.count.load(Ordering::Relaxed));
            families.labelled(&metric::XDS_BYTES, labels(), messages.bytes.load(Ordering::Relaxed));
        }
    }
}
