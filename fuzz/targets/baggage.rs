//! The value of a `baggage` header.

#![no_main]

use isthmus::hbone::Baggage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    if let Ok(baggage) = Baggage::parse(value) {
        let sent = baggage.to_string();
        assert!(
            sent.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "it cannot stand in a header: {sent:?}"
        );
        assert_eq!(Baggage::parse(sent.as_bytes()), Ok(baggage));
    }
});
