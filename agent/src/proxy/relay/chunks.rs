use std::{collections::VecDeque, io};

use bytes::{Buf as _, Bytes, BytesMut};

/// Chunks that wait for a slower sink, in order. Small ones are packed together: a DATA frame of one byte otherwise
/// keeps a whole read buffer and a queue slot alive.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    queue: VecDeque<Bytes>,
    packing: BytesMut,
    length: usize,
}

/// Chunks below this are packed once something waits before them.
const PACK_BELOW_BYTES: usize = 2048;

/// A pack is closed at this size.
const PACK_BYTES: usize = 32 << 10;

impl Chunks {
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let first = self.length == 0;
        self.length += chunk.len();
        if first || chunk.len() >= PACK_BELOW_BYTES {
            self.close_pack();
            self.queue.push_back(chunk);
            return;
        }
        if self.packing.len() + chunk.len() > PACK_BYTES {
            self.close_pack();
        }
        self.packing.extend_from_slice(&chunk);
    }

    fn close_pack(&mut self) {
        if !self.packing.is_empty() {
            self.queue.push_back(self.packing.split().freeze());
        }
    }

    /// Takes the whole of the first chunk.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let chunk = match self.queue.pop_front() {
            Some(chunk) => chunk,
            None if self.packing.is_empty() => return None,
            None => std::mem::take(&mut self.packing).freeze(),
        };
        self.length -= chunk.len();
        Some(chunk)
    }

    /// Fills `slices` with the first chunks; says how many it filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [io::IoSlice<'a>]) -> usize {
        let pack = (!self.packing.is_empty()).then_some(&self.packing[..]);
        let chunks = self.queue.iter().map(|chunk| &chunk[..]).chain(pack);
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(chunks) {
            *slot = io::IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    /// Drops the first `count` bytes.
    pub(crate) fn advance(&mut self, mut count: usize) {
        count = count.min(self.length);
        self.length -= count;
        while count > 0 {
            let Some(first) = self.queue.front_mut() else {
                self.packing.advance(count);
                return;
            };
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.queue.pop_front();
        }
        if self.length == 0 {
            self.packing = BytesMut::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn parts(&self) -> usize {
        self.queue.len() + usize::from(!self.packing.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_packed_and_no_byte_is_lost_or_moved() {
        let mut chunks = Chunks::default();
        let mut expected = Vec::new();
        for n in 0..100_000_u32 {
            let length = if n % 1000 == 0 { 5000 } else { 1 };
            let piece = vec![(n % 251) as u8; length];
            expected.extend_from_slice(&piece);
            chunks.push(piece.into());
        }
        assert!(chunks.parts() < 500, "{} parts", chunks.parts());
        let mut got = Vec::new();
        while !chunks.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); 7];
            let count = chunks.slices(&mut slices);
            let mut taken = 0;
            for slice in &slices[..count] {
                // Stops in the middle of a slice, as a short write does.
                let part = slice.len() - slice.len() / 3;
                got.extend_from_slice(&slice[..part]);
                taken += part;
                if part < slice.len() {
                    break;
                }
            }
            chunks.advance(taken);
        }
        assert!(got == expected);
        assert_eq!(chunks.parts(), 0);
    }

    #[test]
    fn chunks_come_out_whole_and_in_order() {
        let mut chunks = Chunks::default();
        for piece in ["aa", "b", "c"] {
            chunks.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(chunks.pop().as_deref(), Some(&b"aa"[..]));
        assert_eq!(chunks.pop().as_deref(), Some(&b"bc"[..]));
        assert_eq!(chunks.pop(), None);
        assert!(chunks.is_empty());
    }
}
