//! What annotations of pods say of ports and ranges, in the kernel's map `CAPTURE`.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapError, lpm_trie::Key};
use isthmus_abi::CaptureRule;

use super::{Maps, Tables, absent_is_fine, failed};
use crate::redirect::RedirectError;

/// What is asked for: a rule with the bits of it that count, and whether what it names is captured.
pub type Rules = BTreeMap<(CaptureRule, u32), Said>;

/// What is said of a port or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It stays outside of the mesh.
    Left,
    /// It is captured.
    Taken,
}

impl Maps {
    /// First half of a change of a slot's rules: from now on more is captured than before or than is wanted. Between the
    /// halves the slot's flags are set. So whatever is left alone in between is left by the old rules or by the new ones.
    pub fn take(&self, slot: u32, wanted: &Rules) -> Result<(), RedirectError> {
        self.with(|tables| {
            for (rule, said) in wanted.iter().filter(|(_, said)| **said == Said::Taken) {
                tables.insert(*rule, *said)?;
            }
            let held = tables.capture_rules(slot);
            let gone = held.iter().filter(|(_, said)| **said == Said::Left);
            tables.remove(gone.map(|(rule, _)| *rule).filter(|rule| !wanted.contains_key(rule)))
        })
        .map_err(full())
    }

    /// Second half: from now on no more is captured than is wanted.
    pub fn leave(&self, slot: u32, wanted: &Rules) -> Result<(), RedirectError> {
        self.with(|tables| {
            for (rule, said) in wanted.iter().filter(|(_, said)| **said == Said::Left) {
                tables.insert(*rule, *said)?;
            }
            let held = tables.capture_rules(slot);
            tables.remove(held.keys().copied().filter(|rule| !wanted.contains_key(rule)))
        })
        .map_err(full())
    }

    /// Rules of a slot.
    pub fn capture_rules(&self, slot: u32) -> Rules {
        self.with(|tables| tables.capture_rules(slot))
    }

    /// Forgets the rules of every slot but these.
    pub fn keep_capture_rules_of(&self, slots: &BTreeSet<u32>) -> Result<(), RedirectError> {
        self.with(|tables| {
            let all = tables.all_capture_rules();
            tables.remove(all.keys().copied().filter(|(rule, _)| !slots.contains(&rule.slot)))
        })
        .map_err(full())
    }
}

impl Tables {
    fn insert(&mut self, (rule, bits): (CaptureRule, u32), said: Said) -> Result<(), MapError> {
        self.capture.insert(&Key::new(bits, rule), said.value(), 0)
    }

    fn remove(&mut self, gone: impl Iterator<Item = (CaptureRule, u32)>) -> Result<(), MapError> {
        for (rule, bits) in gone {
            absent_is_fine(self.capture.remove(&Key::new(bits, rule)))?;
        }
        Ok(())
    }

    fn capture_rules(&self, slot: u32) -> Rules {
        let mut all = self.all_capture_rules();
        all.retain(|(rule, _), _| rule.slot == slot);
        all
    }

    fn all_capture_rules(&self) -> Rules {
        let entries = self.capture.iter().filter_map(Result::ok);
        entries
            .map(|(key, value)| ((key.data(), key.prefix_len()), Said::of(value)))
            .collect()
    }
}

// === impl Said ===

impl Said {
    fn value(self) -> u32 {
        match self {
            Self::Left => isthmus_abi::LEFT,
            Self::Taken => isthmus_abi::TAKEN,
        }
    }

    fn of(value: u32) -> Self {
        if value == isthmus_abi::LEFT {
            Self::Left
        } else {
            Self::Taken
        }
    }
}

fn full() -> impl FnOnce(MapError) -> RedirectError {
    failed(
        "CAPTURE",
        "changing what of a pod is captured (too many ports and ranges in the annotations of this node's pods?)",
    )
}
