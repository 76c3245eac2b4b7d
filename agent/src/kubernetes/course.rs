//! How enrolling and annotating one pod went so far. Lives as long as the pod is known.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{annotations::Remark, back_off::BackOff, eligibility::Intent, reconcile::Course};

/// The first wait after a failure, doubled with each further one, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// What was refused for good is looked at again after so long: the node may have changed.
const REFUSED: Duration = Duration::from_secs(300);
/// Least time between two events about one pod.
const BETWEEN_EVENTS: Duration = Duration::from_secs(600);

/// The course of one pod.
#[derive(Clone, Debug)]
pub(super) struct PodCourse {
    /// What all below is about: something else is a new beginning.
    about: (Intent, Vec<IpAddr>),
    enrolling: Tries,
    writing: Tries,
    refused: bool,
    /// The annotation is being written.
    pub(super) is_writing: bool,
    told: Option<Instant>,
    remarked: bool,
    /// What was said to be left in the pod.
    leftover: Option<String>,
}

#[derive(Clone, Debug)]
struct Tries {
    back_off: BackOff,
    /// When the next one is due, and why the last one failed.
    failed: Option<(Instant, String)>,
}

impl PodCourse {
    pub(super) fn new(intent: &Intent, ips: &[IpAddr]) -> Self {
        Self {
            about: (intent.clone(), ips.to_vec()),
            enrolling: Tries::new(),
            writing: Tries::new(),
            refused: false,
            is_writing: false,
            told: None,
            remarked: false,
            leftover: None,
        }
    }

    /// Begins anew if what is intended, or the pod's network, is not what it was.
    pub(super) fn follow(&mut self, intent: &Intent, ips: &[IpAddr]) {
        if self.about.0 != *intent || self.about.1 != ips {
            self.remarked &= self.about.0 == *intent;
            self.about = (intent.clone(), ips.to_vec());
            self.enrolling = Tries::new();
            self.refused = false;
        }
    }

    /// What the pod asks for and does not get, the first time.
    pub(super) fn remarks(&mut self) -> Vec<Remark> {
        match &self.about.0 {
            Intent::Enrol(terms) if !self.remarked => {
                self.remarked = true;
                terms.remarks.clone()
            }
            _ => Vec::new(),
        }
    }

    /// What istio-cni has left in the pod, when it was not said before and something may be said now.
    pub(super) fn news_of_leftover(&mut self, now: Instant, left: Option<&str>) -> Option<String> {
        if left.is_none() {
            self.leftover = None;
        }
        let news = left.filter(|left| self.leftover.as_deref() != Some(left))?;
        if self.may_tell(now) {
            self.leftover = Some(news.to_owned());
            return self.leftover.clone();
        }
        None
    }

    pub(super) fn enrolling(&self, now: Instant) -> Course {
        match &self.enrolling.failed {
            None => Course::Clear,
            Some((due, _)) if *due <= now => Course::Due,
            Some(_) if self.refused => Course::Refused,
            Some(_) => Course::Waiting,
        }
    }

    /// Whether the annotation may be written now.
    pub(super) fn may_write(&self, now: Instant) -> bool {
        !self.is_writing && self.writing.failed.as_ref().is_none_or(|(due, _)| *due <= now)
    }

    /// It was not enrolled. Whether somebody is to be told.
    pub(super) fn not_enrolled(&mut self, now: Instant, why: String, retriable: bool) -> bool {
        self.refused = !retriable;
        let wait = self.enrolling.back_off.after_failure(rand::random());
        let wait = if retriable { wait } else { REFUSED };
        self.enrolling.failed = Some((now + wait, why));
        self.may_tell(now)
    }

    pub(super) fn enrolled(&mut self) {
        self.enrolling = Tries::new();
        self.refused = false;
    }

    pub(super) fn not_written(&mut self, now: Instant, why: String) {
        let wait = self.writing.back_off.after_failure(rand::random());
        self.writing.failed = Some((now + wait, why));
    }

    pub(super) fn written(&mut self) {
        self.writing = Tries::new();
    }

    /// An event is written about a pod now and then only.
    pub(super) fn may_tell(&mut self, now: Instant) -> bool {
        let may = self.told.is_none_or(|told| now.duration_since(told) >= BETWEEN_EVENTS);
        if may {
            self.told = Some(now);
        }
        may
    }

