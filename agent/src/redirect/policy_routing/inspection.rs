//! Looking at rules and routes in a pod, ours and those of others, without changing them.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use isthmus_abi::ROUTE_PROTOCOL;
use netlink_packet_route::{
    route::RouteProtocol,
    rule::{RuleAttribute, RuleMessage},
};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{PodRouting, RoutingError, is_our_rule, refused};

/// A rule that sends marked packets to a table, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark.
    pub mark: u32,
    /// Which of its bits are compared.
    pub mask: u32,
    /// The table.
    pub table: u32,
    /// It bears our protocol number.
    pub ours: bool,
}

impl PodRouting {
    /// How many rules and routes bear our protocol number.
    pub async fn traces(&self) -> Result<usize, RoutingError> {
        let mut count = 0;
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = self.rules(version.clone()).await?;
            count += rules.iter().filter(|rule| is_our_rule(rule)).count();
            let wanted = match version {
                IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
                IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            };
            let routes = self.handle.route().get(wanted).execute().try_collect::<Vec<_>>();
            let routes = routes.await.map_err(refused("listing routes"))?;
            let ours = RouteProtocol::from(ROUTE_PROTOCOL);
            count += routes.iter().filter(|route| route.header.protocol == ours).count();
        }
        Ok(count)
    }

    /// Rules by mark, of both families.
    pub async fn mark_rules(&self) -> Result<Vec<MarkRule>, RoutingError> {
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            found.extend(self.rules(version).await?.iter().filter_map(mark_rule));
        }
        Ok(found)
    }
}

pub(super) fn mark_rule(message: &RuleMessage) -> Option<MarkRule> {
    let mut rule = MarkRule {
        mark: 0,
        mask: u32::MAX,
        table: u32::from(message.header.table),
        ours: is_our_rule(message),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::FwMask(mask) => rule.mask = *mask,
            RuleAttribute::Table(table) => rule.table = *table,
            _ => {}
        }
    }
    (rule.mark != 0).then_some(rule)
}
