//! Which pods start while the agent is away; no input or output here.
//!
//! Who is known not to be of the mesh passes, so that a node can start: the agent's own pod first of all. Who may be of
//! the mesh waits, because nothing redirects it yet.

use isthmus_wire::{Mode, Namespaces, NamespacesError, NewPod};
use serde::Deserialize;

/// What the configuration says of pods that are added while no agent answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Away {
    /// Whether pods pass that are neither excluded nor of an ambient namespace.
    #[serde(default, rename = "whenAgentIsAway")]
    elsewhere: Elsewhere,
    /// Namespaces whose pods are never enrolled. The agent's file may name more.
    #[serde(default)]
    exclude_namespaces: Vec<String>,
    /// The agent's own pods: `NAMESPACE/NAME-` stands for the pods of a DaemonSet of that name.
    #[serde(default)]
    own_pods: Vec<String>,
}

/// What happens to pods of which the agent may or may not have wanted to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Elsewhere {
    /// They wait for the agent.
    #[default]
    Fail,
    /// They start where the agent's file has their namespace as not ambient.
    PassKnown,
    /// They start, also where nothing is known of their namespace.
    Pass,
}

impl Away {
    /// Whether the configuration names the agent's own pods.
    pub(crate) fn knows_own_pods(&self) -> bool {
        !self.own_pods.is_empty()
    }

    /// Whether the pod may start, or why it has to wait. `file` is read only where the configuration does not decide.
    pub(crate) fn decide(
        &self,
        pod: &NewPod,
        file: impl FnOnce() -> Result<Namespaces, NamespacesError>,
    ) -> Result<(), String> {
        let namespace = &pod.namespace;
        if self.own_pods.iter().any(|own| is_of(own, pod)) || self.exclude_namespaces.contains(namespace) {
            return Ok(());
        }
        let known = match file() {
            Ok(file) => file
                .namespaces
                .get(namespace)
                .copied()
                .ok_or_else(|| format!("the agent left no word of namespace {namespace}, which may be ambient")),
            Err(error) => Err(format!(
                "whether namespace {namespace} is ambient is not known: {error}"
            )),
        };
        match (known, self.elsewhere) {
            (Ok(Mode::Excluded), _)
            | (Ok(Mode::Other), Elsewhere::PassKnown | Elsewhere::Pass)
            | (Err(_), Elsewhere::Pass) => Ok(()),
            (Ok(Mode::Ambient), _) => Err(format!("namespace {namespace} is ambient")),
            (Ok(Mode::Other), Elsewhere::Fail) => Err(format!(
                "namespace {namespace} is not ambient, but pods of it may be; \"whenAgentIsAway\": \"pass-known\" in the \
                 plugin's configuration lets them start"
            )),
            (Err(unknown), Elsewhere::Fail | Elsewhere::PassKnown) => Err(unknown),
        }
    }
}

/// Whether the pod is one of the DaemonSet's, which are named after it with a dash and some letters and digits.
fn is_of(own: &str, pod: &NewPod) -> bool {
    let Some((namespace, prefix)) = own.split_once('/') else {
        return false;
    };
    let end = pod.name.strip_prefix(prefix).unwrap_or_default();
    prefix.ends_with('-')
        && pod.namespace == namespace
        && !end.is_empty()
        && end
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> NewPod {
        NewPod {
            uid: "u".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            netns: "/run/netns/n".into(),
        }
    }

    fn away(switch: &str) -> Away {
        let text = format!(
            r#"{{"whenAgentIsAway":"{switch}","excludeNamespaces":["kube-system"],"ownPods":["mesh/isthmus-"]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn file() -> Result<Namespaces, NamespacesError> {
        let modes = [("amb", Mode::Ambient), ("exc", Mode::Excluded), ("oth", Mode::Other)];
        Ok(Namespaces::new(
            modes.map(|(name, mode)| (name.to_owned(), mode)).into(),
        ))
    }

    fn no_file() -> Result<Namespaces, NamespacesError> {
        Err(NamespacesError::Version {
            path: "/f".into(),
            found: 9,
        })
    }

    /// The table of docs/cni.md.
    #[test]
    fn who_passes_without_the_agent() {
        for (namespace, name, passes) in [
            ("mesh", "isthmus-x7k2p", ["fail", "pass-known", "pass"].as_slice()),
            ("kube-system", "dns", &["fail", "pass-known", "pass"]),
            ("exc", "a", &["fail", "pass-known", "pass"]),
            ("amb", "a", &[]),
            ("oth", "a", &["pass-known", "pass"]),
            ("new", "a", &["pass"]),
        ] {
            for switch in ["fail", "pass-known", "pass"] {
                let decided = away(switch).decide(&pod(namespace, name), file);
                assert_eq!(
                    decided.is_ok(),
                    passes.contains(&switch),
                    "{namespace} {switch}: {decided:?}"
                );
            }
        }
        for switch in ["fail", "pass-known"] {
            let reason = away(switch).decide(&pod("exc", "a"), no_file).unwrap_err();
            assert!(reason.contains("version 9"), "{reason}");
        }
        assert_eq!(away("pass").decide(&pod("amb", "a"), no_file), Ok(()));
    }

    #[test]
    fn by_default_only_what_is_excluded_passes() {
        let away: Away = serde_json::from_str("{}").unwrap();
        assert!(away.decide(&pod("oth", "a"), file).is_err());
        assert!(away.decide(&pod("kube-system", "a"), file).is_err());
        assert_eq!(away.decide(&pod("exc", "a"), file), Ok(()));
        assert!(serde_json::from_str::<Away>(r#"{"whenAgentIsAway":"maybe"}"#).is_err());
    }

    #[test]
    fn own_pods_are_those_of_the_daemonset_alone() {
        for (own, namespace, name, is) in [
            ("mesh/isthmus-", "mesh", "isthmus-x7k2p", true),
            ("mesh/isthmus-", "other", "isthmus-x7k2p", false),
            ("mesh/isthmus-", "mesh", "isthmus-web-0", false),
            ("mesh/isthmus-", "mesh", "isthmus-", false),
            ("mesh/isthmus-", "mesh", "web", false),
            ("mesh/", "mesh", "web", false),
            ("isthmus-", "mesh", "isthmus-x7k2p", false),
        ] {
            assert_eq!(is_of(own, &pod(namespace, name)), is, "{own} {namespace}/{name}");
        }
    }
}
