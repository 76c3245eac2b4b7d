use super::*;
use crate::mesh::fixture::{id, ip, socket, workload};
use crate::mesh::{Builder, Draft};

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy {
        name: name.into(),
        namespace: "demo".into(),
        scope: Scope::Namespace,
        action,
        rules,
        dry_run: false,
    }
}

fn rule(clauses: Vec<Vec<Match>>) -> Rule {
    Rule {
        clauses: clauses.into_iter().map(|matches| Clause { matches }).collect(),
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn account(namespace: &str, name: &str) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: name.into(),
    }
}

/// Does a single match, in a rule of its own, match?
fn hits(one: Match, source: Option<&SpiffeId>) -> bool {
    let connection = Connection {
        source_ip: ip("10.0.0.1"),
        source,
        destination: socket("10.0.0.2:80"),
    };
    policy("p", Action::Deny, vec![rule(vec![vec![one]])]).matches(&connection)
}

fn verdict(policies: Vec<Policy>, destination: &Draft) -> Verdict {
    let mut builder = Builder::new();
    policies.into_iter().for_each(|policy| builder.add_policy(policy));
    let connection = Connection {
        source_ip: ip("10.0.0.1"),
        source: Some(&id("demo/curl")),
        destination: socket("10.0.0.2:80"),
    };
    authorize(&builder.build(), &destination.clone().into(), &connection)
}

fn name(verdict: &Verdict) -> (bool, Option<String>) {
    match verdict {
        Verdict::Allow { policy } => (true, policy.as_ref().map(|policy| policy.name.to_string())),
        Verdict::Deny { policy } => (false, policy.as_ref().map(|policy| policy.name.to_string())),
    }
}

fn always() -> Vec<Rule> {
    vec![rule(vec![])]
}

fn never() -> Vec<Rule> {
    vec![rule(vec![vec![Match {
        destination_ports: vec![9999],
        ..Match::default()
    }]])]
}

#[test]
fn without_policies_all_is_allowed() {
    assert_eq!(name(&verdict(vec![], &workload("echo"))), (true, None));
}

#[test]
fn deny_wins_over_allow() {
    let policies = vec![
        policy("a", Action::Allow, always()),
        policy("d", Action::Deny, always()),
    ];
    assert_eq!(name(&verdict(policies, &workload("echo"))), (false, Some("d".into())));
}

#[test]
fn a_deny_that_does_not_match_allows_when_there_is_no_allow() {
    let policies = vec![policy("d", Action::Deny, never())];
    assert_eq!(name(&verdict(policies, &workload("echo"))), (true, None));
}

#[test]
fn where_there_are_allow_policies_one_must_match() {
    let echo = workload("echo");
    let policies = vec![policy("a", Action::Allow, never())];
    assert_eq!(name(&verdict(policies, &echo)), (false, None));
    let policies = vec![
        policy("a", Action::Allow, never()),
        policy("b", Action::Allow, always()),
    ];
    assert_eq!(name(&verdict(policies, &echo)), (true, Some("b".into())));
}

#[test]
fn dry_run_counts_for_nothing() {
    let dry = |action| Policy {
        dry_run: true,
        ..policy("dry", action, always())
    };
    let echo = workload("echo");
    assert_eq!(name(&verdict(vec![dry(Action::Deny)], &echo)), (true, None));
    // A dry ALLOW that does not match must not make the others refused.
    let unmatched = Policy {
        rules: never(),
        ..dry(Action::Allow)
    };
    assert_eq!(name(&verdict(vec![unmatched], &echo)), (true, None));
    let enforced = Policy {
        rules: never(),
        ..policy("enforced", Action::Allow, vec![])
    };
    assert_eq!(name(&verdict(vec![dry(Action::Allow), enforced], &echo)), (false, None));
}

#[test]
fn scope_says_whom_a_policy_protects() {
    let deny = |name: &str, scope, namespace: &str| Policy {
        scope,
        namespace: namespace.into(),
        ..policy(name, Action::Deny, always())
    };
    let echo = workload("echo");
    let selected = Draft {
        authorization_policies: vec!["other/s".into(), "demo/not-there".into()],
        ..workload("echo")
    };
    let refused = |policy: Policy, workload: &Draft| !verdict(vec![policy], workload).is_allowed();
    assert!(refused(deny("n", Scope::Namespace, "demo"), &echo));
    assert!(!refused(deny("n", Scope::Namespace, "other"), &echo));
    assert!(refused(deny("g", Scope::Global, "anywhere"), &echo));
    assert!(!refused(deny("s", Scope::WorkloadSelector, "demo"), &echo));
    assert!(refused(deny("s", Scope::WorkloadSelector, "other"), &selected));
    assert!(!refused(deny("unrelated", Scope::WorkloadSelector, "other"), &selected));
}

