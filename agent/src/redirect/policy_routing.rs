//! Inside a pod: its links and addresses, our two rules and our routing table, three sysctls, the packet size of `lo`.
//!
//! Marks, table, priority and rtnetlink protocol number are ours alone (`isthmus_abi`), so that what istio-cni left
//! can be told apart from what we made.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt as _;
use isthmus_abi::{LOOPBACK_IFINDEX, MARK_IN, MARK_OUT, ROUTE_PROTOCOL, RULE_PRIORITY, TABLE};
use netlink_packet_route::{
    AddressFamily, IpProtocol,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    route::{RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use rtnetlink::{
    Handle, IpVersion, LinkUnspec, MulticastGroup, RouteMessageBuilder, RuleAddRequest, new_multicast_connection,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::Netns;

mod foreign;
mod inspection;
mod links;
mod loopback;

pub use inspection::MarkRule;

/// Lets a listening socket's children inherit the mark of their SYN, so that replies to deliveries return over `lo`; and
/// lets the RST that refuses a delivery bear its mark, or it would leave by the pod's links. The last is absent where IPv6
/// is.
const SYSCTLS: [&str; 3] = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];

/// Where the sysctls of the thread's own network namespace are: what is seen there depends on who looks, not on whose /proc
/// it is.
const OWN_SYSCTLS: &str = "/proc/sys/net";
/// The node's, as a container sees it whose own are read-only (deploy/helm/isthmus).
const NODE_SYSCTLS: &str = "/host/proc/sys/net";

/// Why a pod's links, addresses, rules or routes could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// No netlink socket in the pod.
    #[error("opening a netlink socket in the pod's network namespace")]
    Socket(#[source] io::Error),
    /// A netlink request was refused.
    #[error("{step} in the pod's network namespace")]
    Netlink {
        /// What was tried.
        step: &'static str,
        /// Cause.
        #[source]
        cause: rtnetlink::Error,
    },
    /// Links cannot be told.
    #[error(
        "listing links in the pod's network namespace (/proc/thread-self/net/dev, ioctls SIOCGIFINDEX and SIOCGIFHWADDR)"
    )]
    Links(#[source] io::Error),
    /// A sysctl cannot be set.
    #[error(
        "setting {} in the pod (a container's own is read-only; the node's /proc/sys/net must be mounted at {NODE_SYSCTLS})",
        .0.display()
    )]
    Sysctl(PathBuf, #[source] io::Error),
    /// The pod's namespace cannot be entered.
    #[error("entering the pod's network namespace")]
    Enter(#[source] io::Error),
}

/// A network interface of a pod, not `lo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index in the pod's namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Its frames begin with an Ethernet header.
    pub ethernet: bool,
}

/// What a pod's namespace holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interior {
    /// Links but `lo`, by index.
    pub links: Vec<Link>,
    /// Addresses on all links, but those of `lo` that every namespace has. The first global one of each family is the
    /// pod's primary.
    pub addresses: Vec<IpAddr>,
    /// Those among them that wait for duplicate address detection and cannot be a source yet. A change is told when
    /// they can.
    pub tentative: Vec<IpAddr>,
}

impl Interior {
    /// The address that redirected IPv4 connections have as their source.
    pub fn primary_v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) if !is_link_local(*address) => Some(*v4),
            _ => None,
        })
    }

    /// The address that redirected IPv6 connections have as their source.
    pub fn primary_v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) if !is_link_local(*address) && !self.tentative.contains(address) => Some(*v6),
            _ => None,
        })
    }

    /// Indexes of the links of these names.
    pub fn indexes_of(&self, names: &[String]) -> Vec<u32> {
        let named = self.links.iter().filter(|link| names.contains(&link.name));
        named.map(|link| link.index).collect()
    }
}

/// A netlink socket in a pod's namespace. It holds the namespace: drop it when the pod goes.
pub struct PodRouting {
    handle: Handle,
    connection: JoinHandle<()>,
    changes: Option<mpsc::Receiver<()>>,
    forwarder: JoinHandle<()>,
}

impl Drop for PodRouting {
    fn drop(&mut self) {
        self.connection.abort();
        self.forwarder.abort();
    }
}

