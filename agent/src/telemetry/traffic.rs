//! Counters of mesh traffic. A connection looks its row up once; from then on it only touches the row's atomics.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    exposition::{Families, Shown},
    labels::{Labels, Reporter},
    metric,
};

/// Most sets of labels that are counted apart.
const MOST_ROWS: usize = 10_000;

/// How long a row without open connections is kept after its last change.
const KEPT: Duration = Duration::from_secs(30 * 60);

/// When full, old rows are looked for no more often than this.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Why a connection failed, as the label `response_flags` tells it (wire-facts.md §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// Not for one of the reasons below.
    None,
    /// Denied by policy.
    Deny,
    /// The destination was not reached.
    Connect,
    /// TLS failed.
    TlsFailure,
    /// HTTP/2 failed before its first stream.
    H2HandshakeFailure,
    /// Probably stopped by a NetworkPolicy.
    NetworkPolicy,
    /// No identity or no certificate.
    IdentityError,
}

/// Counters of mesh traffic, all pods of the process together.
pub struct Traffic {
    table: Mutex<Table>,
    /// Sockets of applications.
    sockets: Arc<ByReporter<AtomicU64>>,
    /// Connections by who counts them and why they ended.
    ends: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    folded: AtomicU64,
    began: Instant,
    most_rows: usize,
}

#[derive(Debug, Default)]
struct ByReporter<T> {
    source: T,
    destination: T,
}

#[derive(Default)]
struct Table {
    rows: HashMap<Arc<Labels>, Arc<Row>>,
    /// Where is counted what has no room for a row of its own.
    folded: ByReporter<Option<(Arc<Labels>, Arc<Row>)>>,
    swept: Duration,
}

/// The counters of one set of labels.
#[derive(Debug, Default)]
struct Row {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: [AtomicU64; ResponseFlag::ALL.len()],
    /// From the client, in bytes.
    received: AtomicU64,
    /// From the server, in bytes.
    sent: AtomicU64,
    /// Seconds since the table began.
    touched: AtomicU64,
}

/// One connection that is counted as open until this is dropped.
pub struct Counted {
    row: Arc<Row>,
    reporter: Reporter,
    sockets: Arc<ByReporter<AtomicU64>>,
    own_sockets: u64,
    began: Instant,
}

/// Adds the bytes of one connection as they pass.
#[derive(Debug)]
pub struct Meter {
    row: Arc<Row>,
    reporter: Reporter,
}

impl ResponseFlag {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2HandshakeFailure,
        Self::NetworkPolicy,
        Self::IdentityError,
    ];

    /// The label's value.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}

impl<T> ByReporter<T> {
    fn of(&self, reporter: Reporter) -> &T {
        match reporter {
            Reporter::Source => &self.source,
            Reporter::Destination => &self.destination,
        }
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self::with_rows(MOST_ROWS)
    }
}

impl Traffic {
    fn with_rows(most_rows: usize) -> Self {
        Self {
            table: Mutex::default(),
            sockets: Arc::default(),
            ends: Mutex::default(),
            folded: AtomicU64::new(0),
            began: Instant::now(),
            most_rows,
        }
    }

    /// Counts a connection as opened; `sockets` are those of applications which it has.
    #[must_use = "it counts as open until it is dropped"]
    pub fn open(&self, labels: &Labels, sockets: u64) -> Counted {
        let reporter = labels.reporter;
        let row = {
            let mut table = self.table();
            let row = self.row(&mut table, labels);
            // Under the lock, so that no row is swept away between the look and the count.
            row.opened.fetch_add(1, Ordering::Relaxed);
            row
        };
        self.sockets.of(reporter).fetch_add(sockets, Ordering::Relaxed);
        Counted {
            row,
            reporter,
            sockets: Arc::clone(&self.sockets),
            own_sockets: sockets,
            began: self.began,
        }
    }

    /// Counts a connection that failed before it was one.
    pub fn refused(&self, labels: &Labels, flag: ResponseFlag) {
        let row = self.row(&mut self.table(), labels);
        row.fail(flag);
    }

    /// Counts why a connection ended; `reason` is one of a closed list.
    pub fn ended(&self, reporter: Reporter, reason: &'static str) {
        *self.ends().entry((reporter.text(), reason)).or_default() += 1;
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that were counted under `unknown` because there were too many sets of labels.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, table: &mut Table, labels: &Labels) -> Arc<Row> {
        let now = self.began.elapsed();
        if let Some(row) = table.rows.get(labels) {
            row.touch(now);
            return Arc::clone(row);
        }
        if table.rows.len() >= self.most_rows && now >= table.swept + SWEEP_EVERY {
            table.sweep(now);
        }
        if table.rows.len() >= self.most_rows {
            self.folded.fetch_add(1, Ordering::Relaxed);
            return table.fold(labels.reporter);
        }
        let row = Arc::new(Row::default());
        row.touch(now);
        table.rows.insert(Arc::new(labels.clone()), Arc::clone(&row));
        row
    }

