//! From the files of a configuration directory to what is to be written there. Pure.

use super::{
    OWN_CONFLIST,
    conflist::{Configuration, ConfigurationError, Plugin},
};

/// How the plugin comes into the node's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A list of our own, first in order, with the primary's plugins and ours.
    Own,
    /// The primary's own file is edited.
    Chained,
}

impl Mode {
    /// As the setting has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Chained => "chained",
        }
    }
}

/// A file of the directory, or why it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) text: Result<String, String>,
}

/// Something to be done in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Put this text under `name`, with the rights of the file `like`.
    Write { name: String, text: String, like: String },
    /// Give a file another name.
    Rename { from: String, to: String },
    /// Remove a file.
    Remove { name: String },
}

/// What is to be done, and what holds when it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The file by which runtimes call the plugin.
    pub(super) configuration: Option<String>,
    /// The primary's file.
    pub(super) primary: Option<String>,
    pub(super) trouble: Option<String>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) mode: Mode,
    /// The primary's file; the first in order when not told.
    pub(super) primary: Option<&'a str>,
    pub(super) plugin: &'a Plugin,
    /// Our own list as it was last seen whole.
    pub(super) last: Option<&'a str>,
}

/// A single configuration that a list took the place of has this behind its name, for the way back.
const REPLACED: &str = ".isthmus-replaced";

/// Whether container runtimes read a file of this name.
pub(super) fn is_read(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
}

/// Whether the plan depends on a file of this name.
pub(super) fn matters(name: &str) -> bool {
    is_read(name) || name.ends_with(REPLACED)
}

fn is_list(name: &str) -> bool {
    name.ends_with(".conflist")
}

/// The list that takes the place of a single configuration.
fn list_of(name: &str) -> String {
    let stem = name.strip_suffix(".conf").or_else(|| name.strip_suffix(".json"));
    format!("{}.conflist", stem.unwrap_or(name))
}

/// The primary's file, understood.
struct Primary<'a> {
    name: &'a str,
    text: &'a str,
    configuration: Configuration<'a>,
}

/// Why there is no primary to be had.
enum NoPrimary {
    Absent(String),
    Unusable(String),
}

impl NoPrimary {
    fn reason(&self) -> &str {
        let (Self::Absent(reason) | Self::Unusable(reason)) = self;
        reason
    }
}

fn primary<'a>(files: &'a [Seen], wanted: Option<&str>) -> Result<Primary<'a>, NoPrimary> {
    let mut candidates = files
        .iter()
        .filter(|file| is_read(&file.name) && file.name != OWN_CONFLIST);
    let found = match wanted {
        Some(wanted) => candidates.find(|file| file.name == wanted || list_of(wanted) == file.name),
        // A malformed one is not passed over: it may be about to be written whole, and runtimes stop at it as well.
        None => candidates.next(),
    };
    let Some(Seen { name, text }) = found else {
        return Err(NoPrimary::Absent(match wanted {
            Some(wanted) => format!("{wanted} is not there; it is waited for"),
            None => "no primary CNI plugin has written its configuration yet; it is waited for".to_owned(),
        }));
    };
    let unusable = |why: String| NoPrimary::Unusable(format!("{name} cannot be used: {why}"));
    let text = text.as_ref().map_err(|why| unusable(why.clone()))?;
    let configuration = Configuration::parse(text, is_list(name)).map_err(|error| unusable(error.to_string()))?;
    Ok(Primary {
        name,
        text,
        configuration,
    })
}

/// What is to be done for a wish. `files` are in order.
pub(super) fn plan(files: &[Seen], wish: &Wish<'_>) -> Plan {
    let primary = primary(files, wish.primary);
    let list = primary.and_then(|primary| match primary.configuration.with(wish.plugin) {
        Ok(list) => Ok((primary, list)),
        Err(error) => Err(NoPrimary::Unusable(format!("{} cannot be used: {error}", primary.name))),
    });
    match (wish.mode, list) {
        (Mode::Own, Ok((primary, list))) => own(files, &primary, list),
        (Mode::Own, Err(none)) => own_without_primary(files, wish, &none),
        (Mode::Chained, Ok((primary, list))) => chained(files, &primary, list),
        (Mode::Chained, Err(none)) => chained_without_primary(files, &none),
    }
}

fn seen<'a>(files: &'a [Seen], name: &str) -> Option<&'a Seen> {
    files.iter().find(|file| file.name == name)
}

fn text_of<'a>(files: &'a [Seen], name: &str) -> Option<&'a str> {
    seen(files, name)?.text.as_deref().ok()
}

/// Runtimes take the first file in order.
fn shadowed(files: &[Seen], name: &str) -> Option<String> {
    let first = files.iter().find(|file| is_read(&file.name))?;
    (first.name.as_str() < name).then(|| {
        format!(
            "{} sorts before {name}, and runtimes take the first: rename it",
            first.name
        )
    })
}

fn own(files: &[Seen], primary: &Primary<'_>, list: String) -> Plan {
    let mut steps = Vec::new();
    if text_of(files, OWN_CONFLIST) != Some(list.as_str()) {
        steps.push(Step::Write {
            name: OWN_CONFLIST.to_owned(),
            text: list,
            like: primary.name.to_owned(),
        });
    }
    Plan {
        steps,
        configuration: Some(OWN_CONFLIST.to_owned()),
        primary: Some(primary.name.to_owned()),
        trouble: shadowed(files, OWN_CONFLIST),
    }
}

