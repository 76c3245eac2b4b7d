//! Metrics of enrolment.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::store::Of;
use crate::telemetry::{exposition::Families, metric};

/// What is counted. `nodeagent_reconcile_events_total` is istio-cni's (wire-facts §12.9).
#[derive(Debug, Default)]
pub(super) struct Counters {
    happened: [AtomicU64; 3],
    watch_failures: [AtomicU64; 2],
    actions: [[AtomicU64; 2]; 4],
}

/// What became of an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happened {
    Add,
    Update,
    Delete,
}

/// What was done to a pod, or to the node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Done {
    Enrol,
    Release,
    Annotate,
    Untaint,
}

const HAPPENED: [&str; 3] = ["add", "update", "delete"];
const WATCHED: [&str; 2] = ["pods", "namespaces"];
const ACTIONS: [&str; 4] = ["enrol", "release", "annotate", "untaint"];
const RESULTS: [&str; 2] = ["done", "failed"];

impl Counters {
    /// Something was told of pods or namespaces.
    pub(super) fn happened(&self, happened: Happened, times: usize) {
        let times = u64::try_from(times).unwrap_or(u64::MAX);
        if let Some(count) = self.happened.get(happened as usize) {
            count.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// A watch ended with an error.
    pub(super) fn watch_failed(&self, of: Of) {
        if let Some(count) = self.watch_failures.get(of as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something was done, or was not.
    pub(super) fn acted(&self, done: Done, well: bool) {
        let results = self.actions.get(done as usize);
        if let Some(count) = results.and_then(|results| results.get(usize::from(!well))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For the metrics' text.
    pub(super) fn describe(&self, families: &mut Families) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (name, count) in HAPPENED.into_iter().zip(&self.happened) {
            families.labelled(&metric::RECONCILE_EVENTS, [("type", Arc::from(name))], read(count));
        }
        for (name, count) in WATCHED.into_iter().zip(&self.watch_failures) {
            families.labelled(&metric::WATCH_FAILURES, [("resource", Arc::from(name))], read(count));
        }
        for (action, results) in ACTIONS.into_iter().zip(&self.actions) {
            for (result, count) in RESULTS.into_iter().zip(results) {
                let labels = [("action", Arc::from(action)), ("result", Arc::from(result))];
                families.labelled(&metric::ENROLMENT_ACTIONS, labels, read(count));
            }
        }
    }
}
