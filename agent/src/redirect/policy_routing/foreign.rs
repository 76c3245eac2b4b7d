//! Taking rules and routes of others out of a pod.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use isthmus_abi::LOOPBACK_IFINDEX;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{PodRouting, RoutingError, absent_is_fine, inspection::mark_rule, refused};

impl PodRouting {
    /// Removes rules of others that send this mark, compared under this mask, to this table, and the table's route of
    /// everything to `lo`. Answers how many rules there were; without one, routes stay.
    pub async fn remove_foreign(&self, (mark, mask): (u32, u32), table: u32) -> Result<usize, RoutingError> {
        let mut count = 0;
        for version in [IpVersion::V4, IpVersion::V6] {
            let is_meant = |rule: &_| {
                mark_rule(rule)
                    .is_some_and(|rule| (rule.mark, rule.mask, rule.table) == (mark, mask, table) && !rule.ours)
            };
            let rules: Vec<_> = self
                .rules(version.clone())
                .await?
                .into_iter()
                .filter(is_meant)
                .collect();
            if rules.is_empty() {
                continue;
            }
            count += rules.len();
            // The rule last: it is what tells of the route, should this be broken off.
            for route in self.all_to_lo(&version, table).await? {
                absent_is_fine(self.handle.route().del(route).execute().await).map_err(refused("removing a route"))?;
            }
            for rule in rules {
                absent_is_fine(self.handle.rule().del(rule).execute().await).map_err(refused("removing a rule"))?;
            }
        }
        Ok(count)
    }

    async fn all_to_lo(&self, version: &IpVersion, table: u32) -> Result<Vec<RouteMessage>, RoutingError> {
        let wanted = match version {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let routes = self.handle.route().get(wanted).execute().try_collect::<Vec<_>>();
        let routes = routes.await.map_err(refused("listing routes"))?;
        Ok(routes.into_iter().filter(|route| is_all_to_lo(route, table)).collect())
    }
}

fn is_all_to_lo(route: &RouteMessage, table: u32) -> bool {
    let told = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    route.header.kind == RouteType::Local
        && route.header.destination_prefix_length == 0
        && told.unwrap_or_else(|| route.header.table.into()) == table
        && route.attributes.contains(&RouteAttribute::Oif(LOOPBACK_IFINDEX))
}
