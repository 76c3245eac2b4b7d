//! Label selectors as Kubernetes writes them, and the pairs of them that decide who is enrolled.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Puts a pod, or all pods of a namespace, into the ambient mesh or keeps a pod out of it.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Value of [`DATAPLANE_MODE`] for who is in.
const AMBIENT: &str = "ambient";
/// Value of [`DATAPLANE_MODE`] for a pod that stays out although its namespace is in.
const NONE: &str = "none";

/// Which pods are enrolled: those for whom one of these pairs holds, the first on the pod, the second on its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enablement(Vec<(Selector, Selector)>);

/// What labels must fulfil, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
}

/// A pair as AMBIENT_ENABLEMENT_SELECTOR has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPair {
    #[serde(default)]
    pod_selector: WrittenSelector,
    #[serde(default)]
    namespace_selector: WrittenSelector,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<WrittenExpression>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExpression {
    key: String,
    operator: String,
    #[serde(default)]
    values: BTreeSet<String>,
}

// === impl Enablement ===

impl Enablement {
    /// Reads a YAML list of pairs.
    ///
    /// # Errors
    /// With what is wrong, for who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANTED: &str = "it must be a YAML list of pairs of podSelector and namespaceSelector";
        let pairs: Vec<WrittenPair> = serde_saphyr::from_str(text).map_err(|error| {
            // The rest is a drawing of the place.
            let error = error.to_string();
            format!("{WANTED}: {}", error.lines().next().unwrap_or_default())
        })?;
        if pairs.is_empty() {
            return Err(
                "an empty list enrols nobody; leave it out for the usual rules, or say --kubernetes=false".into(),
            );
        }
        let pair = |pair: WrittenPair| Ok((Selector::of(pair.pod_selector)?, Selector::of(pair.namespace_selector)?));
        pairs.into_iter().map(pair).collect::<Result<_, String>>().map(Self)
    }

    /// Whether a pod with these labels, in a namespace with those, is to be enrolled.
    pub fn selects(&self, pod: &Labels, namespace: &Labels) -> bool {
        self.0
            .iter()
            .any(|(of_pod, of_namespace)| of_pod.matches(pod) && of_namespace.matches(namespace))
    }

    /// Whether the outcome may depend on this label of a pod.
    pub fn asks_pod_for(&self, key: &str) -> bool {
        self.0.iter().any(|(of_pod, _)| of_pod.asks_for(key))
    }

    /// Whether the outcome may depend on this label of a namespace.
    pub fn asks_namespace_for(&self, key: &str) -> bool {
        self.0.iter().any(|(_, of_namespace)| of_namespace.asks_for(key))
    }
}

impl Default for Enablement {
    /// The pod says `ambient`, or its namespace does and the pod does not say `none` (wire-facts §12.1).
    fn default() -> Self {
        let mode = |wanted| {
            Selector(vec![Requirement {
                key: DATAPLANE_MODE.to_owned(),
                wanted,
            }])
        };
        let one = |value: &str| BTreeSet::from([value.to_owned()]);
        Self(vec![
            (mode(Wanted::In(one(AMBIENT))), Selector::default()),
            (mode(Wanted::NotIn(one(NONE))), mode(Wanted::In(one(AMBIENT)))),
        ])
    }
}

// === impl Selector ===

impl Selector {
    fn of(written: WrittenSelector) -> Result<Self, String> {
        let labels = written.match_labels.into_iter().map(|(key, value)| {
            Ok(Requirement {
                key,
                wanted: Wanted::In(BTreeSet::from([value])),
            })
        });
        let expressions = written.match_expressions.into_iter().map(Requirement::of);
        labels.chain(expressions).collect::<Result<_, _>>().map(Self)
    }

    fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    fn asks_for(&self, key: &str) -> bool {
        self.0.iter().any(|requirement| requirement.key == key)
    }
}

// === impl Requirement ===

