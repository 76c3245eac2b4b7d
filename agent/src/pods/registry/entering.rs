//! Bringing pods in.

use std::{sync::Arc, time::Instant};

use isthmus_wire::Enrol;

use super::{Asker, Brings, Line, Registry, RegistryError, held, report};
use crate::{
    pods::{
        ask::Added,
        capture,
        enrolled::{Enrolled, State},
        record::Record,
    },
    redirect::{Netns, PodRouting, RedirectError, maps, selftest},
};

impl Registry {
    /// Has a pod brought in, or follows what is asked of it now.
    pub(super) async fn enrol(&mut self, pod: Enrol, asker: Asker) {
        let uid = pod.uid.clone();
        let netns = match self.open(&pod) {
            Ok(netns) => netns,
            Err(error) => return asker.hear(Err(error)),
        };
        match held::by_uid(&self.pods, &uid).map(|known| (known.slot(), known.record.cookie)) {
            Some((slot, cookie)) if cookie == netns.cookie() => {
                let is_new = held::kept_slot(&self.pods, &uid).is_none();
                let outcome = self.enrol_again(slot, pod, netns).await;
                let identity = self.pods.get(&slot).and_then(Enrolled::identity).cloned();
                asker.hear(outcome.map(|()| Added { is_new, identity }));
            }
            known => {
                if let Some((slot, _)) = known {
                    self.set_aside(slot);
                }
                match self.begin(pod, &netns) {
                    Ok((enrolled, following)) => self.send_in(enrolled, netns, following, asker),
                    Err(error) => asker.hear(Err(error)),
                }
            }
        }
    }

    /// Opens the pod's namespace, if that can be enrolled as this pod's.
    fn open(&self, pod: &Enrol) -> Result<Netns, RegistryError> {
        capture::check(&pod.capture)?;
        let netns = Netns::open(&pod.netns).map_err(RedirectError::from)?;
        let path = pod.netns.display().to_string();
        if netns.cookie() == self.parts.node_cookie {
            return Err(RegistryError::HostNetwork(path));
        }
        let other = held::other_in(&self.pods, netns.cookie(), &pod.uid)
            .or_else(|| self.errands.other_in(netns.cookie(), &pod.uid));
        match other {
            Some(other) => Err(RegistryError::Taken { netns: path, other }),
            None => Ok(netns),
        }
    }

    /// The pod has a new sandbox. The old one stays guarded until the kernel says it is gone.
    fn set_aside(&mut self, slot: u32) {
        if let Some(mut old) = self.pods.remove(&slot) {
            report(old.let_go(&self.parts));
            old.record.pod.uid = format!("{} (earlier sandbox)", old.record.pod.uid);
            report(self.parts.records.write(&old.record));
            self.pods.insert(slot, old);
        }
    }

    async fn enrol_again(&mut self, slot: u32, asked: Enrol, netns: Netns) -> Result<(), RegistryError> {
        let Some(pod) = self.pods.get_mut(&slot) else {
            return Ok(());
        };
        pod.record.pod = asked;
        let was_released = std::mem::take(&mut pod.record.released);
        self.parts.records.write(&pod.record)?;
        match pod.state {
            State::Enrolled if !was_released => {
                pod.reconsider(&self.parts, &self.parts.mesh.current())?;
                pod.follow(&self.parts).await
            }
            // Enrolled, if its release got stuck half-way.
            State::Enrolled | State::Draining { .. } => {
                pod.take_back(&self.parts).await?;
                pod.follow(&self.parts).await
            }
            State::Lingering | State::Unserved => pod.bring_in(&self.parts, netns, None).await,
        }
    }

    /// Makes all of a new pod that is not in the kernel.
    fn begin(&self, pod: Enrol, netns: &Netns) -> Result<(Enrolled, PodRouting), RegistryError> {
        let slot = maps::slots()
            .find(|slot| *slot != selftest::SLOT && !self.pods.contains_key(slot) && !self.errands.has(*slot))
            .ok_or(RegistryError::Full(self.pods.len()))?;
        let record = Record {
            slot,
            cookie: netns.cookie(),
            generation: self.parts.node.pins().generation().to_owned(),
            released: false,
            pod,
        };
        let mut enrolled = Enrolled::remembered(record, State::Unserved, Vec::new());
        let following = enrolled.prepare(&self.parts, netns)?;
        Ok((enrolled, following))
    }

    fn send_in(&mut self, mut pod: Enrolled, netns: Netns, following: PodRouting, asker: Asker) {
        let parts = Arc::clone(&self.parts);
        let record = pod.record.clone();
        self.errands.send(Line::Passing, record, "entering", async move {
            let began = Instant::now();
            if let Err(error) = parts.records.write(&pod.record) {
                return Brings::New(asker, Err(error.into()));
            }
            match pod.install(&parts, netns, None, following).await {
                Ok(()) => {
                    tracing::info!(pod = pod.record.pod.name, slot = pod.slot(), took = ?began.elapsed(), "pod enrolled");
                    Brings::New(asker, Ok(Box::new(pod)))
                }
                Err(error) => {
                    // Nothing may be left half-way; the asker is told and tries again.
                    report(pod.take_out(&parts).await);
                    Brings::New(asker, Err(error))
                }
            }
        });
    }
}
