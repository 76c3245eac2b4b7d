//! Authorisation policies.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{Each, Text};
use crate::mesh::{
    Policy,
    policy::{Action, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch},
};

/// A policy. Its rules are lists of lists of matches: one rule must hold, of it every clause, of each one match.
pub(super) struct View<'a>(pub(super) &'a Policy);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    name: &'a str,
    namespace: &'a str,
    scope: &'static str,
    action: &'static str,
    rules: Rules<'a>,
    dry_run: bool,
}

struct Rules<'a>(&'a [Rule]);
struct Clauses<'a>(&'a [Clause]);
struct MatchView<'a>(&'a Match);
struct TextMatch<'a>(&'a StringMatch);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Account<'a> {
    namespace: &'a str,
    service_account: &'a str,
}

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let policy = self.0;
        let fields = Fields {
            name: &policy.name,
            namespace: &policy.namespace,
            scope: match policy.scope {
                Scope::Global => "Global",
                Scope::Namespace => "Namespace",
                Scope::WorkloadSelector => "WorkloadSelector",
            },
            action: match policy.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            rules: Rules(&policy.rules),
            dry_run: policy.dry_run,
        };
        fields.serialize(serializer)
    }
}

impl Serialize for Rules<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Each(|| self.0.iter().map(|rule| Clauses(&rule.clauses))).serialize(serializer)
    }
}

impl Serialize for Clauses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Each(|| self.0.iter().map(matches)).serialize(serializer)
    }
}

fn matches(clause: &Clause) -> Vec<MatchView<'_>> {
    clause.matches.iter().map(MatchView).collect()
}

impl Serialize for MatchView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Match {
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
        } = self.0;
        let mut map = serializer.serialize_map(None)?;
        let texts = [
            ("namespaces", namespaces),
            ("notNamespaces", not_namespaces),
            ("principals", principals),
            ("notPrincipals", not_principals),
        ];
        for (key, list) in texts.into_iter().filter(|(_, list)| !list.is_empty()) {
            map.serialize_entry(key, &Each(|| list.iter().map(TextMatch)))?;
        }
        let accounts = [
            ("serviceAccounts", service_accounts),
            ("notServiceAccounts", not_service_accounts),
        ];
        for (key, list) in accounts.into_iter().filter(|(_, list)| !list.is_empty()) {
            map.serialize_entry(key, &Each(|| list.iter().map(Account::of)))?;
        }
        let ranges = [
            ("sourceIps", source_ips),
            ("notSourceIps", not_source_ips),
            ("destinationIps", destination_ips),
            ("notDestinationIps", not_destination_ips),
        ];
        for (key, list) in ranges.into_iter().filter(|(_, list)| !list.is_empty()) {
            map.serialize_entry(key, &Each(|| list.iter().map(Text)))?;
        }
        let ports = [
            ("destinationPorts", destination_ports),
            ("notDestinationPorts", not_destination_ports),
        ];
        for (key, list) in ports.into_iter().filter(|(_, list)| !list.is_empty()) {
            map.serialize_entry(key, list)?;
        }
        map.end()
    }
}

impl<'a> Account<'a> {
    fn of(account: &'a ServiceAccountMatch) -> Self {
        Self {
            namespace: &account.namespace,
            service_account: &account.service_account,
        }
    }
}

impl Serialize for TextMatch<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self.0 {
            StringMatch::Exact(text) => map.serialize_entry("Exact", &**text)?,
            StringMatch::Prefix(text) => map.serialize_entry("Prefix", &**text)?,
            StringMatch::Suffix(text) => map.serialize_entry("Suffix", &**text)?,
            StringMatch::Presence => map.serialize_entry::<_, [(); 0]>("Presence", &[])?,
        }
        map.end()
    }
}