impl Requirement {
    fn of(written: WrittenExpression) -> Result<Self, String> {
        let WrittenExpression { key, operator, values } = written;
        let wanted = match (operator.as_str(), values.is_empty()) {
            ("In", false) => Wanted::In(values),
            ("NotIn", false) => Wanted::NotIn(values),
            ("Exists", true) => Wanted::Exists,
            ("DoesNotExist", true) => Wanted::Absent,
            ("In" | "NotIn", true) => return Err(format!("{operator} of {key} needs values")),
            ("Exists" | "DoesNotExist", false) => return Err(format!("{operator} of {key} takes no values")),
            _ => {
                let known = "In, NotIn, Exists or DoesNotExist";
                return Err(format!("the operator of {key} must be {known}, and not {operator:?}"));
            }
        };
        Ok(Self { key, wanted })
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.wanted {
            Wanted::In(values) => value.is_some_and(|value| values.contains(value)),
            // Who lacks the label is not in any list.
            Wanted::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Wanted::Exists => value.is_some(),
            Wanted::Absent => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn mode(value: Option<&str>) -> Labels {
        value.map_or_else(Labels::new, |value| labels(&[(DATAPLANE_MODE, value)]))
    }

    #[test]
    fn the_usual_rules_are_a_table_of_two_labels() {
        let rules = Enablement::default();
        for (pod, namespace, enrolled) in [
            (None, None, false),
            (Some("ambient"), None, true),
            (None, Some("ambient"), true),
            (Some("none"), Some("ambient"), false),
            (Some("none"), None, false),
            (Some("ambient"), Some("none"), true),
            // Any other value of a pod is none of ours, so that the namespace decides.
            (Some("sidecar"), Some("ambient"), true),
            (Some("Ambient"), None, false),
            (None, Some("none"), false),
        ] {
            assert_eq!(
                rules.selects(&mode(pod), &mode(namespace)),
                enrolled,
                "{pod:?} {namespace:?}"
            );
        }
    }

    #[test]
    fn every_operator_holds_and_does_not_hold() {
        for (expression, on, off) in [
            (
                "{key: a, operator: In, values: [x, y]}",
                labels(&[("a", "y")]),
                labels(&[]),
            ),
            (
                "{key: a, operator: NotIn, values: [x]}",
                labels(&[]),
                labels(&[("a", "x")]),
            ),
            ("{key: a, operator: Exists}", labels(&[("a", "")]), labels(&[("b", "")])),
            (
                "{key: a, operator: DoesNotExist}",
                labels(&[("b", "")]),
                labels(&[("a", "")]),
            ),
        ] {
            let text = format!("- podSelector: {{matchExpressions: [{expression}]}}");
            let rules = Enablement::parse(&text).unwrap();
            assert!(rules.selects(&on, &Labels::new()), "{expression}");
            assert!(!rules.selects(&off, &Labels::new()), "{expression}");
        }
    }

    #[test]
    fn both_halves_of_a_pair_must_hold_and_one_pair_is_enough() {
        let text = "- podSelector: {matchLabels: {a: x}}\n  namespaceSelector: {matchLabels: {b: y}}\n\
                    - podSelector: {matchLabels: {c: z}}\n";
        let rules = Enablement::parse(text).unwrap();
        let (a, b, c) = (labels(&[("a", "x")]), labels(&[("b", "y")]), labels(&[("c", "z")]));
        let none = Labels::new();
        assert!(rules.selects(&a, &b) && rules.selects(&c, &none));
        assert!(!rules.selects(&a, &none) && !rules.selects(&none, &b));
        assert!(rules.asks_pod_for("a") && rules.asks_pod_for("c") && !rules.asks_pod_for("b"));
        assert!(rules.asks_namespace_for("b") && !rules.asks_namespace_for("a"));
    }

    #[test]
    fn the_usual_rules_can_be_written_down() {
        let text = "- podSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}\n\
                    - podSelector: {matchExpressions: [{key: istio.io/dataplane-mode, operator: NotIn, values: [none]}]}\n  \
                      namespaceSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}\n";
        assert_eq!(Enablement::parse(text).unwrap(), Enablement::default());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, why) in [
            ("", "enrols nobody"),
            ("[]", "enrols nobody"),
            ("x", "YAML list"),
            ("- podselector: {}", "podselector"),
            (
                "- podSelector: {matchExpressions: [{key: a, operator: in}]}",
                "operator of a",
            ),
            (
                "- podSelector: {matchExpressions: [{key: a, operator: In}]}",
                "needs values",
            ),
            (
                "- podSelector: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}",
                "no values",
            ),
        ] {
            let told = Enablement::parse(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
