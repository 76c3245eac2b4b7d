//! Tags: hashes of the keys of [`Index`](super::index::Index)es.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

use super::workload::Uid;

/// Makes tags from keys. The hash is seeded: names come from whoever may create a pod, who could choose them to collide.
#[derive(Debug, Clone, Default)]
pub(super) struct Tagger(RandomState);

impl Tagger {
    /// The tag of a uid, however that is kept.
    pub(super) fn uid(&self, uid: Uid<'_>) -> u32 {
        let mut hasher = self.0.build_hasher();
        // One by one: how a hash takes several pieces of a text is not promised.
        uid.bytes().for_each(|byte| hasher.write_u8(byte));
        upper_half(hasher.finish())
    }

    /// The tag of a name in a namespace.
    pub(super) fn name(&self, namespace: &str, name: &str) -> u32 {
        self.of(&(namespace, name))
    }

    /// The tag of an address, which must be canonical.
    pub(super) fn ip(&self, ip: IpAddr) -> u32 {
        self.of(&ip)
    }

    /// The tag of a text alone.
    pub(super) fn text(&self, text: &str) -> u32 {
        self.of(text)
    }

    fn of<T: Hash + ?Sized>(&self, key: &T) -> u32 {
        upper_half(self.0.hash_one(key))
    }
}

fn upper_half(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}
