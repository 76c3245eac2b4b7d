use isthmus_istio::discovery::DeltaDiscoveryResponse;
use prost_types::Any;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

fn resource(name: &str, bytes: usize) -> Resource {
    Resource {
        name: name.to_owned(),
        version: format!("v-{name}"),
        resource: Some(Any {
            type_url: isthmus_istio::ADDRESS.to_owned(),
            value: vec![b'x'; bytes],
        }),
        aliases: vec!["net/10.0.0.1".to_owned()],
    }
}

fn response() -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "2026".to_owned(),
        resources: vec![resource("a", 3), resource("b", 400), resource("c", 0)],
        type_url: isthmus_istio::ADDRESS.to_owned(),
        nonce: "n1".to_owned(),
        removed_resources: vec!["gone".to_owned(), String::new()],
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Event>, Garbage> {
    let mut responses = Responses::default();
    let mut events = Vec::new();
    for chunk in chunks {
        responses.feed(Bytes::copy_from_slice(chunk));
        while let Some(event) = responses.event()? {
            events.push(event);
        }
    }
    Ok(events)
}

#[test]
fn the_pieces_of_a_response_come_in_the_order_in_which_they_were_written() {
    let message = response().encode_to_vec();
    let events = parse([&*framed(&message)]).unwrap();
    let [a, b, c, kind, gone, nameless, end] = &*events else {
        panic!("{events:?}");
    };
    for (event, expected) in [(a, resource("a", 3)), (b, resource("b", 400)), (c, resource("c", 0))] {
        assert_eq!(*event, Event::Resource(expected));
    }
    assert_eq!(*kind, Event::Type(isthmus_istio::ADDRESS.to_owned()));
    assert_eq!(*gone, Event::Removed("gone".to_owned()));
    assert_eq!(*nameless, Event::Removed(String::new()));
    let bytes = message.len() as u64;
    assert_eq!(
        *end,
        Event::End {
            nonce: "n1".to_owned(),
            bytes
        }
    );
}

/// Two responses, an empty one, fields nobody knows of every wire type, a resource that cannot be read.
fn stream() -> Vec<u8> {
    let mut bytes = framed(&response().encode_to_vec());
    bytes.extend(framed(&[]));
    let mut odd = vec![0x78, 0xff, 0xff, 0x03]; // 15: a number
    odd.extend([0x79, 1, 2, 3, 4, 5, 6, 7, 8]); // 15: 64 bits
    odd.extend([0x7d, 1, 2, 3, 4]); // 15: 32 bits
    odd.extend([0x7a, 3, 9, 9, 9, 0x7a, 0]); // 15: bytes
    odd.extend([0x12, 2, 0x0a, 0x05]); // a resource whose version ends behind it
    odd.extend([0x32, 1, 0xff]); // a removed name that is not UTF-8
    let mut second = response();
    second.nonce = "n2".to_owned();
    second.encode(&mut odd).unwrap();
    bytes.extend(framed(&odd));
    bytes
}

#[test]
fn any_cut_of_the_bytes_gives_the_same_events() {
    let bytes = stream();
    let whole = parse([&*bytes]).unwrap();
    assert_eq!(whole.len(), 7 + 1 + 9);
    for at in 0..bytes.len() {
        let (before, after) = bytes.split_at(at);
        assert_eq!(parse([before, after]).unwrap(), whole, "cut at {at}");
    }
    assert_eq!(parse(bytes.chunks(1)).unwrap(), whole);
    let mut dice = StdRng::seed_from_u64(5);
    for _ in 0..200 {
        let mut rest = &*bytes;
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(dice.random_range(0..=rest.len().min(90)));
            chunks.push(chunk);
            rest = more;
        }
        assert_eq!(parse(chunks).unwrap(), whole);
    }
}

#[test]
fn bytes_that_were_not_taken_yet_are_not_lost_by_more() {
    let bytes = stream();
    let mut responses = Responses::default();
    for chunk in bytes.chunks(7) {
        responses.feed(Bytes::copy_from_slice(chunk));
    }
    let mut events = Vec::new();
    while let Some(event) = responses.event().unwrap() {
        events.push(event);
    }
    assert_eq!(events, parse([&*bytes]).unwrap());
}

