//! What pods say of their own redirection: values with their types, and what becomes of each.

mod list;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use isthmus_abi::HBONE_PORT;
use isthmus_wire::Capture;

use self::list::{Item, List, Wrong};

/// The state that is written: `enabled` or `pending`.
pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
/// A pod with a sidecar has it.
pub(super) const SIDECAR: &str = "sidecar.istio.io/status";
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
const REROUTE: &str = "istio.io/reroute-virtual-interfaces";
const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
/// Of interfaces, which are understood and not done.
const OF_INTERFACES: [&str; 2] = [
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
];

const READ: [&str; 13] = [
    REDIRECTION,
    SIDECAR,
    BYPASS_INBOUND,
    DNS_CAPTURE,
    REROUTE,
    INCLUDE_INBOUND_PORTS,
    EXCLUDE_INBOUND_PORTS,
    INCLUDE_OUTBOUND_PORTS,
    EXCLUDE_OUTBOUND_PORTS,
    INCLUDE_OUTBOUND_RANGES,
    EXCLUDE_OUTBOUND_RANGES,
    OF_INTERFACES[0],
    OF_INTERFACES[1],
];

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// What of its traffic is captured.
    pub(super) capture: Capture,
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
        wanted: Wrong,
        /// What it is taken for.
        counts_as: &'static str,
    },
    /// It is understood, and redirection cannot do it.
    NotHonoured {
        /// The annotation.
        annotation: &'static str,
        /// Its value, as it was understood.
        interfaces: Vec<String>,
    },
    /// DNS is to be captured.
    Dns,
    /// Tunnels are to be left outside.
    Tunnels,
}

/// Whether an annotation is looked at. All others are not kept.
pub(super) fn is_read(key: &str) -> bool {
    READ.contains(&key)
}

// === impl Asked ===

impl Asked {
    /// Understands what is there. A value that is wrong takes nothing out of the mesh, and is remarked upon.
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Self {
        let mut reading = Reading {
            annotations,
            remarks: Vec::new(),
        };
        let capture = Capture {
            bypass_inbound: reading.switch(BYPASS_INBOUND).unwrap_or_default(),
            include_inbound_ports: reading.included(INCLUDE_INBOUND_PORTS),
            exclude_inbound_ports: reading.inbound_excluded(),
            exclude_outbound_ports: reading.excluded(EXCLUDE_OUTBOUND_PORTS),
            exclude_outbound_ranges: reading.excluded(EXCLUDE_OUTBOUND_RANGES),
            dns: reading.switch(DNS_CAPTURE),
            ..reading.outbound_included()
        };
        if capture.dns == Some(true) {
            reading.remarks.push(Remark::Dns);
        }
        let reroute_interfaces = reading.interfaces(REROUTE);
        for annotation in OF_INTERFACES {
            let interfaces = reading.interfaces(annotation);
            if !interfaces.is_empty() {
                reading.remarks.push(Remark::NotHonoured { annotation, interfaces });
            }
        }
        Self {
            capture,
            reroute_interfaces,
            remarks: reading.remarks,
        }
    }
}

/// Annotations being read.
struct Reading<'a> {
    annotations: &'a BTreeMap<String, String>,
    remarks: Vec<Remark>,
}

impl Reading<'_> {
    fn switch(&mut self, annotation: &'static str) -> Option<bool> {
        let text = self.annotations.get(annotation)?;
        match text.trim() {
            // As Go's ParseBool has it, which is what Istio reads them with.
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
            _ => {
                self.mistake(annotation, Wrong::Switch, "absent");
                None
            }
        }
    }

    /// What alone is captured; `None` for everything.
    fn included<T: Item>(&mut self, annotation: &'static str) -> Option<BTreeSet<T>> {
        match List::parse(self.annotations.get(annotation)?) {
            Ok(List::All) => None,
            Ok(List::Of(items)) => Some(items),
            Err(wrong) => {
                self.mistake(annotation, wrong, "absent");
                None
            }
        }
    }

    /// What is not captured.
    fn excluded<T: Item>(&mut self, annotation: &'static str) -> BTreeSet<T> {
        match self.annotations.get(annotation).map(|text| List::parse(text)) {
            None => BTreeSet::new(),
            Some(Ok(List::Of(items))) => items,
            Some(Ok(List::All)) => {
                self.mistake(annotation, Wrong::ExcludesAll, "absent");
                BTreeSet::new()
            }
            Some(Err(wrong)) => {
                self.mistake(annotation, wrong, "absent");
                BTreeSet::new()
            }
        }
    }

    fn inbound_excluded(&mut self) -> BTreeSet<u16> {
        let mut ports = self.excluded(EXCLUDE_INBOUND_PORTS);
        if ports.remove(&HBONE_PORT) {
            self.remarks.push(Remark::Tunnels);
        }
        ports
    }

    /// Ports are captured beside the ranges. So a mistake there must capture everything: absent, it would capture less.
    fn outbound_included(&mut self) -> Capture {
        let include_outbound_ranges = self.included(INCLUDE_OUTBOUND_RANGES);
        let ports = self
            .annotations
            .get(INCLUDE_OUTBOUND_PORTS)
            .map(|text| List::parse(text));
        let (include_outbound_ports, include_outbound_ranges) = match ports {
            None => (BTreeSet::new(), include_outbound_ranges),
            Some(Ok(List::Of(ports))) => (ports, include_outbound_ranges),
            Some(Ok(List::All)) => (BTreeSet::new(), None),
            Some(Err(wrong)) => {
                self.mistake(INCLUDE_OUTBOUND_PORTS, wrong, "*");
                (BTreeSet::new(), None)
            }
        };
        Capture {
            include_outbound_ports,
            include_outbound_ranges,
            ..Capture::default()
        }
    }

    fn interfaces(&mut self, annotation: &'static str) -> Vec<String> {
        match self.annotations.get(annotation).map(|text| list::interfaces(text)) {
            None => Vec::new(),
            Some(Ok(names)) => names,
            Some(Err(wrong)) => {
                self.mistake(annotation, wrong, "absent");
                Vec::new()
            }
        }
    }

    fn mistake(&mut self, annotation: &'static str, wanted: Wrong, counts_as: &'static str) {
        let value = self.annotations.get(annotation).map(String::as_str).unwrap_or_default();
        // The first line says enough, and one line is what there is room for.
        let value = value.lines().next().unwrap_or_default().chars().take(80).collect();
        self.remarks.push(Remark::Mistake {
            annotation,
            value,
            wanted,
            counts_as,
        });
    }
}

// === impl Remark ===

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistake {
                annotation,
                value,
                wanted,
                counts_as,
            } => write!(
                f,
                "annotation {annotation} is {value:?}: {wanted}; it counts as {counts_as}"
            ),
            Self::NotHonoured { annotation, interfaces } => write!(
                f,
                "annotation {annotation} asks for {}, which redirection does not do: the pod is redirected as if it were \
                 absent",
                interfaces.join(", ")
            ),
            Self::Dns => write!(
                f,
                "annotation {DNS_CAPTURE} asks for capture of DNS: DNS is not captured by this version"
            ),
            Self::Tunnels => write!(
                f,
                "annotation {EXCLUDE_INBOUND_PORTS} names port {HBONE_PORT}: tunnels of the mesh come there, and it stays \
                 captured"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