/// What we made of the primary's when it last was good goes on serving.
fn own_without_primary(files: &[Seen], wish: &Wish<'_>, none: &NoPrimary) -> Plan {
    let is_whole = |text: &str| Configuration::parse(text, true).is_ok_and(|own| own.has_ours);
    let kept = |steps| Plan {
        steps,
        configuration: Some(OWN_CONFLIST.to_owned()),
        primary: None,
        trouble: Some(format!(
            "{}; {OWN_CONFLIST} stays as it was made from what was there before",
            none.reason()
        )),
    };
    let is_there = seen(files, OWN_CONFLIST).is_some();
    if text_of(files, OWN_CONFLIST).is_some_and(is_whole) {
        return kept(Vec::new());
    }
    let nothing = |steps| Plan {
        steps,
        trouble: Some(none.reason().to_owned()),
        ..Plan::default()
    };
    match (none, wish.last) {
        // Both are gone: somebody cleared the directory on purpose.
        (NoPrimary::Absent(_), _) if !is_there => nothing(Vec::new()),
        (_, Some(last)) => kept(vec![Step::Write {
            name: OWN_CONFLIST.to_owned(),
            text: last.to_owned(),
            like: OWN_CONFLIST.to_owned(),
        }]),
        // It would keep runtimes from reading what comes after it.
        (_, None) if is_there => nothing(vec![Step::Remove {
            name: OWN_CONFLIST.to_owned(),
        }]),
        (_, None) => nothing(Vec::new()),
    }
}

fn chained(files: &[Seen], primary: &Primary<'_>, list: String) -> Plan {
    let target = if is_list(primary.name) {
        primary.name.to_owned()
    } else {
        list_of(primary.name)
    };
    let mut steps = Vec::new();
    if target != primary.name {
        let is_others = |there: &Seen| {
            let text = there.text.as_deref().unwrap_or_default();
            !Configuration::parse(text, true).is_ok_and(|there| there.has_ours)
        };
        if seen(files, &target).is_some_and(is_others) {
            return Plan {
                trouble: Some(format!(
                    "{} must become a list, but {target} is there already: remove the one that is not used",
                    primary.name
                )),
                ..Plan::default()
            };
        }
        steps.push(Step::Write {
            name: target.clone(),
            text: list,
            like: primary.name.to_owned(),
        });
        // Only now: until the list stands, the single one serves.
        steps.push(Step::Rename {
            from: primary.name.to_owned(),
            to: format!("{}{REPLACED}", primary.name),
        });
    } else if primary.text != list {
        steps.push(Step::Write {
            name: target.clone(),
            text: list,
            like: target.clone(),
        });
    }
    if seen(files, OWN_CONFLIST).is_some() {
        steps.push(Step::Remove {
            name: OWN_CONFLIST.to_owned(),
        });
    }
    let others: Vec<Seen> = files.iter().filter(|file| file.name != OWN_CONFLIST).cloned().collect();
    Plan {
        steps,
        trouble: shadowed(&others, primary.name),
        configuration: Some(target),
        primary: Some(primary.name.to_owned()),
    }
}

/// Nothing is changed; what may still call the plugin is told.
fn chained_without_primary(files: &[Seen], none: &NoPrimary) -> Plan {
    let calls = |file: &&Seen| {
        let text = file.text.as_deref().unwrap_or_default();
        is_list(&file.name) && Configuration::parse(text, true).is_ok_and(|there| there.has_ours)
    };
    Plan {
        configuration: files.iter().find(calls).map(|file| file.name.clone()),
        trouble: Some(none.reason().to_owned()),
        ..Plan::default()
    }
}

/// What is to be done to take the plugin out of every file. What others wrote stands before ours is taken away.
pub(super) fn removal(files: &[Seen]) -> Vec<Step> {
    let mut steps = Vec::new();
    let others = files
        .iter()
        .filter(|file| is_list(&file.name) && file.name != OWN_CONFLIST);
    for file in others {
        let Ok(text) = &file.text else { continue };
        match Configuration::parse(text, true) {
            Ok(configuration) if configuration.has_ours => steps.extend(taken_out(files, file, &configuration)),
            Err(ConfigurationError::OnlyOurs) => steps.push(Step::Remove {
                name: file.name.clone(),
            }),
            _ => {}
        }
    }
    if seen(files, OWN_CONFLIST).is_some() {
        steps.push(Step::Remove {
            name: OWN_CONFLIST.to_owned(),
        });
    }
    steps
}

fn taken_out(files: &[Seen], file: &Seen, configuration: &Configuration<'_>) -> Vec<Step> {
    let replaced = files.iter().find_map(|other| {
        let single = other.name.strip_suffix(REPLACED)?;
        (list_of(single) == file.name).then_some((other.name.as_str(), single))
    });
    match replaced {
        Some((kept, single)) => {
            // Its owner may have written it anew.
            let back = if seen(files, single).is_some() {
                Step::Remove { name: kept.to_owned() }
            } else {
                Step::Rename {
                    from: kept.to_owned(),
                    to: single.to_owned(),
                }
            };
            let list = Step::Remove {
                name: file.name.clone(),
            };
            vec![back, list]
        }
        None => configuration
            .without_ours()
            .map(|text| Step::Write {
                name: file.name.clone(),
                text,
                like: file.name.clone(),
            })
            .into_iter()
            .collect(),
    }
}

#[cfg(test)]
mod tests;
