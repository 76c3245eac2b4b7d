use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;

/// Longest `forwarded` value read, in bytes.
const LIMIT_BYTES: usize = 2048;

/// Longest `host` kept, in bytes: a DNS name and a port.
const LIMIT_HOST_BYTES: usize = 261;

/// The first element of the header `forwarded` (RFC 7239): who dialled, and which service it asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// `for`: address of the client; port 0 when none was said. `None` for obfuscated and `unknown` nodes.
    pub client: Option<SocketAddr>,
    /// `host`: hostname of the service that was addressed.
    pub host: Option<String>,
}

/// Why a `forwarded` value was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ForwardedError {
    /// The value is longer than we read.
    #[error("forwarded is longer than {LIMIT_BYTES} bytes")]
    TooLong,
    /// Not `name=value` pairs joined by `;`, or a quoted string that does not end.
    #[error("forwarded is malformed at byte {0}")]
    Malformed(usize),
    /// `for` or `host` came twice in one element (RFC 7239 §4).
    #[error("forwarded says {0} twice")]
    Twice(&'static str),
    /// `host` is no hostname.
    #[error("forwarded has a host that is no hostname")]
    Host,
}

impl Forwarded {
    /// Reads the first element of a header value; later elements belong to earlier proxies and are not looked at.
    ///
    /// # Errors
    /// When the value is too long or its first element is malformed.
    pub fn parse(value: &[u8]) -> Result<Self, ForwardedError> {
        if value.len() > LIMIT_BYTES {
            return Err(ForwardedError::TooLong);
        }
        let mut scan = Scan { rest: value, at: 0 };
        let mut forwarded = Self::default();
        let mut seen_for = false;
        loop {
            scan.skip_space();
            let name = scan.token().ok_or(ForwardedError::Malformed(scan.at))?;
            scan.exactly(b'=').ok_or(ForwardedError::Malformed(scan.at))?;
            let value = scan.value().ok_or(ForwardedError::Malformed(scan.at))?;
            if name.eq_ignore_ascii_case(b"for") {
                if seen_for {
                    return Err(ForwardedError::Twice("for"));
                }
                seen_for = true;
                forwarded.client = node(&value);
            } else if name.eq_ignore_ascii_case(b"host") {
                if forwarded.host.is_some() {
                    return Err(ForwardedError::Twice("host"));
                }
                forwarded.host = Some(host(&value).ok_or(ForwardedError::Host)?);
            }
            scan.skip_space();
            match scan.next() {
                Some(b';') => {}
                Some(b',') | None => return Ok(forwarded),
                Some(_) => return Err(ForwardedError::Malformed(scan.at)),
            }
        }
    }
}

/// As peers write it: `for="IP:PORT"`, then `;host=NAME`.
impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client {
            Some(client) => write!(f, "for=\"{client}\"")?,
            None => f.write_str("for=unknown")?,
        }
        match self.host.as_deref().filter(|name| host(name.as_bytes()).is_some()) {
            // A port makes the value more than a token.
            Some(name) if name.contains(':') => write!(f, ";host=\"{name}\""),
            Some(name) => write!(f, ";host={name}"),
            None => Ok(()),
        }
    }
}

/// `node` of RFC 7239 §6: an address with or without port. A port may be obfuscated (`_x`), as may the node.
fn node(value: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(value).ok()?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0))
}

fn host(value: &[u8]) -> Option<String> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'*');
    if value.is_empty() || value.len() > LIMIT_HOST_BYTES || !value.iter().all(allowed) {
        return None;
    }
    str::from_utf8(value).ok().map(str::to_owned)
}

struct Scan<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.at += 1;
        Some(*first)
    }

    fn exactly(&mut self, byte: u8) -> Option<()> {
        (self.rest.first() == Some(&byte)).then(|| {
            self.next();
        })
    }

    fn skip_space(&mut self) {
        while matches!(self.rest.first(), Some(b' ' | b'\t')) {
            self.next();
        }
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.iter().take_while(|byte| is_token_byte(**byte)).count();
        if length == 0 {
            return None;
        }
        let (token, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        self.at += length;
        Some(token)
    }

    /// A token, or a quoted string with its escapes undone.
    fn value(&mut self) -> Option<Vec<u8>> {
        if self.exactly(b'"').is_none() {
            return self.token().map(<[u8]>::to_vec);
        }
        let mut value = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Some(value),
                b'\\' => value.push(self.next()?),
                byte => value.push(byte),
            }
        }
    }
}

/// `tchar` of RFC 9110 §5.6.2, and the bytes of a bare `IP:PORT`, which some proxies leave unquoted.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
        || matches!(byte, b':' | b'[' | b']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (client, text) in [
            (
                "10.1.2.3:4567",
                "for=\"10.1.2.3:4567\";host=echo.demo.svc.cluster.local",
            ),
            ("[fd00::1]:80", "for=\"[fd00::1]:80\";host=echo.demo.svc.cluster.local"),
        ] {
            let forwarded = Forwarded {
                client: Some(client.parse().unwrap()),
                host: Some("echo.demo.svc.cluster.local".into()),
            };
            assert_eq!(forwarded.to_string(), text);
            assert_eq!(Forwarded::parse(text.as_bytes()), Ok(forwarded));
        }
    }

    #[test]
    fn other_proxies_forms_are_understood() {
        let read = |text: &str| Forwarded::parse(text.as_bytes()).unwrap();
        assert_eq!(
            read("For=192.0.2.60;proto=http;by=203.0.113.43").client,
            Some("192.0.2.60:0".parse().unwrap())
        );
        assert_eq!(
            read("for=\"[2001:db8::1]\"").client,
            Some("[2001:db8::1]:0".parse().unwrap())
        );
        assert_eq!(read("for=unknown, for=10.0.0.1").client, None);
        assert_eq!(read("for=10.0.0.1:80;host=\"a.b:80\"").host.as_deref(), Some("a.b:80"));
    }

    #[test]
    fn malformed_values_are_errors() {
        for text in [
            "",
            "for",
            "for=",
            "for=\"10.0.0.1:80",
            "for=a;;host=b",
            "for=a b",
            "=x",
            "for=\"x\\",
        ] {
            assert!(
                matches!(Forwarded::parse(text.as_bytes()), Err(ForwardedError::Malformed(_))),
                "{text}"
            );
        }
        assert_eq!(Forwarded::parse(b"for=a;for=b"), Err(ForwardedError::Twice("for")));
        assert_eq!(Forwarded::parse(b"host=a;host=b"), Err(ForwardedError::Twice("host")));
        assert_eq!(Forwarded::parse(b"host=\"a b\""), Err(ForwardedError::Host));
        assert_eq!(Forwarded::parse(&[b'a'; LIMIT_BYTES + 1]), Err(ForwardedError::TooLong));
    }

    #[test]
    fn a_host_that_is_no_hostname_is_not_written() {
        let forwarded = Forwarded {
            client: None,
            host: Some("a;b".into()),
        };
        assert_eq!(forwarded.to_string(), "for=unknown");
    }
}
