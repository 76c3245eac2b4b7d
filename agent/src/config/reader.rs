use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    given::{Given, Source, fallback},
    kind::Kind,
    mistakes::{Mistake, Mistakes},
    settings::{Setting, setting, settings_of},
    threads::Threads,
    value,
    verb::Verb,
};
use crate::istiod::{Roots, Token};

/// Understands what is given, setting by setting. After a mistake it goes on with any value, so that the next one is
/// found too; nobody sees a configuration with mistakes.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) verb: Verb,
    pub(super) given: Given,
    pub(super) mistakes: Mistakes,
    pub(super) effective: Vec<Effective>,
}

/// A setting as it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Its flag.
    pub flag: &'static str,
    /// Its value; never a secret.
    pub value: Value,
    /// Where it stands.
    pub source: Source,
}

impl Reader {
    /// A text that must not be missing.
    pub(super) fn needed(&mut self, flag: &'static str, why: &str) -> String {
        self.must_be_given(flag, why);
        self.text(flag)
    }

    /// Whether this command has the setting at all.
    pub(super) fn has(&self, flag: &str) -> bool {
        settings_of(self.verb).any(|setting| setting.flag == flag)
    }

    /// Whether it is given as nothing.
    pub(super) fn is_emptied(&self, flag: &str) -> bool {
        self.given.text(flag).is_some_and(|(text, _)| text.is_empty())
    }

    pub(super) fn must_be_given(&mut self, flag: &'static str, why: &str) {
        if let Some(setting) = setting(flag)
            && self.given.text(flag).is_none()
        {
            let place = format!("--{flag} or {}", setting.variable);
            self.mistakes.add(Mistake::new(place, None, why));
        }
    }

    pub(super) fn text(&mut self, flag: &'static str) -> String {
        self.optional_text(flag).unwrap_or_default()
    }

    pub(super) fn optional_text(&mut self, flag: &'static str) -> Option<String> {
        self.parsed(flag, |text| Ok((text.to_owned(), text.into())))
    }

    pub(super) fn path(&mut self, flag: &'static str) -> PathBuf {
        self.optional_path(flag).unwrap_or_default()
    }

    pub(super) fn optional_path(&mut self, flag: &'static str) -> Option<PathBuf> {
        self.parsed(flag, |text| {
            if text.is_empty() {
                return Err("it must be a path".to_owned());
            }
            Ok((text.into(), text.into()))
        })
    }

