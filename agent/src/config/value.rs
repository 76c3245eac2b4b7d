//! Texts into values. Each says of a bad text what is wrong and what would be right.

use std::{net::SocketAddr, time::Duration};

use super::threads::Threads;

/// Go's notation: `250ms`, `1m30s`, `1.5h`, and a bare `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "it must be a time as 250ms, 5s, 1m30s or 1h";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let nanos: f64 = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("{WANTED}; the unit is missing")),
            _ => return Err(format!("{WANTED}; {unit:?} is no unit")),
        };
        let number: f64 = number.parse().map_err(|_| WANTED.to_owned())?;
        let part = Duration::try_from_secs_f64(number * nanos / 1e9).map_err(|_| "it is too long".to_owned())?;
        total = total.checked_add(part).ok_or("it is too long")?;
        rest = behind;
    }
    if text.is_empty() {
        return Err(WANTED.to_owned());
    }
    Ok(total)
}

/// `true`, `false`, `1`, `0`, in any case.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

/// Decimal digits.
pub(super) fn number(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it must be a whole number".to_owned());
    }
    text.parse().map_err(|_| "it is too large".to_owned())
}

/// A port; `off` and 0 are none.
pub(super) fn port(text: &str) -> Result<Option<u16>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let port: u16 = text
        .parse()
        .map_err(|_| "it must be a port from 1 to 65535, or off".to_owned())?;
    Ok((port != 0).then_some(port))
}

/// One of `words`, which are in lower case.
pub(super) fn one_of(text: &str, words: &[&'static str]) -> Result<&'static str, String> {
    let found = words.iter().find(|word| word.eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| {
        let words: Vec<_> = words
            .iter()
            .map(|word| if word.is_empty() { "empty" } else { word })
            .collect();
        format!("it must be {}", words.join(" or "))
    })
}

/// IP and port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "it must be an IP address and a port, as 0.0.0.0:15008 or [::]:15008".to_owned())
}

/// A URL of http or https with a host; without a scheme it gets `scheme`.
pub(super) fn endpoint(text: &str, scheme: &str) -> Result<String, String> {
    let wanted = || format!("it must be HOST:PORT or {scheme}://HOST:PORT");
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("{scheme}://{text}")
    };
    let url: http::Uri = whole.parse().map_err(|_| wanted())?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    let named = url.host().is_some_and(|host| !host.is_empty());
    // `Uri` takes anything behind the colon, and users before the host.
    let sound = url
        .authority()
        .is_some_and(|authority| match authority.as_str().strip_prefix(authority.host()) {
            Some("") => true,
            Some(port) => port
                .strip_prefix(':')
                .is_some_and(|port| matches!(self::port(port), Ok(Some(_)))),
            None => false,
        });
    if known && named && sound {
        Ok(whole)
    } else {
        Err(wanted())
    }
}

/// Cores as Kubernetes writes them: `2`, `0.5`, `1500m`. In thousandths.
pub(super) fn cpus(text: &str) -> Result<u32, String> {
    const WANTED: &str = "it must be a number of cores as 2, 0.5 or 1500m";
    let (digits, scale) = match text.strip_suffix('m') {
        Some(digits) => (digits, 1.0),
        None => (text, 1000.0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(WANTED.to_owned());
    }
    let number: f64 = digits.parse().map_err(|_| WANTED.to_owned())?;
    let thousandths = (number * scale).ceil();
    if (0.0..=1_000_000.0).contains(&thousandths) {
        // Between 0 and a million, so nothing is lost.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked"
        )]
        Ok(thousandths as u32)
    } else {
        Err("it must not exceed 1000 cores".to_owned())
    }
}

/// `auto`, `n`, `n%`; 0 is all.
pub(super) fn threads(text: &str) -> Result<Threads, String> {
    const WANTED: &str = "it must be auto, a number from 0 to 1024, or a share as 25%";
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Threads::Auto);
    }
    if let Some(share) = text.strip_suffix('%') {
        return match number(share) {
            Ok(share @ 1..=100) => Ok(Threads::Percent(u8::try_from(share).unwrap_or(100))),
            _ => Err("a share must be from 1% to 100%".to_owned()),
        };
    }
    match number(text) {
        Ok(0) => Ok(Threads::All),
        Ok(count @ 1..=1024) => Ok(Threads::Count(u16::try_from(count).unwrap_or(1024))),
        _ => Err(WANTED.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_notation_of_go() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1.5s", 1_500),
            ("0", 0),
            ("0s", 0),
            ("3000us", 3),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "5d",
            "99999999999999999999h",
            "1.2.3s",
            "1m30",
            " 5s",
            "NaNs",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_duration_is_shown_as_can_be_given_again() {
        for time in [Duration::from_millis(1_500), Duration::from_secs(90), Duration::ZERO] {
            assert_eq!(duration(&format!("{time:?}")), Ok(time));
        }
    }

    #[test]
    fn switches_are_true_or_false() {
        for (text, value) in [("true", true), ("1", true), ("False", false), ("0", false)] {
            assert_eq!(switch(text), Ok(value), "{text}");
        }
        for wrong in ["", "yes", "on", "2", " true"] {
            assert!(switch(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_ports_and_cores_have_bounds() {
        assert_eq!(number("007"), Ok(7));
        for wrong in ["", "-1", "+1", "1e3", "18446744073709551616"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
        assert_eq!(port("15020"), Ok(Some(15020)));
        assert_eq!((port("0"), port("OFF")), (Ok(None), Ok(None)));
        for wrong in ["", "65536", "-1", "http"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
        assert_eq!((cpus("2"), cpus("0.5"), cpus("1500m")), (Ok(2000), Ok(500), Ok(1500)));
        for wrong in ["", "m", "x", "-1", "1001", "1.2.3", "inf"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn threads_are_a_number_a_share_or_left_to_us() {
        assert_eq!(threads("auto"), Ok(Threads::Auto));
        assert_eq!(threads("0"), Ok(Threads::All));
        assert_eq!(threads("3"), Ok(Threads::Count(3)));
        assert_eq!(threads("25%"), Ok(Threads::Percent(25)));
        for wrong in ["", "-1", "0%", "101%", "1025", "many"] {
            assert!(threads(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_without_a_scheme_gets_one() {
        assert_eq!(endpoint("istiod:15012", "https"), Ok("https://istiod:15012".to_owned()));
        assert_eq!(
            endpoint("http://[::1]:4317", "http"),
            Ok("http://[::1]:4317".to_owned())
        );
        for wrong in [
            "",
            "istiod:x",
            "istiod:70000",
            "istiod:",
            "istiod:0",
            "istiod:off",
            "ftp://a:1",
            "https://",
            "a b",
            "http://user:pass@host:1",
        ] {
            assert!(endpoint(wrong, "https").is_err(), "{wrong}");
        }
    }
}
