//! Which resources istiod told of, in which version, and whether it still does.
//!
//! There are as many as there are workloads, so that one costs nine bytes: its name is that of the object it became, which
//! the mesh has, and the version of an Address is the number that istiod writes in hexadecimal digits.

use std::collections::BTreeMap;

const HELD: u8 = 1;
/// On this stream, in a response or by us.
const SEEN: u8 = 2;
/// In the response that is being taken.
const FRESH: u8 = 4;
/// The version is a number.
const NUMBER: u8 = 8;
/// The version is a text of its own.
const TEXT: u8 = 16;

/// Versions of resources by the number of the object each became.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions {
    marks: Vec<u8>,
    numbers: Vec<u64>,
    texts: BTreeMap<u32, Box<str>>,
    fresh: Vec<u32>,
}

impl Versions {
    /// A resource came, in this version.
    pub(super) fn note(&mut self, slot: u32, version: &str) {
        let Ok(at) = usize::try_from(slot) else { return };
        if self.marks.len() <= at {
            self.marks.resize(at + 1, 0);
            self.numbers.resize(at + 1, 0);
        }
        let number = as_number(version);
        let form = match number {
            Some(_) => NUMBER,
            None if version.is_empty() => 0,
            None => TEXT,
        };
        if form == TEXT {
            self.texts.insert(slot, version.into());
        } else {
            self.texts.remove(&slot);
        }
        if let (Some(held), Some(mark)) = (self.numbers.get_mut(at), self.marks.get_mut(at)) {
            *held = number.unwrap_or_default();
            *mark = HELD | SEEN | FRESH | form;
        }
        self.fresh.push(slot);
    }

    /// Was it named in the response that is being taken?
    pub(super) fn is_fresh(&self, slot: u32) -> bool {
        self.mark(slot) & FRESH != 0
    }

    /// It was heard of on this stream, if it is held at all.
    pub(super) fn see(&mut self, slot: u32) {
        self.change(slot, |mark| if mark & HELD == 0 { mark } else { mark | SEEN });
    }

    pub(super) fn is_held(&self, slot: u32) -> bool {
        self.mark(slot) & HELD != 0
    }

    pub(super) fn forget(&mut self, slot: u32) {
        self.change(slot, |_| 0);
        self.texts.remove(&slot);
    }

    /// The version as istiod wrote it.
    pub(super) fn version(&self, slot: u32) -> String {
        if self.mark(slot) & TEXT != 0 {
            return self.texts.get(&slot).map(|text| text.to_string()).unwrap_or_default();
        }
        self.number(slot)
            .map(|number| format!("{number:x}"))
            .unwrap_or_default()
    }

    /// The response is taken.
    pub(super) fn settle(&mut self) {
        for slot in std::mem::take(&mut self.fresh) {
            self.change(slot, |mark| mark & !FRESH);
        }
    }

    /// A new stream begins: nothing was seen on it.
    pub(super) fn unsee(&mut self) {
        self.settle();
        self.marks.iter_mut().for_each(|mark| *mark &= !SEEN);
    }

    /// What was not seen on this stream.
    pub(super) fn unseen(&self) -> Vec<u32> {
        let marks = (0..).zip(&self.marks);
        let unseen = marks.filter(|(_, mark)| **mark & (HELD | SEEN) == HELD);
        unseen.map(|(slot, _)| slot).collect()
    }

    fn number(&self, slot: u32) -> Option<u64> {
        let number = self.numbers.get(usize::try_from(slot).ok()?)?;
        (self.mark(slot) & NUMBER != 0).then_some(*number)
    }

    fn mark(&self, slot: u32) -> u8 {
        let at = usize::try_from(slot).ok();
        at.and_then(|at| self.marks.get(at)).copied().unwrap_or_default()
    }

    fn change(&mut self, slot: u32, to: impl FnOnce(u8) -> u8) {
        let at = usize::try_from(slot).ok();
        if let Some(mark) = at.and_then(|at| self.marks.get_mut(at)) {
            *mark = to(*mark);
        }
    }
}

/// The number a version stands for, if it is written as istiod writes numbers: any other text must come back as it was.
fn as_number(version: &str) -> Option<u64> {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let canonical = version.bytes().all(plain) && (!version.starts_with('0') || version == "0");
    let number = u64::from_str_radix(version, 16).ok();
    number.filter(|_| canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_comes_back_as_it_was_written() {
        let mut versions = Versions::default();
        let written = [
            "",
            "0",
            "00",
            "deadbeef",
            "DEADBEEF",
            "0123456789abcdef",
            "ffffffffffffffff",
            "10000000000000000",
            "+1",
            "v 1",
        ];
        for (slot, version) in (0..).zip(written) {
            versions.note(slot, version);
        }
        for (slot, version) in (0..).zip(written) {
            assert_eq!(versions.version(slot), version);
        }
        assert_eq!(
            versions.texts.len(),
            6,
            "only what is no number of istiod's costs a text"
        );
        versions.note(1, "v2");
        versions.note(2, "1");
        assert_eq!(
            (versions.version(1), versions.version(2)),
            ("v2".to_owned(), "1".to_owned())
        );
        versions.forget(1);
        assert_eq!((versions.version(1).as_str(), versions.is_held(1)), ("", false));
    }

    #[test]
    fn what_came_is_seen_on_its_stream_and_fresh_in_its_response() {
        let mut versions = Versions::default();
        versions.note(0, "1");
        versions.note(2, "1");
        assert!(versions.is_fresh(0) && !versions.is_fresh(1));
        versions.settle();
        assert!(!versions.is_fresh(0));
        assert!(versions.unseen().is_empty());
        versions.unsee();
        assert_eq!(versions.unseen(), [0, 2]);
        versions.see(0);
        versions.see(1);
        versions.see(9);
        assert_eq!(versions.unseen(), [2]);
        assert!(versions.is_held(2) && !versions.is_held(1));
    }
}