    /// All rows as they are now; what is old is forgotten on the way.
    fn rows(&self, now: Duration) -> Vec<(Arc<Labels>, Arc<Row>)> {
        let mut table = self.table();
        table.sweep(now);
        let folded = [&table.folded.source, &table.folded.destination].into_iter().flatten();
        let folded = folded.map(|(labels, row)| (Arc::clone(labels), Arc::clone(row)));
        let rows = table.rows.iter();
        let rows = rows.map(|(labels, row)| (Arc::clone(labels), Arc::clone(row)));
        folded.chain(rows).collect()
    }

    /// Adds the families `istio_tcp_*`.
    pub(super) fn describe(&self, families: &mut Families) {
        let rows = self.rows(self.began.elapsed());
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        for (labels, row) in &rows {
            let closed = get(&row.closed);
            // Read after `closed`, so that it is never the smaller one.
            let opened = get(&row.opened);
            let mut tell = |metric, flag: ResponseFlag, value| {
                let shown = Shown::Traffic(Arc::clone(labels), flag);
                families.shown(metric, shown, value);
            };
            if opened > 0 {
                tell(&metric::TCP_OPENED, ResponseFlag::None, opened);
                tell(&metric::TCP_CLOSED, ResponseFlag::None, closed);
                tell(&metric::TCP_RECEIVED, ResponseFlag::None, get(&row.received));
                tell(&metric::TCP_SENT, ResponseFlag::None, get(&row.sent));
            }
            for (flag, failed) in ResponseFlag::ALL.iter().zip(&row.failed) {
                let failed = get(failed);
                if failed > 0 {
                    tell(&metric::TCP_FAILED, *flag, failed);
                }
            }
        }
        for reporter in [Reporter::Source, Reporter::Destination] {
            let open = get(self.sockets.of(reporter));
            let label = [("reporter", Arc::from(reporter.text()))];
            families.labelled(&metric::TCP_SOCKETS, label, open);
        }
        let ends = self.ends().clone();
        for ((reporter, reason), count) in ends {
            let labels = [("reporter", Arc::from(reporter)), ("reason", Arc::from(reason))];
            families.labelled(&metric::CONNECTIONS_ENDED, labels, count);
        }
        families.value(&metric::LABEL_SETS, rows.len() as u64);
        families.value(&metric::LABEL_SETS_FOLDED, self.folded());
    }
}

impl Table {
    fn fold(&mut self, reporter: Reporter) -> Arc<Row> {
        let place = match reporter {
            Reporter::Source => &mut self.folded.source,
            Reporter::Destination => &mut self.folded.destination,
        };
        let (_, row) = place.get_or_insert_with(|| (Arc::new(Labels::unknown(reporter)), Arc::default()));
        Arc::clone(row)
    }

    fn sweep(&mut self, now: Duration) {
        self.swept = now;
        let keep = now.saturating_sub(KEPT).as_secs();
        self.rows
            .retain(|_, row| row.is_open() || row.touched.load(Ordering::Relaxed) >= keep);
    }
}

impl Row {
    fn is_open(&self) -> bool {
        self.closed.load(Ordering::Relaxed) < self.opened.load(Ordering::Relaxed)
    }

    fn touch(&self, now: Duration) {
        self.touched.store(now.as_secs(), Ordering::Relaxed);
    }

    fn fail(&self, flag: ResponseFlag) {
        let counters = ResponseFlag::ALL.iter().zip(&self.failed);
        for (_, counter) in counters.filter(|(other, _)| **other == flag) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counted {
    /// Counts it as failed.
    pub fn fail(&self, flag: ResponseFlag) {
        self.row.fail(flag);
    }

    /// What counts its bytes.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter {
            row: Arc::clone(&self.row),
            reporter: self.reporter,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.row.touch(self.began.elapsed());
        self.row.closed.fetch_add(1, Ordering::Relaxed);
        self.sockets
            .of(self.reporter)
            .fetch_sub(self.own_sockets, Ordering::Relaxed);
    }
}

impl Meter {
    /// Adds bytes: `forth` went from the application next to us to the other side, `back` the other way.
    ///
    /// `received` is what the client sent, for both reporters (wire-facts.md §8.2).
    pub fn add(&self, forth: u64, back: u64) {
        let (received, sent) = match self.reporter {
            Reporter::Source => (forth, back),
            Reporter::Destination => (back, forth),
        };
        if received > 0 {
            self.row.received.fetch_add(received, Ordering::Relaxed);
        }
        if sent > 0 {
            self.row.sent.fetch_add(sent, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic")
            .field("folded", &self.folded)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted")
            .field("reporter", &self.reporter)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
