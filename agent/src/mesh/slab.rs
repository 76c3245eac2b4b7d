//! Objects by number, in chunks that snapshots share.
//!
//! Numbers are half as large as pointers, and copying a table of them touches none of the objects. To change one object of
//! a slab that a snapshot holds, one chunk is copied and the list of chunks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Objects in a chunk. Small enough to be copied for one change, large enough that the list of chunks is short.
const CHUNK: usize = 64;

/// Objects by number. A clone is a pointer.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Arc<Vec<Chunk<T>>>,
}

type Chunk<T> = Arc<[Option<Arc<T>>; CHUNK]>;

/// What stood at a number, and what stands there now.
pub(super) type Change<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// Which numbers of a slab are free. The lowest is given out first, so that a slab does not grow holes.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    next: u32,
    free: BinaryHeap<Reverse<u32>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Arc::default() }
    }
}

impl<T> Clone for Slab<T> {
    fn clone(&self) -> Self {
        Self {
            chunks: Arc::clone(&self.chunks),
        }
    }
}

impl<T> Slab<T> {
    /// The object of a number.
    pub(super) fn get(&self, slot: u32) -> Option<&Arc<T>> {
        let (chunk, within) = place(slot)?;
        self.chunks.get(chunk)?.get(within)?.as_ref()
    }

    /// Puts an object at a number, or nothing.
    pub(super) fn put(&mut self, slot: u32, object: Option<Arc<T>>) {
        if let Some(held) = self.held(slot) {
            *held = object;
        }
    }

    /// The object of a number, to be changed. Snapshots that share it keep it as it was.
    pub(super) fn change(&mut self, slot: u32) -> Option<&mut T>
    where
        T: Clone,
    {
        self.held(slot)?.as_mut().map(Arc::make_mut)
    }

    /// All objects and their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        let slots = self.chunks.iter().flat_map(|chunk| chunk.iter());
        (0..)
            .zip(slots)
            .filter_map(|(slot, object)| Some((slot, object.as_ref()?)))
    }

    /// Numbers at which another object stands than in `old`, or none does: what was there, and what is. Chunks that both
    /// share are passed over, so that it costs little where little differs.
    pub(super) fn changes<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = Change<'a, T>> {
        let longest = self.chunks.len().max(old.chunks.len());
        let pairs = (0..longest).map(|at| (old.chunks.get(at), self.chunks.get(at)));
        let changed = pairs.filter(|(old, new)| match (old, new) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        });
        changed.flat_map(|(old, new)| {
            let object = |chunk: Option<&'a Chunk<T>>, at: usize| chunk?.get(at)?.as_ref();
            let pairs = (0..CHUNK).map(move |at| (object(old, at), object(new, at)));
            pairs.filter(|(old, new)| match (old, new) {
                (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
                (None, None) => false,
                _ => true,
            })
        })
    }

    fn held(&mut self, slot: u32) -> Option<&mut Option<Arc<T>>> {
        let (chunk, within) = place(slot)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        while chunks.len() <= chunk {
            chunks.push(Arc::new([const { None }; CHUNK]));
        }
        Arc::make_mut(chunks.get_mut(chunk)?).get_mut(within)
    }
}

/// Chunk, and place in it.
fn place(slot: u32) -> Option<(usize, usize)> {
    let slot = usize::try_from(slot).ok()?;
    Some((slot / CHUNK, slot % CHUNK))
}

impl Slots {
    /// A number that is not in use.
    pub(super) fn take(&mut self) -> u32 {
        if let Some(Reverse(slot)) = self.free.pop() {
            return slot;
        }
        let slot = self.next;
        // Four thousand million objects do not fit any memory.
        self.next = self.next.saturating_add(1);
        slot
    }

    /// Gives a number back.
    pub(super) fn give_back(&mut self, slot: u32) {
        self.free.push(Reverse(slot));
    }

    /// How many are in use.
    pub(super) fn used(&self) -> usize {
        usize::try_from(self.next).map_or(0, |next| next.saturating_sub(self.free.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_what_changes_later_and_shares_what_does_not() {
        let mut slab = Slab::default();
        for slot in 0..200 {
            slab.put(slot, Some(Arc::new(slot)));
        }
        let before = slab.clone();
        slab.put(7, Some(Arc::new(700)));
        slab.put(8, None);
        *slab.change(9).unwrap() = 900;
        let seen = |slab: &Slab<u32>, slot| slab.get(slot).map(|held| **held);
        assert_eq!([7, 8, 9].map(|slot| seen(&slab, slot)), [Some(700), None, Some(900)]);
        assert_eq!([7, 8, 9].map(|slot| seen(&before, slot)), [Some(7), Some(8), Some(9)]);
        assert!(Arc::ptr_eq(slab.get(10).unwrap(), before.get(10).unwrap()));
        assert!(
            Arc::ptr_eq(&slab.chunks[2], &before.chunks[2]),
            "an untouched chunk is shared"
        );
        assert_eq!(slab.iter().count(), 199);
        assert!(slab.get(10_000).is_none());
    }

    #[test]
    fn the_lowest_free_number_is_taken_first() {
        let mut slots = Slots::default();
        assert_eq!([slots.take(), slots.take(), slots.take()], [0, 1, 2]);
        slots.give_back(2);
        slots.give_back(0);
        assert_eq!(slots.used(), 1);
        assert_eq!([slots.take(), slots.take(), slots.take()], [0, 2, 3]);
        assert_eq!(slots.used(), 4);
    }
}
