//! What is to be done about a pod: what is intended against what is. Pure, and one step at a time.

use std::path::PathBuf;

use isthmus_wire::{Capture, MtlsBecause, PodStatus};

use super::{
    eligibility::{Because, Intent, Terms},
    pod::Pod,
};

/// Value of the annotation while the pod is redirected.
pub(super) const ENABLED: &str = "enabled";
/// Value of the annotation while the pod should be redirected and is not.
pub(super) const PENDING: &str = "pending";

/// What the registry has of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// Nothing, or a namespace that has lost its path.
    Nothing,
    /// It is being brought in.
    Entering,
    /// It is enrolled.
    Enrolled {
        /// Its namespace.
        netns: PathBuf,
        /// On such terms.
        on: Held,
    },
    /// It is enrolled, and the registry itself is trying to serve it.
    Unserved,
    /// It was released, and connections of it live on.
    Draining {
        /// Its namespace.
        netns: PathBuf,
    },
}

/// On what terms a pod is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    capture: Capture,
    reroute_interfaces: Vec<String>,
    /// Plaintext is admitted whatever policies say: nobody asks for that here, but by hand, or of an earlier version.
    admits_plaintext: bool,
}

/// How enrolling it went so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Course {
    /// Nothing has failed.
    #[default]
    Clear,
    /// It failed, and may be tried again now.
    Due,
    /// It failed, and is tried again later.
    Waiting,
    /// It was refused for good; it is looked at again much later.
    Refused,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the registry to enrol it, in this namespace if it is known already.
    Enrol(Terms, Option<PathBuf>),
    /// Ask the registry to let it go.
    Release,
    /// Write the annotation, or take it away.
    Annotate(Option<&'static str>),
}

/// The next thing to do about a pod; nothing when all is as it should be, or others have the word.
pub(super) fn next(pod: &Pod, intent: &Intent, holding: &Holding, course: Course) -> Option<Action> {
    match intent {
        // Not knowing is no reason to change anything.
        Intent::Unknown => None,
        Intent::Leave(because) => leave(pod, *because, holding),
        Intent::Enrol(terms) => enrol(pod, terms, holding, course),
    }
}

fn leave(pod: &Pod, because: Because, holding: &Holding) -> Option<Action> {
    match holding {
        Holding::Enrolled { .. } | Holding::Unserved => Some(Action::Release),
        // It can be let go when it is there.
        Holding::Entering => None,
        // Nobody reads of a pod that has ended.
        _ if because == Because::Ended => None,
        Holding::Nothing | Holding::Draining { .. } => says(pod, None),
    }
}

fn enrol(pod: &Pod, terms: &Terms, holding: &Holding, course: Course) -> Option<Action> {
    let netns = match holding {
        Holding::Enrolled { on, .. } if on.are(terms) => {
            return says(pod, Some(ENABLED));
        }
        Holding::Entering | Holding::Unserved => return None,
        Holding::Enrolled { netns, .. } | Holding::Draining { netns } => Some(netns.clone()),
        // Its network is in the making: the CNI plugin has the word.
        Holding::Nothing if pod.ips.is_empty() => return None,
        Holding::Nothing => None,
    };
    match course {
        Course::Clear | Course::Due => Some(Action::Enrol(terms.clone(), netns)),
        Course::Waiting => says(pod, Some(PENDING)),
        Course::Refused => says(pod, None),
    }
}

/// Writes the annotation only where it differs. A value that is none of ours is left to who wrote it, but for `enabled`.
fn says(pod: &Pod, wanted: Option<&'static str>) -> Option<Action> {
    let is_ours = pod.redirection().is_none_or(|said| [ENABLED, PENDING].contains(&said));
    let differs = pod.redirection() != wanted;
    (differs && (is_ours || wanted == Some(ENABLED))).then_some(Action::Annotate(wanted))
}

// === impl Holding ===

