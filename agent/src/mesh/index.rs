//! From the hash of a key to the numbers of objects that may have it.
//!
//! One row of (tag, slot) sorted by tag, cut into leaves by the leading bits of the tag. The keys themselves are not kept:
//! who asks compares the objects. A leaf is an allocation of just its size, shared between snapshots; a change copies one
//! leaf and the list of them. That is 8 bytes an entry and a few per cent, where a hash map with its keys takes 40 to 80.

use std::sync::Arc;

/// Entries in a leaf, on average, when leaves are cut.
const LEAF: usize = 96;

/// From tags to slots; several slots may have one tag, and one slot several tags. A clone is a pointer.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    leaves: Arc<Vec<Arc<[Entry]>>>,
    entries: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u32,
    slot: u32,
}

impl Index {
    /// The slots of a tag, in the order they were given when inserted. Different keys may share a tag.
    pub(super) fn slots(&self, tag: u32) -> impl Iterator<Item = u32> + Clone {
        let leaf: &[Entry] = self
            .leaves
            .get(self.leaf_of(tag))
            .map(|leaf| &**leaf)
            .unwrap_or_default();
        let start = leaf.partition_point(|entry| entry.tag < tag);
        let run = leaf.get(start..).unwrap_or_default().iter();
        run.take_while(move |entry| entry.tag == tag).map(|entry| entry.slot)
    }

    /// Adds a slot, after those of the same tag for which `before` holds: these must be the first ones.
    pub(super) fn insert(&mut self, tag: u32, slot: u32, before: impl Fn(u32) -> bool) {
        self.entries += 1;
        self.cut();
        let at = self.leaf_of(tag);
        let Some(leaf) = Arc::make_mut(&mut self.leaves).get_mut(at) else {
            return;
        };
        let place = leaf.partition_point(|entry| entry.tag < tag || (entry.tag == tag && before(entry.slot)));
        let (head, tail) = leaf.split_at_checked(place).unwrap_or_default();
        *leaf = [head, &[Entry { tag, slot }], tail].concat().into();
    }

    /// Takes a slot out; nothing happens when it is not there.
    pub(super) fn remove(&mut self, tag: u32, slot: u32) {
        let at = self.leaf_of(tag);
        let gone = Entry { tag, slot };
        if !self.leaves.get(at).is_some_and(|leaf| leaf.contains(&gone)) {
            return;
        }
        let Some(leaf) = Arc::make_mut(&mut self.leaves).get_mut(at) else {
            return;
        };
        let mut taken = false;
        // The same key given twice is there twice, and taken out twice.
        let stays = |entry: &&Entry| taken || **entry != gone || std::mem::replace(&mut taken, true);
        *leaf = leaf.iter().filter(stays).copied().collect();
        self.entries = self.entries.saturating_sub(1);
        self.cut();
    }

    fn leaf_of(&self, tag: u32) -> usize {
        let wide = u64::from(tag) * u64::try_from(self.leaves.len()).unwrap_or_default();
        usize::try_from(wide >> 32).unwrap_or_default()
    }

    /// Cuts the row anew where leaves have become too large or too many. Each cut leaves room for twice as many entries or
    /// half of them, so that it is rare.
    fn cut(&mut self) {
        let wanted = (self.entries / LEAF).next_power_of_two();
        let now = self.leaves.len();
        if wanted <= now && now <= 4 * wanted {
            return;
        }
        let old = std::mem::take(&mut self.leaves);
        let mut cut: Vec<Vec<Entry>> = vec![Vec::new(); wanted];
        self.leaves = Arc::new(vec![Arc::default(); wanted]);
        for entry in old.iter().flat_map(|leaf| leaf.iter()) {
            if let Some(leaf) = cut.get_mut(self.leaf_of(entry.tag)) {
                leaf.push(*entry);
            }
        }
        self.leaves = Arc::new(cut.into_iter().map(Into::into).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::draw::Draw;

    #[test]
    fn an_index_finds_what_a_plain_list_finds() {
        let mut draw = Draw::new(1);
        let mut index = Index::default();
        let mut list: Vec<(u32, u32)> = Vec::new();
        for step in 0..20_000_u32 {
            // Few tags, so that they meet; far apart, so that every leaf has some.
            let tag = u32::try_from(draw.below(500)).unwrap() * 8_000_000;
            let growing = step < 12_000;
            if growing || draw.below(4) == 0 {
                index.insert(tag, step, |other| other < step);
                list.push((tag, step));
            } else if !list.is_empty() {
                let at = usize::try_from(draw.below(list.len() as u64)).unwrap();
                let (tag, slot) = list.swap_remove(at);
                index.remove(tag, slot);
            }
        }
        assert_eq!(index.entries, list.len());
        for tag in (0..500).map(|tag| tag * 8_000_000) {
            let mut wanted: Vec<u32> = list
                .iter()
                .filter(|(own, _)| *own == tag)
                .map(|(_, slot)| *slot)
                .collect();
            wanted.sort_unstable();
            assert_eq!(index.slots(tag).collect::<Vec<_>>(), wanted);
            assert_eq!(index.slots(tag + 1).count(), 0);
        }
    }

    #[test]
    fn leaves_follow_the_number_of_entries_up_and_down() {
        let mut index = Index::default();
        let tags: Vec<u32> = (0..10_000_u32).map(|at| at.wrapping_mul(0x9e37_79b9)).collect();
        for tag in &tags {
            index.insert(*tag, 1, |_| true);
        }
        assert_eq!(index.leaves.len(), 128);
        assert!(index.leaves.iter().all(|leaf| leaf.len() < 4 * LEAF));
        for tag in &tags {
            index.remove(*tag, 1);
            index.remove(*tag, 1);
        }
        assert_eq!(index.entries, 0);
        assert!(index.leaves.len() <= 4, "{}", index.leaves.len());
        assert_eq!(index.slots(0).count(), 0);
    }

    #[test]
    fn a_clone_does_not_see_what_changes_later_and_shares_the_other_leaves() {
        let mut index = Index::default();
        for at in 0..1_000_u32 {
            index.insert(at.wrapping_mul(0x9e37_79b9), at, |_| true);
        }
        let before = index.clone();
        index.insert(5, 5_000, |_| true);
        assert_eq!(before.slots(5).count(), 0);
        assert_eq!(index.slots(5).collect::<Vec<_>>(), [5_000]);
        let shared = before
            .leaves
            .iter()
            .zip(index.leaves.iter())
            .filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count() + 1, index.leaves.len());
    }
}
