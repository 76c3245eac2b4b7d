//! CNI configurations (CNI specification, section 1): one plugin in a `.conf`, several in a `.conflist`. Pure: text in,
//! text out. What is not ours is handed on byte for byte.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::PLUGIN;

/// Versions that the plugin speaks.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The name of a network whose single configuration has none.
const NAMELESS: &str = "k8s-pod-network";

/// The plugin's own entry in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// The file by which it decides while the agent is away.
    pub namespaces_file: PathBuf,
    /// What happens while the agent is away, where it is not known otherwise: `fail`, `pass-known`, `pass`.
    pub when_agent_is_away: &'static str,
    /// Namespaces whose pods are never enrolled.
    pub exclude_namespaces: Vec<String>,
    /// The agent's own pods, as `NAMESPACE/PREFIX-`.
    pub own_pods: Vec<String>,
}

impl Plugin {
    /// The pods of the DaemonSet that the pod of this name is of; none where it is of none.
    pub fn daemon_set_of(namespace: Option<&str>, pod: Option<&str>) -> Vec<String> {
        let set = pod.and_then(|pod| pod.rsplit_once('-')).map(|(set, _)| set);
        match (namespace, set) {
            (Some(namespace), Some(set)) if !namespace.is_empty() && !set.is_empty() => {
                vec![format!("{namespace}/{set}-")]
            }
            _ => Vec::new(),
        }
    }

    fn entry(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            plugin: &'a Plugin,
        }
        serde_json::to_string(&Entry {
            r#type: PLUGIN,
            plugin: self,
        })
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigurationError {
    #[error("it is no JSON object that CNI knows: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no {0:?}, without which container runtimes do not take it")]
    Lacks(&'static str),
    #[error("a plugin in it has no \"type\"")]
    NoType,
    #[error("it has no plugin but ours")]
    OnlyOurs,
    #[error(
        "its cniVersion is {found:?}, and isthmus-cni speaks {}: set one of these in it, if its plugin speaks it", VERSIONS.join(", ")
    )]
    Version { found: String },
}

/// A configuration of others, as far as it is understood.
#[derive(Debug)]
pub(super) struct Configuration<'a> {
    /// All but the plugins.
    keys: BTreeMap<String, &'a RawValue>,
    /// Without ours.
    plugins: Vec<&'a RawValue>,
    /// Whether ours was among them.
    pub(super) has_ours: bool,
}

#[derive(Deserialize)]
struct OnlyType {
    #[serde(default)]
    r#type: String,
}

impl<'a> Configuration<'a> {
    /// Reads the text of a list, or of a single plugin's configuration.
    pub(super) fn parse(text: &'a str, is_list: bool) -> Result<Self, ConfigurationError> {
        let mut keys: BTreeMap<String, &'a RawValue> = serde_json::from_str(text)?;
        let all: Vec<&'a RawValue> = if is_list {
            let plugins = keys.remove("plugins").ok_or(ConfigurationError::Lacks("plugins"))?;
            serde_json::from_str(plugins.get())?
        } else {
            let whole = serde_json::from_str(text)?;
            keys.retain(|key, _| key == "cniVersion" || key == "name");
            vec![whole]
        };
        let (mut plugins, mut has_ours) = (Vec::new(), false);
        for plugin in all {
            let OnlyType { r#type } = serde_json::from_str(plugin.get())?;
            match r#type.as_str() {
                "" => return Err(ConfigurationError::NoType),
                PLUGIN => has_ours = true,
                _ => plugins.push(plugin),
            }
        }
        if plugins.is_empty() {
            return Err(if has_ours {
                ConfigurationError::OnlyOurs
            } else {
                ConfigurationError::Lacks("plugins")
            });
        }
        let name = keys.get("name").map(|name| serde_json::from_str::<String>(name.get()));
        if is_list && name.transpose()?.is_none_or(|name| name.is_empty()) {
            return Err(ConfigurationError::Lacks("name"));
        }
        Ok(Self {
            keys,
            plugins,
            has_ours,
        })
    }

    /// A list of the same plugins with ours last. Versions that ours does not speak are no longer offered.
    pub(super) fn with(&self, plugin: &Plugin) -> Result<String, ConfigurationError> {
        let spoken = |text: &str| VERSIONS.contains(&text);
        let version = match self.keys.get("cniVersion") {
            Some(version) => serde_json::from_str(version.get())?,
            None => String::new(),
        };
        if !spoken(&version) {
            return Err(ConfigurationError::Version { found: version });
        }
        let mut keys = self.keys.clone();
        if let Some(offered) = keys.get("cniVersions") {
            let offered: Vec<String> = serde_json::from_str(offered.get())?;
            if !offered.iter().all(|version| spoken(version)) {
                keys.remove("cniVersions");
            }
        }
        let entry = plugin.entry()?;
        let plugins = self.plugins.iter().map(|plugin| plugin.get());
        Ok(list(&keys, plugins.chain([entry.as_str()]))?)
    }

    /// A list of the same plugins without ours.
    pub(super) fn without_ours(&self) -> Result<String, ConfigurationError> {
        Ok(list(&self.keys, self.plugins.iter().map(|plugin| plugin.get()))?)
    }
}

