//! Every setting there is: its flag, its variable, its bounds, its default.
//!
//! docs/configuration.md shows the same table; a test holds the two together.

mod cni;
mod istiod;
mod kubernetes;
mod process;
mod traffic;

use super::{kind::Kind, verb::Verb};

/// One setting of a serving command. It can be given as a flag and as a variable.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// The variable that means the same; ztunnel's where it has one.
    pub variable: &'static str,
    /// What a value looks like, and its bounds.
    pub kind: Kind,
    /// What holds when nothing is given.
    pub default: Fallback,
    /// Who has it; nobody's is everybody's.
    pub only: Option<Verb>,
    /// What it does, in one line.
    pub meaning: &'static str,
}

/// What holds when nothing is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// A value, as one would write it.
    Value(&'static str),
    /// Nothing; the text says what that means.
    Unset(&'static str),
}

/// All settings, in the order in which they are shown.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    [
        process::PROCESS,
        kubernetes::KUBERNETES,
        traffic::TRAFFIC,
        cni::CNI,
        istiod::ISTIOD,
    ]
    .into_iter()
    .flatten()
}

/// The settings that `verb` has.
pub fn settings_of(verb: Verb) -> impl Iterator<Item = &'static Setting> {
    settings().filter(move |setting| setting.only.is_none_or(|only| only == verb))
}

/// The setting of this flag.
pub(super) fn setting(flag: &str) -> Option<&'static Setting> {
    settings().find(|setting| setting.flag == flag)
}

const fn shared(
    flag: &'static str,
    variable: &'static str,
    kind: Kind,
    default: Fallback,
    meaning: &'static str,
) -> Setting {
    Setting {
        flag,
        variable,
        kind,
        default,
        only: None,
        meaning,
    }
}

const fn of(verb: Verb, setting: Setting) -> Setting {
    Setting {
        only: Some(verb),
        ..setting
    }
}
