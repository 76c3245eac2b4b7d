use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header::HeaderName};
use thiserror::Error;

use super::{Baggage, Forwarded, Traceparent};
use crate::mesh::Authority;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const FROM_NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

/// Longest network name read, in bytes: a Kubernetes label value has at most 63.
const LIMIT_NETWORK_BYTES: usize = 253;

/// Most header lines of one name joined to one value.
const LIMIT_LINES: usize = 16;

/// The head of a CONNECT: what a client asks of the agent at the other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// `:authority`: the destination.
    pub authority: Authority,
    /// `baggage`: what the client says of itself. A malformed one is as good as none.
    pub baggage: Option<Baggage>,
    /// `forwarded`: the client's address and the service it asked for. A malformed one is as good as none.
    pub forwarded: Option<Forwarded>,
    /// `traceparent`. A malformed one is as good as none.
    pub traceparent: Option<Traceparent>,
    /// `x-forwarded-network`: the network of a client that came through an east-west gateway.
    pub from_network: Option<String>,
}

/// Why a request is no CONNECT that we serve.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// Another method, or an extended CONNECT (RFC 8441).
    #[error("only plain CONNECT is served here, not {method}")]
    Method {
        /// What was asked.
        method: String,
    },
    /// No `:authority`, or one that is neither `IP:PORT` nor `HOST:PORT`.
    #[error("the CONNECT authority {authority:?} is neither IP:PORT nor HOST:PORT")]
    Authority {
        /// What stood there.
        authority: String,
    },
}

impl HeadError {
    /// The answer's status code: always 400 (wire-facts.md §3.6).
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// Reads the head of a request.
///
/// # Errors
/// When it is no plain CONNECT or its authority cannot be read.
pub fn connect_request(head: &Request<()>) -> Result<ConnectRequest, HeadError> {
    let uri = head.uri();
    if head.method() != Method::CONNECT || uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(HeadError::Method {
            method: excerpt(head.method().as_str()),
        });
    }
    let text = uri.authority().map_or("", http::uri::Authority::as_str);
    let authority = text.parse().map_err(|_| HeadError::Authority {
        authority: excerpt(text),
    })?;
    let headers = head.headers();
    Ok(ConnectRequest {
        authority,
        baggage: baggage(headers),
        forwarded: first(headers, &http::header::FORWARDED).and_then(|value| Forwarded::parse(value).ok()),
        traceparent: first(headers, &TRACEPARENT).and_then(|value| Traceparent::parse(value).ok()),
        from_network: first(headers, &FROM_NETWORK).and_then(network),
    })
}

/// Reads the `baggage` of a request or a response; `None` when it is absent or malformed.
pub(crate) fn baggage(headers: &HeaderMap) -> Option<Baggage> {
    let mut lines = headers.get_all(BAGGAGE).iter();
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Baggage::parse(first.as_bytes()).ok();
    };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines).take(LIMIT_LINES) {
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
    }
    Baggage::parse(&joined).ok()
}

/// The `baggage` header of a response; none when there is nothing to say.
pub(crate) fn set_baggage(headers: &mut HeaderMap, baggage: &Baggage) {
    set(headers, BAGGAGE, &baggage.to_string());
}

impl ConnectRequest {
    /// The request to send.
    ///
    /// # Errors
    /// When the authority cannot stand in a request line.
    pub fn head(&self) -> Result<Request<()>, http::Error> {
        let authority = http::uri::Authority::try_from(self.authority.to_string())?;
        let mut parts = http::uri::Parts::default();
        parts.authority = Some(authority);
        let mut head = Request::new(());
        *head.method_mut() = Method::CONNECT;
        *head.uri_mut() = Uri::from_parts(parts)?;
        let headers = head.headers_mut();
        if let Some(baggage) = &self.baggage {
            set(headers, BAGGAGE, &baggage.to_string());
        }
        if let Some(forwarded) = &self.forwarded {
            set(headers, http::header::FORWARDED, &forwarded.to_string());
        }
        if let Some(traceparent) = &self.traceparent {
            set(headers, TRACEPARENT, &traceparent.to_string());
        }
        if let Some(network) = &self.from_network {
            set(headers, FROM_NETWORK, network);
        }
        Ok(head)
    }
}

/// A value that is no header value is left out: the headers are information, the connection matters more.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if value.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}

fn network(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > LIMIT_NETWORK_BYTES || !value.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    str::from_utf8(value).ok().map(str::to_owned)
}

/// The beginning of something a peer sent, for an error text.
fn excerpt(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ConnectRequest {
        ConnectRequest {
            authority: "10.0.0.1:8080".parse().unwrap(),
            baggage: Some(Baggage {
                namespace: Some("demo".into()),
                ..Baggage::default()
            }),
            forwarded: Some(Forwarded {
                client: "10.0.0.2:4000".parse().ok(),
                host: Some("echo.demo".into()),
            }),
            traceparent: Some(Traceparent::random()),
            from_network: Some("net1".into()),
        }
    }

    #[test]
    fn what_is_sent_is_read_back() {
        for authority in ["10.0.0.1:8080", "[fd00::1]:8080", "echo.demo.svc.cluster.local:80"] {
            let sent = ConnectRequest {
                authority: authority.parse().unwrap(),
                ..request()
            };
            let head = sent.head().unwrap();
            assert_eq!(head.uri().authority().unwrap().as_str(), authority);
            assert_eq!(connect_request(&head), Ok(sent));
        }
    }

    #[test]
    fn only_a_plain_connect_is_served() {
        let mut get = request().head().unwrap();
        *get.method_mut() = Method::GET;
        assert_eq!(connect_request(&get), Err(HeadError::Method { method: "GET".into() }));
        let mut extended = request().head().unwrap();
        *extended.uri_mut() = "https://10.0.0.1:8080/path".parse().unwrap();
        assert!(matches!(connect_request(&extended), Err(HeadError::Method { .. })));
    }

    #[test]
    fn an_authority_which_is_no_address_is_a_bad_request() {
        for authority in ["10.0.0.1", "user@10.0.0.1:80", "host:99999", "host:0x50"] {
            let mut head = Request::new(());
            *head.method_mut() = Method::CONNECT;
            let mut parts = http::uri::Parts::default();
            parts.authority = http::uri::Authority::try_from(authority).ok();
            *head.uri_mut() = Uri::from_parts(parts).unwrap();
            let refusal = connect_request(&head).unwrap_err();
            assert!(matches!(refusal, HeadError::Authority { .. }), "{authority}");
            assert_eq!(refusal.status(), 400);
        }
    }

    #[test]
    fn malformed_headers_are_as_good_as_none_and_several_baggage_lines_are_one() {
        let mut head = request().head().unwrap();
        let headers = head.headers_mut();
        headers.insert("forwarded", HeaderValue::from_static("nonsense"));
        headers.insert("traceparent", HeaderValue::from_static("00-0-0-0"));
        headers.insert("x-forwarded-network", HeaderValue::from_static("a b"));
        headers.insert("baggage", HeaderValue::from_static("k8s.namespace.name=one"));
        headers.append("baggage", HeaderValue::from_static("service.name=two"));
        let read = connect_request(&head).unwrap();
        assert_eq!(
            (read.forwarded, read.traceparent, read.from_network),
            (None, None, None)
        );
        let baggage = read.baggage.unwrap();
        assert_eq!(
            (baggage.namespace.as_deref(), baggage.service_name.as_deref()),
            (Some("one"), Some("two"))
        );
    }
}