/// The types of a list of plugins; nothing may be without one.
pub(super) fn types(plugins: &str) -> Result<Vec<String>, ConfigurationError> {
    let all: Vec<OnlyType> = serde_json::from_str(plugins)?;
    if all.iter().any(|plugin| plugin.r#type.is_empty()) {
        return Err(ConfigurationError::NoType);
    }
    Ok(all.into_iter().map(|plugin| plugin.r#type).collect())
}

/// A list of these plugins.
pub(super) fn list<'a>(
    keys: &BTreeMap<String, &RawValue>,
    plugins: impl Iterator<Item = &'a str>,
) -> Result<String, serde_json::Error> {
    let mut text = String::from("{\n");
    for (key, value) in keys {
        text += &format!("  {}: {},\n", serde_json::to_string(key)?, value.get());
    }
    if !keys.contains_key("name") {
        text += &format!("  \"name\": \"{NAMELESS}\",\n");
    }
    let plugins: Vec<String> = plugins.map(|plugin| format!("    {plugin}")).collect();
    text += &format!("  \"plugins\": [\n{}\n  ]\n}}\n", plugins.join(",\n"));
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cni) fn plugin() -> Plugin {
        Plugin {
            agent_socket: "/run/isthmus/agent.sock".into(),
            namespaces_file: "/var/lib/isthmus/namespaces.json".into(),
            when_agent_is_away: "fail",
            exclude_namespaces: vec!["kube-system".to_owned()],
            own_pods: vec!["mesh/isthmus-".to_owned()],
        }
    }

    pub(in crate::cni) const ENTRY: &str = r#"{"type":"isthmus-cni","agentSocket":"/run/isthmus/agent.sock","namespacesFile":"/var/lib/isthmus/namespaces.json","whenAgentIsAway":"fail","excludeNamespaces":["kube-system"],"ownPods":["mesh/isthmus-"]}"#;

    /// Odd numbers and spacing, which must survive.
    const CALICO: &str = r#"{"name":"k8s","cniVersion":"0.3.1","plugins":[{"type":"calico", "mtu":1.50, "big":18446744073709551616},{"type":"portmap"}],"disableCheck":true}"#;

    fn with(text: &str, is_list: bool) -> Result<String, ConfigurationError> {
        Configuration::parse(text, is_list)?.with(&plugin())
    }

    #[test]
    fn ours_comes_last_and_the_rest_stays_byte_for_byte() {
        let text = with(CALICO, true).unwrap();
        let expected = format!(
            "{{\n  \"cniVersion\": \"0.3.1\",\n  \"disableCheck\": true,\n  \"name\": \"k8s\",\n  \"plugins\": [\n    \
             {{\"type\":\"calico\", \"mtu\":1.50, \"big\":18446744073709551616}},\n    {{\"type\":\"portmap\"}},\n    {ENTRY}\n  ]\n}}\n"
        );
        assert_eq!(text, expected);
        assert!(!Configuration::parse(CALICO, true).unwrap().has_ours);
        assert!(Configuration::parse(&text, true).unwrap().has_ours);
        assert_eq!(with(&text, true).unwrap(), text, "once more changes nothing");
    }

    #[test]
    fn an_older_entry_of_ours_is_replaced_and_moved_to_the_end() {
        let old = CALICO.replace("[{", r#"[{"type":"isthmus-cni","agentSocket":"/old"},{"#);
        assert_eq!(with(&old, true).unwrap(), with(CALICO, true).unwrap());
        let without = Configuration::parse(&old, true).unwrap().without_ours().unwrap();
        assert!(!without.contains("isthmus"), "{without}");
        assert!(without.contains("calico") && without.contains("portmap"), "{without}");
    }

    #[test]
    fn a_single_configuration_becomes_a_list() {
        let single = r#"{"cniVersion":"1.0.0","name":"pods","type":"bridge","ipam":{"type":"host-local"}}"#;
        let text = with(single, false).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {single},\n    {ENTRY}\n  ]\n}}\n"
            )
        );
        let nameless = with(r#"{"cniVersion":"1.0.0","type":"multus-shim"}"#, false).unwrap();
        assert!(nameless.contains("\"name\": \"k8s-pod-network\""), "{nameless}");
        assert!(Configuration::parse(&nameless, true).is_ok());
    }

    #[test]
    fn versions_that_ours_does_not_speak_are_not_offered() {
        let offers = |versions: &str| {
            let text = CALICO.replace("\"disableCheck\":true", &format!("\"cniVersions\":{versions}"));
            with(&text, true).unwrap()
        };
        assert!(offers(r#"["0.3.1","1.1.0"]"#).contains("cniVersions"));
        assert!(!offers(r#"["0.3.1","1.2.0"]"#).contains("cniVersions"));
        for version in ["", "0.2.0", "0.3.0", "1.2.0"] {
            let error = with(&CALICO.replace("0.3.1", version), true).unwrap_err();
            assert!(matches!(error, ConfigurationError::Version { .. }), "{error}");
        }
        let error = with(r#"{"type":"bridge"}"#, false).unwrap_err();
        assert!(error.to_string().contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
    }

    #[test]
    fn what_a_runtime_would_not_take_is_refused() {
        for (text, is_list, says) in [
            ("", true, "no JSON object"),
            ("{\"plugins\":[", true, "no JSON object"),
            ("[]", true, "no JSON object"),
            (r#"{"name":"n","plugins":{}}"#, true, "no JSON object"),
            (r#"{"name":1,"plugins":[{"type":"x"}]}"#, true, "no JSON object"),
            (r#"{"name":"n","type":"bridge"}"#, true, "\"plugins\""),
            (r#"{"name":"n","plugins":[]}"#, true, "\"plugins\""),
            (r#"{"plugins":[{"type":"x"}]}"#, true, "\"name\""),
            (r#"{"name":"n","plugins":[{}]}"#, true, "no \"type\""),
            (r#"{"name":"n","plugins":[{"type":"x"}]}"#, false, "no \"type\""),
            (r#"{"name":"n","plugins":[{"type":"isthmus-cni"}]}"#, true, "but ours"),
        ] {
            let error = Configuration::parse(text, is_list).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_text_cut_anywhere_is_refused() {
        for end in 0..CALICO.len() {
            assert!(Configuration::parse(&CALICO[..end], true).is_err(), "{end}");
            assert!(Configuration::parse(&CALICO[..end], false).is_err(), "{end}");
        }
        let deep = format!("{{\"name\":\"n\",\"plugins\":{}", "[".repeat(100_000));
        assert!(Configuration::parse(&deep, true).is_err());
    }

    #[test]
    fn own_pods_are_those_of_the_daemonset() {
        let set = Plugin::daemon_set_of;
        assert_eq!(set(Some("mesh"), Some("isthmus-node-x7k2p")), ["mesh/isthmus-node-"]);
        for (namespace, pod) in [
            (None, Some("a-b")),
            (Some("m"), None),
            (Some("m"), Some("alone")),
            (Some(""), Some("a-b")),
            (Some("m"), Some("-b")),
        ] {
            assert_eq!(set(namespace, pod), Vec::<String>::new());
        }
    }
}
