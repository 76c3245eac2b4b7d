//! The head of a CONNECT as a peer may send it: a line with method and authority, then header lines.

#![no_main]

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use isthmus::hbone::server::connect_request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(head) = head(input) else { return };
    match connect_request(&head) {
        Ok(request) => {
            let sent = request.head().expect("what was read can be sent");
            let again = connect_request(&sent).expect("what was sent can be read");
            assert_eq!(again.authority, request.authority);
            let third = connect_request(&again.head().expect("sent twice")).expect("read three times");
            assert_eq!(third, again, "a second trip changed something");
        }
        Err(error) => {
            assert!(error.status().is_client_error());
            assert!(error.to_string().len() < 2048, "an error repeats too much of the input");
        }
    }
});

fn head(input: &[u8]) -> Option<Request<()>> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let (method, target) = first.split_at(first.iter().position(|byte| *byte == b' ')?);
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(method).ok()?;
    *head.uri_mut() = Uri::try_from(target.get(1..)?).ok()?;
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
        head.headers_mut()
            .try_append(HeaderName::from_bytes(name).ok()?, value)
            .ok()?;
    }
    Some(head)
}
