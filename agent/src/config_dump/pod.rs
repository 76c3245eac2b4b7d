//! Pods of this node and their open connections.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{Each, Text, is_zero};
use crate::{
    pods::ask::PodConnections,
    proxy::{Carried, OpenConnection, Requested},
};

pub(super) struct View<'a>(pub(super) &'a PodConnections);

#[derive(Serialize)]
struct Fields<'a, C> {
    state: &'static str,
    connections: C,
    info: Info<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connections<I, O> {
    inbound: I,
    outbound: O,
    /// Ours: connections that are open and not in the lists.
    #[serde(skip_serializing_if = "is_zero")]
    not_listed: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    name: &'a str,
    namespace: &'a str,
    service_account: &'a str,
}

struct Connection<'a>(&'a OpenConnection);

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pod = self.0;
        let fields = Fields {
            state: if pod.served { "Up" } else { "Pending" },
            connections: Connections {
                inbound: Each(|| pod.inbound.iter().map(|open| Connection(open))),
                outbound: Each(|| pod.outbound.iter().map(|open| Connection(open))),
                not_listed: pod.not_listed,
            },
            info: Info {
                name: &pod.name,
                namespace: &pod.namespace,
                service_account: &pod.service_account,
            },
        };
        fields.serialize(serializer)
    }
}

impl Serialize for Connection<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let open = self.0;
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("src", &Text(open.source))?;
        match &open.requested {
            Requested::Address(address) => map.serialize_entry("originalDst", &Text(address))?,
            Requested::Service(hostname) => map.serialize_entry("originalDst", &hostname.as_deref())?,
        }
        map.serialize_entry("actualDst", &Text(open.actual))?;
        let protocol = match open.carried {
            Carried::Plain => "TCP",
            Carried::Hbone => "HBONE",
            Carried::DoubleHbone => "DOUBLEHBONE",
        };
        map.serialize_entry("protocol", protocol)?;
        map.end()
    }
}
