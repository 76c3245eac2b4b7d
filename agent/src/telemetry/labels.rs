use std::sync::Arc;

use crate::{
    hbone::Baggage,
    identity::SpiffeId,
    mesh::{Service, Workload},
};

/// The value of a label of which nothing is known (wire-facts.md §8.2).
pub(crate) const UNKNOWN: &str = "unknown";

/// Who counts: the client's agent or the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's agent.
    Source,
    /// The server's agent, or a gateway.
    Destination,
}

/// What is told of one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of the pod; in logs only, because pods come and go.
    pub name: Arc<str>,
    /// What labels tell.
    pub labels: SideLabels,
}

/// What labels tell of one end of a connection. An empty text is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SideLabels {
    /// `*_workload`: the controller.
    pub workload: Arc<str>,
    /// `*_workload_namespace`.
    pub namespace: Arc<str>,
    /// `*_canonical_service`.
    pub service: Arc<str>,
    /// `*_canonical_revision` and `*_version`.
    pub revision: Arc<str>,
    /// `*_app`.
    pub app: Arc<str>,
    /// `*_cluster`.
    pub cluster: Arc<str>,
    /// `*_region`.
    pub region: Arc<str>,
    /// `*_zone`.
    pub zone: Arc<str>,
}

/// What labels tell of the service that was asked for. An empty text is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceFacts {
    /// `destination_service`.
    pub hostname: Arc<str>,
    /// `destination_service_namespace`.
    pub namespace: Arc<str>,
    /// `destination_service_name`.
    pub name: Arc<str>,
}

/// Connections with equal labels are counted in one row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Who counts.
    pub reporter: Reporter,
    /// The client.
    pub source: Option<SideLabels>,
    /// The client's identity, where TLS proved it.
    pub source_principal: Option<SpiffeId>,
    /// The server.
    pub destination: Option<SideLabels>,
    /// The server's identity, as the mesh says.
    pub destination_principal: Option<SpiffeId>,
    /// The service that was asked for.
    pub service: Option<ServiceFacts>,
    /// Whether it runs over mutual TLS.
    pub mutual_tls: bool,
}

impl Facts {
    /// What the mesh knows of a workload.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        let shared = Arc::<str>::clone;
        Self {
            name: workload.name().into(),
            labels: SideLabels {
                workload: shared(&workload.workload_name),
                namespace: shared(&workload.namespace),
                service: shared(&workload.canonical_name),
                revision: shared(&workload.canonical_revision),
                app: shared(&workload.canonical_name),
                cluster: shared(&workload.cluster_id),
                region: shared(&workload.locality.region),
                zone: shared(&workload.locality.zone),
            },
        }
    }

    /// What one end says of itself. `app` is then the workload's name (wire-facts.md §8.2).
    #[must_use]
    pub fn claimed(baggage: &Baggage) -> Self {
        let text = |value: Option<&str>| Arc::from(value.unwrap_or_default());
        let workload = text(baggage.workload.as_ref().map(|(_, name)| name.as_str()));
        Self {
            name: Arc::clone(&workload),
            labels: SideLabels {
                app: Arc::clone(&workload),
                workload,
                namespace: text(baggage.namespace.as_deref()),
                service: text(baggage.service_name.as_deref()),
                revision: text(baggage.service_version.as_deref()),
                cluster: text(baggage.cluster.as_deref()),
                region: text(baggage.region.as_deref()),
                zone: text(baggage.zone.as_deref()),
            },
        }
    }
}

impl ServiceFacts {
    /// What the mesh knows of a service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            hostname: Arc::clone(&service.key.hostname),
            namespace: Arc::clone(&service.key.namespace),
            name: Arc::clone(&service.name),
        }
    }

    /// A service known by its host name only.
    #[must_use]
    pub fn named(hostname: Arc<str>) -> Self {
        Self {
            hostname,
            namespace: Arc::from(""),
            name: Arc::from(""),
        }
    }
}

impl Reporter {
    /// The value of the label `reporter`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Labels {
    /// Those of a connection of which nothing is known.
    #[must_use]
    pub fn unknown(reporter: Reporter) -> Self {
        Self {
            reporter,
            source: None,
            source_principal: None,
            destination: None,
            destination_principal: None,
            service: None,
            mutual_tls: false,
        }
    }

    /// Names and values in the order of wire-facts.md §8.2.
    pub(crate) fn each(&self, flag: &str, mut tell: impl FnMut(&'static str, &str)) {
        let mut label = |name, value: Option<&str>| {
            tell(name, value.filter(|value| !value.is_empty()).unwrap_or(UNKNOWN));
        };
        let (source, destination) = (self.source.as_ref(), self.destination.as_ref());
        let service = self.service.as_ref();
        label("reporter", Some(self.reporter.text()));
        label("source_workload", source.map(|side| &*side.workload));
        label("source_canonical_service", source.map(|side| &*side.service));
        label("source_canonical_revision", source.map(|side| &*side.revision));
        label("source_workload_namespace", source.map(|side| &*side.namespace));
        label("source_principal", self.source_principal.as_ref().map(SpiffeId::as_str));
        label("source_app", source.map(|side| &*side.app));
        label("source_version", source.map(|side| &*side.revision));
        label("source_cluster", source.map(|side| &*side.cluster));
        label("destination_service", service.map(|service| &*service.hostname));
        label(
            "destination_service_namespace",
            service.map(|service| &*service.namespace),
        );
        label("destination_service_name", service.map(|service| &*service.name));
        label("destination_workload", destination.map(|side| &*side.workload));
        label("destination_canonical_service", destination.map(|side| &*side.service));
        label(
            "destination_canonical_revision",
            destination.map(|side| &*side.revision),
        );
        label(
            "destination_workload_namespace",
            destination.map(|side| &*side.namespace),
        );
        label(
            "destination_principal",
            self.destination_principal.as_ref().map(SpiffeId::as_str),
        );
        label("destination_app", destination.map(|side| &*side.app));
        label("destination_version", destination.map(|side| &*side.revision));
        label("destination_cluster", destination.map(|side| &*side.cluster));
        label("request_protocol", Some("tcp"));
        label("response_flags", Some(flag));
        label("connection_security_policy", self.mutual_tls.then_some("mutual_tls"));
        if source.is_some() || destination.is_some() {
            label("source_region", source.map(|side| &*side.region));
            label("source_zone", source.map(|side| &*side.zone));
            label("destination_region", destination.map(|side| &*side.region));
            label("destination_zone", destination.map(|side| &*side.zone));
        }
    }
}
