//! Authorisation: who may connect to a workload (wire-facts §6).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::snapshot::Snapshot;
use super::workload::Workload;
use crate::identity::SpiffeId;

/// A policy. It matches a connection when one of its rules does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Whom it protects.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Its rules; without any it never matches.
    pub rules: Vec<Rule>,
    /// Only to be looked at, never enforced.
    pub dry_run: bool,
}

/// Whom a policy protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every workload.
    Global,
    /// Workloads of its namespace.
    Namespace,
    /// Workloads that refer to it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The connection is allowed, and where there is such a policy, all that match none are not.
    Allow,
    /// The connection is refused.
    Deny,
}

/// Matches when all its clauses do; without any it always does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The clauses.
    pub clauses: Vec<Clause>,
}

/// Matches when one of its matches does; without any it always does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clause {
    /// The matches.
    pub matches: Vec<Match>,
}

/// Conditions, all of which must hold. In each family one of the positive list must fit, if it has any, and none of the
/// negative list. A match without any condition is no match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// Namespaces of the client's identity.
    pub namespaces: Vec<StringMatch>,
    /// Namespaces it must not have.
    pub not_namespaces: Vec<StringMatch>,
    /// Service accounts of the client's identity, in any trust domain.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// Service accounts it must not have.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// The client's identity without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// Identities it must not have.
    pub not_principals: Vec<StringMatch>,
    /// Addresses the client comes from.
    pub source_ips: Vec<IpNet>,
    /// Addresses it must not come from.
    pub not_source_ips: Vec<IpNet>,
    /// Addresses of the application.
    pub destination_ips: Vec<IpNet>,
    /// Addresses it must not have.
    pub not_destination_ips: Vec<IpNet>,
    /// Ports of the application.
    pub destination_ports: Vec<u16>,
    /// Ports it must not have.
    pub not_destination_ports: Vec<u16>,
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// This and nothing else.
    Exact(Arc<str>),
    /// Begins with this.
    Prefix(Arc<str>),
    /// Ends with this.
    Suffix(Arc<str>),
    /// Anything but nothing.
    Presence,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountMatch {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub service_account: Arc<str>,
}

/// What is to be authorised.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Where it comes from.
    pub source_ip: IpAddr,
    /// The client's identity as its certificate says; none for plaintext.
    pub source: Option<&'a SpiffeId>,
    /// The application's address and port, not those of the tunnel.
    pub destination: SocketAddr,
}

/// The outcome.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Go on.
    Allow {
        /// The policy that allowed it; none where no policy is in force.
        policy: Option<Arc<Policy>>,
    },
    /// Refuse.
    Deny {
        /// The policy that refused it; none where ALLOW policies are in force and none of them matched.
        policy: Option<Arc<Policy>>,
    },
}

/// May this connection reach `destination`? Any enforced DENY policy that matches refuses; else all is allowed unless
/// there are enforced ALLOW policies, of which one must match (wire-facts §6.1).
pub fn authorize(mesh: &Snapshot, destination: &Workload, connection: &Connection<'_>) -> Verdict {
    let enforced = mesh.policies_of(destination).filter(|policy| !policy.dry_run);
    let first = |action: Action| {
        let mut candidates = enforced.clone().filter(move |policy| policy.action == action);
        candidates.find(|policy| policy.matches(connection)).map(Arc::clone)
    };
    if let Some(policy) = first(Action::Deny) {
        return Verdict::Deny { policy: Some(policy) };
    }
    if !enforced.clone().any(|policy| policy.action == Action::Allow) {
        return Verdict::Allow { policy: None };
    }
    match first(Action::Allow) {
        Some(policy) => Verdict::Allow { policy: Some(policy) },
        None => Verdict::Deny { policy: None },
    }
}

/// Should plaintext to this workload be refused where nobody can look at each connection? True as soon as any policy is
/// enforced on it: rather one connection too few than one that a policy forbids.
pub fn plaintext_refused(mesh: &Snapshot, destination: &Workload) -> bool {
    mesh.policies_of(destination).any(|policy| !policy.dry_run)
}

impl Verdict {
    /// Go on?
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

impl Policy {
    /// Its key, `NAMESPACE/NAME`.
    pub fn key(&self) -> Arc<str> {
        format!("{}/{}", self.namespace, self.name).into()
    }

    /// What policies are ordered by: as their keys, or nearly so.
    pub(super) fn name_in_order(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// Does it match, whatever that means?
    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(connection))
    }
}

impl Rule {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches(connection))
    }
}

impl Clause {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|one| one.matches(connection))
    }
}

impl Match {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        let namespace = connection.source.map_or("", SpiffeId::namespace);
        // A plaintext client has no principal, which is not the same as having an empty one.
        let principal = connection
            .source
            .map(|id| id.as_str().strip_prefix("spiffe://").unwrap_or_default());
        let is_principal = |wanted: &StringMatch| principal.is_some_and(|principal| wanted.matches(principal));
        let is_account = |wanted: &ServiceAccountMatch| connection.source.is_some_and(|id| wanted.matches(id));
        let source = connection.source_ip.to_canonical();
        let destination = connection.destination.ip().to_canonical();
        let port = connection.destination.port();

        family(&self.namespaces, &self.not_namespaces, |wanted| {
            wanted.matches(namespace)
        }) && family(&self.service_accounts, &self.not_service_accounts, is_account)
            && family(&self.principals, &self.not_principals, is_principal)
            && family(&self.source_ips, &self.not_source_ips, |range| range.contains(&source))
            && family(&self.destination_ips, &self.not_destination_ips, |range| {
                range.contains(&destination)
            })
            && family(&self.destination_ports, &self.not_destination_ports, |wanted| {
                *wanted == port
            })
    }

    fn is_empty(&self) -> bool {
        // Destructured so that a new condition cannot be forgotten here.
        let Self {
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            principals,
            not_principals,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
        } = self;
        namespaces.is_empty()
            && not_namespaces.is_empty()
            && service_accounts.is_empty()
            && not_service_accounts.is_empty()
            && principals.is_empty()
            && not_principals.is_empty()
            && source_ips.is_empty()
            && not_source_ips.is_empty()
            && destination_ips.is_empty()
            && not_destination_ips.is_empty()
            && destination_ports.is_empty()
            && not_destination_ports.is_empty()
    }
}

fn family<T>(positive: &[T], negative: &[T], fits: impl Fn(&T) -> bool) -> bool {
    (positive.is_empty() || positive.iter().any(&fits)) && !negative.iter().any(&fits)
}

impl StringMatch {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == &**wanted,
            Self::Prefix(wanted) => text.starts_with(&**wanted),
            Self::Suffix(wanted) => text.ends_with(&**wanted),
            Self::Presence => !text.is_empty(),
        }
    }
}

impl ServiceAccountMatch {
    fn matches(&self, id: &SpiffeId) -> bool {
        id.namespace() == &*self.namespace && id.service_account() == &*self.service_account
    }
}

#[cfg(test)]
mod tests;
