mod kept;
mod wanted;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::sleep;

use super::keeper::{FIRST_BACK_OFF, IDLE_WITHOUT_CERTIFICATE, LONGEST_BACK_OFF, back_off, until_renewal};
use super::state::SOON;
use super::*;
use crate::identity::embedded_ca::{EmbeddedCa, Terms};

const SECOND: Duration = Duration::from_secs(1);
const LIFE: Duration = Duration::from_secs(10_000);

/// A wall clock that goes as tokio's paused one, and can be set.
struct TestClock {
    born: Instant,
    start: SystemTime,
    ahead: Mutex<Duration>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        // Certificates know whole seconds.
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Arc::new(Self {
            born: Instant::now(),
            start,
            ahead: Mutex::default(),
        })
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        self.start + self.born.elapsed() + *self.ahead.lock().unwrap()
    }
}

#[derive(Clone, Copy)]
enum Answer {
    Good,
    GoodAfter(Duration),
    Refuse,
    RefuseAfter(Duration),
    Silence,
    NotYetValid,
    Expired,
    SomebodyElse,
    Panic,
}

/// A source that answers by a list, then always the same, and notes when it was asked.
struct Script {
    ca: EmbeddedCa,
    other_ca: EmbeddedCa,
    /// 0: the first CA answers; 1: the two take turns; 2: the other one answers.
    alternate: AtomicUsize,
    clock: Arc<TestClock>,
    first: Mutex<VecDeque<Answer>>,
    then: Mutex<Answer>,
    asked: Mutex<Vec<Duration>>,
    under_way: Arc<AtomicUsize>,
}

struct World {
    clock: Arc<TestClock>,
    script: Arc<Script>,
    certificates: Certificates,
}

impl World {
    fn new(first: &[Answer], then: Answer) -> Self {
        let clock = TestClock::new();
        let script = Arc::new(Script {
            ca: EmbeddedCa::throwaway(),
            other_ca: EmbeddedCa::throwaway(),
            alternate: AtomicUsize::new(0),
            clock: clock.clone(),
            first: Mutex::new(first.iter().copied().collect()),
            then: Mutex::new(then),
            asked: Mutex::default(),
            under_way: Arc::default(),
        });
        let source: Arc<dyn CertificateSource> = script.clone();
        Self {
            certificates: Certificates::made(source, clock.clone(), None),
            clock,
            script,
        }
    }

    fn then_always(&self, then: Answer) {
        *self.script.then.lock().unwrap() = then;
    }

    fn times_asked(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }

