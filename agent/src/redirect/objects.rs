//! The embedded eBPF objects.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::RedirectError;

static NODE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/node.bpf"));
static POD: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.bpf"));

/// The object of the node's programs.
pub fn node() -> Result<&'static [u8], RedirectError> {
    if NODE.is_empty() {
        Err(RedirectError::NoObjects)
    } else {
        Ok(NODE)
    }
}

/// The object of a pod's programs.
pub fn pod() -> Result<&'static [u8], RedirectError> {
    if POD.is_empty() {
        Err(RedirectError::NoObjects)
    } else {
        Ok(POD)
    }
}

/// Names the programs and the layout of their maps: other bytes, other generation. Fits a bpffs file name.
pub fn generation() -> String {
    let mut hasher = DefaultHasher::new();
    (NODE, POD).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