    pub(super) fn duration(&mut self, flag: &'static str) -> Duration {
        let bounds = match setting(flag).map(|setting| setting.kind) {
            Some(Kind::Moment { least, most }) => least..=most,
            _ => Duration::ZERO..=Duration::MAX,
        };
        let parsed = self.parsed(flag, |text| {
            let time = value::duration(text)?;
            if bounds.contains(&time) {
                return Ok((time, format!("{time:?}").into()));
            }
            Err(format!("it must be from {:?} to {:?}", bounds.start(), bounds.end()))
        });
        parsed.unwrap_or_default()
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(&mut self, flag: &'static str) -> T {
        let bounds = match setting(flag).map(|setting| setting.kind) {
            Some(Kind::Bytes { least, most } | Kind::Count { least, most }) => least..=most,
            _ => 0..=u64::MAX,
        };
        let parsed = self.parsed(flag, |text| {
            let wanted = || format!("it must be from {} to {}", bounds.start(), bounds.end());
            let number = value::number(text).map_err(|why| format!("{why}; {}", wanted()))?;
            if !bounds.contains(&number) {
                return Err(wanted());
            }
            Ok((T::try_from(number).map_err(|_| wanted())?, number.into()))
        });
        parsed.unwrap_or_default()
    }

    pub(super) fn switch(&mut self, flag: &'static str) -> bool {
        let parsed = self.parsed(flag, |text| value::switch(text).map(|on| (on, on.into())));
        parsed.unwrap_or_default()
    }

    /// A switch whose default depends on the rest.
    pub(super) fn switch_or(&mut self, flag: &'static str, standard: bool) -> bool {
        if self.given.text(flag).is_none() {
            self.assume(flag, standard);
            return standard;
        }
        self.switch(flag)
    }

    pub(super) fn port(&mut self, flag: &'static str) -> Option<u16> {
        self.parsed(flag, |text| {
            let port = value::port(text)?;
            Ok((port, port.map_or_else(|| "off".into(), Value::from)))
        })
        .flatten()
    }

    pub(super) fn one_of(&mut self, flag: &'static str) -> &'static str {
        let words = match setting(flag).map(|setting| setting.kind) {
            Some(Kind::OneOf(words)) => words,
            _ => &[],
        };
        let parsed = self.parsed(flag, |text| value::one_of(text, words).map(|word| (word, word.into())));
        parsed.unwrap_or_default()
    }

    /// The same; `standard` when nothing is given.
    pub(super) fn one_of_or(&mut self, flag: &'static str, standard: &'static str) -> &'static str {
        if self.given.text(flag).is_none() {
            self.assume(flag, standard.to_owned());
            return standard;
        }
        self.one_of(flag)
    }

    /// An address to listen on; `standard` when nothing is given.
    pub(super) fn address(&mut self, flag: &'static str, standard: SocketAddr) -> SocketAddr {
        let parsed = self.parsed(flag, |text| {
            value::address(text).map(|address| (address, address.to_string().into()))
        });
        parsed.unwrap_or_else(|| {
            self.assume(flag, standard.to_string());
            standard
        })
    }

    /// A URL; `None` when it is given empty. When nothing is given it is `standard`.
    pub(super) fn endpoint(&mut self, flag: &'static str, scheme: &str, standard: Option<String>) -> Option<String> {
        if self.given.text(flag).is_none() {
            if let Some(standard) = &standard {
                self.assume(flag, standard.clone());
            } else {
                self.shown(flag, Value::Null, Source::Default);
            }
            return standard;
        }
        self.parsed(flag, |text| match text {
            "" => Ok((None, "".into())),
            text => value::endpoint(text, scheme).map(|url| (Some(url.clone()), url.into())),
        })
        .flatten()
    }

    pub(super) fn roots(&mut self, flag: &'static str) -> Roots {
        let parsed = self.parsed(flag, |text| {
            let roots = Roots::of(text);
            let shown = roots.to_string().into();
            Ok((roots, shown))
        });
        parsed.unwrap_or(Roots::System)
    }

    pub(super) fn token(&mut self, flag: &'static str) -> Token {
        let parsed = self.parsed(flag, |text| {
            let token = Token::of(text);
            let shown = token.to_string().into();
            Ok((token, shown))
        });
        parsed.unwrap_or_else(|| Token::of("/"))
    }

    pub(super) fn cpus(&mut self, flag: &'static str) -> Option<u32> {
        self.parsed(flag, |text| {
            value::cpus(text).map(|thousandths| (thousandths, (f64::from(thousandths) / 1000.0).into()))
        })
    }

    pub(super) fn threads(&mut self, flag: &'static str) -> Threads {
        let parsed = self.parsed(flag, |text| value::threads(text).map(|threads| (threads, text.into())));
        parsed.unwrap_or(Threads::Auto)
    }

    /// What `parse` makes of the text, and how it is shown; `None` where it is wrong, or missing without a default.
    pub(super) fn parsed<T>(
        &mut self,
        flag: &'static str,
        parse: impl FnOnce(&str) -> Result<(T, Value), String>,
    ) -> Option<T> {
        let Some(setting) = setting(flag) else {
            let place = format!("--{flag}");
            self.mistakes
                .add(Mistake::new(place, None, "it is in no table; that is a bug of Isthmus"));
            return None;
        };
        let (text, source) = match self.given.text(flag) {
            Some(given) => given,
            None => match fallback(setting) {
                Some(text) => (text, Source::Default),
                None => {
                    self.shown(flag, Value::Null, Source::Default);
                    return None;
                }
            },
        };
        match parse(text) {
            Ok((value, shown)) => {
                self.shown(flag, shown, source);
                Some(value)
            }
            Err(why) => {
                let mistake = self.wrong(setting, text, &source, why);
                self.mistakes.add(mistake);
                None
            }
        }
    }

    fn wrong(&self, setting: &Setting, text: &str, source: &Source, why: String) -> Mistake {
        let shown = (!matches!(setting.kind, Kind::Secret)).then_some(text);
        Mistake::new(source.place(setting), shown, why)
    }

    /// A mistake that shows only when settings are looked at together.
    pub(super) fn contradiction(&mut self, flag: &'static str, why: String) {
        if let Some(setting) = setting(flag) {
            let (text, source) = match self.given.text(flag) {
                Some((text, source)) => (Some(text), source),
                None => (fallback(setting), Source::Default),
            };
            let mistake = Mistake::new(source.place(setting), text, why);
            self.mistakes.add(mistake);
        }
    }

    /// What holds instead of a setting that nobody gave.
    fn assume(&mut self, flag: &'static str, value: impl Into<Value>) {
        self.effective.retain(|shown| shown.flag != flag);
        self.shown(flag, value.into(), Source::Default);
    }

    fn shown(&mut self, flag: &'static str, value: Value, source: Source) {
        self.effective.push(Effective { flag, value, source });
    }
}
