//! What of a pod's traffic is captured, and what stays outside of the mesh because its owner said so.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Most ports or ranges in one list of [`Capture`].
pub const MOST_CAPTURE_ITEMS: usize = 64;

/// What a pod's owner says of capturing its TCP. As nothing is said, all of it is captured.
///
/// Tunnels to the pod (port 15008) are served whatever is said here, with their policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// No plaintext from outside is captured: it goes to the application, whatever policies say. In Kubernetes: annotation
    /// `ambient.istio.io/bypass-inbound-capture`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bypass_inbound: bool,
    /// Plaintext is captured at these ports only; absent: at all. In Kubernetes, as all that follow: annotation
    /// `traffic.sidecar.istio.io/includeInboundPorts` and its neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_inbound_ports: Option<BTreeSet<u16>>,
    /// Plaintext is not captured at these ports. Means nothing beside `include_inbound_ports`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Connects to these ports are captured also outside of `include_outbound_ranges`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub include_outbound_ports: BTreeSet<u16>,
    /// Connects to these ports are not captured.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Connects to these ranges only are captured; absent: to all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_outbound_ranges: Option<BTreeSet<IpNet>>,
    /// Connects to these ranges are not captured.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub exclude_outbound_ranges: BTreeSet<IpNet>,
    /// What is said of DNS. This version captures none, so that nothing follows from it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<bool>,
}

// === impl Capture ===

impl Capture {
    /// Is nothing said?
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Is no plaintext from outside captured at any port?
    #[must_use]
    pub fn leaves_all_inbound(&self) -> bool {
        self.bypass_inbound || self.include_inbound_ports.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// The longest of its lists.
    #[must_use]
    pub fn longest_list(&self) -> usize {
        let ports = |ports: &Option<BTreeSet<u16>>| ports.as_ref().map_or(0, BTreeSet::len);
        [
            ports(&self.include_inbound_ports),
            self.exclude_inbound_ports.len(),
            self.include_outbound_ports.len(),
            self.exclude_outbound_ports.len(),
            self.include_outbound_ranges.as_ref().map_or(0, BTreeSet::len),
            self.exclude_outbound_ranges.len(),
        ]
        .into_iter()
        .max()
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_written_as_nothing() {
        assert_eq!(serde_json::to_string(&Capture::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<Capture>("{}").unwrap().is_usual());
    }

    #[test]
    fn what_is_said_comes_back() {
        let text = r#"{"include_inbound_ports":[],"exclude_outbound_ranges":["10.0.0.0/8","fd00::/8"],"dns":false}"#;
        let said: Capture = serde_json::from_str(text).unwrap();
        assert!(!said.is_usual() && said.leaves_all_inbound() && said.longest_list() == 2);
        assert_eq!(serde_json::to_string(&said).unwrap(), text);
        serde_json::from_str::<Capture>(r#"{"exclude_ports":[1]}"#).unwrap_err();
    }

    #[test]
    fn only_a_list_without_ports_leaves_all_inbound() {
        let listing = |ports: &[u16]| Capture {
            include_inbound_ports: Some(ports.iter().copied().collect()),
            ..Capture::default()
        };
        assert!(listing(&[]).leaves_all_inbound());
        assert!(!listing(&[80]).leaves_all_inbound());
        assert!(!Capture::default().leaves_all_inbound());
    }
}
