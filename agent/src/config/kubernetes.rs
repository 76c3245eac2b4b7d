use std::collections::BTreeSet;

use super::{istiod::OwnPod, reader::Reader};
use crate::kubernetes::{Enablement, Rules, Settings};

/// What enrolment by Kubernetes needs; none when it is off.
pub(super) fn read(reader: &mut Reader, own: &OwnPod, excluded: &BTreeSet<String>) -> Option<Settings> {
    let kubeconfig = reader.optional_path("kubeconfig");
    let standard = reader.given.in_cluster || kubeconfig.is_some();
    let is_on = reader.switch_or("kubernetes", standard);
    let mut system = namespaces(reader, "system-namespace");
    system.extend(own.namespace.clone());
    let enablement = reader.parsed("enablement-selector", |text| {
        Ok((Enablement::parse(text)?, text.into()))
    });
    let startup_taint = reader
        .parsed("startup-taint", |text| match text {
            "" => Ok((None, "".into())),
            text if is_taint_key(text) => Ok((Some(text.to_owned()), text.into())),
            _ => Err(format!(
                "{text:?} is no key of a taint: as example.com/not-ready, without value and effect"
            )),
        })
        .flatten();
    let settings = Settings {
        kubeconfig,
        rules: Rules {
            excluded: excluded.clone(),
            system,
            own_pod: own.namespace.clone().zip(own.name.clone()),
            enablement: enablement.unwrap_or_default(),
        },
        proc: reader.path("proc"),
        startup_taint,
    };
    is_on.then_some(settings)
}

/// Namespaces whose pods are never enrolled.
pub(super) fn excluded(reader: &mut Reader) -> BTreeSet<String> {
    namespaces(reader, "exclude-namespaces")
}

/// Names with commas between them.
fn namespaces(reader: &mut Reader, flag: &'static str) -> BTreeSet<String> {
    let parsed = reader.parsed(flag, |text| {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        match names.iter().find(|name| !is_label(name)) {
            Some(wrong) => Err(format!(
                "{wrong:?} is no name of a namespace; names have commas between them"
            )),
            None => Ok((names, text.into())),
        }
    });
    parsed.unwrap_or_default()
}

/// A qualified name, as Kubernetes asks it of keys.
fn is_taint_key(text: &str) -> bool {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = |name: &str, most: usize| {
        let bytes = name.as_bytes();
        name.len() <= most && bytes.iter().copied().all(inner) && is_end(bytes.first()) && is_end(bytes.last())
    };
    is_name(name, 63) && prefix.is_none_or(|prefix| is_name(prefix, 253))
}

/// RFC 1123 §2.1 as Kubernetes asks it of namespaces.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}