impl Holding {
    /// As the registry tells it.
    pub(super) fn of(status: Option<&PodStatus>) -> Self {
        let Some(status) = status else { return Self::Nothing };
        let netns = status.netns.clone();
        match status.state.as_str() {
            "enrolled" => Self::Enrolled {
                netns,
                on: Held {
                    capture: status.capture.clone(),
                    reroute_interfaces: status.reroute_interfaces.clone(),
                    admits_plaintext: status.mtls_because == MtlsBecause::Enrolment && !status.mtls_required,
                },
            },
            "entering" => Self::Entering,
            "unserved" => Self::Unserved,
            "draining" => Self::Draining { netns },
            _ => Self::Nothing,
        }
    }
}

// === impl Held ===

impl Held {
    /// Are these the terms?
    fn are(&self, terms: &Terms) -> bool {
        !self.admits_plaintext && self.capture == *terms.capture && self.reroute_interfaces == terms.reroute_interfaces
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{eligibility::decide, rules::Rules, selector::Labels},
        *,
    };

    fn pod(said: Option<&str>, ip: bool) -> Pod {
        let said = said.map(|said| ("ambient.istio.io/redirection".to_owned(), said.to_owned()));
        Pod {
            ips: ip.then(|| "10.0.0.5".parse().unwrap()).into_iter().collect(),
            annotations: BTreeMap::from_iter(said),
            ..Pod::default()
        }
    }

    fn terms(annotation: &str, value: &str) -> Terms {
        let mut pod = pod(None, true);
        pod.annotations.insert(annotation.to_owned(), value.to_owned());
        let ambient = Labels::from([("istio.io/dataplane-mode".to_owned(), "ambient".to_owned())]);
        match decide(&pod, Some(&ambient), &Rules::default()) {
            Intent::Enrol(terms) => terms,
            other => panic!("{other:?}"),
        }
    }

    fn enrolled() -> Holding {
        Holding::Enrolled {
            netns: "/n".into(),
            on: Held::default(),
        }
    }

    fn draining() -> Holding {
        Holding::Draining { netns: "/n".into() }
    }

    #[test]
    fn a_pod_that_belongs_to_the_mesh() {
        let plain = terms("sidecar.istio.io/inject", "false");
        let enrol = |netns: Option<&str>| Some(Action::Enrol(plain.clone(), netns.map(PathBuf::from)));
        let annotate = |value| Some(Action::Annotate(value));
        let intent = Intent::Enrol(plain.clone());
        for (said, ip, holding, course, wanted) in [
            // Enrolled by the CNI plugin: only the word is missing.
            (None, false, enrolled(), Course::Clear, annotate(Some(ENABLED))),
            (Some(PENDING), true, enrolled(), Course::Clear, annotate(Some(ENABLED))),
            (Some(ENABLED), true, enrolled(), Course::Clear, None),
            (Some(ENABLED), true, enrolled(), Course::Waiting, None),
            // Slipped through, or its agent was away.
            (None, true, Holding::Nothing, Course::Clear, enrol(None)),
            (Some(ENABLED), true, Holding::Nothing, Course::Clear, enrol(None)),
            (Some(PENDING), true, Holding::Nothing, Course::Due, enrol(None)),
            // Its network is not there yet.
            (None, false, Holding::Nothing, Course::Clear, None),
            // It failed.
            (None, true, Holding::Nothing, Course::Waiting, annotate(Some(PENDING))),
            (
                Some(ENABLED),
                true,
                Holding::Nothing,
                Course::Waiting,
                annotate(Some(PENDING)),
            ),
            (Some(PENDING), true, Holding::Nothing, Course::Waiting, None),
            (Some(ENABLED), true, Holding::Nothing, Course::Refused, annotate(None)),
            (None, true, Holding::Nothing, Course::Refused, None),
            // The registry is at it.
            (Some(ENABLED), true, Holding::Unserved, Course::Clear, None),
            (None, true, Holding::Entering, Course::Clear, None),
            // Released a moment ago: its namespace is known.
            (None, true, draining(), Course::Clear, enrol(Some("/n"))),
            (
                Some("disabled"),
                true,
                enrolled(),
                Course::Clear,
                annotate(Some(ENABLED)),
            ),
        ] {
            let told = next(&pod(said, ip), &intent, &holding, course);
            assert_eq!(told, wanted, "{said:?} {ip} {holding:?} {course:?}");
        }
    }

