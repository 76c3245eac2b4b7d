//! The pods that were there when the API server told all for the first time, until they are in the mesh. Pure.
//!
//! A node that says it is ready has them enrolled: those that slipped through while no agent ran speak in clear until then.
//! Whoever cannot be enrolled is reported and tried on, and waited for no longer than [`PATIENCE`]: one broken pod must not
//! keep a node from being ready. Pods that come later are the CNI plugin's, and nobody waits for them here.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    eligibility::Intent,
    pod::Pod,
    reconcile::{Course, Holding},
};

/// How long they are waited for after each of them was tried once: some seven tries of one that fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was told yet.
    #[default]
    Unlisted,
    /// So many of them are neither enrolled nor given up.
    Enrolling(usize),
    /// All of them are, or they were waited for long enough.
    Settled,
}

/// Who of them is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum FirstPods {
    /// Nothing was told yet.
    #[default]
    Unlisted,
    /// These, by their UID at the API server, until then.
    Awaited(BTreeSet<String>, Instant),
    /// Nobody any more.
    Settled,
}

impl FirstPods {
    /// After a look at all pods. `unsettled` are those that the look left neither enrolled nor refused for good. Answers who
    /// is given up now.
    pub(super) fn look(&mut self, unsettled: BTreeSet<String>, now: Instant) -> BTreeSet<String> {
        let (left, until) = match std::mem::take(self) {
            Self::Unlisted => (unsettled, now + PATIENCE),
            // Who is gone, or came later, is not waited for.
            Self::Awaited(left, until) => (&left & &unsettled, until),
            Self::Settled => (BTreeSet::new(), now),
        };
        if !left.is_empty() && now < until {
            *self = Self::Awaited(left, until);
            return BTreeSet::new();
        }
        *self = Self::Settled;
        left
    }

    /// What is told of it.
    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Unlisted => Standing::Unlisted,
            Self::Awaited(left, _) => Standing::Enrolling(left.len()),
            Self::Settled => Standing::Settled,
        }
    }

    /// When it is to be looked at again at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Awaited(_, until) => Some(*until),
            Self::Unlisted | Self::Settled => None,
        }
    }
}

/// Whether nothing is left to be done about a pod for now.
pub(super) fn is_settled(pod: &Pod, intent: &Intent, holding: &Holding, course: Course) -> bool {
    match (intent, holding) {
        (Intent::Leave(_), _) | (Intent::Enrol(_), Holding::Enrolled { .. }) => true,
        // Its network is in the making: the CNI plugin answers for it.
        (Intent::Enrol(_), Holding::Nothing | Holding::Entering) if pod.ips.is_empty() => true,
        (Intent::Enrol(_), _) => course == Course::Refused,
        // Its namespace is told in a moment.
        (Intent::Unknown, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            eligibility::{Because, decide},
            reconcile::Held,
            rules::Rules,
            selector::{DATAPLANE_MODE, Labels},
        },
        *,
    };

    fn uids(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|&uid| uid.to_owned()).collect()
    }

    #[test]
    fn those_of_the_first_look_are_waited_for_and_nobody_who_came_later() {
        let (mut first, now) = (FirstPods::default(), Instant::now());
        assert_eq!(first.standing(), Standing::Unlisted);
        assert!(first.look(uids(&["a", "b"]), now).is_empty());
        assert_eq!(first.standing(), Standing::Enrolling(2));
        assert!(first.look(uids(&["b", "later"]), now).is_empty());
        assert_eq!(first.standing(), Standing::Enrolling(1));
        assert!(first.look(uids(&["later"]), now).is_empty());
        assert_eq!((first.standing(), first.due()), (Standing::Settled, None));
        first.look(uids(&["later"]), now);
        assert_eq!(first.standing(), Standing::Settled, "once and for all");
    }

    #[test]
    fn a_node_without_pods_is_settled_at_the_first_look() {
        let mut first = FirstPods::default();
        first.look(BTreeSet::new(), Instant::now());
        assert_eq!(first.standing(), Standing::Settled);
    }

    #[test]
    fn who_fails_for_ever_is_given_up() {
        let (mut first, now) = (FirstPods::default(), Instant::now());
        first.look(uids(&["a", "b"]), now);
        let until = first.due().unwrap();
        assert_eq!(until, now + PATIENCE);
        let just_before = until.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(first.look(uids(&["a"]), just_before).is_empty());
        assert_eq!(first.standing(), Standing::Enrolling(1));
        assert_eq!(first.look(uids(&["a"]), until), uids(&["a"]));
        assert_eq!(first.standing(), Standing::Settled);
        assert!(first.look(uids(&["a"]), until).is_empty(), "told once");
    }

    #[test]
    fn a_pod_is_settled_when_it_is_in_or_out_or_refused_or_not_there_yet() {
        let with_ip = Pod {
            ips: vec![[10, 0, 0, 1].into()],
            ..Pod::default()
        };
        let without = Pod::default();
        let ambient = Labels::from([(DATAPLANE_MODE.to_owned(), "ambient".to_owned())]);
        let enrol = decide(&without, Some(&ambient), &Rules::default());
        let leave = Intent::Leave(Because::NotSelected);
        let enrolled = Holding::Enrolled {
            netns: "/run/netns/a".into(),
            on: Held::default(),
        };
        let draining = Holding::Draining {
            netns: "/run/netns/a".into(),
        };
        for (pod, intent, holding, course, settled) in [
            (&with_ip, &leave, &Holding::Nothing, Course::Clear, true),
            (&with_ip, &enrol, &enrolled, Course::Clear, true),
            (&with_ip, &enrol, &Holding::Nothing, Course::Clear, false),
            (&with_ip, &enrol, &Holding::Nothing, Course::Waiting, false),
            (&with_ip, &enrol, &Holding::Nothing, Course::Refused, true),
            (&with_ip, &enrol, &Holding::Unserved, Course::Clear, false),
            (&with_ip, &enrol, &Holding::Entering, Course::Clear, false),
            (&without, &enrol, &Holding::Entering, Course::Clear, true),
            (&with_ip, &enrol, &draining, Course::Waiting, false),
            (&without, &enrol, &Holding::Nothing, Course::Clear, true),
            (&with_ip, &Intent::Unknown, &Holding::Nothing, Course::Clear, false),
        ] {
            assert_eq!(
                is_settled(pod, intent, holding, course),
                settled,
                "{intent:?} {holding:?} {course:?}"
            );
        }
    }
}