    /// When it is to be looked at again, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        let writing = self.writing.failed.as_ref().filter(|_| !self.is_writing);
        let both = [self.enrolling.failed.as_ref(), writing];
        both.into_iter().flatten().map(|(due, _)| *due).min()
    }

    /// What is wrong, and in how many seconds it is tried again.
    pub(super) fn troubles(&self, now: Instant) -> Vec<(String, Option<u64>)> {
        let seconds = |due: Instant| Some(due.saturating_duration_since(now).as_secs());
        let mut found = Vec::new();
        if let Some((due, why)) = &self.enrolling.failed {
            found.push((format!("it is not enrolled: {why}"), seconds(*due)));
        }
        if let Some((due, why)) = &self.writing.failed {
            found.push((format!("its annotation was not written: {why}"), seconds(*due)));
        }
        if let Intent::Enrol(terms) = &self.about.0 {
            found.extend(terms.remarks.iter().map(|remark| (remark.to_string(), None)));
        }
        found
    }
}

impl Tries {
    fn new() -> Self {
        Self {
            back_off: BackOff::new(WAITS.0, WAITS.1),
            failed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::eligibility::Because, *};

    const LEFT: Intent = Intent::Leave(Because::NotSelected);

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn after_a_failure_it_waits_and_then_is_due() {
        let now = Instant::now();
        let mut course = PodCourse::new(&LEFT, &[]);
        assert_eq!((course.enrolling(now), course.due()), (Course::Clear, None));
        assert!(course.not_enrolled(now, "why".to_owned(), true));
        assert_eq!(course.enrolling(now), Course::Waiting);
        assert_eq!(course.enrolling(now + WAITS.0), Course::Due);
        assert!(course.due().unwrap() <= now + WAITS.0);
        assert!(course.troubles(now)[0].0.contains("why"));
        for _ in 0..20 {
            course.not_enrolled(now, "why".to_owned(), true);
        }
        assert!(course.due().unwrap() <= now + WAITS.1, "waits have a longest");
        course.enrolled();
        assert_eq!((course.enrolling(now), course.due()), (Course::Clear, None));
    }

    #[test]
    fn what_is_left_in_a_pod_is_said_once_and_not_too_often() {
        let now = Instant::now();
        let mut course = PodCourse::new(&LEFT, &[]);
        assert_eq!(course.news_of_leftover(now, None), None);
        assert_eq!(course.news_of_leftover(now, Some("a")).as_deref(), Some("a"));
        assert_eq!(course.news_of_leftover(now + BETWEEN_EVENTS, Some("a")), None);
        assert_eq!(course.news_of_leftover(now, Some("b")), None, "too soon");
        let later = now + BETWEEN_EVENTS;
        assert_eq!(course.news_of_leftover(later, Some("b")).as_deref(), Some("b"));
    }

    #[test]
    fn a_refusal_stands_until_the_pod_changes() {
        let now = Instant::now();
        let mut course = PodCourse::new(&LEFT, &[ip(1)]);
        course.not_enrolled(now, "gVisor".to_owned(), false);
        course.follow(&LEFT, &[ip(1)]);
        assert_eq!(course.enrolling(now + WAITS.1), Course::Refused);
        assert_eq!(course.enrolling(now + REFUSED), Course::Due);
        course.follow(&LEFT, &[ip(2)]);
        assert_eq!(course.enrolling(now), Course::Clear);
        course.not_enrolled(now, "gVisor".to_owned(), false);
        course.follow(&Intent::Unknown, &[ip(2)]);
        assert_eq!(course.enrolling(now), Course::Clear);
    }

    #[test]
    fn writing_has_waits_of_its_own() {
        let now = Instant::now();
        let mut course = PodCourse::new(&LEFT, &[]);
        assert!(course.may_write(now));
        course.is_writing = true;
        assert!(!course.may_write(now));
        course.is_writing = false;
        course.not_written(now, "forbidden".to_owned());
        assert!(!course.may_write(now) && course.may_write(now + WAITS.0));
        assert_eq!(course.enrolling(now), Course::Clear);
        course.written();
        assert!(course.may_write(now) && course.troubles(now).is_empty());
    }

    #[test]
    fn events_about_one_pod_are_rare() {
        let now = Instant::now();
        let mut course = PodCourse::new(&LEFT, &[]);
        assert!(course.not_enrolled(now, "one".to_owned(), true));
        assert!(!course.not_enrolled(now, "two".to_owned(), true));
        assert!(course.not_enrolled(now + BETWEEN_EVENTS, "three".to_owned(), true));
    }
}