impl PodRouting {
    /// Opens the socket; needs a tokio runtime.
    pub fn open(netns: &Netns) -> Result<Self, RoutingError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, mut messages) = netns
            .run(|| new_multicast_connection(&groups))
            .and_then(|made| made)
            .map_err(RoutingError::Socket)?;
        // One pending note is enough: the reader looks at everything anew.
        let (note, changes) = mpsc::channel(1);
        let forwarder = tokio::spawn(async move {
            while futures_util::StreamExt::next(&mut messages).await.is_some() {
                if let Err(mpsc::error::TrySendError::Closed(())) = note.try_send(()) {
                    return;
                }
            }
        });
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
            changes: Some(changes),
            forwarder,
        })
    }

    /// Notes that links or addresses may have changed. Given once.
    pub fn take_changes(&mut self) -> Option<mpsc::Receiver<()>> {
        self.changes.take()
    }

    /// Links and addresses of its namespace as they are now.
    pub async fn interior(&self, netns: &Netns) -> Result<Interior, RoutingError> {
        let links = links::of(netns).map_err(RoutingError::Links)?;
        let mut addresses = self.addresses(AddressFamily::Inet).await?;
        addresses.extend(self.addresses(AddressFamily::Inet6).await?);
        let mut usable: Vec<&AddressMessage> = addresses
            .iter()
            .filter(|address| !has(address, AddressFlags::Dadfailed))
            .collect();
        usable.sort_by_key(|address| (rank(address), address.header.index));
        let mut interior = Interior {
            links,
            ..Interior::default()
        };
        for message in usable {
            let Some(address) = own_address(message).filter(|address| !address.is_loopback()) else {
                continue;
            };
            if !interior.addresses.contains(&address) {
                interior.addresses.push(address);
                if has(message, AddressFlags::Tentative) && !is_link_local(address) {
                    interior.tentative.push(address);
                }
            }
        }
        Ok(interior)
    }

    /// Makes marked packets of the pod, and TCP from the named guest interfaces, come to `lo`'s side. `interior` tells the
    /// source addresses; called again after they changed, it replaces them.
    pub async fn install(&self, netns: &Netns, interior: &Interior, guests: &[String]) -> Result<(), RoutingError> {
        netns.run(|| set_sysctls("1")).map_err(RoutingError::Enter)??;
        if interior.primary_v4().is_some() {
            self.add_rules(IpVersion::V4, guests).await?;
        }
        if interior.primary_v6().is_some() {
            self.add_rules(IpVersion::V6, guests).await?;
        }
        self.set_routes(interior).await
    }

    /// Sets our routes again: the kernel removes one together with the address it names as source.
    pub async fn set_routes(&self, interior: &Interior) -> Result<(), RoutingError> {
        if let Some(source) = interior.primary_v4() {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().pref_source(source);
            self.replace_route(local_default(route)).await?;
        }
        if let Some(source) = interior.primary_v6() {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().pref_source(source);
            self.replace_route(local_default(route)).await?;
        }
        Ok(())
    }

    /// Removes our rules for guest interfaces but those of these names.
    pub async fn remove_guests_but(&self, named: &[String]) -> Result<(), RoutingError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = self.rules(version).await?.into_iter();
            let ours = rules.filter(is_our_rule);
            for rule in ours.filter(|rule| guest(rule).is_some_and(|guest| !named.contains(guest))) {
                absent_is_fine(self.handle.rule().del(rule).execute().await).map_err(refused("removing a rule"))?;
            }
        }
        Ok(())
    }

    /// Removes every rule and route that bears our protocol number, and sets the sysctls back to their default.
    pub async fn remove(&self, netns: &Netns) -> Result<(), RoutingError> {
        netns.run(|| set_sysctls("0")).map_err(RoutingError::Enter)??;
        self.narrow_loopback().await;
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = self.rules(version.clone()).await?;
            for rule in rules.into_iter().filter(is_our_rule) {
                absent_is_fine(self.handle.rule().del(rule).execute().await).map_err(refused("removing a rule"))?;
            }
            let wanted = match version {
                IpVersion::V4 => local_default(RouteMessageBuilder::<Ipv4Addr>::new()),
                IpVersion::V6 => local_default(RouteMessageBuilder::<Ipv6Addr>::new()),
            };
            absent_is_fine(self.handle.route().del(wanted).execute().await).map_err(refused("removing a route"))?;
        }
        Ok(())
    }

    /// Brings `lo` up.
    pub async fn raise_loopback(&self) -> Result<(), RoutingError> {
        let change = LinkUnspec::new_with_index(LOOPBACK_IFINDEX).up().build();
        self.handle
            .link()
            .set(change)
            .execute()
            .await
            .map_err(refused("bringing lo up"))
    }

    /// Gives `lo` an address, usable at once.
    pub async fn add_loopback_address(&self, address: IpAddr, prefix: u8) -> Result<(), RoutingError> {
        let mut request = self.handle.address().add(LOOPBACK_IFINDEX, address, prefix);
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.map_err(refused("adding an address to lo"))
    }

    /// Asked for one family, the kernel lists without the lock that it takes for all of them (Linux 6.10).
    async fn addresses(&self, family: AddressFamily) -> Result<Vec<AddressMessage>, RoutingError> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = family;
        let addresses = request.execute().try_collect::<Vec<_>>();
        addresses.await.map_err(refused("listing addresses"))
    }

    async fn rules(&self, version: IpVersion) -> Result<Vec<RuleMessage>, RoutingError> {
        let rules = self.handle.rule().get(version).execute().try_collect::<Vec<_>>();
        rules.await.map_err(refused("listing rules"))
    }

    async fn replace_route(&self, route: netlink_packet_route::route::RouteMessage) -> Result<(), RoutingError> {
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(refused("setting our route"))
    }

    async fn add_rules(&self, version: IpVersion, guests: &[String]) -> Result<(), RoutingError> {
        for mark in [MARK_OUT, MARK_IN] {
            let mut rule = self.handle.rule().add().fw_mark(mark);
            rule.message_mut().attributes.push(RuleAttribute::FwMask(u32::MAX));
            add_rule(rule, version.clone()).await?;
        }
        for guest in guests {
            let mut rule = self.handle.rule().add().input_interface(guest.as_str());
            rule.message_mut()
                .attributes
                .push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
            add_rule(rule, version.clone()).await?;
        }
        Ok(())
    }
}

