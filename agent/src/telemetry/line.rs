use std::{
    fmt::{self, Write},
    time::SystemTime,
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::clock::Rfc3339;

/// How log lines are written (wire-facts.md §8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// Time, level, scope, message and `KEY=VALUE`, separated by tabs; for people.
    Plain,
    /// An object with the keys `level`, `time`, `scope`, `message` and one for each field.
    Json,
}

/// Appends one event as a line.
pub(super) fn write(line: &mut String, format: LineFormat, event: &Event<'_>, now: SystemTime) {
    regardless(match format {
        LineFormat::Plain => plain(line, event, now),
        LineFormat::Json => json(line, event, now),
    });
    line.push('\n');
}

/// Writing to a String does not fail; an error can only come from a value that cannot be shown, and cuts it short.
fn regardless(_: fmt::Result) {}

fn plain(line: &mut String, event: &Event<'_>, now: SystemTime) -> fmt::Result {
    let metadata = event.metadata();
    write!(line, "{}\t{}\t", Rfc3339(now), level(*metadata.level()))?;
    scope(line, event);
    line.push('\t');
    let mut message = Message {
        line,
        quotes: Quotes::None,
    };
    event.record(&mut message);
    let mut fields = Fields {
        line,
        format: LineFormat::Plain,
        first: true,
    };
    event.record(&mut fields);
    Ok(())
}

fn json(line: &mut String, event: &Event<'_>, now: SystemTime) -> fmt::Result {
    let metadata = event.metadata();
    write!(
        line,
        "{{\"level\":\"{}\",\"time\":\"{}\",\"scope\":\"",
        level(*metadata.level()),
        Rfc3339(now)
    )?;
    scope(line, event);
    line.push_str("\",\"message\":\"");
    let mut message = Message {
        line,
        quotes: Quotes::Escaped,
    };
    event.record(&mut message);
    line.push('"');
    let mut fields = Fields {
        line,
        format: LineFormat::Json,
        first: false,
    };
    event.record(&mut fields);
    line.push('}');
    Ok(())
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The target, without our crate's name. What comes from the `log` crate tells its target in a field.
fn scope(line: &mut String, event: &Event<'_>) {
    struct Target<'a>(&'a mut String);
    impl Visit for Target<'_> {
        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == "log.target" {
                self.0.push_str(value);
            }
        }
    }
    let target = event.metadata().target();
    if target == "log" {
        event.record(&mut Target(line));
    } else {
        line.push_str(target.strip_prefix("isthmus::").unwrap_or(target));
    }
}

/// How a text is kept within its field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// It stands alone: only line ends and tabs are escaped.
    None,
    /// It stands between quotation marks, which are escaped as well. JSON's rules (RFC 8259 §7).
    Escaped,
}

/// Writes texts so that nothing in them ends the field or the line.
struct Contained<'a> {
    line: &'a mut String,
    quotes: Quotes,
}

impl Write for Contained<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let escaped = |byte: u8| byte < 0x20 || (self.quotes == Quotes::Escaped && matches!(byte, b'"' | b'\\'));
        while let Some(at) = rest.bytes().position(escaped) {
            let (clean, from) = rest.split_at(at);
            self.line.push_str(clean);
            let mut chars = from.chars();
            match chars.next() {
                Some('\n') => self.line.push_str("\\n"),
                Some('\r') => self.line.push_str("\\r"),
                Some('\t') => self.line.push_str("\\t"),
                Some(mark @ ('"' | '\\')) => {
                    self.line.push('\\');
                    self.line.push(mark);
                }
                Some(control) => write!(self.line, "\\u{:04x}", u32::from(control))?,
                None => {}
            }
            rest = chars.as_str();
        }
        self.line.push_str(rest);
        Ok(())
    }
}

/// Writes the message alone.
struct Message<'a> {
    line: &'a mut String,
    quotes: Quotes,
}

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let mut contained = Contained {
                line: self.line,
                quotes: self.quotes,
            };
            regardless(write!(contained, "{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        }
    }
}

/// Writes everything but the message.
struct Fields<'a> {
    line: &'a mut String,
    format: LineFormat,
    first: bool,
}

