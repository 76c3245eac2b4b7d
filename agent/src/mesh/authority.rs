//! The target a CONNECT asks for: `:authority` of wire-facts §3.3.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest host name in bytes (RFC 1035 §2.3.4, without the root).
pub const LONGEST_HOST: usize = 253;
/// Longest label in bytes (RFC 1035 §2.3.4).
const LONGEST_LABEL: usize = 63;

/// An address and port, or a host name and port. The port is never 0, a host name is in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `10.0.0.1:80` or `[fd00::1]:80`; an IPv4-mapped address is its IPv4 address.
    Ip(SocketAddr),
    /// `echo.demo.svc.cluster.local:80`.
    Host {
        /// The name, in lower case.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// Why a text is no authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseAuthorityError {
    /// Longer than any host name with a port.
    #[error("authority of {length} bytes: no host name with a port is that long")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// No colon after the host.
    #[error("authority without a port: expected HOST:PORT, IPV4:PORT or [IPV6]:PORT")]
    NoPort,
    /// The port is not a number from 1 to 65535 in its shortest form.
    #[error("authority with a bad port: expected 1 to 65535 in decimal")]
    Port,
    /// What stands in brackets is not an IPv6 address.
    #[error("authority with a bad address in brackets: expected an IPv6 address without zone")]
    Ipv6,
    /// The host is not a host name.
    #[error("authority with a bad host: expected an IPv4 address or labels of letters, digits, `-` and `_`")]
    Host,
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl FromStr for Authority {
    type Err = ParseAuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST_HOST + ":65535".len() {
            return Err(ParseAuthorityError::TooLong { length: text.len() });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or(ParseAuthorityError::Ipv6)?;
            let port = port(rest.strip_prefix(':').ok_or(ParseAuthorityError::NoPort)?)?;
            let address: Ipv6Addr = address.parse().map_err(|_| ParseAuthorityError::Ipv6)?;
            return Ok(Self::Ip(SocketAddr::new(IpAddr::V6(address).to_canonical(), port)));
        }
        let (host, rest) = text.rsplit_once(':').ok_or(ParseAuthorityError::NoPort)?;
        let port = port(rest)?;
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(SocketAddr::new(IpAddr::V4(address), port)));
        }
        if !is_host_name(host) {
            return Err(ParseAuthorityError::Host);
        }
        Ok(Self::Host {
            host: host.to_ascii_lowercase().into(),
            port,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Is this a host name: labels of letters, digits, `-` (not at the ends) and `_`, of which the last is not a number?
/// A name that ends in a number is a mistyped address, and resolvers do not agree on what it means.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= LONGEST_HOST && text.split('.').all(label) && !text.rsplit('.').next().is_some_and(number)
}

fn port(text: &str) -> Result<u16, ParseAuthorityError> {
    let shortest = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if shortest => Ok(port),
        _ => Err(ParseAuthorityError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Authority, ParseAuthorityError> {
        text.parse()
    }

    #[test]
    fn addresses_and_names_are_read_and_written_alike() {
        for text in [
            "10.0.0.1:80",
            "[fd00::1]:15008",
            "echo.demo.svc.cluster.local:8000",
            "_tcp.a-b:1",
            "localhost:65535",
            "1a.2b:80",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert!(matches!(parse("10.0.0.1:80").unwrap(), Authority::Ip(_)));
        assert_eq!(parse("[fd00::1]:15008").unwrap().port(), 15008);
    }

    #[test]
    fn names_are_lower_cased_and_mapped_addresses_are_unmapped() {
        assert_eq!(parse("Echo.Demo:80").unwrap().to_string(), "echo.demo:80");
        assert_eq!(parse("[::ffff:10.0.0.1]:80").unwrap(), parse("10.0.0.1:80").unwrap());
    }

    #[test]
    fn everything_else_is_refused() {
        use ParseAuthorityError::{Host, Ipv6, NoPort, Port};
        let cases = [
            ("", NoPort),
            ("echo", NoPort),
            ("10.0.0.1", NoPort),
            ("[fd00::1]", NoPort),
            ("[fd00::1]80", NoPort),
            ("echo:", Port),
            ("echo:0", Port),
            ("echo:+80", Port),
            ("echo:080", Port),
            ("echo:65536", Port),
            ("echo:80/path", Port),
            ("echo:80 ", Port),
            ("[fd00::1", Ipv6),
            ("[fe80::1%eth0]:80", Ipv6),
            ("[10.0.0.1]:80", Ipv6),
            ("[]:80", Ipv6),
            ("fd00::1:80", Host),
            (":80", Host),
            ("user@echo:80", Host),
            ("echo.:80", Host),
            (".echo:80", Host),
            ("a..b:80", Host),
            ("-a:80", Host),
            ("a-:80", Host),
            ("a b:80", Host),
            ("http://a:80", Host),
            ("10.0.0:80", Host),
            ("10.0.0.256:80", Host),
            ("*.demo:80", Host),
            ("écho:80", Host),
            ("a\0:80", Host),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), LONGEST_HOST);
        assert!(parse(&format!("{longest}:65535")).is_ok());
        assert_eq!(parse(&format!("{longest}a:80")), Err(ParseAuthorityError::Host));
        assert_eq!(
            parse(&format!("{longest}aa:65535")),
            Err(ParseAuthorityError::TooLong { length: 261 })
        );
        assert_eq!(parse(&format!("{label}a:80")), Err(ParseAuthorityError::Host));
    }
}
