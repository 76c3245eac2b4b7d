use std::collections::BTreeMap;

use serde::Deserialize;

/// What is read of istio's proxy configuration (wire-facts.md §1.1).
#[derive(Debug, Default)]
pub(super) struct ProxyConfig {
    /// Flags and their texts.
    pub(super) settings: Vec<(&'static str, String)>,
    /// Node metadata.
    pub(super) metadata: BTreeMap<String, serde_json::Value>,
}

/// Fields that are not ours are for Envoy.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    discovery_address: Option<String>,
    proxy_admin_port: Option<u16>,
    stats_port: Option<u16>,
    concurrency: Option<u16>,
    proxy_metadata: BTreeMap<String, String>,
}

/// More would be no configuration.
const LARGEST: usize = 64 << 10;

pub(super) fn parse(text: &str) -> Result<ProxyConfig, String> {
    if text.len() > LARGEST {
        return Err(format!("it has more than {LARGEST} bytes"));
    }
    let document: Document = serde_saphyr::from_str(text)
        .map_err(|error| format!("it must be YAML: {}", in_one_line(&error.to_string())))?;
    let mut settings = Vec::new();
    let mut add = |flag, value: Option<String>| settings.extend(value.map(|value| (flag, value)));
    add("xds-address", document.discovery_address);
    add("admin-port", document.proxy_admin_port.map(|port| port.to_string()));
    add("stats-port", document.stats_port.map(|port| port.to_string()));
    add("threads", document.concurrency.map(|count| count.to_string()));
    let metadata = document.proxy_metadata.into_iter();
    Ok(ProxyConfig {
        settings,
        metadata: metadata.map(|(key, value)| (key, value.into())).collect(),
    })
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ztunnels_five_fields_are_read_and_envoys_are_left() {
        let text = "discoveryAddress: istiod:15012\nproxyAdminPort: 16000\nstatsPort: 16020\nconcurrency: 3\n\
                    proxyMetadata:\n  ISTIO_META_X: y\ntracing: {zipkin: {address: z}}\n";
        let read = parse(text).unwrap();
        let expected = [
            ("xds-address", "istiod:15012"),
            ("admin-port", "16000"),
            ("stats-port", "16020"),
            ("threads", "3"),
        ];
        assert_eq!(read.settings, expected.map(|(flag, value)| (flag, value.to_owned())));
        assert_eq!(read.metadata["ISTIO_META_X"], "y");
    }

    #[test]
    fn what_is_no_yaml_is_refused_in_one_line() {
        for wrong in ["{", "statsPort: many", "- a", &"x".repeat(LARGEST + 1)] {
            let why = parse(wrong).unwrap_err();
            assert!(!why.contains('\n'), "{why}");
        }
    }
}
