use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::*;

const SLOT: u32 = 7;

fn ranges(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What the kernel makes of the rules, as `ebpf/prog/src/capture.rs` has it.
struct Kernel(Capture);

impl Kernel {
    fn of_port(&self, kind: u32, port: u16) -> Option<Said> {
        let key = (CaptureRule::port(SLOT, kind, port), CaptureRule::PORT_BITS);
        rules(SLOT, &self.0).get(&key).copied()
    }

    fn of_address(&self, address: IpAddr) -> Option<Said> {
        let (kind, value) = match address {
            IpAddr::V4(v4) => (CaptureRule::IPV4, v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => (CaptureRule::IPV6, v6.octets()),
        };
        let matches = |rule: &CaptureRule, bits: u32| {
            let shift = 128 - (bits - CaptureRule::HEAD_BITS);
            let differing = u128::from_be_bytes(rule.value) ^ u128::from_be_bytes(value);
            rule.slot == SLOT && rule.kind == kind && differing.checked_shr(shift).unwrap_or(0) == 0
        };
        let found = rules(SLOT, &self.0);
        let matching = found.iter().filter(|((rule, bits), _)| matches(rule, *bits));
        matching.max_by_key(|((_, bits), _)| *bits).map(|(_, said)| *said)
    }

    fn leaves_inbound(&self, port: u16) -> bool {
        let flags = flags(&self.0);
        let said = self.of_port(CaptureRule::INBOUND_PORT, port);
        flags & FLAG_INBOUND_RULES != 0 && said.map_or(flags & FLAG_INBOUND_LISTED != 0, |said| said == Said::Left)
    }

    fn leaves_outbound(&self, address: &str, port: u16) -> bool {
        let flags = flags(&self.0);
        let by_port = self.of_port(CaptureRule::OUTBOUND_PORT, port);
        let by_range = self.of_address(address.parse().unwrap());
        flags & FLAG_OUTBOUND_RULES != 0
            && (by_port == Some(Said::Left)
                || by_range == Some(Said::Left)
                || (by_port.is_none() && by_range.is_none() && flags & FLAG_OUTBOUND_LISTED != 0))
    }
}

#[test]
fn a_pod_that_says_nothing_costs_nothing() {
    for nothing in [
        Capture::default(),
        Capture {
            dns: Some(false),
            ..Capture::default()
        },
        // All is captured anyway.
        Capture {
            include_outbound_ports: [80].into(),
            ..Capture::default()
        },
    ] {
        assert_eq!((flags(&nothing), rules(SLOT, &nothing).len()), (0, 0), "{nothing:?}");
    }
}

#[test]
fn excluded_inbound_ports_are_left_and_their_neighbours_are_not() {
    let kernel = Kernel(Capture {
        exclude_inbound_ports: [80, 9090].into(),
        ..Capture::default()
    });
    for (port, left) in [(80, true), (9090, true), (81, false), (20480, false), (9091, false)] {
        assert_eq!(kernel.leaves_inbound(port), left, "{port}");
    }
    assert!(!kernel.leaves_outbound("10.0.0.1", 80), "the other direction");
}

#[test]
fn only_included_inbound_ports_are_captured_whatever_is_excluded() {
    let capture = |ports: &[u16]| Capture {
        include_inbound_ports: Some(ports.iter().copied().collect()),
        exclude_inbound_ports: [80].into(),
        ..Capture::default()
    };
    let some = Kernel(capture(&[80, 443]));
    assert!(!some.leaves_inbound(80) && !some.leaves_inbound(443) && some.leaves_inbound(8080));
    let none = Kernel(capture(&[]));
    assert!(none.leaves_inbound(80) && none.leaves_inbound(443));
    let bypassing = Kernel(Capture {
        bypass_inbound: true,
        ..capture(&[80])
    });
    assert!(bypassing.leaves_inbound(80) && bypassing.leaves_inbound(443));
    assert!(!bypassing.leaves_outbound("10.0.0.1", 80), "the other direction");
}

#[test]
fn excluded_destinations_are_left_and_their_neighbours_are_not() {
    let kernel = Kernel(Capture {
        exclude_outbound_ports: [5432].into(),
        exclude_outbound_ranges: ranges(&["10.1.0.0/16", "192.0.2.7/32", "fd00:1::/32"]),
        ..Capture::default()
    });
    for (address, port, left) in [
        ("10.0.0.1", 5432, true),
        ("10.0.0.1", 5433, false),
        ("fd99::1", 5432, true),
        ("10.1.255.255", 80, true),
        ("10.2.0.0", 80, false),
        ("192.0.2.7", 80, true),
        ("192.0.2.6", 80, false),
        ("fd00:1:ffff::", 80, true),
        ("fd00:2::", 80, false),
    ] {
        assert_eq!(kernel.leaves_outbound(address, port), left, "{address} {port}");
    }
    assert!(!kernel.leaves_inbound(5432), "the other direction");
}

#[test]
fn only_included_destinations_are_captured() {
    let capture = Capture {
        include_outbound_ranges: Some(ranges(&["10.0.0.0/8"])),
        include_outbound_ports: [443].into(),
        ..Capture::default()
    };
    let kernel = Kernel(capture.clone());
    for (address, port, left) in [
        ("10.9.9.9", 80, false),
        ("11.0.0.1", 80, true),
        ("11.0.0.1", 443, false),
        ("fd00::1", 80, true),
        ("fd00::1", 443, false),
    ] {
        assert_eq!(kernel.leaves_outbound(address, port), left, "{address} {port}");
    }
    let nothing = Kernel(Capture {
        include_outbound_ranges: Some(ranges(&[])),
        ..capture
    });
    assert!(nothing.leaves_outbound("10.9.9.9", 80) && !nothing.leaves_outbound("10.9.9.9", 443));
}

#[test]
fn what_is_excluded_rules_over_what_is_included() {
    let kernel = Kernel(Capture {
        include_outbound_ranges: Some(ranges(&["10.0.0.0/8", "10.1.2.0/24", "10.3.0.0/16"])),
        exclude_outbound_ranges: ranges(&["10.1.0.0/16", "10.3.0.0/16"]),
        include_outbound_ports: [80, 443].into(),
        exclude_outbound_ports: [80].into(),
        ..Capture::default()
    });
    for (address, port, left) in [
        ("10.0.0.1", 22, false),
        ("10.1.0.1", 22, true),
        ("10.1.2.1", 22, true),
        ("10.1.2.1", 443, true),
        ("10.3.0.1", 22, true),
        ("10.0.0.1", 80, true),
        ("11.0.0.1", 443, false),
    ] {
        assert_eq!(kernel.leaves_outbound(address, port), left, "{address} {port}");
    }
}

#[test]
fn all_of_one_family_is_not_all_of_the_other() {
    let kernel = |range: &str| {
        Kernel(Capture {
            exclude_outbound_ranges: ranges(&[range]),
            ..Capture::default()
        })
    };
    let (v4, v6) = (kernel("0.0.0.0/0"), kernel("::/0"));
    assert!(v4.leaves_outbound("192.0.2.1", 80) && !v4.leaves_outbound("fd00::1", 80));
    assert!(v6.leaves_outbound("fd00::1", 80) && !v6.leaves_outbound("192.0.2.1", 80));
}

#[test]
fn a_list_that_is_too_long_is_refused() {
    let listing = |most: u16| Capture {
        exclude_inbound_ports: (1..=most).collect(),
        ..Capture::default()
    };
    check(&listing(64)).unwrap();
    let refused = check(&listing(65)).unwrap_err().to_string();
    assert!(refused.contains("65") && refused.contains("64"), "{refused}");
}