    async fn get(&self) -> Result<Arc<Certificate>, CertificateError> {
        self.certificates.get(&web()).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_told_without_asking_for_anything() {
    let world = World::new(&[Answer::Refuse], Answer::Good);
    assert!(world.certificates.held(&web()).is_none());
    assert_eq!(world.times_asked(), 0);
    world.get().await.unwrap_err();
    let held = world.certificates.held(&web()).unwrap();
    assert!(held.certificate.is_none());
    assert!(held.failure.unwrap().contains("no such pod"));
    // Past the back-off.
    sleep(2 * SECOND).await;
    let certificate = world.get().await.unwrap();
    let held = world.certificates.held(&web()).unwrap();
    assert!(Arc::ptr_eq(&held.certificate.unwrap(), &certificate));
    assert_eq!(held.failure, None);
}

impl Script {
    fn turn_to_other_roots(&self) {
        self.alternate.store(2, Ordering::SeqCst);
    }

    fn ca(&self) -> &EmbeddedCa {
        let is_odd = self.asked.lock().unwrap().len() % 2 == 1;
        match (self.alternate.load(Ordering::SeqCst), is_odd) {
            (1, true) | (2, _) => &self.other_ca,
            _ => &self.ca,
        }
    }
}

impl CertificateSource for Script {
    fn issue(&self, id: SpiffeId) -> BoxFuture<'static, Result<Arc<Certificate>, IssueError>> {
        self.asked.lock().unwrap().push(self.clock.born.elapsed());
        let answer = self
            .first
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(*self.then.lock().unwrap());
        let now = self.clock.now();
        let make = |id: SpiffeId, not_before: SystemTime, not_after: SystemTime| {
            let pem = self.ca().issue_pem(&id, Terms { not_before, not_after }).unwrap();
            Ok(Arc::new(Certificate::from_pem(id, &pem).unwrap()))
        };
        let refusal = || Err(IssueError::Authority(Box::new(io::Error::other("no such pod"))));
        let (delay, result) = match answer {
            Answer::Good => (Duration::ZERO, make(id, now, now + LIFE)),
            Answer::GoodAfter(delay) => (delay, make(id, now, now + LIFE)),
            Answer::Refuse => (Duration::ZERO, refusal()),
            Answer::RefuseAfter(delay) => (delay, refusal()),
            Answer::Silence => (Duration::from_secs(1_000_000), refusal()),
            Answer::NotYetValid => (Duration::ZERO, make(id, now + 60 * SECOND, now + LIFE)),
            Answer::Expired => (Duration::ZERO, make(id, now - LIFE, now - 60 * SECOND)),
            Answer::SomebodyElse => (Duration::ZERO, make(db(), now, now + LIFE)),
            Answer::Panic => panic!("as a broken source might"),
        };
        let guard = UnderWay::new(&self.under_way);
        async move {
            sleep(delay).await;
            drop(guard);
            result
        }
        .boxed()
    }
}

/// Counts requests that were neither answered nor dropped.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", "web").unwrap()
}

fn db() -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", "db").unwrap()
}

