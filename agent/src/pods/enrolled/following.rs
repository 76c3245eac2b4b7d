//! Following what is asked for an enrolled pod while it runs. What is open stays as it is.

use isthmus_wire::{Capture, Enrol};

use super::{Enrolled, Parts, RegistryError};
use crate::pods::capture;

/// What was asked for a pod and stands in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// What of its traffic is captured.
    pub(super) capture: Capture,
    /// Its interfaces behind which guests are redirected.
    pub(super) guests: Vec<String>,
}

impl Standing {
    pub(super) fn of(asked: &Enrol) -> Self {
        Self {
            capture: (*asked.capture).clone(),
            guests: asked.reroute_interfaces.clone(),
        }
    }
}

impl Enrolled {
    /// Makes the kernel do as is asked for now.
    pub async fn follow(&mut self, parts: &Parts) -> Result<(), RegistryError> {
        if self.standing.capture != *self.record.pod.capture {
            self.set_capture(parts)?;
        }
        if self.standing.guests != self.record.pod.reroute_interfaces {
            self.set_guests(parts).await?;
        }
        Ok(())
    }

    /// Tells the kernel what of the pod is captured, and with it all that `claim` decides by. Nothing is left alone that
    /// neither the old rules leave nor the new.
    fn set_capture(&mut self, parts: &Parts) -> Result<(), RegistryError> {
        let wanted = (*self.record.pod.capture).clone();
        let Some(served) = &mut self.served else { return Ok(()) };
        self.flags = self.flags & !capture::FLAGS | capture::flags(&wanted);
        served.rules.flags = self.flags;
        let rules = served.rules;
        self.tell(parts, &wanted, rules)?;
        tracing::info!(pod = %self.record.pod.name, capture = ?wanted, "what of the pod is captured has changed");
        self.standing.capture = wanted;
        Ok(())
    }

    /// Sets what `claim` decides by, and around it the rules of ports and ranges.
    pub(super) fn tell(
        &self,
        parts: &Parts,
        capture: &Capture,
        decides: isthmus_abi::Rules,
    ) -> Result<(), RegistryError> {
        let (slot, maps) = (self.slot(), parts.node.maps());
        let rules = capture::rules(slot, capture);
        maps.take(slot, &rules)?;
        maps.set_rules(slot, decides)?;
        Ok(maps.leave(slot, &rules)?)
    }

    /// Guests behind an interface that is no longer named are redirected until their rule is gone; then the guard stops them.
    async fn set_guests(&mut self, parts: &Parts) -> Result<(), RegistryError> {
        let Some(served) = &self.served else { return Ok(()) };
        let wanted = self.record.pod.reroute_interfaces.clone();
        let (slot, maps) = (self.slot(), parts.node.maps());
        let both = [self.standing.guests.as_slice(), &wanted].concat();
        let both = self.interior.indexes_of(&both);
        maps.set_guest_interfaces(slot, &both)?;
        served.routing.install(&served.netns, &self.interior, &wanted).await?;
        served.routing.remove_guests_but(&wanted).await?;
        maps.set_guest_interfaces(slot, &self.interior.indexes_of(&wanted))?;
        tracing::info!(pod = %self.record.pod.name, interfaces = ?wanted, "interfaces behind which guests sit have changed");
        self.standing.guests = wanted;
        Ok(())
    }
}
