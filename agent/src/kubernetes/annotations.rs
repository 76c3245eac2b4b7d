//! What pods say of their own redirection: values with their types, and what becomes of each.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;

/// The state that is written: `enabled` or `pending`.
pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
/// A pod with a sidecar has it.
pub(super) const SIDECAR: &str = "sidecar.istio.io/status";
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
const REROUTE: &str = "istio.io/reroute-virtual-interfaces";

/// An interface's name is at most so long (Linux, `IFNAMSIZ` less the zero).
const LONGEST_INTERFACE: usize = 15;

/// Annotations that sidecars have, what they list, and the value that asks for what happens anyway.
const OF_SIDECARS: [(&str, Lists, Option<&str>); 8] = [
    ("traffic.sidecar.istio.io/includeInboundPorts", Lists::Ports, Some("*")),
    ("traffic.sidecar.istio.io/excludeInboundPorts", Lists::Ports, Some("")),
    ("traffic.sidecar.istio.io/includeOutboundPorts", Lists::Ports, Some("")),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", Lists::Ports, Some("")),
    (
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        Lists::Ranges,
        Some("*"),
    ),
    (
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        Lists::Ranges,
        Some(""),
    ),
    (
        "traffic.sidecar.istio.io/excludeInterfaces",
        Lists::Interfaces,
        Some(""),
    ),
    (
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        Lists::Interfaces,
        Some(""),
    ),
];

#[derive(Clone, Copy)]
enum Lists {
    Ports,
    Ranges,
    Interfaces,
}

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Plaintext from outside goes to the application, whatever policies say.
    pub(super) bypass_inbound: bool,
    /// Interfaces behind which guests sit.
    pub(super) reroute_interfaces: Vec<String>,
    /// What is not done, each with its reason.
    pub(super) remarks: Vec<Remark>,
}

/// Something a pod's annotations ask for that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remark {
    /// The value cannot be understood.
    Mistake {
        /// The annotation.
        annotation: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// It is understood, and redirection cannot do it.
    NotHonoured {
        /// The annotation.
        annotation: &'static str,
        /// Its value, as it was understood.
        value: Value,
    },
}

/// A value of an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `*`.
    All,
    /// `true` or `false`.
    Switch(bool),
    /// Ports.
    Ports(Vec<u16>),
    /// Ranges of addresses.
    Ranges(Vec<IpNet>),
    /// Names of interfaces.
    Interfaces(Vec<String>),
}

/// Whether an annotation is looked at. All others are not kept.
pub(super) fn is_read(key: &str) -> bool {
    [REDIRECTION, SIDECAR, BYPASS_INBOUND, DNS_CAPTURE, REROUTE].contains(&key)
        || OF_SIDECARS.iter().any(|(annotation, ..)| *annotation == key)
}

// === impl Asked ===

impl Asked {
    /// Understands what is there. A value that is wrong is as one that is absent, and is remarked upon.
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Self {
        let mut asked = Self::default();
        asked.bypass_inbound = asked.switch(annotations, BYPASS_INBOUND).unwrap_or_default();
        if asked.switch(annotations, DNS_CAPTURE) == Some(true) {
            asked.remarks.push(Remark::NotHonoured {
                annotation: DNS_CAPTURE,
                value: Value::Switch(true),
            });
        }
        if let Some(Value::Interfaces(names)) = asked.list(annotations, REROUTE, Lists::Interfaces) {
            asked.reroute_interfaces = names;
        }
        for (annotation, lists, usual) in OF_SIDECARS {
            if annotations.get(annotation).map(|value| value.trim()) == usual {
                continue;
            }
            if let Some(value) = asked.list(annotations, annotation, lists) {
                asked.remarks.push(Remark::NotHonoured { annotation, value });
            }
        }
        asked
    }

    fn switch(&mut self, annotations: &BTreeMap<String, String>, annotation: &'static str) -> Option<bool> {
        let text = annotations.get(annotation)?;
        match text.trim() {
            // As Go's ParseBool has it, which is what Istio reads them with.
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
            _ => {
                self.mistake(annotation, text, "it must be true or false");
                None
            }
        }
    }

