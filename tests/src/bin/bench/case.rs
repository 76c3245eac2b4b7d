//! Which traffic is measured, as a table.

use crate::{
    goal::Goal,
    report::Side,
    stage::{Destination, Place},
};

/// A row of traffic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// From where to where, on each side that the row has.
    pub(crate) routes: &'static [(Side, Place, Destination)],
    /// What is wanted of some of its figures.
    pub(crate) goals: &'static [(&'static str, Goal)],
    /// What lies between client and server.
    pub(crate) crossing: &'static str,
}

/// Rows of double HBONE, the same of single HBONE, and the figure by which they are compared.
pub(crate) const DOUBLE_BY_SINGLE: [(&str, &str, &str); 2] =
    [("double-bulk", "bulk-1", "rate"), ("double-ping", "ping-1", "p50")];

/// What the load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As many bytes as go through.
    Bulk { streams: usize },
    /// A byte there and back on each connection.
    Ping { connections: usize },
    /// Connect, a byte there and back, close.
    Churn { close: Close },
}

/// How the client of a churn closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    Rst,
    Fin,
}

const SINGLE: &[(Side, Place, Destination)] = &[
    (Side::Raw, Place::RawClient, Destination::Pod(Place::RawServer)),
    (Side::Ours, Place::Client, Destination::Pod(Place::Server)),
    (Side::Relay, Place::RelayClient, Destination::Pod(Place::Plain)),
];
const DOUBLE: &[(Side, Place, Destination)] = &[
    (Side::Raw, Place::RawClient, Destination::Pod(Place::RawFar)),
    (Side::Ours, Place::Client, Destination::Service),
];
const SAME_NODE: &[(Side, Place, Destination)] = &[
    (Side::Raw, Place::RawClient, Destination::Pod(Place::RawNeighbour)),
    (Side::Ours, Place::Client, Destination::Pod(Place::Neighbour)),
];
const PLAIN_IN: &[(Side, Place, Destination)] = &[
    (Side::Raw, Place::RawClient, Destination::Pod(Place::RawServer)),
    (Side::Ours, Place::RawClient, Destination::Pod(Place::Server)),
];
const OUTSIDE: &[(Side, Place, Destination)] = &[
    (Side::Raw, Place::RawClient, Destination::Pod(Place::RawServer)),
    (Side::Ours, Place::Client, Destination::Pod(Place::RawServer)),
];

const ACROSS: &str = "";
const THROUGH_GATEWAY: &str =
    "client's agent, gateway of the second network, server's agent; raw takes the same links without the gateway";
const ONE_NODE: &str = "ours: one agent on both sides, as for any other peer: TLS from the client's pod over the node's bridge to the \
     server's pod (the bytes on eth0 show it: 0 would be a shortcut)";
const NO_CLIENT_AGENT: &str = "the client is not enrolled, the enrolled server admits plaintext";
const NO_SERVER_AGENT: &str = "the client is enrolled, the mesh does not know the server";

/// Churn is apart: it goes last, because what it leaves in TIME_WAIT would be in every row after it.
pub(crate) const FLOWS: [Case; 14] = [
    bulk(
        "bulk-1",
        "bulk, 1 stream",
        1,
        SINGLE,
        &[("rate", Goal::RatioAtLeast(0.55))],
        ACROSS,
    ),
    bulk(
        "bulk-8",
        "bulk, 8 streams",
        8,
        SINGLE,
        &[("rate", Goal::RatioAtLeast(0.55))],
        ACROSS,
    ),
    bulk("bulk-64", "bulk, 64 streams", 64, SINGLE, &[], ACROSS),
    ping(
        "ping-1",
        "ping-pong, 1 connection",
        1,
        SINGLE,
        &[("p50", Goal::RatioAtMost(1.3))],
        ACROSS,
    ),
    ping(
        "ping-32",
        "ping-pong, 32 connections",
        32,
        SINGLE,
        &[("rate", Goal::RatioAtLeast(0.43))],
        ACROSS,
    ),
    ping("ping-256", "ping-pong, 256 connections", 256, SINGLE, &[], ACROSS),
    bulk(
        "double-bulk",
        "double HBONE, bulk, 1 stream",
        1,
        DOUBLE,
        &[],
        THROUGH_GATEWAY,
    ),
    ping(
        "double-ping",
        "double HBONE, ping-pong, 1 connection",
        1,
        DOUBLE,
        &[],
        THROUGH_GATEWAY,
    ),
    bulk(
        "same-node-bulk",
        "same node, bulk, 1 stream",
        1,
        SAME_NODE,
        &[],
        ONE_NODE,
    ),
    ping(
        "same-node-ping",
        "same node, ping-pong, 1 connection",
        1,
        SAME_NODE,
        &[],
        ONE_NODE,
    ),
    bulk(
        "plaintext-bulk",
        "plaintext inbound, bulk, 1 stream",
        1,
        PLAIN_IN,
        &[],
        NO_CLIENT_AGENT,
    ),
    ping(
        "plaintext-ping",
        "plaintext inbound, ping-pong, 1 connection",
        1,
        PLAIN_IN,
        &[],
        NO_CLIENT_AGENT,
    ),
    bulk(
        "outside-bulk",
        "non-mesh destination, bulk, 1 stream",
        1,
        OUTSIDE,
        &[("rate", Goal::RatioAtLeast(0.95))],
        NO_SERVER_AGENT,
    ),
    ping(
        "outside-ping",
        "non-mesh destination, ping-pong, 1 connection",
        1,
        OUTSIDE,
        &[("rate", Goal::RatioAtLeast(0.95))],
        NO_SERVER_AGENT,
    ),
];

/// Connect, one byte, close.
pub(crate) const CHURNS: [Case; 2] = [
    Case {
        name: "churn-rst",
        title: "connect, 1 byte, close by RST, 32 at a time",
        kind: Kind::Churn { close: Close::Rst },
        routes: SINGLE,
        goals: &[("rate", Goal::RatioAtLeast(0.3)), ("p99", Goal::ValueAtMost(20.0))],
        crossing: ACROSS,
    },
    Case {
        name: "churn-fin",
        title: "connect, 1 byte, close by FIN of the client, 32 at a time",
        kind: Kind::Churn { close: Close::Fin },
        routes: SINGLE,
        goals: &[],
        crossing: ACROSS,
    },
];

type Routes = &'static [(Side, Place, Destination)];
type Goals = &'static [(&'static str, Goal)];

const fn bulk(
    name: &'static str,
    title: &'static str,
    streams: usize,
    routes: Routes,
    goals: Goals,
    crossing: &'static str,
) -> Case {
    let kind = Kind::Bulk { streams };
    Case {
        name,
        title,
        kind,
        routes,
        goals,
        crossing,
    }
}

const fn ping(
    name: &'static str,
    title: &'static str,
    connections: usize,
    routes: Routes,
    goals: Goals,
    crossing: &'static str,
) -> Case {
    let kind = Kind::Ping { connections };
    Case {
        name,
        title,
        kind,
        routes,
        goals,
        crossing,
    }
}
