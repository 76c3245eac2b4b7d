use super::*;

fn read_all(said: &[(&str, &str)]) -> Asked {
    let own = |(annotation, value): &(&str, &str)| ((*annotation).to_owned(), (*value).to_owned());
    Asked::read(&said.iter().map(own).collect())
}

fn read(annotation: &str, value: &str) -> Asked {
    read_all(&[(annotation, value)])
}

fn capture(said: &[(&str, &str)]) -> Capture {
    let asked = read_all(said);
    assert_eq!(asked.remarks, [], "{said:?}");
    asked.capture
}

fn ranges(texts: &[&str]) -> BTreeSet<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn nothing_said_is_nothing_asked() {
    assert_eq!(Asked::read(&BTreeMap::new()), Asked::default());
    assert!(Asked::default().capture.is_usual());
}

#[test]
fn inbound_is_bypassed_when_it_is_asked_for_and_only_then() {
    assert!(capture(&[(BYPASS_INBOUND, "true")]).bypass_inbound);
    for value in ["false", "0"] {
        assert_eq!(read(BYPASS_INBOUND, value), Asked::default(), "{value}");
    }
    for value in ["", "yes", "on", "truee"] {
        let asked = read(BYPASS_INBOUND, value);
        assert!(asked.capture.is_usual() && asked.remarks.len() == 1, "{value}");
        let told = asked.remarks[0].to_string();
        assert!(
            told.contains(BYPASS_INBOUND) && told.contains("true or false"),
            "{told}"
        );
    }
}

#[test]
fn capture_of_dns_is_told_to_be_missing_where_it_is_wanted() {
    assert_eq!(capture(&[(DNS_CAPTURE, "false")]).dns, Some(false));
    let asked = read(DNS_CAPTURE, "true");
    assert_eq!(
        (asked.capture.dns, asked.remarks.as_slice()),
        (Some(true), &[Remark::Dns][..])
    );
    let told = asked.remarks[0].to_string();
    assert!(told.contains(DNS_CAPTURE) && told.contains("not captured"), "{told}");
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
fn what_is_excluded_is_left_outside() {
    let usual = Capture::default;
    for (annotation, text, wanted) in [
        (
            EXCLUDE_OUTBOUND_PORTS,
            "80,443",
            Capture {
                exclude_outbound_ports: [80, 443].into(),
                ..usual()
            },
        ),
        (
            EXCLUDE_INBOUND_PORTS,
            " 9090, ",
            Capture {
                exclude_inbound_ports: [9090].into(),
                ..usual()
            },
        ),
        (
            EXCLUDE_OUTBOUND_RANGES,
            "10.1.2.3/8, fd00::/8",
            Capture {
                exclude_outbound_ranges: ranges(&["10.0.0.0/8", "fd00::/8"]),
                ..usual()
            },
        ),
    ] {
        assert!(is_read(annotation));
        assert_eq!(capture(&[(annotation, text)]), wanted, "{annotation} {text}");
        assert_eq!(capture(&[(annotation, "")]), usual(), "{annotation}");
    }
}

#[test]
fn what_is_included_is_all_that_is_captured_and_an_empty_list_is_nothing() {
    for (text, wanted) in [("*", None), ("", Some([].into())), ("80, 81", Some([80, 81].into()))] {
        let capture = capture(&[(INCLUDE_INBOUND_PORTS, text)]);
        assert_eq!(capture.include_inbound_ports, wanted, "{text}");
    }
    for (text, wanted) in [
        ("*", None),
        ("", Some(ranges(&[]))),
        ("10.0.0.0/8", Some(ranges(&["10.0.0.0/8"]))),
    ] {
        let capture = capture(&[(INCLUDE_OUTBOUND_RANGES, text)]);
        assert_eq!(capture.include_outbound_ranges, wanted, "{text}");
    }
}

#[test]
fn included_ports_are_captured_beside_the_ranges_and_all_of_them_are_all() {
    let few = (INCLUDE_OUTBOUND_RANGES, "10.0.0.0/8");
    let listed = capture(&[few, (INCLUDE_OUTBOUND_PORTS, "5432")]);
    assert_eq!(listed.include_outbound_ports, [5432].into());
    assert_eq!(listed.include_outbound_ranges, Some(ranges(&["10.0.0.0/8"])));
    assert_eq!(capture(&[few, (INCLUDE_OUTBOUND_PORTS, "*")]), Capture::default());
    // Taken for absent, a mistake would take ports out of the mesh.
    let mistaken = read_all(&[few, (INCLUDE_OUTBOUND_PORTS, "http")]);
    assert!(mistaken.capture.is_usual());
    let told = mistaken.remarks[0].to_string();
    assert!(told.ends_with("counts as *"), "{told}");
}

#[test]
fn tunnels_stay_captured() {
    let asked = read(EXCLUDE_INBOUND_PORTS, "15008,9090");
    assert_eq!(asked.capture.exclude_inbound_ports, [9090].into());
    assert_eq!(asked.remarks, [Remark::Tunnels]);
    assert!(asked.remarks[0].to_string().contains("15008"));
    assert_eq!(
        capture(&[(EXCLUDE_OUTBOUND_PORTS, "15008")]).exclude_outbound_ports,
        [15008].into(),
        "of connects it may be said"
    );
}

#[test]
fn of_interfaces_only_guests_are_known() {
    for annotation in OF_INTERFACES {
        let asked = read(annotation, "eth1");
        assert!(asked.capture.is_usual());
        let told = asked.remarks[0].to_string();
        assert!(told.contains(annotation) && told.contains("does not do"), "{told}");
        assert_eq!(read(annotation, ""), Asked::default());
    }
}

#[test]
fn a_value_that_is_wrong_takes_nothing_out_and_is_told_with_what_would_be_right() {
    let many = (1..=65).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    let most = (1..=64).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(
        capture(&[(EXCLUDE_INBOUND_PORTS, &most)]).exclude_inbound_ports.len(),
        64
    );
    for (annotation, text, wanted) in [
        (EXCLUDE_OUTBOUND_PORTS, "http", "ports from 1 to 65535"),
        (EXCLUDE_OUTBOUND_PORTS, "0", "ports"),
        (EXCLUDE_OUTBOUND_PORTS, "+80", "ports"),
        (EXCLUDE_OUTBOUND_PORTS, "80,65536", "ports"),
        (EXCLUDE_OUTBOUND_PORTS, "80;443", "ports"),
        (EXCLUDE_OUTBOUND_PORTS, "*", "include annotation"),
        (EXCLUDE_INBOUND_PORTS, "*", "include annotation"),
        (EXCLUDE_OUTBOUND_RANGES, "*", "include annotation"),
        (EXCLUDE_INBOUND_PORTS, many.as_str(), "64 items"),
        (INCLUDE_INBOUND_PORTS, many.as_str(), "64 items"),
        (INCLUDE_INBOUND_PORTS, "web", "ports"),
        (EXCLUDE_OUTBOUND_RANGES, "10.0.0.1/33", "ranges"),
        (EXCLUDE_OUTBOUND_RANGES, "example.com", "ranges"),
        (INCLUDE_OUTBOUND_RANGES, "10.0.0.1", "ranges"),
        (OF_INTERFACES[0], "a/b", "interfaces"),
    ] {
        let asked = read(annotation, text);
        assert!(asked.capture.is_usual(), "{annotation} {text}");
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
