//! Taking up what an earlier agent left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::Instant,
};

use tokio::sync::mpsc;

use super::{Errands, Parts, Registry, Stirred, chain, report};
use crate::{
    pods::{
        ask::Pods,
        enrolled::{Enrolled, State, held_prefix},
        kernel_mesh::KernelMesh,
        record::Record,
    },
    redirect::{Listeners, Netns},
};

impl Registry {
    /// Takes up what an earlier agent left: `held` are the sockets the parent kept.
    pub async fn adopt(
        parts: Parts,
        stirred: mpsc::Receiver<Stirred>,
        mut held: HashMap<String, OwnedFd>,
    ) -> (Self, Pods) {
        let (sender, asks) = mpsc::channel(64);
        let mut registry = Self {
            parts: Arc::new(parts),
            pods: HashMap::new(),
            errands: Errands::new(),
            asks,
            stirred,
            retried: Instant::now(),
            kernel_mesh: KernelMesh::default(),
        };
        registry.write_mesh();
        let mut addresses = registry.parts.node.maps().addresses();
        for record in registry.parts.records.read_all() {
            let listeners = take_held(&mut held, &record);
            let noted = addresses.remove(&record.slot).unwrap_or_default();
            registry.adopt_one(record, listeners, noted).await;
        }
        registry.sweep_unknown(&addresses);
        (registry, Pods(sender))
    }

    async fn adopt_one(&mut self, mut record: Record, held: Option<Listeners>, addresses: Vec<IpAddr>) {
        let slot = record.slot;
        let name = record.pod.name.clone();
        let same = Netns::open(&record.pod.netns)
            .ok()
            .filter(|netns| netns.cookie() == record.cookie);
        let generation = self.parts.node.pins().generation().to_owned();
        let Some(netns) = same else {
            let pod = Enrolled::remembered(record, State::Lingering, addresses);
            self.pods.insert(slot, pod);
            return;
        };
        if record.released {
            // The connections it was kept for ended with the worker that relayed them.
            tracing::info!(pod = name, slot, "pod was released, and is taken out");
            report(
                Enrolled::remembered(record, State::Unserved, addresses)
                    .take_out(&self.parts)
                    .await,
            );
            return;
        }
        let stale = record.generation != generation;
        record.generation = generation;
        let mut pod = Enrolled::remembered(record, State::Unserved, addresses);
        let outcome = match self.parts.records.write(&pod.record) {
            Ok(()) => pod.bring_in(&self.parts, netns, held).await,
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => tracing::info!(pod = name, slot, stale, "pod taken up again"),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(pod = name, error, "pod not taken up; it stays guarded");
                pod.trouble = Some(error);
            }
        }
        self.pods.insert(slot, pod);
    }

    /// Removes pins, armed namespaces and rules of slots that no record tells of.
    fn sweep_unknown(&self, addresses: &BTreeMap<u32, Vec<IpAddr>>) {
        let known: BTreeSet<u32> = self.pods.keys().copied().collect();
        report(self.parts.node.maps().keep_capture_rules_of(&known));
        let pinned = self.parts.node.pins().pods();
        let armed = self.parts.node.maps().armed();
        for (cookie, slot) in armed.iter().filter(|(_, slot)| !known.contains(slot)) {
            tracing::warn!(slot, cookie, "disarming a network namespace that no record tells of");
            report(self.parts.node.maps().disarm(*cookie));
        }
        for slot in pinned.into_iter().filter(|slot| !known.contains(slot)) {
            tracing::warn!(slot, "removing pins that no record tells of");
            report(self.parts.programs.remove(slot).and_then(|()| {
                self.parts
                    .node
                    .maps()
                    .clear(slot, addresses.get(&slot).map_or(&[], Vec::as_slice))
            }));
        }
    }
}

fn take_held(held: &mut HashMap<String, OwnedFd>, record: &Record) -> Option<Listeners> {
    let prefix = held_prefix(record);
    let outbound = held.remove(&format!("{prefix}outbound"))?;
    let hbone = held.remove(&format!("{prefix}hbone"))?;
    Some(Listeners {
        outbound: outbound.into(),
        hbone: hbone.into(),
    })
}
