use std::path::PathBuf;

use super::reader::Reader;
use crate::cni::Mode;

/// The CNI plugin on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// How it is installed; `None` where somebody else does that.
    pub install: Option<Mode>,
    /// Directory of plugins; `None` when it is to be found.
    pub binaries: Option<PathBuf>,
    /// Directory of configurations; `None` when it is to be found.
    pub configurations: Option<PathBuf>,
    /// The primary's configuration; `None` for the first in order.
    pub primary: Option<String>,
    /// What becomes of pods that are not known to be excluded or ambient while the agent is away.
    pub when_away: &'static str,
    /// What istio-cni left on the node is removed when it has gone.
    pub take_over: bool,
    /// Where the node's file system is seen; `None` when it is to be found.
    pub host_root: Option<PathBuf>,
}

impl Cni {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let standard = if reader.given.in_cluster { "own" } else { "off" };
        let install = reader.one_of_or("cni-install", standard);
        let primary = reader.optional_text("cni-conf-name").filter(|name| !name.is_empty());
        if primary.as_ref().is_some_and(|name| name.contains('/')) {
            let why = "it is a file of --cni-conf-dir, so it must have no slash";
            reader.contradiction("cni-conf-name", why.to_owned());
        }
        Self {
            install: match install {
                "own" => Some(Mode::Own),
                "chained" => Some(Mode::Chained),
                _ => None,
            },
            binaries: reader.optional_path("cni-bin-dir"),
            configurations: reader.optional_path("cni-conf-dir"),
            primary,
            when_away: reader.one_of("cni-when-away"),
            take_over: reader.switch("take-over-istio-cni"),
            host_root: reader.optional_path("host-root"),
        }
    }
}
