//! Taking somebody else's plugin out of the configurations of a directory. Only an operator asks for that.

use std::{collections::BTreeMap, io, path::Path};

use serde_json::value::RawValue;

use super::{
    conflist::{list, types},
    follow::{apply, look},
    plan::{Seen, Step},
};

/// Takes the plugin of this type out of every configuration. Files of these names are the plugin's own and go whole, as long
/// as another one is left that makes a network. `told` hears of each, and why it is as it was if it is.
pub fn remove_others(directory: &Path, plugin: &str, own: &[&str], told: &mut dyn FnMut(String, Option<io::Error>)) {
    // A directory that is not there holds nothing.
    for step in look(directory)
        .map(|files| steps(&files, plugin, own))
        .unwrap_or_default()
    {
        let what = match &step {
            Step::Write { name, .. } => format!("{plugin} from CNI configuration {}", directory.join(name).display()),
            Step::Remove { name } | Step::Rename { from: name, .. } => {
                format!("CNI configuration {}", directory.join(name).display())
            }
        };
        let failure = apply(directory, &step).err();
        told(what, failure);
    }
}

fn steps(files: &[Seen], plugin: &str, own: &[&str]) -> Vec<Step> {
    let is_own = |file: &Seen| own.contains(&file.name.as_str());
    let rests: Vec<_> = files.iter().map(|file| (file, rest(file, plugin))).collect();
    let makes_network = |(file, rest): &(&Seen, Rest)| !is_own(file) && !matches!(rest, Rest::Nothing | Rest::Unknown);
    let may_go = rests.iter().any(makes_network);
    let step = |(file, rest): (&Seen, Rest)| {
        let name = file.name.clone();
        match rest {
            Rest::Unknown | Rest::Same => None,
            Rest::Nothing => Some(Step::Remove { name }),
            Rest::List(_) if may_go && is_own(file) => Some(Step::Remove { name }),
            Rest::List(text) => Some(Step::Write {
                like: name.clone(),
                name,
                text,
            }),
        }
    };
    rests.into_iter().filter_map(step).collect()
}

/// What is left of a configuration without the plugin.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    /// It is not understood, and is let be.
    Unknown,
    /// It does not call the plugin.
    Same,
    /// A list of the others.
    List(String),
    /// It calls nothing else.
    Nothing,
}

fn rest(file: &Seen, plugin: &str) -> Rest {
    let read = || -> Option<Result<Rest, serde_json::Error>> {
        let text = file.text.as_ref().ok()?;
        let mut keys: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        let Some(plugins) = keys.remove("plugins") else {
            let [kind] = <[String; 1]>::try_from(types(&format!("[{text}]")).ok()?).ok()?;
            return Some(Ok(if kind == plugin { Rest::Nothing } else { Rest::Same }));
        };
        let kinds = types(plugins.get()).ok()?;
        let all: Vec<&RawValue> = serde_json::from_str(plugins.get()).ok()?;
        let others = || all.iter().zip(&kinds).filter(|(_, kind)| *kind != plugin);
        Some(match others().count() {
            left if left == all.len() => Ok(Rest::Same),
            0 => Ok(Rest::Nothing),
            _ => list(&keys, others().map(|(entry, _)| entry.get())).map(Rest::List),
        })
    };
    read().and_then(Result::ok).unwrap_or(Rest::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = r#"{"name":"n","plugins":[{"type":"calico", "mtu":1.50},{"type":"istio-cni","a":1}]}"#;
    const ISTIO: &str = r#"{"type":"istio-cni"}"#;

    fn seen(name: &str, text: &str) -> Seen {
        Seen {
            name: name.to_owned(),
            text: Ok(text.to_owned()),
        }
    }

    fn done(files: &[Seen]) -> Vec<Step> {
        steps(files, "istio-cni", &["02-istio-cni.conflist"])
    }

    #[test]
    fn the_entry_goes_and_others_stay_byte_for_byte() {
        let steps = done(&[
            seen(
                "00-isthmus.conflist",
                r#"{"name":"n","plugins":[{"type":"calico"},{"type":"isthmus-cni"}]}"#,
            ),
            seen("10-calico.conflist", BOTH),
            seen("20-broken.conflist", "{\"plugins\":[{\"type\":\"istio-cni\""),
        ]);
        let [Step::Write { name, text, like }] = steps.as_slice() else {
            panic!("{steps:?}")
        };
        assert_eq!(
            (name.as_str(), like.as_str()),
            ("10-calico.conflist", "10-calico.conflist")
        );
        assert!(
            text.contains(r#"{"type":"calico", "mtu":1.50}"#) && !text.contains("istio-cni"),
            "{text}"
        );
    }

    #[test]
    fn its_own_files_go_whole_unless_nothing_else_makes_a_network() {
        let own = seen("02-istio-cni.conflist", BOTH);
        let goes = |name: &str| Step::Remove { name: name.to_owned() };
        assert_eq!(
            done(&[
                own.clone(),
                seen("10-calico.conflist", r#"{"name":"n","plugins":[{"type":"calico"}]}"#)
            ]),
            [goes("02-istio-cni.conflist")]
        );
        let alone = done(std::slice::from_ref(&own));
        assert!(matches!(alone.as_slice(), [Step::Write { .. }]), "{alone:?}");
        // A file that nobody understands makes no network either.
        let broken = done(&[own, seen("10-calico.conflist", "{")]);
        assert!(matches!(broken.as_slice(), [Step::Write { .. }]), "{broken:?}");
    }

    #[test]
    fn what_calls_nothing_else_goes() {
        assert_eq!(
            done(&[
                seen("YYY-istio-cni.conf", ISTIO),
                seen("10-a.conf", r#"{"type":"bridge"}"#)
            ]),
            [Step::Remove {
                name: "YYY-istio-cni.conf".to_owned()
            }]
        );
    }

    #[test]
    fn a_text_cut_anywhere_is_let_be() {
        for end in 0..BOTH.len() {
            assert_eq!(done(&[seen("10-a.conflist", &BOTH[..end])]), [], "{end}");
        }
    }
}
