//! What is said of capturing a pod's traffic, as the kernel is told it. Pure.

use isthmus_abi::{CaptureRule, FLAG_INBOUND_LISTED, FLAG_INBOUND_RULES, FLAG_OUTBOUND_LISTED, FLAG_OUTBOUND_RULES};
use isthmus_wire::{Capture, MOST_CAPTURE_ITEMS};

use crate::redirect::maps::{
    capture::{Rules, Said},
    prefix,
};

/// Every flag that says something of the rules.
pub const FLAGS: u32 = FLAG_INBOUND_RULES | FLAG_INBOUND_LISTED | FLAG_OUTBOUND_RULES | FLAG_OUTBOUND_LISTED;

/// A list is longer than the kernel's map has room for.
#[derive(Debug, thiserror::Error)]
#[error("what of the pod is captured is told in a list of {0} ports or ranges; at most {MOST_CAPTURE_ITEMS} are taken")]
pub struct TooLong(usize);

/// Can it be told to the kernel?
pub fn check(capture: &Capture) -> Result<(), TooLong> {
    match capture.longest_list() {
        length if length > MOST_CAPTURE_ITEMS => Err(TooLong(length)),
        _ => Ok(()),
    }
}

/// What of [`FLAGS`] stands in the pod's rules. None of them as long as nothing is left outside: such a pod pays nothing.
pub fn flags(capture: &Capture) -> u32 {
    let inbound_listed = capture.bypass_inbound || capture.include_inbound_ports.is_some();
    let outbound_listed = capture.include_outbound_ranges.is_some();
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    flag(
        inbound_listed || !capture.exclude_inbound_ports.is_empty(),
        FLAG_INBOUND_RULES,
    ) | flag(inbound_listed, FLAG_INBOUND_LISTED)
        | flag(
            outbound_listed
                || !capture.exclude_outbound_ports.is_empty()
                || !capture.exclude_outbound_ranges.is_empty(),
            FLAG_OUTBOUND_RULES,
        )
        | flag(outbound_listed, FLAG_OUTBOUND_LISTED)
}

/// What stands in the map for the pod.
///
/// The kernel finds the longest range, whereas here an excluded one rules over every one inside it: included ranges within
/// excluded ones are not told.
pub fn rules(slot: u32, capture: &Capture) -> Rules {
    let port = |kind: u32, said: Said| {
        move |port: &u16| ((CaptureRule::port(slot, kind, *port), CaptureRule::PORT_BITS), said)
    };
    let range = |said: Said| {
        move |range: &ipnet::IpNet| {
            let (bits, value) = prefix(*range);
            let kind = if range.addr().is_ipv4() {
                CaptureRule::IPV4
            } else {
                CaptureRule::IPV6
            };
            ((CaptureRule { slot, kind, value }, CaptureRule::HEAD_BITS + bits), said)
        }
    };
    let mut rules = Rules::new();
    // No port is captured by name where none is captured.
    if !capture.bypass_inbound {
        match &capture.include_inbound_ports {
            Some(taken) => rules.extend(taken.iter().map(port(CaptureRule::INBOUND_PORT, Said::Taken))),
            None => {
                let left = capture.exclude_inbound_ports.iter();
                rules.extend(left.map(port(CaptureRule::INBOUND_PORT, Said::Left)));
            }
        }
    }
    if let Some(ranges) = &capture.include_outbound_ranges {
        let excluded = |range: &ipnet::IpNet| capture.exclude_outbound_ranges.iter().any(|left| left.contains(range));
        rules.extend(ranges.iter().filter(|one| !excluded(one)).map(range(Said::Taken)));
    }
    if flags(capture) & FLAG_OUTBOUND_RULES != 0 {
        let taken = capture.include_outbound_ports.iter();
        rules.extend(taken.map(port(CaptureRule::OUTBOUND_PORT, Said::Taken)));
    }
    // Last: what is in both lists is left.
    let left = capture.exclude_outbound_ports.iter();
    rules.extend(left.map(port(CaptureRule::OUTBOUND_PORT, Said::Left)));
    rules.extend(capture.exclude_outbound_ranges.iter().map(range(Said::Left)));
    rules
}

#[cfg(test)]
mod tests;
