//! What the API server told of this node's pods and of all namespaces. It stays while the server is away.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use isthmus_wire::Mode;
use tokio::sync::watch;

use super::{
    eligibility::{Because, Intent, decide},
    pod::Pod,
    rules::Rules,
    selector::Labels,
};

/// Holds it. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Store {
    held: Arc<watch::Sender<Held>>,
    rules: Arc<Rules>,
}

/// What is held.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By their UID at the API server.
    pods: HashMap<String, Pod>,
    /// Labels that rules look at, by the namespace's name.
    namespaces: HashMap<String, Labels>,
    feeds: [Feed; 2],
}

/// Where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Pods of this node.
    Pods,
    /// Namespaces.
    Namespaces,
}

/// How one of the watches fares.
#[derive(Clone, Debug, Default)]
struct Feed {
    /// All there was has been told at least once.
    listed: bool,
    /// Why it is not followed now.
    trouble: Option<Trouble>,
}

/// Why the API server is not followed.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// When that began.
    pub(super) since: Instant,
    /// The last error.
    pub(super) error: String,
}

/// What a watch says.
#[derive(Debug)]
pub(super) enum News<T> {
    /// This is all there is.
    All(Vec<(String, T)>),
    /// It is new, or has changed.
    Is(String, T),
    /// It is gone.
    Gone(String),
}

impl Store {
    /// One that holds nothing yet.
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            held: Arc::new(watch::Sender::new(Held::default())),
            rules: Arc::new(rules),
        }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes news of pods.
    pub(super) fn pods(&self, news: News<Pod>) {
        self.held.send_if_modified(|held| {
            let heard = news.into_map(&mut held.pods);
            held.feed(Of::Pods).hear(heard)
        });
    }

    /// Takes news of namespaces.
    pub(super) fn namespaces(&self, news: News<Labels>) {
        self.held.send_if_modified(|held| {
            let heard = news.into_map(&mut held.namespaces);
            held.feed(Of::Namespaces).hear(heard)
        });
    }

    /// A pod is as it is told here; nothing when it is not known (any more).
    pub(super) fn amend(&self, pod: Pod) {
        self.held
            .send_if_modified(|held| match held.pods.get_mut(&pod.object_uid) {
                Some(known) if *known != pod => {
                    *known = pod;
                    true
                }
                _ => false,
            });
    }

    /// A watch does not work.
    pub(super) fn failed(&self, of: Of, error: String) {
        self.held.send_if_modified(|held| {
            let feed = held.feed(of);
            let since = feed.trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
            feed.trouble = Some(Trouble { since, error });
            // Nothing becomes of it but words.
            false
        });
    }

    /// For waiting until something changes.
    pub(super) fn changes(&self) -> watch::Receiver<Held> {
        self.held.subscribe()
    }

    /// Every pod and what is to become of it; nothing before all was told once.
    pub(super) fn intents(&self) -> Option<Vec<(Pod, Intent)>> {
        let held = self.held.borrow();
        let intent = |pod: &Pod| (pod.clone(), held.intent(pod, &self.rules));
        held.feeds
            .iter()
            .all(|feed| feed.listed)
            .then(|| held.pods.values().map(intent).collect())
    }

    /// What is known of every namespace; nothing before all were told once.
    pub(super) fn modes(&self) -> Option<BTreeMap<String, Mode>> {
        let held = self.held.borrow();
        let [_, namespaces] = &held.feeds;
        let excluded = self.rules.excluded.iter().map(|name| (name.clone(), Mode::Excluded));
        let told = held
            .namespaces
            .iter()
            .map(|(name, labels)| (name.clone(), mode(name, labels, &self.rules)));
        namespaces.listed.then(|| told.chain(excluded).collect())
    }

    /// How many pods are known.
    pub(super) fn count(&self) -> usize {
        self.held.borrow().pods.len()
    }

    /// The trouble that has lasted longest, and whether all was told once.
    pub(super) fn trouble(&self) -> (Option<Trouble>, bool) {
        let held = self.held.borrow();
        let troubles = held.feeds.iter().filter_map(|feed| feed.trouble.clone());
        let longest = troubles.min_by_key(|trouble| trouble.since);
        (longest, held.feeds.iter().all(|feed| feed.listed))
    }

    /// What is to become of the pod with this UID on the node, waiting no longer than `bound` until it is told.
    pub(super) async fn wait_for(&self, uid: &str, (namespace, name): (&str, &str), bound: Duration) -> Option<Intent> {
        let mut changes = self.changes();
        let known = changes.wait_for(|held| held.find(uid, (namespace, name), &self.rules).is_some());
        let held = tokio::time::timeout(bound, known).await.ok()?.ok()?;
        held.find(uid, (namespace, name), &self.rules)
    }

    /// What is to become of a pod that is not held.
    pub(super) fn decide(&self, pod: &Pod) -> Intent {
        self.held.borrow().intent(pod, &self.rules)
    }

    /// The same, of a pod in a namespace with these labels.
    pub(super) fn decide_in(&self, pod: &Pod, namespace: &Labels) -> Intent {
        decide(pod, Some(namespace), &self.rules)
    }
}