/// Adds a rule towards our table, unless it stands.
async fn add_rule(rule: RuleAddRequest, version: IpVersion) -> Result<(), RoutingError> {
    let mut rule = rule.table_id(TABLE).action(RuleAction::ToTable).priority(RULE_PRIORITY);
    rule.message_mut()
        .attributes
        .push(RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)));
    let added = match version {
        IpVersion::V4 => rule.v4().execute().await,
        IpVersion::V6 => rule.v6().execute().await,
    };
    match added {
        Err(error) if is_errno(&error, libc::EEXIST) => Ok(()),
        other => other.map_err(refused("adding our rule")),
    }
}

fn set_sysctls(value: &str) -> Result<(), RoutingError> {
    let root = sysctls(Path::new(NODE_SYSCTLS));
    SYSCTLS.into_iter().try_for_each(|sysctl| {
        let path = root.join(sysctl);
        match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written.map_err(|error| RoutingError::Sysctl(path, error)),
        }
    })
}

/// One of those that are set in pods: if it is writable, all are.
pub fn sysctl_in_pods() -> PathBuf {
    sysctls(Path::new(NODE_SYSCTLS)).join("ipv4/tcp_fwmark_accept")
}

/// The directory to set them in: the node's if it is mounted, else this process's own.
fn sysctls(node: &Path) -> &Path {
    if node.join("ipv4").is_dir() {
        node
    } else {
        Path::new(OWN_SYSCTLS)
    }
}

fn local_default<T>(route: RouteMessageBuilder<T>) -> netlink_packet_route::route::RouteMessage {
    route
        .output_interface(LOOPBACK_IFINDEX)
        .table_id(TABLE)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
        .build()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn has(message: &AddressMessage, flag: AddressFlags) -> bool {
    message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(flag)))
}

/// Primaries first, then secondaries; what is deprecated, tentative or of narrower scope last.
fn rank(message: &AddressMessage) -> u8 {
    let late = has(message, AddressFlags::Deprecated) || has(message, AddressFlags::Tentative);
    u8::from(message.header.scope != AddressScope::Universe) * 4
        + u8::from(late) * 2
        + u8::from(has(message, AddressFlags::Secondary))
}

fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn is_our_rule(message: &RuleMessage) -> bool {
    message
        .attributes
        .contains(&RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)))
}

/// The interface that a rule is about.
fn guest(message: &RuleMessage) -> Option<&String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Iifname(name) => Some(name),
        _ => None,
    })
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn absent_is_fine(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is_errno(&error, libc::ENOENT) || is_errno(&error, libc::ESRCH) => Ok(()),
        other => other,
    }
}

fn refused(step: &'static str) -> impl FnOnce(rtnetlink::Error) -> RoutingError {
    move |cause| RoutingError::Netlink { step, cause }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process};

    use super::{OWN_SYSCTLS, sysctls};

    #[test]
    fn the_nodes_sysctls_are_taken_where_they_are_mounted() {
        let node = std::env::temp_dir().join(format!("isthmus-sysctls-{}", process::id()));
        assert_eq!(sysctls(&node), Path::new(OWN_SYSCTLS));
        fs::create_dir_all(node.join("ipv4")).unwrap();
        assert_eq!(sysctls(&node), node);
        fs::remove_dir_all(&node).unwrap();
    }
}
