//! What the command line and the environment say, before it is understood.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
};

use super::{
    asked::{Asked, Format},
    kind::Kind,
    mistakes::{Mistake, Mistakes},
    proxy_config::{self, ProxyConfig},
    settings::{Fallback, Setting, setting, settings_of},
    variables::{Treatment, VARIABLES, Variable, is_service_link, meant, meant_flag, variable},
    verb::Verb,
};

/// Texts of settings, and where each stands.
#[derive(Debug, Default)]
pub(super) struct Given {
    settings: HashMap<&'static str, (String, Source)>,
    /// Headers to istiod's workload API.
    pub(super) xds_headers: BTreeMap<String, String>,
    /// Headers to the CA.
    pub(super) ca_headers: BTreeMap<String, String>,
    /// Node metadata for istiod.
    pub(super) metadata: BTreeMap<String, serde_json::Value>,
    /// Whether Kubernetes started us.
    pub(super) in_cluster: bool,
    /// What the command line asks for besides serving.
    pub(super) asked: Asked,
    /// What an operator should read once: ignored variables, and names that look like mistakes.
    pub(super) notes: Vec<Note>,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it.
    Default,
    /// The flag.
    Flag,
    /// This variable.
    Variable(String),
}

/// Something to read once, at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A variable that changes nothing here.
    Ignored {
        /// Its name.
        variable: String,
        /// Why it changes nothing.
        why: &'static str,
    },
    /// A variable nobody knows, which looks like one that is known.
    Unknown {
        /// Its name.
        variable: String,
        /// What it looks like.
        meant: &'static str,
    },
}

impl Source {
    /// How an operator finds the place.
    pub(super) fn place(&self, setting: &Setting) -> String {
        match self {
            Self::Variable(name) => name.clone(),
            Self::Default | Self::Flag => format!("--{}", setting.flag),
        }
    }
}

impl Given {
    /// Sorts everything; flags come before variables.
    pub(super) fn read(
        verb: Verb,
        arguments: impl Iterator<Item = OsString>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut given = Self::default();
        given.flags(verb, arguments, mistakes);
        given.variables(environment, mistakes);
        given
    }

    /// The text of a setting, if anybody gave one.
    pub(super) fn text(&self, flag: &str) -> Option<(&str, Source)> {
        let (text, source) = self.settings.get(flag)?;
        Some((text.as_str(), source.clone()))
    }