#[test]
fn empty_parts() {
    let connection = Connection {
        source_ip: ip("10.0.0.1"),
        source: None,
        destination: socket("10.0.0.2:80"),
    };
    let matches = |rules| policy("p", Action::Deny, rules).matches(&connection);
    assert!(!matches(vec![]), "no rules");
    assert!(matches(vec![rule(vec![])]), "a rule without clauses");
    assert!(matches(vec![rule(vec![vec![]])]), "an empty clause");
    assert!(
        !matches(vec![rule(vec![vec![Match::default()]])]),
        "a match without conditions"
    );
    let port = Match {
        destination_ports: vec![80],
        ..Match::default()
    };
    assert!(
        matches(vec![rule(vec![vec![Match::default(), port.clone()]])]),
        "passed over"
    );
    assert!(
        !matches(vec![rule(vec![vec![Match::default()], vec![port]])]),
        "clauses are all needed"
    );
}

#[test]
fn rules_are_or_clauses_and_matches_or() {
    let connection = Connection {
        source_ip: ip("10.0.0.1"),
        source: None,
        destination: socket("10.0.0.2:80"),
    };
    let port = |port| Match {
        destination_ports: vec![port],
        ..Match::default()
    };
    let matches = |rules| policy("p", Action::Deny, rules).matches(&connection);
    assert!(matches(vec![rule(vec![vec![port(81)]]), rule(vec![vec![port(80)]])]));
    assert!(!matches(vec![rule(vec![vec![port(80)], vec![port(81)]])]));
    assert!(matches(vec![rule(vec![vec![port(81), port(80)]])]));
    let both = Match {
        source_ips: vec!["10.0.0.9/32".parse().unwrap()],
        ..port(80)
    };
    assert!(!matches(vec![rule(vec![vec![both]])]), "families are all needed");
}

#[test]
fn a_family_is_any_positive_and_no_negative() {
    let curl = id("demo/curl");
    let curl = Some(&curl);
    let both = |positive: &[&str], negative: &[&str]| Match {
        namespaces: positive.iter().map(|text| exact(text)).collect(),
        not_namespaces: negative.iter().map(|text| exact(text)).collect(),
        ..Match::default()
    };
    assert!(hits(both(&["x", "demo"], &[]), curl));
    assert!(!hits(both(&["x"], &[]), curl));
    assert!(hits(both(&[], &["x"]), curl));
    assert!(!hits(both(&[], &["x", "demo"]), curl));
    assert!(!hits(both(&["demo"], &["demo"]), curl));
}

#[test]
fn principals_are_compared_without_their_scheme() {
    let curl = id("demo/curl");
    let with = |wanted| Match {
        principals: vec![wanted],
        ..Match::default()
    };
    let curl = Some(&curl);
    assert!(hits(with(exact("cluster.local/ns/demo/sa/curl")), curl));
    assert!(!hits(with(exact("spiffe://cluster.local/ns/demo/sa/curl")), curl));
    assert!(hits(with(StringMatch::Prefix("cluster.local/ns/demo/".into())), curl));
    assert!(!hits(with(StringMatch::Prefix("other.domain/".into())), curl));
    assert!(hits(with(StringMatch::Suffix("/sa/curl".into())), curl));
    assert!(!hits(with(StringMatch::Suffix("/sa/cur".into())), curl));
    assert!(hits(with(StringMatch::Presence), curl));
}

#[test]
fn plaintext_has_no_principal_and_no_account() {
    let principals = |wanted| Match {
        principals: vec![wanted],
        ..Match::default()
    };
    for wanted in [
        StringMatch::Presence,
        exact(""),
        StringMatch::Prefix("".into()),
        StringMatch::Suffix("".into()),
    ] {
        assert!(!hits(principals(wanted.clone()), None), "{wanted:?}");
    }
    let accounts = Match {
        service_accounts: vec![account("", "")],
        ..Match::default()
    };
    assert!(!hits(accounts, None));
    let not_accounts = Match {
        not_service_accounts: vec![account("demo", "curl")],
        ..Match::default()
    };
    assert!(hits(not_accounts, None));
}