fn whole(error: &CertificateError) -> String {
    with_causes(error)
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_issue() {
    let world = World::new(&[], Answer::GoodAfter(5 * SECOND));
    let answers = join_all((0..50).map(|_| world.get())).await;
    let first = answers[0].as_ref().unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| Arc::ptr_eq(answer.as_ref().unwrap(), first))
    );
    assert_eq!(world.times_asked(), 1);
    // Another identity is another question.
    world.certificates.get(&db()).await.unwrap();
    assert_eq!(world.times_asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_its_error() {
    let world = World::new(&[Answer::RefuseAfter(5 * SECOND)], Answer::Good);
    let answers = join_all((0..50).map(|_| world.get())).await;
    assert_eq!(world.times_asked(), 1);
    for answer in answers {
        assert_eq!(
            whole(&answer.unwrap_err()),
            "no certificate for spiffe://cluster.local/ns/demo/sa/web: the CA gave no certificate: no such pod"
        );
    }
    sleep(SECOND).await;
    world.get().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn renewed_at_half_life() {
    let world = World::new(&[], Answer::Good);
    let _pod = world.certificates.want(&web());
    let first = world.get().await.unwrap();
    sleep(LIFE * 44 / 100).await;
    assert!(Arc::ptr_eq(&first, &world.get().await.unwrap()));
    assert_eq!(world.times_asked(), 1);
    sleep(LIFE * 12 / 100).await;
    assert_eq!(world.times_asked(), 2);
    let second = world.get().await.unwrap();
    assert!(second.not_after() > first.not_after());
}

#[tokio::test(start_paused = true)]
async fn served_while_the_source_fails_until_it_expires() {
    let world = World::new(&[Answer::Good], Answer::Refuse);
    let _pod = world.certificates.want(&web());
    let only = world.get().await.unwrap();
    // Past the second, so that the next attempt is not due at the moment it is asked for.
    sleep(LIFE - SECOND).await;
    assert!(world.times_asked() > 10, "it was asked again and again");
    assert!(Arc::ptr_eq(&only, &world.get().await.unwrap()));
    sleep(3 * SECOND).await;
    let error = world.get().await.unwrap_err();
    // It waits for an attempt that is due within two seconds.
    assert!(
        matches!(error, CertificateError::Expired { seconds: 2..=4, .. }),
        "{error}"
    );
    let text = whole(&error);
    assert!(text.contains("expired ") && text.ends_with("no such pod"), "{text}");

    world.then_always(Answer::Good);
    sleep(LONGEST_BACK_OFF).await;
    assert!(world.get().await.unwrap().not_after() > only.not_after());
}

#[tokio::test(start_paused = true)]
async fn failures_are_spaced_and_callers_do_not_hurry_them() {
    let world = World::new(&[], Answer::Refuse);
    while world.clock.born.elapsed() < Duration::from_secs(1_000) {
        assert!(world.get().await.is_err());
        sleep(Duration::from_millis(50)).await;
    }
    let asked = world.script.asked.lock().unwrap().clone();
    let gaps: Vec<f64> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!(gaps.len() > 9, "{gaps:?}");
    for (index, gap) in gaps.iter().enumerate() {
        let full = (0.5 * 2_f64.powi(i32::try_from(index).unwrap())).min(150.0);
        assert!(
            (full * 0.8 - 0.01..=full + 0.01).contains(gap),
            "gap {index} of {gap} s, at most {full} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_back_off() {
    let world = World::new(
        &[Answer::Refuse, Answer::Refuse, Answer::Refuse, Answer::Good],
        Answer::Refuse,
    );
    let _pod = world.certificates.want(&web());
    assert!(world.get().await.is_err());
    sleep(LIFE * 58 / 100).await;
    let asked = world.script.asked.lock().unwrap().clone();
    let renewal = asked.iter().position(|at| *at > LIFE / 3).unwrap();
    assert_eq!(renewal, 4);
    assert!(
        asked[5] - asked[4] <= FIRST_BACK_OFF + Duration::from_millis(2),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn useless_certificates_are_refused() {
    let world = World::new(&[Answer::NotYetValid], Answer::Good);
    let text = whole(&world.get().await.unwrap_err());
    let mut seconds = 30..=60;
    assert!(
        seconds.any(|seconds| text.contains(&format!("begins in {seconds} s;"))),
        "{text}"
    );

    let world = World::new(&[Answer::Expired], Answer::Good);
    let text = whole(&world.get().await.unwrap_err());
    let mut seconds = 60..90;
    assert!(
        seconds.any(|seconds| text.contains(&format!("ended {seconds} s ago;"))),
        "{text}"
    );

    let world = World::new(&[Answer::SomebodyElse], Answer::Good);
    let text = whole(&world.get().await.unwrap_err());
    assert!(text.contains("is for spiffe://cluster.local/ns/demo/sa/db"), "{text}");
    // None of them is kept: the next attempt's is given.
    sleep(SECOND).await;
    assert_eq!(world.get().await.unwrap().id(), &web());
}

#[tokio::test(start_paused = true)]
async fn a_not_yet_valid_renewal_does_not_replace_a_valid_certificate() {
    let world = World::new(&[Answer::Good], Answer::NotYetValid);
    let _pod = world.certificates.want(&web());
    let only = world.get().await.unwrap();
    sleep(LIFE * 60 / 100).await;
    assert!(world.times_asked() > 1);
    assert!(Arc::ptr_eq(&only, &world.get().await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_is_given_up() {
    let world = World::new(&[], Answer::Silence);
    let text = whole(&world.get().await.unwrap_err());
    assert!(text.ends_with("the CA did not answer within 10 s"), "{text}");
    assert_eq!(world.script.under_way.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn forgetting_ends_renewal_and_waiting() {
    let world = World::new(&[Answer::Good], Answer::Silence);
    world.get().await.unwrap();
    world.certificates.shared.forget(&web(), |_| true);
    sleep(10 * LIFE).await;
    assert_eq!(world.times_asked(), 1, "nobody renews it");

    let (answer, ()) = tokio::join!(world.get(), async {
        sleep(SECOND).await;
        assert_eq!(world.script.under_way.load(Ordering::SeqCst), 1);
        world.certificates.shared.forget(&web(), |_| true);
    });
    assert!(matches!(answer, Err(CertificateError::Released { .. })));
    assert_eq!(world.script.under_way.load(Ordering::SeqCst), 0);
    assert!(world.certificates.shared.lock().is_empty());

    world.then_always(Answer::Good);
    world.get().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_dropped() {
    let world = World::new(&[], Answer::Good);
    world.get().await.unwrap();
    sleep(LIFE * 20 / 100).await;
    world.get().await.unwrap();
    sleep(LIFE * 50 / 100).await;
    assert_eq!(world.certificates.shared.lock().len(), 1, "it was asked for once more");
    assert_eq!(world.times_asked(), 2);
    sleep(LIFE).await;
    assert!(world.certificates.shared.lock().is_empty());
    assert_eq!(world.times_asked(), 2, "it is not renewed for nobody");

    let world = World::new(&[], Answer::Refuse);
    assert!(world.get().await.is_err());
    sleep(2 * IDLE_WITHOUT_CERTIFICATE).await;
    assert!(world.certificates.shared.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_stays() {
    let world = World::new(&[], Answer::Good);
    for _ in 0..100 {
        world.get().await.unwrap();
        sleep(LIFE / 10).await;
    }
    let renewals = world.times_asked();
    assert!((18..=24).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_renews_on_demand() {
    let world = World::new(&[], Answer::Good);
    let before = world.get().await.unwrap();
    *world.clock.ahead.lock().unwrap() = 2 * LIFE;
    let after = world.get().await.unwrap();
    assert!(after.not_before() > before.not_after());
    assert_eq!(world.times_asked(), 2);
    assert!(world.clock.born.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_cache_ends_its_keepers() {
    let world = World::new(&[], Answer::Silence);
    let certificates = world.certificates.clone();
    let caller = tokio::spawn(async move { certificates.get(&web()).await });
    sleep(SECOND).await;
    assert_eq!(world.script.under_way.load(Ordering::SeqCst), 1);
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let script = world.script.clone();
    drop(world);
    sleep(SECOND).await;
    assert_eq!(script.under_way.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_harms_one_attempt() {
    let world = World::new(&[Answer::Panic], Answer::Good);
    assert!(matches!(world.get().await, Err(CertificateError::Released { .. })));
    world.get().await.unwrap();
}

#[test]
fn a_keeper_whose_runtime_is_gone_is_replaced() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let certificates = Certificates::new(Arc::new(EmbeddedCa::throwaway()));
    let first = runtime().block_on(certificates.get(&web())).unwrap();
    let second = runtime().block_on(certificates.get(&web())).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}

#[test]
fn renewal_stays_within_a_tenth_of_half_life_and_never_spins() {
    let ca = EmbeddedCa::throwaway();
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let pem = ca
        .issue_pem(
            &web(),
            Terms {
                not_before: begin,
                not_after: begin + 1000 * SECOND,
            },
        )
        .unwrap();
    let certificate = Certificate::from_pem(web(), &pem).unwrap();
    let wait = |at: u32, jitter| until_renewal(&certificate, begin + at * SECOND, jitter);
    assert_eq!(wait(0, 0.0), 500 * SECOND);
    assert_eq!(wait(0, -1.0), 450 * SECOND);
    assert_eq!(wait(0, 1.0), 550 * SECOND);
    assert_eq!(wait(100, 0.0), 400 * SECOND);
    assert_eq!(wait(800, 0.0), 100 * SECOND, "half of what is left");
    assert_eq!(wait(1000, 0.0), FIRST_BACK_OFF);
    assert_eq!(wait(2000, 0.0), FIRST_BACK_OFF);
}

#[test]
fn back_off_doubles_to_a_bound() {
    assert_eq!(back_off(1, 0.0), Duration::from_millis(500));
    assert_eq!(back_off(1, 1.0), Duration::from_millis(400));
    assert_eq!(back_off(4, 0.0), 4 * SECOND);
    assert_eq!(back_off(9, 0.0), 128 * SECOND);
    for failures in [10, 33, u32::MAX] {
        assert_eq!(back_off(failures, 0.0), LONGEST_BACK_OFF);
    }
}
