//! The CNI plugin on this node: its binary, the configuration by which the container runtime calls it, and what it reads
//! while the agent is away. docs/cni.md tells operators.
//!
//! | file | what it knows |
//! |---|---|
//! | `conflist` | CNI configurations: reading one, putting the plugin last, taking it out |
//! | `plan` | from the files of a directory to what is to be written there |
//! | `layout` | where distributions have their directories |
//! | `place` | putting a file in place, whole or not at all |
//! | `follow` | installing, and following what others do to it |
//! | `remove` | taking all of it away |
//! | `others` | taking somebody else's plugin out of the configurations |
//! | `namespaces` | the file for the plugin |
//!
//! Three rules hold everywhere: a configuration that works is never replaced by nothing; files of others are changed only
//! where an operator asked for that; and what is not understood is left as it is, and reported.

mod conflist;
mod follow;
mod layout;
pub mod namespaces;
mod others;
mod place;
mod plan;
mod remove;

use std::path::{Path, PathBuf};

pub use self::{
    conflist::Plugin,
    follow::{Install, follow},
    layout::{Layout, PLATFORMS},
    others::remove_others,
    plan::Mode,
    remove::remove,
};

/// The plugin's binary, and the type by which configurations name it.
pub const PLUGIN: &str = "isthmus-cni";

/// The configuration of our own. Nothing that is usual sorts before it: not `00-multus.conf`, nor `02-istio-cni.conflist`.
pub const OWN_CONFLIST: &str = "00-isthmus.conflist";

/// Where the binary and the configuration are, or are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Directory of plugins.
    pub binaries: PathBuf,
    /// Directory of configurations.
    pub configurations: PathBuf,
    /// The distribution by whose paths they were found; none when both were told.
    pub platform: Option<&'static str>,
}

/// Where the node's file system is seen: a container expects it under `/host`.
#[must_use]
pub fn node_root() -> PathBuf {
    Path::new(if Path::new("/host/etc").is_dir() { "/host" } else { "/" }).to_owned()
}

impl Places {
    /// As told, and where nothing is told, as the node looks like.
    pub fn find(binaries: Option<PathBuf>, configurations: Option<PathBuf>) -> Self {
        let root = node_root();
        let exists = |path: &str| root.join(path.trim_start_matches('/')).exists();
        Self::of(binaries, configurations, &root, exists)
    }

    fn of(
        binaries: Option<PathBuf>,
        configurations: Option<PathBuf>,
        root: &Path,
        exists: impl Fn(&str) -> bool,
    ) -> Self {
        let layout = Layout::detect(exists);
        let is_told = binaries.is_some() && configurations.is_some();
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            binaries: binaries.unwrap_or_else(|| below(layout.binaries)),
            configurations: configurations.unwrap_or_else(|| below(layout.configurations)),
            platform: (!is_told).then_some(layout.platform),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_before_what_is_found() {
        let found = |binaries: Option<&str>, configurations: Option<&str>| {
            let exists = |path: &str| path == "/home/kubernetes/bin";
            Places::of(
                binaries.map(PathBuf::from),
                configurations.map(PathBuf::from),
                Path::new("/host"),
                exists,
            )
        };
        let places = found(None, None);
        assert_eq!(places.binaries, Path::new("/host/home/kubernetes/bin"));
        assert_eq!(places.configurations, Path::new("/host/etc/cni/net.d"));
        assert_eq!(places.platform, Some("GKE"));
        let places = found(Some("/b"), None);
        assert_eq!(places.binaries, Path::new("/b"));
        assert_eq!(places.configurations, Path::new("/host/etc/cni/net.d"));
        let places = found(Some("/b"), Some("/c"));
        assert_eq!(
            (places.configurations.as_path(), places.platform),
            (Path::new("/c"), None)
        );
    }
}