/// What becomes of a pod that says nothing of itself.
fn mode(namespace: &str, labels: &Labels, rules: &Rules) -> Mode {
    let pod = Pod {
        namespace: namespace.to_owned(),
        ..Pod::default()
    };
    match decide(&pod, Some(labels), rules) {
        Intent::Enrol(_) => Mode::Ambient,
        Intent::Leave(Because::ExcludedNamespace) => Mode::Excluded,
        Intent::Leave(_) | Intent::Unknown => Mode::Other,
    }
}

impl Held {
    fn feed(&mut self, of: Of) -> &mut Feed {
        let [pods, namespaces] = &mut self.feeds;
        match of {
            Of::Pods => pods,
            Of::Namespaces => namespaces,
        }
    }

    fn intent(&self, pod: &Pod, rules: &Rules) -> Intent {
        decide(pod, self.namespaces.get(&pod.namespace), rules)
    }

    /// A decision; one that waits for the namespace is none.
    fn find(&self, uid: &str, (namespace, name): (&str, &str), rules: &Rules) -> Option<Intent> {
        // An earlier pod of the same name must not be taken for it.
        let is_it =
            |pod: &&Pod| pod.name == name && pod.namespace == namespace && (pod.uid == uid || pod.object_uid == uid);
        let intent = self.intent(self.pods.values().find(is_it)?, rules);
        (intent != Intent::Unknown).then_some(intent)
    }
}

impl Feed {
    /// Whether there is anything to look at.
    fn hear(&mut self, heard: Heard) -> bool {
        if heard == Heard::All {
            self.listed = true;
            self.trouble = None;
        }
        heard != Heard::Nothing
    }
}

/// What news were worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// All there is.
    All,
    /// A change.
    Change,
    /// A change of what nobody looks at: most are.
    Nothing,
}

