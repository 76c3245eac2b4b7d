//! Authorisation policies.

use isthmus_istio::security as proto;
use prost::Message as _;

use super::{Mistake, known, port, range};
use crate::mesh::policy::{Action, Clause, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch};

pub(super) fn policy(message: &proto::Authorization) -> Result<Policy, Mistake> {
    if message.name.is_empty() {
        return Err(Mistake::new("name", "missing"));
    }
    let rules = read(&message.rules, "rules", |rule| {
        let clauses = read(&rule.clauses, "clauses", |clause| {
            let matches = read(&clause.matches, "matches", one_match)?;
            Ok(Clause { matches })
        })?;
        Ok(Rule { clauses })
    })?;
    Ok(Policy {
        name: message.name.as_str().into(),
        namespace: message.namespace.as_str().into(),
        scope: scope(known(message.scope, "scope")?),
        action: action(known(message.action, "action")?),
        rules,
        dry_run: message.dry_run,
    })
}

/// What holds in place of a policy that cannot be read, when no earlier version of it is known: nobody is let in whom it
/// might have kept out. `name` is the resource's, `NAMESPACE/NAME`.
///
/// Of an ALLOW policy that is one which allows nothing, so that others may still; of any other one which denies all, for
/// whom the policy protects, and if not even that can be read, for its namespace and all that refer to it. None for a
/// policy that is not to be enforced, and where the name says no namespace.
pub fn stand_in(name: &str, bytes: &[u8]) -> Option<Policy> {
    let (namespace, own) = name.split_once('/')?;
    let message = proto::Authorization::decode(bytes).unwrap_or_else(|_| proto::Authorization {
        scope: proto::Scope::Namespace.into(),
        action: proto::Action::Deny.into(),
        ..proto::Authorization::default()
    });
    let allows = proto::Action::try_from(message.action) == Ok(proto::Action::Allow);
    let everybody = Rule::default();
    (!message.dry_run).then(|| Policy {
        name: own.into(),
        namespace: namespace.into(),
        scope: proto::Scope::try_from(message.scope).map_or(Scope::Namespace, scope),
        action: if allows { Action::Allow } else { Action::Deny },
        rules: if allows { Vec::new() } else { vec![everybody] },
        dry_run: false,
    })
}

fn scope(message: proto::Scope) -> Scope {
    match message {
        proto::Scope::Global => Scope::Global,
        proto::Scope::Namespace => Scope::Namespace,
        proto::Scope::WorkloadSelector => Scope::WorkloadSelector,
    }
}

fn action(message: proto::Action) -> Action {
    match message {
        proto::Action::Allow => Action::Allow,
        proto::Action::Deny => Action::Deny,
    }
}

fn one_match(message: &proto::Match) -> Result<Match, Mistake> {
    let accounts = |messages: &[proto::ServiceAccountMatch]| messages.iter().map(service_account).collect();
    let texts = |messages: &[proto::StringMatch], field| read(messages, field, string_match);
    let ranges = |messages: &[proto::Address], field| {
        read(messages, field, |message| range(&message.address, Some(message.length)))
    };
    let ports = |numbers: &[u32], field| read(numbers, field, |number| port(*number, ""));
    Ok(Match {
        namespaces: texts(&message.namespaces, "namespaces")?,
        not_namespaces: texts(&message.not_namespaces, "not_namespaces")?,
        service_accounts: accounts(&message.service_accounts),
        not_service_accounts: accounts(&message.not_service_accounts),
        principals: texts(&message.principals, "principals")?,
        not_principals: texts(&message.not_principals, "not_principals")?,
        source_ips: ranges(&message.source_ips, "source_ips")?,
        not_source_ips: ranges(&message.not_source_ips, "not_source_ips")?,
        destination_ips: ranges(&message.destination_ips, "destination_ips")?,
        not_destination_ips: ranges(&message.not_destination_ips, "not_destination_ips")?,
        destination_ports: ports(&message.destination_ports, "destination_ports")?,
        not_destination_ports: ports(&message.not_destination_ports, "not_destination_ports")?,
    })
}

fn string_match(message: &proto::StringMatch) -> Result<StringMatch, Mistake> {
    use proto::string_match::MatchType;
    match &message.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.as_str().into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.as_str().into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.as_str().into())),
        Some(MatchType::Presence(_)) => Ok(StringMatch::Presence),
        None => Err(Mistake::new(
            "match_type",
            "missing, or of a kind this agent does not know",
        )),
    }
}

fn service_account(message: &proto::ServiceAccountMatch) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: message.namespace.as_str().into(),
        service_account: message.service_account.as_str().into(),
    }
}

/// Reads a list, and says of which entry of which field a mistake is.
fn read<M, T>(messages: &[M], field: &str, one: impl Fn(&M) -> Result<T, Mistake>) -> Result<Vec<T>, Mistake> {
    let read = |(place, message)| one(message).map_err(|mistake: Mistake| mistake.at(place).within(field));
    messages.iter().enumerate().map(read).collect()
}