impl Fields<'_> {
    /// Writes the key; says whether the field is one to be written.
    fn key(&mut self, field: &Field) -> bool {
        let name = field.name();
        if name == "message" || name.starts_with("log.") {
            return false;
        }
        match self.format {
            LineFormat::Plain => {
                self.line.push(if self.first { '\t' } else { ' ' });
                self.line.push_str(name);
                self.line.push('=');
            }
            LineFormat::Json => {
                self.line.push_str(",\"");
                self.line.push_str(name);
                self.line.push_str("\":");
            }
        }
        self.first = false;
        true
    }

    fn literal(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.key(field) {
            regardless(self.line.write_fmt(value));
        }
    }

    fn quoted(&mut self, value: fmt::Arguments<'_>) {
        self.line.push('"');
        let mut contained = Contained {
            line: self.line,
            quotes: Quotes::Escaped,
        };
        regardless(contained.write_fmt(value));
        self.line.push('"');
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !self.key(field) {
            return;
        }
        match self.format {
            LineFormat::Json => self.quoted(format_args!("{value:?}")),
            LineFormat::Plain => {
                let mut contained = Contained {
                    line: self.line,
                    quotes: Quotes::None,
                };
                regardless(write!(contained, "{value:?}"));
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.key(field) {
            self.quoted(format_args!("{value}"));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.literal(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.literal(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.literal(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is no number.
        if value.is_finite() {
            self.literal(field, format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::{Duration, UNIX_EPOCH},
    };

    use tracing_subscriber::{Layer, layer::SubscriberExt as _};

    use super::*;

    struct Capture(LineFormat, Arc<Mutex<String>>);

    impl<S: tracing::Subscriber> Layer<S> for Capture {
        fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            let now = UNIX_EPOCH + Duration::from_secs(1);
            write(&mut self.1.lock().unwrap(), self.0, event, now);
        }
    }

    fn written(format: LineFormat, event: impl FnOnce()) -> String {
        let text = Arc::new(Mutex::default());
        let subscriber = tracing_subscriber::registry().with(Capture(format, Arc::clone(&text)));
        // The subscriber ends with the call, and with it the other owner of the text.
        tracing::subscriber::with_default(subscriber, event);
        Arc::into_inner(text).unwrap().into_inner().unwrap()
    }

    #[test]
    fn a_plain_line_is_separated_by_tabs() {
        let line = written(LineFormat::Plain, || {
            let address: std::net::SocketAddr = "10.0.0.1:80".parse().unwrap();
            tracing::event!(
                target: "access",
                Level::ERROR,
                dst.addr = %address,
                src.workload = Some("curl"),
                dst.workload = None::<&str>,
                bytes_sent = 5_u64,
                "connection complete"
            );
        });
        assert_eq!(
            line,
            "1970-01-01T00:00:01.000000Z\terror\taccess\tconnection complete\t\
             dst.addr=10.0.0.1:80 src.workload=\"curl\" bytes_sent=5\n"
        );
    }

    #[test]
    fn a_json_line_has_these_keys_and_types() {
        let line = written(LineFormat::Json, || {
            tracing::info!(number = -1, real = 0.5, yes = true, address = %"a\"b", "one \"two\"\n\u{1}");
        });
        assert!(
            line.starts_with("{\"level\":\"info\",\"time\":\"1970-01-01T00:00:01.000000Z\",\"scope\":\""),
            "{line}"
        );
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["scope"], "telemetry::line::tests");
        assert_eq!(value["message"], "one \"two\"\n\u{1}");
        assert_eq!(
            (&value["number"], &value["real"], &value["yes"]),
            (&(-1).into(), &0.5.into(), &true.into())
        );
        assert_eq!(value["address"], "a\"b");
    }

    #[test]
    fn no_value_can_forge_a_line_or_a_field() {
        let evil = "x\n1970-01-01T00:00:01.000000Z\tinfo\taccess\tconnection complete\" y=\"z";
        for format in [LineFormat::Plain, LineFormat::Json] {
            let line = written(format, || tracing::warn!(quoted = evil, "{evil}"));
            assert_eq!(line.matches('\n').count(), 1, "{line}");
        }
        let plain = written(LineFormat::Plain, || tracing::warn!(quoted = evil, "said"));
        assert_eq!(plain.matches('\t').count(), 4, "{plain}");
        assert!(plain.contains("complete\\\" y=\\\"z\"\n"), "{plain}");
        let json = written(LineFormat::Json, || tracing::warn!(quoted = evil, "said"));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["quoted"], evil);
    }
}
