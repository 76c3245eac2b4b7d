//! Looking for pods among those that are held; what is decided by that is the registry's.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::super::{
    ask::Found,
    enrolled::{Enrolled, State},
};

/// The pods, by slot.
pub(super) type Pods = HashMap<u32, Enrolled>;

/// The pod with this UID.
pub(super) fn by_uid<'a>(pods: &'a Pods, uid: &str) -> Option<&'a Enrolled> {
    pods.values().find(|pod| pod.record.pod.uid == uid)
}

/// The slot of the pod with this UID, if it is to stay: one that is enrolled again keeps it, and whoever asked for it has
/// changed nothing that would be taken back.
pub(super) fn kept_slot(pods: &Pods, uid: &str) -> Option<u32> {
    let held = by_uid(pods, uid)?;
    (!matches!(held.state, State::Draining { .. })).then(|| held.slot())
}

/// Another pod that has the namespace with this cookie.
pub(super) fn other_in(pods: &Pods, cookie: u64, uid: &str) -> Option<String> {
    let is_other = |pod: &&Enrolled| pod.record.cookie == cookie && pod.record.pod.uid != uid;
    pods.values().find(is_other).map(|pod| pod.record.pod.uid.clone())
}

/// Whether the pod is held with this namespace. A sandbox that is deleted late must not take the pod's new one with it.
pub(super) fn is_held_at(pods: &Pods, uid: &str, netns: &Path) -> bool {
    by_uid(pods, uid).is_some_and(|held| is_same(&held.record.pod.netns, netns))
}

/// What is held of the pod, seen from who says that this is its namespace.
pub(super) fn find(pods: &Pods, uid: &str, netns: &Path) -> Found {
    match by_uid(pods, uid) {
        Some(held) if held.state == State::Enrolled && is_same(&held.record.pod.netns, netns) => Found::Enrolled,
        Some(held) => Found::Otherwise {
            state: held.state.name(),
            netns: held.record.pod.netns.clone(),
        },
        None => Found::Nothing,
    }
}

/// Runtimes say `/var/run` and `/run` for one folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let short = |path: &Path| match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => PathBuf::from(path),
    };
    short(one) == short(other)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use isthmus_wire::Enrol;

    use super::{super::super::record::Record, *};

    const AT: &str = "/run/netns/a";

    fn held(slot: u32, uid: &str, cookie: u64, state: State) -> (u32, Enrolled) {
        let pod = Enrol {
            uid: uid.to_owned(),
            namespace: "demo".to_owned(),
            name: "curl".to_owned(),
            service_account: None,
            netns: AT.into(),
            mtls_required: None,
            reroute_interfaces: Vec::new(),
            capture: Box::default(),
        };
        let record = Record {
            slot,
            cookie,
            generation: "g".to_owned(),
            released: false,
            pod,
        };
        (slot, Enrolled::remembered(record, state, Vec::new()))
    }

    fn draining() -> State {
        State::Draining { until: Instant::now() }
    }

    fn alone(state: State) -> Pods {
        Pods::from([held(3, "a", 7, state)])
    }

    #[test]
    fn a_pod_is_found_enrolled_only_where_it_is_served_from_that_very_namespace() {
        let pods = alone(State::Enrolled);
        assert_eq!(find(&pods, "a", Path::new(AT)), Found::Enrolled);
        assert_eq!(find(&pods, "a", Path::new("/var/run/netns/a")), Found::Enrolled);
        let otherwise = |state| Found::Otherwise {
            state,
            netns: AT.into(),
        };
        assert_eq!(find(&pods, "a", Path::new("/run/netns/b")), otherwise("enrolled"));
        assert_eq!(find(&pods, "b", Path::new(AT)), Found::Nothing);
        for state in [State::Unserved, State::Lingering, draining()] {
            assert_eq!(find(&alone(state), "a", Path::new(AT)), otherwise(state.name()));
        }
    }

    #[test]
    fn what_is_deleted_late_or_of_another_pod_takes_nothing_along() {
        for state in [State::Enrolled, State::Unserved, State::Lingering, draining()] {
            let pods = alone(state);
            assert!(is_held_at(&pods, "a", Path::new(AT)), "{state:?}");
            assert!(!is_held_at(&pods, "a", Path::new("/run/netns/earlier")), "{state:?}");
            assert!(!is_held_at(&pods, "b", Path::new(AT)), "{state:?}");
        }
        assert!(!is_held_at(&Pods::new(), "a", Path::new(AT)));
    }

    /// An ADD that fails takes back what it brought in, and nothing that was there before.
    #[test]
    fn a_pod_that_is_let_go_counts_as_new_when_it_is_added() {
        for state in [State::Enrolled, State::Unserved, State::Lingering] {
            assert_eq!(kept_slot(&alone(state), "a"), Some(3), "{state:?}");
        }
        assert_eq!(kept_slot(&alone(draining()), "a"), None);
        assert_eq!(kept_slot(&alone(State::Enrolled), "b"), None);
    }

    #[test]
    fn a_namespace_belongs_to_one_pod_whatever_its_state() {
        for state in [State::Enrolled, State::Lingering, draining()] {
            let pods = alone(state);
            assert_eq!(other_in(&pods, 7, "b").as_deref(), Some("a"), "{state:?}");
            assert_eq!(other_in(&pods, 7, "a"), None, "its own");
            assert_eq!(other_in(&pods, 8, "b"), None, "another namespace");
        }
    }

    #[test]
    fn both_names_of_the_run_folder_are_one() {
        let is = |one, other| is_same(Path::new(one), Path::new(other));
        assert!(is("/var/run/netns/a", "/run/netns/a"));
        assert!(is("/proc/7/ns/net", "/proc/7/ns/net"));
        assert!(!is("/var/run/netns/a", "/run/netns/b"));
        assert!(!is("/var/runner/a", "/run/ner/a"));
    }
}
