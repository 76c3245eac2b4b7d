//! What is known of the node's pods, told whenever somebody has asked for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{exposition::Families, metric, metric::Metric};

/// What a node holds at one moment.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// By UID.
    pub pods: BTreeMap<String, PodCounts>,
    /// Verdicts of the node's own programs, by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Tunnels that are open.
    pub tunnels: usize,
    /// Connections that are served.
    pub connections: usize,
    /// How often the worker was started again.
    pub restarts: u64,
}

/// What is counted for one pod since its enrolment.
#[derive(Clone, Debug, Default)]
pub struct PodCounts {
    /// Whether it is served.
    pub served: bool,
    /// Verdicts of the pod's programs, by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Connections opened and closed, bytes received and sent, all of them without the mesh.
    pub plaintext: [u64; 4],
}

/// Sums over pods that come and go. What a pod has counted stays in the sums when it goes: a counter never falls.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Option<Book>>);

#[derive(Debug, Default)]
struct Book {
    last: NodeState,
    verdicts: BTreeMap<String, u64>,
    plaintext: [u64; 4],
}

impl Ledger {
    /// Takes in what the node holds now.
    pub fn tell(&self, state: NodeState) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.get_or_insert_default().enter(state);
    }

    pub(super) fn describe(&self, families: &mut Families) {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(book) = &*book else { return };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let served = book.last.pods.values().filter(|pod| pod.served).count();
        families.value(&metric::PROXIES_ACTIVE, count(served));
        families.value(&metric::PROXIES_PENDING, count(book.last.pods.len() - served));
        for (name, total) in &book.verdicts {
            families.labelled(&metric::VERDICTS, [("verdict", Arc::from(name.as_str()))], *total);
        }
        const PLAINTEXT: [&Metric; 4] = [
            &metric::PLAINTEXT_OPENED,
            &metric::PLAINTEXT_CLOSED,
            &metric::PLAINTEXT_RECEIVED,
            &metric::PLAINTEXT_SENT,
        ];
        for (metric, total) in PLAINTEXT.into_iter().zip(book.plaintext) {
            families.value(metric, total);
        }
        families.value(&metric::CONNECTIONS, count(book.last.connections));
        families.value(&metric::TUNNELS, count(book.last.tunnels));
        families.value(&metric::RESTARTS, book.last.restarts);
    }
}

impl Book {
    fn enter(&mut self, state: NodeState) {
        add_growth(&mut self.verdicts, &self.last.verdicts, &state.verdicts);
        let none = PodCounts::default();
        for (uid, pod) in &state.pods {
            let last = self.last.pods.get(uid).unwrap_or(&none);
            add_growth(&mut self.verdicts, &last.verdicts, &pod.verdicts);
            let counts = self.plaintext.iter_mut().zip(last.plaintext).zip(pod.plaintext);
            for ((total, last), now) in counts {
                *total += growth(last, now);
            }
        }
        self.last = state;
    }
}

fn add_growth(totals: &mut BTreeMap<String, u64>, last: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) {
    for (name, now) in now {
        let last = last.get(name).copied().unwrap_or(0);
        let growth = growth(last, *now);
        match totals.get_mut(name) {
            Some(total) => *total += growth,
            None => {
                totals.insert(name.clone(), growth);
            }
        }
    }
}

/// A count that fell has begun again.
fn growth(last: u64, now: u64) -> u64 {
    now.checked_sub(last).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Exposition, Format};

    fn pod(verdict: u64, plaintext: u64) -> PodCounts {
        PodCounts {
            served: true,
            verdicts: BTreeMap::from([("syn_to_hbone".to_owned(), verdict)]),
            plaintext: [plaintext; 4],
        }
    }

    fn told(ledger: &Arc<Ledger>) -> String {
        let exposition = Exposition::default();
        let ledger = Arc::clone(ledger);
        exposition.add(move |families| ledger.describe(families));
        exposition.render(Format::Prometheus)
    }

    #[test]
    fn what_a_pod_has_counted_stays_when_it_goes() {
        let ledger = Arc::new(Ledger::default());
        assert_eq!(told(&ledger), "", "nothing is known before it was told");
        let state = |pods: &[(&str, PodCounts)]| NodeState {
            pods: pods.iter().map(|(uid, pod)| ((*uid).to_owned(), pod.clone())).collect(),
            tunnels: pods.len(),
            ..NodeState::default()
        };
        ledger.tell(state(&[("a", pod(5, 1)), ("b", pod(7, 2))]));
        assert!(told(&ledger).contains("verdicts_total{verdict=\"syn_to_hbone\"} 12\n"));
        ledger.tell(state(&[("b", pod(8, 2))]));
        let text = told(&ledger);
        assert!(text.contains("verdicts_total{verdict=\"syn_to_hbone\"} 13\n"), "{text}");
        assert!(
            text.contains("isthmus_plaintext_connections_opened_total 3\n"),
            "{text}"
        );
        assert!(text.contains("isthmus_tunnels_open 1\n"), "{text}");
        // The same pod enrolled anew counts from zero.
        ledger.tell(state(&[("b", pod(2, 0))]));
        assert!(told(&ledger).contains("verdicts_total{verdict=\"syn_to_hbone\"} 15\n"));
    }
}
