use std::fmt;

use thiserror::Error;

/// The header `traceparent` (W3C Trace Context, version 00).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    trace: u128,
    parent: u64,
    flags: u8,
}

/// A `traceparent` value that is not `00-<32 hex>-<16 hex>-<2 hex>`, or whose ids are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("traceparent is not 00-TRACE-PARENT-FLAGS in lower-case hex")]
pub struct TraceparentError;

impl Traceparent {
    /// A new random trace, not sampled: one per connection, so that both agents' logs can be joined.
    #[must_use]
    pub fn random() -> Self {
        // Zero ids are invalid and as likely as any other; setting a bit is simpler than drawing again.
        Self {
            trace: rand::random::<u128>() | 1,
            parent: rand::random::<u64>() | 1,
            flags: 0,
        }
    }

    /// The same trace with a new id of its own: what continues it. Gives also the id that is continued.
    #[must_use]
    pub fn continued(self) -> (Self, u64) {
        let parent = rand::random::<u64>() | 1;
        (Self { parent, ..self }, self.parent)
    }

    /// The same, marked as sampled or not: whether whoever sends it records a span.
    #[must_use]
    pub fn sampled(self, sampled: bool) -> Self {
        let flags = if sampled { self.flags | 1 } else { self.flags & !1 };
        Self { flags, ..self }
    }

    /// Id of the trace.
    #[must_use]
    pub fn trace_id(self) -> u128 {
        self.trace
    }

    /// Id of the sender's span.
    #[must_use]
    pub fn span_id(self) -> u64 {
        self.parent
    }

    /// Reads a header value.
    ///
    /// # Errors
    /// When it is not a version 00 value with non-zero ids.
    pub fn parse(value: &[u8]) -> Result<Self, TraceparentError> {
        let text = str::from_utf8(value).map_err(|_| TraceparentError)?;
        let mut parts = text.split('-');
        if parts.next() != Some("00") {
            return Err(TraceparentError);
        }
        let trace = hex(parts.next(), 32)?;
        let parent = u64::try_from(hex(parts.next(), 16)?).map_err(|_| TraceparentError)?;
        let flags = u8::try_from(hex(parts.next(), 2)?).map_err(|_| TraceparentError)?;
        if parts.next().is_some() || trace == 0 || parent == 0 {
            return Err(TraceparentError);
        }
        Ok(Self { trace, parent, flags })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, self.flags)
    }
}

fn hex(part: Option<&str>, digits: usize) -> Result<u128, TraceparentError> {
    let part = part.filter(|part| part.len() == digits).ok_or(TraceparentError)?;
    if !part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(TraceparentError);
    }
    u128::from_str_radix(part, 16).map_err(|_| TraceparentError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_one_is_read_back_and_not_sampled() {
        let first = Traceparent::random();
        assert_eq!(Traceparent::parse(first.to_string().as_bytes()), Ok(first));
        assert!(first.to_string().ends_with("-00"));
        assert_ne!(first, Traceparent::random());
    }

    #[test]
    fn what_continues_a_trace_keeps_its_id_and_has_one_of_its_own() {
        let first = Traceparent::random();
        let (next, parent) = first.continued();
        assert_eq!((next.trace_id(), parent), (first.trace_id(), first.span_id()));
        assert_ne!(next.span_id(), first.span_id());
        assert!(first.sampled(true).to_string().ends_with("-01"));
        assert_eq!(first.sampled(true).sampled(false), first);
    }

    #[test]
    fn anything_else_is_refused() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(Traceparent::parse(good.as_bytes()).is_ok());
        for bad in [
            "",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Traceparent::parse(bad.as_bytes()), Err(TraceparentError), "{bad}");
        }
    }
}
