//! Workloads: pods, virtual machines, network gateways and what stands for a whole service in another network
//! (wire-facts §1.9).

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::address::{GatewayAddress, ServiceKey};
use super::addresses::Addresses;
#[cfg(test)]
use super::draft::Draft;
use crate::identity::SpiffeId;

/// The trust domain of a workload which names none (wire-facts §1.8).
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// The service account of a workload which names none (wire-facts §1.8).
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// The cluster of a workload which names none (wire-facts §1.8).
pub const DEFAULT_CLUSTER: &str = "Kubernetes";

/// Something that sends or receives traffic, in the form in which a mesh of a hundred thousand is held: 80 bytes and its
/// name. What it has in common with others it shares with them, and is a field here by [`Deref`]: `workload.namespace`.
///
/// A source describes one as a [`Draft`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The name, or where the uid does not end with it, the uid and then the name.
    pub(super) text: Box<str>,
    /// What it has in common with others like it.
    pub(super) kin: Arc<Kin>,
    /// Where it runs.
    pub locality: Arc<Locality>,
    /// Services it is an endpoint of.
    pub services: Arc<[Membership]>,
    /// Addresses in `network`; none for a workload known by name only or behind its network's gateway.
    pub addresses: Addresses,
    /// Bytes of the uid in `text`; 0 where the uid is the prefix of the kin and all of `text`.
    pub(super) split: u32,
    /// How it wants to be spoken to.
    pub protocol: Protocol,
    /// Whether services may send traffic to it.
    pub status: Health,
    pub(super) is_pod: bool,
    pub(super) is_gateway: bool,
}

/// What the pods of one Deployment have in common, and whatever few workloads have at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kin {
    /// What stands before the name in the uid, such as `Kubernetes//Pod/demo/`.
    pub(super) uid_prefix: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The network its addresses belong to.
    pub network: Arc<str>,
    /// Trust domain of its identity.
    pub trust_domain: Arc<str>,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Waypoint for traffic to its addresses (not for traffic to its services).
    pub waypoint: Option<GatewayAddress>,
    /// East-west gateway of its network.
    pub network_gateway: Option<GatewayAddress>,
    /// `service.istio.io/canonical-name`.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`.
    pub canonical_revision: Arc<str>,
    /// Name of its controller.
    pub workload_name: Arc<str>,
    /// Kind of its controller: `deployment`, `cronjob`, `pod` or `job`.
    pub workload_type: Arc<str>,
    /// The application itself speaks HBONE.
    pub native_tunnel: bool,
    /// How tunnelled traffic is handed to the application, where that is special.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Keys `NAMESPACE/NAME` of policies that select it by label.
    pub authorization_policies: Arc<[Arc<str>]>,
    /// Cluster it belongs to.
    pub cluster_id: Arc<str>,
    /// Name to be resolved where it has no address.
    pub hostname: Arc<str>,
    /// Whether its addresses are its own or its node's.
    pub network_mode: NetworkMode,
    /// Weight among the endpoints of a service; 0 gets no traffic.
    pub capacity: u32,
}

/// A workload's primary key, in one of the forms of wire-facts §1.10. Written and compared as the one text it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Uid<'a> {
    prefix: &'a str,
    rest: &'a str,
}

/// How a workload wants to be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// In clear.
    #[default]
    Tcp,
    /// Through a tunnel.
    Hbone,
}

/// Whether a workload is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Ready for traffic.
    #[default]
    Healthy,
    /// Not ready, or going away.
    Unhealthy,
}

/// Whose addresses a workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NetworkMode {
    /// Its own.
    #[default]
    Standard,
    /// Its node's, shared with others and therefore never looked up by address.
    HostNetwork,
}

/// Where a workload runs. An unknown part is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
    /// Name of the node.
    pub node: Arc<str>,
}

/// How tunnelled traffic is handed to an application that asked for a special way (wire-facts §3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// What is written before the payload.
    pub protocol: TunnelProtocol,
    /// The port all traffic goes to, whatever was asked for.
    pub port: Option<u16>,
}

