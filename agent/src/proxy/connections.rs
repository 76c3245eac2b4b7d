use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{oneshot, watch};

use super::{close::CloseReason, open_connection::OpenConnection};
use crate::identity::SpiffeId;

/// The open connections of one pod. Each can be cut with a reason; an entry leaves with its guard.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// Set once everything was cut for good; whoever comes later is cut at once.
    closed: Option<CloseReason>,
}

#[derive(Debug)]
struct Entry {
    subject: Option<Arc<Subject>>,
    cut: Option<oneshot::Sender<CloseReason>>,
    /// What it is, once bytes flow.
    open: Option<Arc<OpenConnection>>,
}

/// What policy looks at again when the mesh changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The client's address.
    pub(crate) source_ip: IpAddr,
    /// The client's proven identity.
    pub(crate) source: SpiffeId,
    /// The application's address.
    pub(crate) destination: SocketAddr,
}

/// Stands for one open connection.
#[derive(Debug)]
pub(crate) struct Guard {
    shared: Arc<Shared>,
    key: u64,
    cut: oneshot::Receiver<CloseReason>,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            table: Mutex::default(),
            count: watch::Sender::new(0),
        }))
    }

    /// Enters a connection; one with a `subject` is looked at again when the mesh changes.
    pub(crate) fn enter(&self, subject: Option<Subject>) -> Guard {
        let (cut, receiver) = oneshot::channel();
        let mut table = self.0.table();
        let key = table.next;
        table.next += 1;
        let mut cut = Some(cut);
        if let Some(reason) = &table.closed
            && let Some(cut) = cut.take()
        {
            drop(cut.send(reason.clone()));
        }
        table.entries.insert(
            key,
            Entry {
                subject: subject.map(Arc::new),
                cut,
                open: None,
            },
        );
        self.0.count.send_replace(table.entries.len());
        drop(table);
        Guard {
            shared: Arc::clone(&self.0),
            key,
            cut: receiver,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.table().entries.len()
    }

    /// What is being carried, at most `most`, the oldest first.
    pub(crate) fn list(&self, most: usize) -> Vec<Arc<OpenConnection>> {
        let table = self.0.table();
        let carried = table
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((*key, entry.open.as_ref()?)));
        let mut carried: Vec<_> = carried.map(|(key, open)| (key, Arc::clone(open))).collect();
        drop(table);
        carried.sort_unstable_by_key(|(key, _)| *key);
        carried.into_iter().take(most).map(|(_, open)| open).collect()
    }

    /// Cuts those for whose subject `verdict` gives a reason.
    pub(crate) fn review(&self, verdict: impl Fn(&Subject) -> Option<CloseReason>) {
        // Policies are evaluated on a copy: entering and leaving must not wait for them.
        let subjects: Vec<(u64, Arc<Subject>)> = {
            let table = self.0.table();
            table
                .entries
                .iter()
                .filter_map(|(key, entry)| Some((*key, Arc::clone(entry.subject.as_ref()?))))
                .collect()
        };
        for (key, subject) in subjects {
            if let Some(reason) = verdict(&subject) {
                self.0.table().cut(key, reason);
            }
        }
    }

    /// Cuts all that are open now and all that come later.
    pub(crate) fn close(&self, reason: &CloseReason) {
        let mut table = self.0.table();
        table.closed = Some(reason.clone());
        let keys: Vec<u64> = table.entries.keys().copied().collect();
        for key in keys {
            table.cut(key, reason.clone());
        }
    }

    /// Resolves when none is open.
    pub(crate) async fn empty(&self) {
        let mut count = self.0.count.subscribe();
        // The sender lives as long as `self`.
        drop(count.wait_for(|count| *count == 0).await);
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn cut(&mut self, key: u64, reason: CloseReason) {
        if let Some(cut) = self.entries.get_mut(&key).and_then(|entry| entry.cut.take()) {
            drop(cut.send(reason));
        }
    }
}

impl Guard {
    /// Makes policy look at this connection from now on.
    pub(crate) fn subject_to(&self, subject: Subject) {
        if let Some(entry) = self.shared.table().entries.get_mut(&self.key) {
            entry.subject = Some(Arc::new(subject));
        }
    }

    /// Tells what it is, now that bytes flow.
    pub(crate) fn show(&self, open: Option<OpenConnection>) {
        if let Some(entry) = self.shared.table().entries.get_mut(&self.key) {
            entry.open = open.map(Arc::new);
        }
    }

    /// Resolves when the connection must end, with the reason.
    pub(crate) async fn cut(&mut self) -> CloseReason {
        match (&mut self.cut).await {
            Ok(reason) => reason,
            // The table keeps the sender until it cuts, so this is after a cut that was already taken.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        table.entries.remove(&self.key);
        self.shared.count.send_replace(table.entries.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{
        close::CloseCode,
        open_connection::{Carried, Requested},
    };

    fn subject(last: u8) -> Subject {
        Subject {
            source_ip: [10, 0, 0, last].into(),
            source: SpiffeId::new("cluster.local", "demo", "client").unwrap(),
            destination: ([10, 1, 0, 1], 80).into(),
        }
    }

    fn reason() -> CloseReason {
        CloseReason::new(CloseCode::PodGone, "test")
    }

    #[tokio::test]
    async fn a_review_cuts_only_those_it_denies() {
        let connections = Connections::new();
        let mut kept = connections.enter(Some(subject(1)));
        let mut denied = connections.enter(Some(subject(2)));
        let mut outbound = connections.enter(None);
        assert_eq!(connections.len(), 3);
        connections.review(|subject| (subject.source_ip == IpAddr::from([10, 0, 0, 2])).then(reason));
        assert_eq!(denied.cut().await, reason());
        for guard in [&mut kept, &mut outbound] {
            assert!(futures_util::FutureExt::now_or_never(guard.cut()).is_none());
        }
    }

    #[tokio::test]
    async fn a_connection_is_listed_once_it_is_shown_and_until_it_ends_oldest_first() {
        let shown = |port: u16| OpenConnection {
            source: ([10, 0, 0, 1], port).into(),
            requested: Requested::Service(None),
            actual: ([10, 1, 0, 1], 80).into(),
            carried: Carried::Hbone,
        };
        let connections = Connections::new();
        let [first, second, unseen] = [(); 3].map(|()| connections.enter(None));
        second.show(Some(shown(2)));
        first.show(Some(shown(1)));
        unseen.show(None);
        let ports = |most| -> Vec<u16> { connections.list(most).iter().map(|open| open.source.port()).collect() };
        assert_eq!(ports(10), [1, 2]);
        assert_eq!(ports(1), [1]);
        drop(first);
        assert_eq!(ports(10), [2]);
    }

    #[tokio::test]
    async fn closing_cuts_present_and_future_ones() {
        let connections = Connections::new();
        let mut present = connections.enter(None);
        connections.close(&reason());
        assert_eq!(present.cut().await, reason());
        assert_eq!(connections.enter(None).cut().await, reason());
        assert!(futures_util::FutureExt::now_or_never(connections.empty()).is_none());
        drop(present);
        connections.empty().await;
        assert_eq!(connections.len(), 0);
    }
}