impl<T: PartialEq> News<T> {
    fn into_map(self, map: &mut HashMap<String, T>) -> Heard {
        let changes = match self {
            Self::All(all) => {
                *map = all.into_iter().collect();
                return Heard::All;
            }
            Self::Is(key, value) if map.get(&key) == Some(&value) => false,
            Self::Is(key, value) => {
                map.insert(key, value);
                true
            }
            Self::Gone(key) => map.remove(&key).is_some(),
        };
        if changes { Heard::Change } else { Heard::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::selector::DATAPLANE_MODE, *};

    fn pod(uid: &str) -> Pod {
        Pod {
            object_uid: uid.to_owned(),
            uid: uid.to_owned(),
            namespace: "demo".to_owned(),
            name: "curl".to_owned(),
            ..Pod::default()
        }
    }

    fn ambient() -> Labels {
        Labels::from([(DATAPLANE_MODE.to_owned(), "ambient".to_owned())])
    }

    fn all_of(pods: &[Pod]) -> News<Pod> {
        News::All(pods.iter().map(|pod| (pod.object_uid.clone(), pod.clone())).collect())
    }

    #[test]
    fn namespaces_have_the_mode_of_a_pod_that_says_nothing() {
        let rules = Rules {
            excluded: ["kube-system".to_owned()].into(),
            ..Rules::default()
        };
        let store = Store::new(rules);
        assert_eq!(store.modes(), None);
        let namespaces = [
            ("demo", ambient()),
            ("kube-system", ambient()),
            ("plain", Labels::default()),
        ];
        let told = namespaces.map(|(name, labels)| (name.to_owned(), labels));
        store.namespaces(News::All(told.into()));
        let modes = [
            ("demo", Mode::Ambient),
            ("kube-system", Mode::Excluded),
            ("plain", Mode::Other),
        ];
        let modes = modes.map(|(name, mode)| (name.to_owned(), mode));
        assert_eq!(store.modes(), Some(BTreeMap::from(modes)));
    }

    #[test]
    fn nothing_is_intended_before_both_lists_are_there() {
        let store = Store::new(Rules::default());
        store.pods(all_of(&[pod("a")]));
        assert_eq!(store.intents(), None);
        assert_eq!(store.decide(&pod("a")), Intent::Unknown);
        store.namespaces(News::All(vec![("demo".to_owned(), ambient())]));
        let intents = store.intents().unwrap();
        assert!(matches!(intents.as_slice(), [(_, Intent::Enrol(_))]), "{intents:?}");
    }

    #[test]
    fn what_is_not_in_a_new_list_is_gone_and_what_is_held_survives_trouble() {
        let store = Store::new(Rules::default());
        store.namespaces(News::All(vec![]));
        store.pods(all_of(&[pod("a"), pod("b")]));
        store.failed(Of::Pods, "refused".to_owned());
        let began = store.trouble().0.unwrap().since;
        store.failed(Of::Pods, "refused again".to_owned());
        let (trouble, listed) = store.trouble();
        let trouble = trouble.unwrap();
        assert_eq!(
            (trouble.since, trouble.error.as_str(), listed),
            (began, "refused again", true)
        );
        assert_eq!(store.intents().unwrap().len(), 2);
        // One that changes while the other watch has trouble ends nothing.
        store.namespaces(News::Is("demo".to_owned(), ambient()));
        assert!(store.trouble().0.is_some());
        store.pods(all_of(&[pod("b")]));
        assert!(store.trouble().0.is_none());
        assert_eq!(store.count(), 1);
        store.pods(News::Gone("b".to_owned()));
        assert_eq!(store.intents().unwrap().len(), 0);
    }

    #[test]
    fn a_change_of_what_nobody_looks_at_wakes_nobody() {
        let store = Store::new(Rules::default());
        store.pods(News::Is("a".to_owned(), pod("a")));
        let changes = store.changes();
        store.pods(News::Is("a".to_owned(), pod("a")));
        store.pods(News::Gone("b".to_owned()));
        assert!(!changes.has_changed().unwrap());
        store.pods(News::Is("b".to_owned(), pod("b")));
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn amends_what_is_known_and_brings_nothing_back() {
        let store = Store::new(Rules::default());
        store.amend(pod("a"));
        assert_eq!(store.count(), 0);
        store.pods(News::Is("a".to_owned(), pod("a")));
        let changes = store.changes();
        store.amend(pod("a"));
        assert!(!changes.has_changed().unwrap());
        let mut changed = pod("a");
        changed.host_network = true;
        store.amend(changed);
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_waited_for_by_its_uid_and_not_for_ever() {
        let store = Store::new(Rules::default());
        store.namespaces(News::All(vec![("demo".to_owned(), ambient())]));
        store.pods(all_of(&[pod("earlier")]));
        let (name, bound) = (("demo", "curl"), Duration::from_secs(1));
        assert_eq!(store.wait_for("later", name, bound).await, None);
        assert_eq!(store.wait_for("earlier", ("demo", "other"), bound).await, None);
        let waiting = store.wait_for("later", name, bound);
        let telling = async { store.pods(News::Is("later".to_owned(), pod("later"))) };
        let (found, ()) = tokio::join!(waiting, telling);
        assert!(matches!(found, Some(Intent::Enrol(_))), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_whose_namespace_is_not_known_is_not_decided_on() {
        let store = Store::new(Rules::default());
        store.pods(all_of(&[pod("a")]));
        let bound = Duration::from_secs(1);
        assert_eq!(store.wait_for("a", ("demo", "curl"), bound).await, None);
        let telling = async { store.namespaces(News::All(vec![("demo".to_owned(), Labels::new())])) };
        let (found, ()) = tokio::join!(store.wait_for("a", ("demo", "curl"), bound), telling);
        assert!(matches!(found, Some(Intent::Leave(_))), "{found:?}");
    }
}