/// What an application tunnel writes before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Nothing.
    None,
    /// A PROXY protocol v2 header.
    Proxy,
}

/// That a workload is an endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The service.
    pub service: Arc<ServiceKey>,
    /// Its ports here.
    pub ports: Ports,
}

/// Service port to target port, in order of service port. A target of 0 stands for a named port, which only the
/// endpoint knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ports(pub(super) Arc<[(u16, u16)]>);

impl Ports {
    /// The target of a service port; absent when it is not listed or is 0.
    pub fn target_of(&self, service_port: u16) -> Option<u16> {
        let at = self.0.binary_search_by_key(&service_port, |(port, _)| *port).ok()?;
        self.0.get(at).map(|(_, target)| *target).filter(|target| *target != 0)
    }

    /// Is the service port listed, with whatever target?
    pub fn serves(&self, service_port: u16) -> bool {
        self.0.binary_search_by_key(&service_port, |(port, _)| *port).is_ok()
    }

    /// Pairs of service port and target port.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> {
        self.0.iter().copied()
    }
}

impl FromIterator<(u16, u16)> for Ports {
    fn from_iter<I: IntoIterator<Item = (u16, u16)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable();
        pairs.dedup_by_key(|(port, _)| *port);
        Self(pairs.into())
    }
}

impl Workload {
    /// Its primary key.
    pub fn uid(&self) -> Uid<'_> {
        match self.cut() {
            None => Uid {
                prefix: &self.kin.uid_prefix,
                rest: &self.text,
            },
            Some((uid, _)) => Uid { prefix: "", rest: uid },
        }
    }

    /// Name of the pod or entry.
    pub fn name(&self) -> &str {
        self.cut().map_or(&self.text, |(_, name)| name)
    }

    /// Uid and name where the text holds both.
    fn cut(&self) -> Option<(&str, &str)> {
        if self.split == 0 {
            return None;
        }
        self.text.split_at_checked(usize::try_from(self.split).ok()?)
    }

    /// Its SPIFFE ID; none when a part is empty or has a character no SPIFFE ID may have.
    pub fn identity(&self) -> Option<SpiffeId> {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.service_account).ok()
    }

    /// Is this an east-west gateway, as istiod and the mesh file name them (wire-facts §1.10)?
    pub fn is_network_gateway(&self) -> bool {
        self.is_gateway
    }

    /// Was it made from a pod (wire-facts §1.10)?
    pub fn is_pod(&self) -> bool {
        self.is_pod
    }

    /// Its ports as an endpoint of a service, if it is one.
    pub fn ports_for(&self, service: &ServiceKey) -> Option<&Ports> {
        let membership = self
            .services
            .iter()
            .find(|membership| *membership.service == *service)?;
        Some(&membership.ports)
    }
}

impl Deref for Workload {
    type Target = Kin;

    fn deref(&self) -> &Kin {
        &self.kin
    }
}

/// How the uid and the name are kept: the prefix of the kin, the text of its own, and where that is to be split. A uid
/// that ends with the name, as pods' do, is not kept besides it.
pub(super) fn split_uid<'a>(uid: &'a str, name: &str) -> (&'a str, String, u32) {
    if let Some(prefix) = uid.strip_suffix(name).filter(|_| !name.is_empty()) {
        return (prefix, name.to_owned(), 0);
    }
    match u32::try_from(uid.len()) {
        // An empty uid cannot be told from none by its length; nor does any source let one pass.
        Ok(split) if split > 0 => ("", format!("{uid}{name}"), split),
        _ => (uid, name.to_owned(), 0),
    }
}

pub(super) fn is_pod_uid(uid: &str) -> bool {
    uid.contains("//Pod/")
}

pub(super) fn is_gateway_uid(uid: &str) -> bool {
    uid.starts_with("NetworkGateway/")
}

