//! What of pods' traffic is outside of the mesh, because their annotations say so.

use std::{collections::BTreeSet, fmt::Display};

use isthmus_wire::{Capture, PodStatus};

use super::super::table::Table;

/// A table of the pods that have something outside; nothing where none has.
pub(super) fn outside(out: &mut String, pods: &[&PodStatus]) {
    let mut table = Table::new(["OUTSIDE OF THE MESH", "DIRECTION", "WHAT"]);
    let mut rows = 0;
    for pod in pods {
        for (direction, what) in told(&pod.capture) {
            table.row([format!("{}/{}", pod.namespace, pod.name), direction.to_owned(), what]);
            rows += 1;
        }
    }
    if rows > 0 {
        out.push('\n');
        out.push_str(&table.to_string());
    }
}

fn told(capture: &Capture) -> Vec<(&'static str, String)> {
    let mut told = Vec::new();
    let mut say = |direction, what: String| told.push((direction, what));
    match &capture.include_inbound_ports {
        _ if capture.leaves_all_inbound() => say("inbound", "everything but tunnels".to_owned()),
        Some(ports) => say(
            "inbound",
            format!("everything but tunnels and plaintext to ports {}", list(ports)),
        ),
        None if capture.exclude_inbound_ports.is_empty() => {}
        None => say(
            "inbound",
            format!("plaintext to ports {}", list(&capture.exclude_inbound_ports)),
        ),
    }
    if let Some(ranges) = &capture.include_outbound_ranges {
        let (ports, mut but) = (&capture.include_outbound_ports, Vec::new());
        if !ranges.is_empty() {
            but.push(format!("to {}", list(ranges)));
        }
        if !ports.is_empty() {
            but.push(format!("to ports {}", list(ports)));
        }
        say(
            "outbound",
            match but.is_empty() {
                true => "everything".to_owned(),
                false => format!("everything but {}", but.join(" and ")),
            },
        );
    }
    if !capture.exclude_outbound_ports.is_empty() {
        say(
            "outbound",
            format!("to ports {}", list(&capture.exclude_outbound_ports)),
        );
    }
    if !capture.exclude_outbound_ranges.is_empty() {
        say("outbound", format!("to {}", list(&capture.exclude_outbound_ranges)));
    }
    if capture.dns == Some(false) {
        let nothing = "DNS is not captured by this version, nothing to opt out of";
        say("dns", nothing.to_owned());
    }
    told
}

fn list(items: &BTreeSet<impl Display>) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(capture: &Capture) -> Vec<String> {
        let told = told(capture).into_iter();
        told.map(|(direction, what)| format!("{direction}: {what}")).collect()
    }

    #[test]
    fn a_pod_that_is_captured_as_usual_is_not_told_of() {
        let usual = PodStatus::default();
        let mut out = String::new();
        outside(&mut out, &[&usual]);
        assert_eq!(out, "");
    }

    #[test]
    fn what_is_outside_is_told_with_its_direction() {
        let left = Capture {
            exclude_inbound_ports: [9090, 80].into(),
            exclude_outbound_ports: [5432].into(),
            exclude_outbound_ranges: ["10.0.0.0/8".parse().unwrap()].into(),
            ..Capture::default()
        };
        assert_eq!(
            lines(&left),
            [
                "inbound: plaintext to ports 80,9090",
                "outbound: to ports 5432",
                "outbound: to 10.0.0.0/8"
            ]
        );
        let mut out = String::new();
        let pod = PodStatus {
            namespace: "demo".to_owned(),
            name: "client".to_owned(),
            capture: left,
            ..PodStatus::default()
        };
        outside(&mut out, &[&pod]);
        assert!(out.contains("demo/client") && out.lines().count() == 5, "{out}");
    }

    #[test]
    fn where_only_some_is_captured_it_is_told_what() {
        let mut some = Capture {
            include_inbound_ports: Some([80].into()),
            // Means nothing then, and is not told.
            exclude_inbound_ports: [81].into(),
            include_outbound_ranges: Some(["fd00::/8".parse().unwrap()].into()),
            include_outbound_ports: [443].into(),
            ..Capture::default()
        };
        assert_eq!(
            lines(&some),
            [
                "inbound: everything but tunnels and plaintext to ports 80",
                "outbound: everything but to fd00::/8 and to ports 443"
            ]
        );
        some.bypass_inbound = true;
        some.include_outbound_ranges = Some([].into());
        some.include_outbound_ports.clear();
        assert_eq!(
            lines(&some),
            ["inbound: everything but tunnels", "outbound: everything"]
        );
    }

    #[test]
    fn there_is_nothing_to_opt_out_of_where_dns_is_not_captured() {
        let dns = |dns| {
            lines(&Capture {
                dns: Some(dns),
                ..Capture::default()
            })
        };
        assert_eq!(
            dns(false),
            ["dns: DNS is not captured by this version, nothing to opt out of"]
        );
        assert!(dns(true).is_empty(), "the agent's troubles tell of that");
    }
}