    fn list(
        &mut self,
        annotations: &BTreeMap<String, String>,
        annotation: &'static str,
        lists: Lists,
    ) -> Option<Value> {
        let text = annotations.get(annotation)?;
        let parsed = lists.parse(text);
        if parsed.is_none() {
            self.mistake(annotation, text, lists.wanted());
        }
        parsed
    }

    fn mistake(&mut self, annotation: &'static str, value: &str, wanted: &'static str) {
        // The first line says enough, and one line is what there is room for.
        let value = value.lines().next().unwrap_or_default().chars().take(80).collect();
        self.remarks.push(Remark::Mistake {
            annotation,
            value,
            wanted,
        });
    }
}

// === impl Lists ===

impl Lists {
    fn wanted(self) -> &'static str {
        match self {
            Self::Ports => "it must be ports from 1 to 65535 with commas between them, or *",
            Self::Ranges => "it must be ranges as 10.0.0.0/8 or fd00::/8 with commas between them, or *",
            Self::Interfaces => "it must be names of interfaces with commas between them",
        }
    }

    /// `None` for what it is not.
    fn parse(self, text: &str) -> Option<Value> {
        let text = text.trim();
        let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
        match self {
            Self::Ports | Self::Ranges if text == "*" => Some(Value::All),
            Self::Ports => items().map(port).collect::<Option<_>>().map(Value::Ports),
            Self::Ranges => items()
                .map(|item| item.parse().ok())
                .collect::<Option<_>>()
                .map(Value::Ranges),
            Self::Interfaces => items().map(interface).collect::<Option<_>>().map(Value::Interfaces),
        }
    }
}