    #[test]
    fn other_terms_are_told_to_the_registry() {
        for (annotation, value) in [
            ("ambient.istio.io/bypass-inbound-capture", "true"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "5432"),
            ("istio.io/reroute-virtual-interfaces", "net1"),
        ] {
            let other = terms(annotation, value);
            let enrol = |terms: &Terms| Some(Action::Enrol(terms.clone(), Some("/n".into())));
            let pod = pod(Some(ENABLED), true);
            let told = |terms: &Terms, on: Held| {
                let netns = "/n".into();
                next(
                    &pod,
                    &Intent::Enrol(terms.clone()),
                    &Holding::Enrolled { netns, on },
                    Course::Clear,
                )
            };
            assert_eq!(told(&other, Held::default()), enrol(&other), "{annotation}");
            let held = Held {
                capture: (*other.capture).clone(),
                reroute_interfaces: other.reroute_interfaces.clone(),
                admits_plaintext: false,
            };
            assert_eq!(told(&other, held.clone()), None, "{annotation} as it is");
            // It was taken away.
            let plain = terms("sidecar.istio.io/inject", "false");
            assert_eq!(told(&plain, held), enrol(&plain), "{annotation} no more");
        }
    }

    #[test]
    fn a_pod_that_does_not_belong_to_the_mesh() {
        let out = Because::NotSelected;
        for (said, holding, because, wanted) in [
            (Some(ENABLED), enrolled(), out, Some(Action::Release)),
            (None, enrolled(), out, Some(Action::Release)),
            (Some(ENABLED), Holding::Unserved, out, Some(Action::Release)),
            (Some(ENABLED), Holding::Entering, out, None),
            (Some(ENABLED), draining(), out, Some(Action::Annotate(None))),
            (Some(PENDING), Holding::Nothing, out, Some(Action::Annotate(None))),
            (None, draining(), out, None),
            (None, Holding::Nothing, out, None),
            (Some("by hand"), Holding::Nothing, out, None),
            (
                Some(ENABLED),
                Holding::Nothing,
                Because::HostNetwork,
                Some(Action::Annotate(None)),
            ),
            (Some(ENABLED), enrolled(), Because::Ended, Some(Action::Release)),
            (Some(ENABLED), draining(), Because::Ended, None),
        ] {
            let told = next(&pod(said, true), &Intent::Leave(because), &holding, Course::Clear);
            assert_eq!(told, wanted, "{said:?} {holding:?} {because:?}");
        }
    }

    #[test]
    fn what_is_not_decided_changes_nothing() {
        for holding in [
            Holding::Nothing,
            Holding::Entering,
            enrolled(),
            draining(),
            Holding::Unserved,
        ] {
            for said in [None, Some(ENABLED)] {
                assert_eq!(next(&pod(said, true), &Intent::Unknown, &holding, Course::Clear), None);
            }
        }
    }

    #[test]
    fn what_the_registry_tells_is_understood() {
        let status = |state: &str, required, because| PodStatus {
            state: state.to_owned(),
            netns: "/n".into(),
            mtls_required: required,
            mtls_because: because,
            ..PodStatus::default()
        };
        let of = |status: PodStatus| Holding::of(Some(&status));
        assert_eq!(Holding::of(None), Holding::Nothing);
        assert_eq!(of(status("enrolled", false, MtlsBecause::Policies)), enrolled());
        assert_eq!(of(status("enrolled", true, MtlsBecause::Enrolment)), enrolled());
        let admitting = Holding::Enrolled {
            netns: "/n".into(),
            on: Held {
                admits_plaintext: true,
                ..Held::default()
            },
        };
        assert_eq!(of(status("enrolled", false, MtlsBecause::Enrolment)), admitting);
        assert_eq!(of(status("draining", false, MtlsBecause::Policies)), draining());
        assert_eq!(of(status("unserved", false, MtlsBecause::Policies)), Holding::Unserved);
        assert_eq!(
            of(status("entering", true, MtlsBecause::UnknownToMesh)),
            Holding::Entering
        );
        assert_eq!(of(status("lingering", false, MtlsBecause::Policies)), Holding::Nothing);
    }
}
