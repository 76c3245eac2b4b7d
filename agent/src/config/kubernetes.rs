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
    let settings = Settings {
        kubeconfig,
        rules: Rules {
            excluded: excluded.clone(),
            system,
            own_pod: own.namespace.clone().zip(own.name.clone()),
            enablement: enablement.unwrap_or_default(),
        },
        proc: reader.path("proc"),
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

/// RFC 1123 §2.1 as Kubernetes asks it of namespaces.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}