    fn flags(&mut self, verb: Verb, arguments: impl Iterator<Item = OsString>, mistakes: &mut Mistakes) {
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let Some(argument) = argument.to_str() else {
                mistakes.add(Mistake::new(argument.to_string_lossy(), None, "it is not UTF-8"));
                continue;
            };
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument, None),
            };
            match name {
                "--help" | "-h" => {
                    self.asked.help = true;
                    continue;
                }
                "--print-config" => {
                    self.asked.print_config = true;
                    continue;
                }
                _ => {}
            }
            let known = match name {
                "-o" | "--output" => None,
                _ => name
                    .strip_prefix("--")
                    .and_then(setting)
                    .filter(|setting| setting.only.is_none_or(|only| only == verb)),
            };
            if known.is_none() && name != "-o" && name != "--output" {
                mistakes.add(unknown(verb, name));
                // What follows is probably its value.
                arguments.next_if(|next| attached.is_none() && !next.to_string_lossy().starts_with('-'));
                continue;
            }
            let value = match attached {
                Some(value) => value,
                None if known.is_some_and(|setting| setting.kind.is_switch()) => "true".to_owned(),
                None => match arguments.next_if(|next| !next.to_string_lossy().starts_with("--")) {
                    Some(value) => match value.into_string() {
                        Ok(value) => value,
                        Err(value) => {
                            mistakes.add(Mistake::new(name, Some(&value.to_string_lossy()), "it is not UTF-8"));
                            continue;
                        }
                    },
                    None => {
                        mistakes.add(Mistake::new(name, None, "a value must follow"));
                        continue;
                    }
                },
            };
            match known {
                Some(setting) if self.settings.contains_key(setting.flag) => {
                    mistakes.add(Mistake::new(name, Some(&value), "it is given twice"));
                }
                Some(setting) => {
                    self.settings.insert(setting.flag, (value, Source::Flag));
                }
                None => match Format::parse(&value) {
                    Some(format) => self.asked.format = format,
                    None => mistakes.add(Mistake::new(name, Some(&value), "it must be yaml or json")),
                },
            }
        }
    }

    fn variables(&mut self, environment: impl Iterator<Item = (OsString, OsString)>, mistakes: &mut Mistakes) {
        let mut found: HashMap<&'static str, String> = HashMap::new();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let value = value.into_string();
            if value.as_ref().is_ok_and(|value| is_service_link(name, value)) {
                self.in_cluster |= name == "KUBERNETES_SERVICE_HOST";
                continue;
            }
            let Some(row) = variable(name) else {
                self.stranger(name, value.as_deref().ok(), mistakes);
                continue;
            };
            let Ok(value) = value else {
                mistakes.add(Mistake::new(name, None, "it is not UTF-8"));
                continue;
            };
            match row.key_of(name) {
                Some(key) => self.of_family(row, key, (name, value), mistakes),
                None => {
                    found.insert(row.name, value);
                }
            }
        }
        // What a row says of one setting comes before what others say of several.
        let of_one = |row: &&Variable| matches!(row.treatment, Treatment::Sets(_));
        let direct = VARIABLES.iter().filter(of_one);
        for row in direct.chain(VARIABLES.iter().filter(|row| !of_one(row))) {
            if let Some(value) = found.remove(row.name) {
                self.known(row, value, mistakes);
            }
        }
    }

    fn known(&mut self, row: &'static Variable, value: String, mistakes: &mut Mistakes) {
        let name = row.name;
        let stands_for_none = |flag: &str| setting(flag).is_some_and(|setting| matches!(setting.kind, Kind::Endpoint));
        match row.treatment {
            Treatment::Sets(flag) if value.is_empty() && !stands_for_none(flag) => {}
            Treatment::Sets(flag) => {
                if let Some(key) = name.strip_prefix("ISTIO_META_") {
                    self.metadata.insert(key.to_owned(), value.clone().into());
                }
                self.offer(flag, name, value);
            }
            _ if value.is_empty() => {}
            Treatment::Mapped(_) if name == "PROXY_CONFIG" => match proxy_config::parse(&value) {
                Ok(config) => self.proxy_config(config),
                Err(why) => mistakes.add(Mistake::new(name, Some(&value), why)),
            },
            Treatment::Mapped(_) if name == "ISTIO_OWNED_CNI_CONFIG" => match super::value::switch(&value) {
                Ok(is_own) => {
                    let mode = if is_own { "own" } else { "chained" };
                    self.offer("cni-install", name, mode.to_owned());
                }
                Err(why) => mistakes.add(Mistake::new(name, Some(&value), why)),
            },
            Treatment::Mapped(_) => match grace(&value) {
                Ok(deadline) => self.offer("drain-deadline", name, deadline),
                Err(why) => mistakes.add(Mistake::new(name, Some(&value), why)),
            },
            Treatment::Ignored(why) => self.notes.push(Note::Ignored {
                variable: name.to_owned(),
                why,
            }),
            Treatment::Only(values, why) => {
                if !values.iter().any(|only| only.eq_ignore_ascii_case(&value)) && !is_same(values, &value) {
                    let why = format!("only {} is possible: {why}", values.join(" or "));
                    mistakes.add(Mistake::new(name, Some(&value), why));
                }
            }
            Treatment::Refused(why) => mistakes.add(Mistake::new(name, Some(&value), why)),
        }
    }

    /// Takes a value unless one is known already.
    fn offer(&mut self, flag: &'static str, variable: &str, value: String) {
        self.settings
            .entry(flag)
            .or_insert_with(|| (value, Source::Variable(variable.to_owned())));
    }

    fn proxy_config(&mut self, config: ProxyConfig) {
        for (flag, value) in config.settings {
            self.offer(flag, "PROXY_CONFIG", value);
        }
        for (key, value) in config.metadata {
            self.metadata.entry(key).or_insert(value);
        }
    }

    fn of_family(&mut self, row: &Variable, key: &str, (name, value): (&str, String), mistakes: &mut Mistakes) {
        match row.name {
            "XDS_HEADER_*" | "CA_HEADER_*" => {
                let headers = if row.name.starts_with("XDS") {
                    &mut self.xds_headers
                } else {
                    &mut self.ca_headers
                };
                match (
                    http::HeaderName::try_from(key.to_ascii_lowercase()),
                    http::HeaderValue::try_from(&value),
                ) {
                    (Ok(header), Ok(_)) => drop(headers.insert(header.as_str().to_owned(), value)),
                    (Err(_), _) => mistakes.add(Mistake::new(name, None, format!("{key:?} is no name of a header"))),
                    (_, Err(_)) => mistakes.add(Mistake::new(name, None, "its value cannot stand in a header")),
                }
            }
            "ISTIO_METAJSON_*" => match serde_json::from_str(&value) {
                Ok(json) => drop(self.metadata.insert(key.to_owned(), json)),
                Err(error) => mistakes.add(Mistake::new(name, Some(&value), format!("it must be JSON: {error}"))),
            },
            _ => drop(self.metadata.insert(key.to_owned(), value.into())),
        }
    }

    fn stranger(&mut self, name: &str, value: Option<&str>, mistakes: &mut Mistakes) {
        if name.starts_with("ISTHMUS_") {
            mistakes.add(Mistake::new(name, value, "there is no such variable").meaning(meant(name)));
        } else if let Some(meant) = meant(name) {
            self.notes.push(Note::Unknown {
                variable: name.to_owned(),
                meant,
            });
        }
    }
}

