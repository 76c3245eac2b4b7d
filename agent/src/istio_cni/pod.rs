//! Taking istio-cni's rules out of a pod. Only of one that is redirected by us: what these rules do to its packets until then
//! is to refuse them.
//!
//! Our redirection stands first, and the rules go afterwards. In between nothing leaves in clear: a connect bears our mark, so
//! that it goes to `lo`, which the rules let be; the agent's own connects, and those that are left alone, have no mark and
//! are turned to ztunnel's port 15001, where somebody answers who is of the mesh, or nobody, and they are refused; plaintext
//! from outside is turned to 15006 alike. Tunnels come to port 15008, which the rules let be.
//!
//! While ztunnel has sockets in the pod, only what captures new connections goes. Its open ones need the rest: replies to
//! them find it by a mark and a routing table, and would leave in clear without. Once it is gone, so is their other side;
//! what it has left half-closed is ended before the rest goes, because an application might still write to it.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    REPLY_MARK, REPLY_TABLE,
    netfilter::{self, Ruleset},
    plan::{self, Stage},
    sockets,
};
use crate::redirect::{Netns, PodRouting, grace, policy_routing::RoutingError};

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is gone.
    pub removed: Vec<String>,
    /// Why something is left.
    pub left: Option<Left>,
}

/// Why rules of istio-cni are left in a pod.
#[derive(Debug, thiserror::Error)]
pub enum Left {
    /// ztunnel still carries connections.
    #[error(
        "ztunnel still has sockets in the pod: new connections are ours, and the rules that its open ones need go when it has gone"
    )]
    Served,
    /// They are iptables-legacy's.
    #[error(
        "istio-cni made rules with iptables-legacy, which the agent cannot change: what the pod connects to is refused until they are \
         gone. On the node run: {}",
        legacy_command(.0)
    )]
    Legacy(PathBuf),
    /// The kernel said so.
    #[error("rules of istio-cni are left")]
    Refused(#[source] LeftError),
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum LeftError {
    /// Reading or removing rules.
    #[error("{step} in the pod")]
    Netfilter {
        /// What was tried.
        step: &'static str,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// Rules by mark, and routes.
    #[error(transparent)]
    Routing(#[from] RoutingError),
}

/// Looks for rules and removes what can be removed now. `routing` is of the same namespace.
pub async fn take_over(netns: &Netns, routing: &PodRouting) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(error) = remove(netns, routing, &mut outcome).await {
        outcome.left = Some(Left::Refused(error));
    }
    outcome
}

async fn remove(netns: &Netns, routing: &PodRouting, outcome: &mut Outcome) -> Result<(), LeftError> {
    let ruleset = Ruleset::read(netns, plan::is_asked).map_err(refused("listing nftables rules"))?;
    if plan::has_sidecar(&ruleset) {
        return Ok(());
    }
    let rules = routing.mark_rules().await?;
    let (mark, mask) = REPLY_MARK;
    let is_marked = rules
        .iter()
        .any(|rule| (rule.mark, rule.mask, rule.table) == (mark, mask, REPLY_TABLE));
    let found = plan::found(&ruleset);
    if found.is_empty() && !is_marked {
        return Ok(());
    }
    if found.is_empty() && is_in_legacy(netns)? {
        outcome.left = Some(Left::Legacy(netns.path().to_owned()));
        return Ok(());
    }
    let stage = match sockets::end_after_ztunnel(netns) {
        Ok(Some(ended)) => {
            outcome
                .removed
                .extend((ended > 0).then(|| format!("{ended} half-closed connections")));
            Stage::All
        }
        Ok(None) => {
            outcome.left = Some(Left::Served);
            Stage::Capture
        }
        // What would carry its connections stays.
        Err(error) => {
            let step = "looking for sockets of ztunnel, and ending what it left half-closed,";
            outcome.left = Some(Left::Refused(refused(step)(error)));
            Stage::Capture
        }
    };
    let removals = plan::removals(&ruleset, stage);
    // The kernel waits for some grace periods as it unhooks chains: 50 ms in all.
    let short = grace::Short::begin();
    netfilter::remove(netns, &removals).map_err(refused("removing nftables rules"))?;
    drop(short);
    outcome
        .removed
        .extend(removals.iter().filter_map(netfilter::Removal::title));
    if stage == Stage::All {
        let count = routing.remove_foreign(REPLY_MARK, REPLY_TABLE).await?;
        let rule = || format!("rule fwmark {mark:#x}/{mask:#x} lookup {REPLY_TABLE}");
        outcome.removed.extend((count > 0).then(rule));
    }
    Ok(())
}

/// What iptables-legacy holds is not read. A rule by mark without chains that could set the mark tells of it.
fn is_in_legacy(netns: &Netns) -> Result<bool, LeftError> {
    let tables = netfilter::legacy_tables(netns).map_err(refused("listing tables of iptables-legacy"))?;
    Ok(tables.iter().any(|table| table.ends_with(" mangle")))
}

fn refused(step: &'static str) -> impl FnOnce(io::Error) -> LeftError {
    move |cause| LeftError::Netfilter { step, cause }
}

/// The command that takes such rules out of a pod.
fn legacy_command(netns: &Path) -> String {
    let inside = "for v in ip ip6; do ${v}tables-legacy-save | grep -v ISTIO_ | ${v}tables-legacy-restore; done; \
                  for f in -4 -6; do ip $f route del local default dev lo table 100; ip $f rule del fwmark 0x111/0xfff; done";
    format!("nsenter --net={} sh -c '{inside}'", netns.display())
}
