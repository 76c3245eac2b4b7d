use std::time::Duration;

use super::{Fallback::Value, Setting, of, shared};
use crate::config::kind::Kind::{self, Bytes, Count, Moment, Switch};
use crate::config::verb::Verb;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// TCP_KEEPIDLE and TCP_KEEPINTVL take whole seconds up to this many (Linux, `MAX_TCP_KEEPIDLE`).
const KEEPALIVE: Kind = Moment {
    least: SECOND,
    most: Duration::from_secs(32_767),
};

/// A window of flow control (RFC 9113 §6.9.1 has the upper bound, §6.9.2 the one every peer assumes first).
const WINDOW: Kind = Bytes {
    least: 65_535,
    most: (1 << 31) - 1,
};

/// Tunnels and TCP connections.
pub(super) const TRAFFIC: &[Setting] = &[
    shared(
        "stream-window",
        "HTTP2_STREAM_WINDOW_SIZE",
        WINDOW,
        Value("4194304"),
        "What one stream may have in flight towards us.",
    ),
    shared(
        "tunnel-window",
        "HTTP2_CONNECTION_WINDOW_SIZE",
        WINDOW,
        Value("16777216"),
        "What one tunnel may have in flight towards us. More than --stream-window, or one stream that nobody reads holds up all.",
    ),
    shared(
        "frame-size",
        "HTTP2_FRAME_SIZE",
        Bytes {
            least: 16_384,
            most: (1 << 24) - 1,
        },
        Value("1048576"),
        "Largest DATA frame accepted (RFC 9113 §4.2).",
    ),
    of(
        Verb::Run,
        shared(
            "pool-streams",
            "POOL_MAX_STREAMS_PER_CONNECTION",
            Count { least: 1, most: 10_000 },
            Value("100"),
            "Streams opened on one tunnel, if the peer allows as many.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "pool-idle",
            "POOL_UNUSED_RELEASE_TIMEOUT",
            Moment {
                least: SECOND,
                most: DAY,
            },
            Value("5m"),
            "How long a tunnel without streams is kept.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "response-baggage",
            "ENABLE_RESPONSE_BAGGAGE",
            Switch,
            Value("true"),
            "Tell peers who the destination is (header `baggage`), and believe what they tell of themselves.",
        ),
    ),
    // TCP.
    shared(
        "keepalive",
        "KEEPALIVE_ENABLED",
        Switch,
        Value("true"),
        "TCP keepalive on every connection that carries traffic.",
    ),
    shared(
        "keepalive-time",
        "KEEPALIVE_TIME",
        KEEPALIVE,
        Value("3m"),
        "Silence before the first keepalive probe.",
    ),
    shared(
        "keepalive-interval",
        "KEEPALIVE_INTERVAL",
        KEEPALIVE,
        Value("3m"),
        "Time between two keepalive probes.",
    ),
    shared(
        "keepalive-retries",
        "KEEPALIVE_RETRIES",
        Count { least: 1, most: 127 },
        Value("9"),
        "Unanswered probes that end a connection.",
    ),
    shared(
        "user-timeout",
        "USER_TIMEOUT_ENABLED",
        Switch,
        Value("false"),
        "TCP_USER_TIMEOUT as well: sent bytes that are not acknowledged for as long as all probes take end a connection.",
    ),
    shared(
        "ipv6",
        "IPV6_ENABLED",
        Switch,
        Value("true"),
        "The process's own listeners (gateway, metrics, readiness) take IPv6. Pods' IPv6 is always served.",
    ),
];