#[test]
fn what_is_odd_inside_a_message_loses_nothing_else() {
    let events = parse([&*stream()]).unwrap();
    let unreadable: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Unreadable(what) => Some(&**what),
            _ => None,
        })
        .collect();
    let [resource, name] = &*unreadable else {
        panic!("{unreadable:?}");
    };
    assert!(resource.starts_with("a resource that cannot be read: "), "{resource}");
    assert_eq!(*name, "a removed name that is not UTF-8");
    let ends: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::End { nonce, .. } => Some(&**nonce),
            _ => None,
        })
        .collect();
    assert_eq!(ends, ["n1", "", "n2"]);
}

#[test]
fn what_is_too_large_is_passed_over_without_being_held() {
    let large = resource("large", 1 + usize::try_from(MOST_RESOURCE_BYTES).unwrap());
    let long = "n".repeat(1 + usize::try_from(MOST_TEXT_BYTES).unwrap());
    let message = DeltaDiscoveryResponse {
        resources: vec![large, resource("small", 1)],
        removed_resources: vec![long.clone(), "gone".to_owned()],
        ..response()
    };
    let bytes = framed(&message.encode_to_vec());
    let mut responses = Responses::default();
    let mut events = Vec::new();
    for chunk in bytes.chunks(1 << 14) {
        responses.feed(Bytes::copy_from_slice(chunk));
        while let Some(event) = responses.event().unwrap() {
            events.push(event);
        }
        assert!(!matches!(&responses.step, Step::Collect { begun, .. } if begun.len() > 1 << 15));
    }
    let [large, small, _, name, gone, _] = &*events else {
        panic!("{events:?}");
    };
    assert!(matches!(large, Event::Unreadable(what) if what.ends_with("bytes, 4194304 at most")));
    assert_eq!(*small, Event::Resource(resource("small", 1)));
    assert_eq!(
        *name,
        Event::Unreadable("a removed name of 4097 bytes, 4096 at most".to_owned())
    );
    assert_eq!(*gone, Event::Removed("gone".to_owned()));

    let nonce = DeltaDiscoveryResponse {
        nonce: long,
        ..response()
    };
    let long = Garbage::Long { field: 5, bytes: 4097 };
    assert_eq!(parse([&*framed(&nonce.encode_to_vec())]), Err(long));
}

#[test]
fn what_is_no_response_is_refused() {
    let cases: [(&[u8], Garbage); 10] = [
        (b"\x01\x00\x00\x00\x00", Garbage::Compressed { flag: 1 }),
        (b"HTTP/1.1 400 Bad Request", Garbage::Compressed { flag: b'H' }),
        (b"\x00\x00\x00\x00\x01\x12", Garbage::Overrun),
        (b"\x00\x00\x00\x00\x01\x92", Garbage::Overrun),
        (b"\x00\x00\x00\x00\x02\x12\x01", Garbage::Overrun),
        (b"\x00\x00\x00\x00\x02\x7d\x01", Garbage::Overrun),
        (b"\x00\x00\x00\x00\x02\x10\x01", Garbage::Field { field: 2, wire: 0 }),
        (b"\x00\x00\x00\x00\x02\x7b\x01", Garbage::Field { field: 15, wire: 3 }),
        (b"\x00\x00\x00\x00\x02\x00\x01", Garbage::Field { field: 0, wire: 0 }),
        (
            b"\x00\x00\x00\x00\x0c\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00",
            Garbage::Number,
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(parse([bytes]), Err(expected.clone()), "{bytes:?}");
        assert_eq!(parse(bytes.chunks(1)), Err(expected), "{bytes:?}, byte by byte");
    }
    assert_eq!(
        parse([&b"\x00\x00\x00\x00\x03\x2a\x01\xff"[..]]),
        Err(Garbage::Text { field: 5 })
    );
}