impl Uid<'_> {
    /// Its bytes.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.prefix.bytes().chain(self.rest.bytes())
    }
}

impl<'a> From<&'a str> for Uid<'a> {
    fn from(text: &'a str) -> Self {
        Self { prefix: "", rest: text }
    }
}

impl fmt::Display for Uid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, self.rest)
    }
}

impl PartialEq for Uid<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Uid<'_> {}

impl PartialOrd for Uid<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Uid<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.prefix == other.prefix {
            return self.rest.cmp(other.rest);
        }
        self.bytes().cmp(other.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_service_port_and_zero_is_none() {
        let ports: Ports = [(443, 0), (80, 8080)].into_iter().collect();
        assert_eq!(ports.target_of(80), Some(8080));
        assert_eq!(ports.target_of(443), None);
        assert!(ports.serves(443));
        assert!(!ports.serves(8080));
        assert_eq!(ports.target_of(81), None);
        assert_eq!(ports.iter().collect::<Vec<_>>(), [(80, 8080), (443, 0)]);
    }

    #[test]
    fn identity_needs_every_part() {
        let draft = Draft::new("u", "demo", "echo");
        let id = Workload::from(draft.clone()).identity().unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/demo/sa/default");
        let nobody = Draft {
            service_account: "".into(),
            ..draft
        };
        assert!(Workload::from(nobody).identity().is_none());
    }

    #[test]
    fn kinds_are_told_by_uid() {
        let made = |uid, name| Workload::from(Draft::new(uid, "a", name));
        assert!(made("Kubernetes//Pod/a/b", "b").is_pod());
        assert!(made("Kubernetes//Pod/a/b", "Pod/a/b").is_pod());
        assert!(!made("cluster1//v1/Pod/default/local", "local").is_pod());
        assert!(made("NetworkGateway/net2/10.0.0.1/15008", "b").is_network_gateway());
        assert!(!made("Kubernetes//Pod/a/b", "b").is_network_gateway());
    }

    #[test]
    fn uid_and_name_are_what_was_given_however_they_are_kept() {
        let cases = [
            ("Kubernetes//Pod/demo/echo", "echo"),
            ("c/networking.istio.io/ServiceEntry/demo/echo/10.0.0.1", "echo"),
            (
                "NetworkGateway/net2/10.0.0.1/15008",
                "NetworkGateway/net2/10.0.0.1/15008",
            ),
            ("uid", ""),
            ("u", "longer-than-the-uid"),
            ("écho", "é"),
        ];
        for (uid, name) in cases {
            let workload = Workload::from(Draft::new(uid, "demo", name));
            assert_eq!((workload.uid().to_string().as_str(), workload.name()), (uid, name));
            assert_eq!(workload.uid(), Uid::from(uid));
        }
        let pod = Workload::from(Draft::new("Kubernetes//Pod/demo/echo", "demo", "echo"));
        assert_eq!(&*pod.text, "echo", "what the kin says is not said again");
    }

    #[test]
    fn uids_are_ordered_as_their_texts() {
        let texts = ["a", "a//Pod/x/b", "a//Pod/x/ba", "a//Pod/xb/a", "a/b"];
        let mut workloads: Vec<_> = texts
            .iter()
            .map(|uid| Workload::from(Draft::new(uid, "demo", &uid[uid.len() - 1..])))
            .collect();
        workloads.reverse();
        workloads.sort_by(|one, other| one.uid().cmp(&other.uid()));
        let sorted: Vec<_> = workloads.iter().map(|workload| workload.uid().to_string()).collect();
        assert_eq!(sorted, texts);
        assert_ne!(workloads[0].uid(), workloads[1].uid());
    }

    #[test]
    fn a_workload_is_small() {
        // 80 bytes and the 16 of its counters are a size the allocator has; one byte more costs 16.
        assert_eq!(size_of::<Workload>(), 80);
        assert_eq!(size_of::<Addresses>(), 24);
    }
}
