//! Responses of discovery as they arrive, cut in two manners.

#![no_main]

use isthmus::xds::response::{Event, Garbage, Responses};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = parse([bytes]);
    let pieces = parse(bytes.chunks(usize::from(*cut).max(1)));
    assert_eq!(whole, pieces, "cut after every {cut} bytes");
});

/// The events before what is no response, and that.
fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Garbage>) {
    let mut responses = Responses::default();
    let mut events = Vec::new();
    for chunk in chunks {
        responses.feed(chunk.to_vec().into());
        loop {
            match responses.event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(garbage) => return (events, Some(garbage)),
            }
        }
    }
    (events, None)
}
