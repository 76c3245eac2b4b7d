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
        }
    }
}

/// Namespaces, as `a,b`.
pub(super) fn namespaces(reader: &mut Reader) -> Vec<String> {
    let parsed = reader.parsed("exclude-namespaces", |text| {
        let names: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match names.iter().find(|name| !name.bytes().all(is_plain)) {
            Some(odd) => Err(format!("it must be names of namespaces as a,b; {odd:?} is none")),
            None => Ok((names.clone(), names.join(",").into())),
        }
    });
    parsed.unwrap_or_default()
}