fn unknown(verb: Verb, name: &str) -> Mistake {
    if !name.starts_with('-') {
        return Mistake::new(
            name,
            None,
            format!("isthmus {} takes no arguments but flags", verb.word()),
        );
    }
    let flag = name.trim_start_matches('-');
    match setting(flag) {
        Some(setting) => {
            let other = setting.only.map_or("another command", Verb::word);
            let why = format!("it is a flag of isthmus {other}, not of isthmus {}", verb.word());
            Mistake::new(name, None, why)
        }
        None => {
            let meant = meant_flag(flag).filter(|meant| settings_of(verb).any(|setting| setting.flag == *meant));
            Mistake::new(name, None, format!("isthmus {} has no such flag", verb.word()))
                .meaning(meant.map(|meant| format!("--{meant}")))
        }
    }
}

/// 1 and 0 where switches are meant.
fn is_same(values: &[&str], value: &str) -> bool {
    values
        .iter()
        .any(|only| matches!((*only, value), ("true", "1") | ("false", "0")))
}

/// The drain deadline that leaves time to end within Kubernetes' grace period (wire-facts.md §9.4).
fn grace(text: &str) -> Result<String, String> {
    match super::value::number(text) {
        Ok(seconds @ 0..=10) => Ok(format!("{}s", seconds.saturating_sub(1).max(1))),
        Ok(seconds) => Ok(format!("{}s", seconds - 5)),
        Err(why) => Err(format!("{why} of seconds")),
    }
}

/// The default of a setting, as one would write it.
pub(super) fn fallback(setting: &Setting) -> Option<&'static str> {
    match setting.default {
        Fallback::Value(text) => Some(text),
        Fallback::Unset(_) => None,
    }
}