#[test]
fn strict_mtls_is_not_principals_presence() {
    let strict = || Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    assert!(hits(strict(), None));
    assert!(!hits(strict(), Some(&id("demo/curl"))));
}

#[test]
fn the_namespace_of_plaintext_is_empty() {
    let not = Match {
        not_namespaces: vec![exact("demo")],
        ..Match::default()
    };
    assert!(hits(not, None));
    let with = |wanted| Match {
        namespaces: vec![wanted],
        ..Match::default()
    };
    assert!(!hits(with(exact("demo")), None));
    assert!(!hits(with(StringMatch::Presence), None));
    assert!(hits(with(StringMatch::Presence), Some(&id("demo/curl"))));
}

#[test]
fn service_accounts_ignore_the_trust_domain() {
    let with = |namespace: &str, name: &str| Match {
        service_accounts: vec![account(namespace, name)],
        ..Match::default()
    };
    let elsewhere = SpiffeId::new("other.domain", "demo", "curl").unwrap();
    assert!(hits(with("demo", "curl"), Some(&elsewhere)));
    assert!(!hits(with("demo", "echo"), Some(&elsewhere)));
    assert!(!hits(with("other", "curl"), Some(&elsewhere)));
    let not = Match {
        not_service_accounts: vec![account("demo", "curl")],
        ..Match::default()
    };
    assert!(!hits(not, Some(&elsewhere)));
}

#[test]
fn addresses_and_ports() {
    let ranges = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let source = |positive: &[&str], negative: &[&str]| Match {
        source_ips: ranges(positive),
        not_source_ips: ranges(negative),
        ..Match::default()
    };
    assert!(hits(source(&["10.0.0.0/24"], &[]), None));
    assert!(!hits(source(&["10.0.1.0/24", "fd00::/8"], &[]), None));
    assert!(!hits(source(&["10.0.0.0/24"], &["10.0.0.1/32"]), None));
    let destination = |positive: &[&str], negative: &[&str]| Match {
        destination_ips: ranges(positive),
        not_destination_ips: ranges(negative),
        ..Match::default()
    };
    assert!(hits(destination(&["10.0.0.2/32"], &[]), None));
    assert!(!hits(destination(&[], &["10.0.0.0/8"]), None));
    let ports = |positive: &[u16], negative: &[u16]| Match {
        destination_ports: positive.to_vec(),
        not_destination_ports: negative.to_vec(),
        ..Match::default()
    };
    assert!(hits(ports(&[79, 80], &[]), None));
    assert!(!hits(ports(&[79], &[]), None));
    assert!(!hits(ports(&[], &[80]), None));
    assert!(hits(ports(&[], &[81]), None));
}

#[test]
fn mapped_addresses_are_ipv4() {
    let connection = Connection {
        source_ip: ip("::ffff:10.0.0.1"),
        source: None,
        destination: socket("[::ffff:10.0.0.2]:80"),
    };
    let one = Match {
        source_ips: vec!["10.0.0.0/24".parse().unwrap()],
        destination_ips: vec!["10.0.0.2/32".parse().unwrap()],
        ..Match::default()
    };
    assert!(policy("p", Action::Deny, vec![rule(vec![vec![one]])]).matches(&connection));
}

#[test]
fn plaintext_is_refused_where_any_policy_is_enforced() {
    let refused = |policies: Vec<Policy>, destination: &Draft| {
        let mut builder = Builder::new();
        policies.into_iter().for_each(|policy| builder.add_policy(policy));
        plaintext_refused(&builder.build(), &destination.clone().into())
    };
    let echo = workload("echo");
    assert!(!refused(vec![], &echo));
    assert!(refused(vec![policy("d", Action::Deny, never())], &echo));
    assert!(refused(vec![policy("a", Action::Allow, always())], &echo));
    let dry = Policy {
        dry_run: true,
        ..policy("d", Action::Deny, always())
    };
    assert!(!refused(vec![dry], &echo));
    let elsewhere = Policy {
        namespace: "other".into(),
        ..policy("d", Action::Deny, always())
    };
    assert!(!refused(vec![elsewhere], &echo));
}