fn port(text: &str) -> Option<u16> {
    // `parse` would take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// What the kernel takes as the name of an interface (`dev_valid_name`).
fn interface(text: &str) -> Option<String> {
    let sound = text.len() <= LONGEST_INTERFACE
        && ![".", ".."].contains(&text)
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    sound.then(|| text.to_owned())
}

// === impl Remark ===

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistake {
                annotation,
                value,
                wanted,
            } => write!(f, "annotation {annotation} is {value:?}: {wanted}; it counts as absent"),
            Self::NotHonoured { annotation, value } => write!(
                f,
                "annotation {annotation} asks for {value}, which redirection does not do: the pod is redirected as if it were \
                 absent"
            ),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |texts: Vec<String>| {
            if texts.is_empty() {
                "none".to_owned()
            } else {
                texts.join(", ")
            }
        };
        match self {
            Self::All => f.write_str("all"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Ports(ports) => f.write_str(&list(ports.iter().map(ToString::to_string).collect())),
            Self::Ranges(ranges) => f.write_str(&list(ranges.iter().map(ToString::to_string).collect())),
            Self::Interfaces(names) => f.write_str(&list(names.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotation: &str, value: &str) -> Asked {
        Asked::read(&BTreeMap::from([(annotation.to_owned(), value.to_owned())]))
    }

    #[test]
    fn nothing_said_is_nothing_asked() {
        assert_eq!(Asked::read(&BTreeMap::new()), Asked::default());
    }

    #[test]
    fn inbound_is_bypassed_when_it_is_asked_for_and_only_then() {
        assert!(read(BYPASS_INBOUND, "true").bypass_inbound);
        for value in ["false", "0"] {
            assert_eq!(read(BYPASS_INBOUND, value), Asked::default(), "{value}");
        }
        for value in ["", "yes", "on", "truee"] {
            let asked = read(BYPASS_INBOUND, value);
            assert!(!asked.bypass_inbound && asked.remarks.len() == 1, "{value}");
            let told = asked.remarks[0].to_string();
            assert!(
                told.contains(BYPASS_INBOUND) && told.contains("true or false"),
                "{told}"
            );
        }
    }

    #[test]
    fn capture_of_dns_is_told_to_be_missing_where_it_is_wanted() {
        assert_eq!(read(DNS_CAPTURE, "false"), Asked::default());
        let told = read(DNS_CAPTURE, "true").remarks[0].to_string();
        assert!(told.contains(DNS_CAPTURE) && told.contains("does not do"), "{told}");
        assert_eq!(read(DNS_CAPTURE, "perhaps").remarks.len(), 1);
    }

    #[test]
    fn guests_sit_behind_the_interfaces_that_are_named() {
        assert_eq!(read(REROUTE, "net1, docker0,").reroute_interfaces, ["net1", "docker0"]);
        assert_eq!(read(REROUTE, ""), Asked::default());
        for value in ["a/b", "sixteen-letters-x", "..", "a b", "a:0"] {
            let asked = read(REROUTE, value);
            assert!(
                asked.reroute_interfaces.is_empty() && asked.remarks.len() == 1,
                "{value}"
            );
        }
    }

    #[test]
    fn what_sidecars_exclude_is_understood_and_told_not_to_be_done() {
        for (annotation, text, value) in [
            ("excludeOutboundPorts", "80,443", Value::Ports(vec![80, 443])),
            ("excludeInboundPorts", " 9090 ", Value::Ports(vec![9090])),
            ("excludeInboundPorts", "*", Value::All),
            ("includeInboundPorts", "80", Value::Ports(vec![80])),
            ("includeInboundPorts", "", Value::Ports(vec![])),
            ("includeOutboundPorts", "5432", Value::Ports(vec![5432])),
            (
                "excludeOutboundIPRanges",
                "10.0.0.0/8,fd00::/8",
                ranges(&["10.0.0.0/8", "fd00::/8"]),
            ),
            ("includeOutboundIPRanges", "10.0.0.0/8", ranges(&["10.0.0.0/8"])),
            ("excludeInterfaces", "eth1", Value::Interfaces(vec!["eth1".to_owned()])),
        ] {
            let name = format!("traffic.sidecar.istio.io/{annotation}");
            assert!(is_read(&name));
            let asked = read(&name, text);
            match asked.remarks.as_slice() {
                [Remark::NotHonoured { value: found, .. }] => assert_eq!(*found, value, "{annotation} {text}"),
                other => panic!("{annotation} {text}: {other:?}"),
            }
            assert!(asked.remarks[0].to_string().contains(annotation));
        }
    }

    #[test]
    fn what_happens_anyway_is_no_news() {
        for (annotation, text) in [
            ("includeInboundPorts", "*"),
            ("includeOutboundIPRanges", " * "),
            ("excludeInboundPorts", ""),
            ("excludeOutboundPorts", ""),
            ("excludeOutboundIPRanges", ""),
            ("includeOutboundPorts", ""),
            ("excludeInterfaces", ""),
        ] {
            let asked = read(&format!("traffic.sidecar.istio.io/{annotation}"), text);
            assert_eq!(asked, Asked::default(), "{annotation}");
        }
    }

    #[test]
    fn a_value_that_is_wrong_is_told_with_what_would_be_right() {
        for (annotation, text, wanted) in [
            ("excludeOutboundPorts", "http", "ports from 1 to 65535"),
            ("excludeOutboundPorts", "0", "ports"),
            ("excludeOutboundPorts", "+80", "ports"),
            ("excludeOutboundPorts", "80,65536", "ports"),
            ("excludeOutboundPorts", "80;443", "ports"),
            ("excludeOutboundIPRanges", "10.0.0.1/33", "ranges"),
            ("excludeOutboundIPRanges", "example.com", "ranges"),
            ("excludeInterfaces", "a/b", "interfaces"),
        ] {
            let asked = read(&format!("traffic.sidecar.istio.io/{annotation}"), text);
            assert!(
                matches!(asked.remarks.as_slice(), [Remark::Mistake { .. }]),
                "{annotation} {text}"
            );
            let told = asked.remarks[0].to_string();
            assert!(told.contains(annotation) && told.contains(wanted), "{told}");
        }
        let long = read(BYPASS_INBOUND, &"x\n".repeat(5000)).remarks[0].to_string();
        assert!(long.len() < 300 && !long.contains('\n'), "{long}");
    }

    #[test]
    fn of_other_annotations_nothing_is_read() {
        for other in [
            "kubectl.kubernetes.io/last-applied-configuration",
            "ambient.istio.io/",
            "istio.io/rev",
        ] {
            assert!(!is_read(other), "{other}");
        }
    }

    fn ranges(texts: &[&str]) -> Value {
        Value::Ranges(texts.iter().map(|text| text.parse().unwrap()).collect())
    }
}
