//! The last connections that failed, for who looks while the trouble is there.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde::Serialize;

use super::clock::Rfc3339;

/// How many are remembered.
const KEPT: usize = 64;

/// A ring of the connections that failed last.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Entry>>);

/// A connection that failed, as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) time: SystemTime,
    pub(crate) pod: Arc<str>,
    pub(crate) source: Option<SocketAddr>,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) direction: &'static str,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

/// A connection that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecentFailure {
    /// When it ended, RFC 3339.
    pub time: String,
    /// Whose connection it was, `NAMESPACE/NAME`; `gateway` at a gateway.
    pub pod: String,
    /// The client's address; empty where it is not known.
    pub source: String,
    /// The address that was asked for; empty where it is not known.
    pub destination: String,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The close reason's code (docs/access-log.md).
    pub code: String,
    /// Who ended it, when, and what happened.
    pub reason: String,
}

impl Recent {
    pub(crate) fn push(&self, entry: Entry) {
        let mut ring = self.ring();
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(entry);
    }

    /// What is remembered, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<RecentFailure> {
        let entries = self.ring().clone();
        entries.into_iter().map(RecentFailure::from).collect()
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Entry> for RecentFailure {
    fn from(entry: Entry) -> Self {
        let text = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        Self {
            time: Rfc3339(entry.time).to_string(),
            pod: entry.pod.to_string(),
            source: text(entry.source),
            destination: text(entry.destination),
            direction: entry.direction.to_owned(),
            code: entry.code.to_owned(),
            reason: entry.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(port: u16) -> Entry {
        Entry {
            time: SystemTime::UNIX_EPOCH,
            pod: "demo/client".into(),
            source: None,
            destination: Some(([10, 0, 0, 1], port).into()),
            direction: "outbound",
            code: "connect-refused",
            reason: "server connect: test".to_owned(),
        }
    }

    #[test]
    fn the_last_sixty_four_are_kept_in_order() {
        let recent = Recent::default();
        for port in 0..100 {
            recent.push(entry(port));
        }
        let list = recent.list();
        assert_eq!(list.len(), 64);
        assert_eq!(list[0].destination, "10.0.0.1:36");
        assert_eq!(list[63].destination, "10.0.0.1:99");
        assert_eq!(
            (list[0].source.as_str(), list[0].time.as_str()),
            ("", "1970-01-01T00:00:00.000000Z")
        );
        let json = serde_json::to_value(&list[0]).unwrap();
        assert_eq!(json["code"], "connect-refused");
    }
}
