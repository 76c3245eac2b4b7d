//! Certificates fetched ahead, whose turn it is, and what new roots do.

use rustls::pki_types::CertificateDer;

use super::super::keeper::{ROOTS_PAUSE, SPREAD, same_set};
use super::*;

fn numbered(number: usize) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", &format!("pod-{number}")).unwrap()
}

/// Lets everything happen that is due.
async fn settle() {
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_there_before_anybody_asks_and_goes_with_the_last_who_wanted_it() {
    let world = World::new(&[], Answer::Good);
    let [one, other] = [(); 2].map(|()| world.certificates.want(&web()));
    assert_eq!(one.id(), &web());
    settle().await;
    let held = world.certificates.held(&web()).unwrap();
    let certificate = held.certificate.unwrap();
    let due = held.next_attempt.unwrap().duration_since(certificate.not_before());
    assert!((LIFE * 45 / 100..LIFE * 55 / 100).contains(&due.unwrap()));
    assert!(Arc::ptr_eq(&certificate, &world.get().await.unwrap()));
    drop(one);
    sleep(3 * LIFE).await;
    assert!(world.times_asked() >= 5, "it is renewed, asked for or not");
    assert_eq!(
        world.certificates.list().iter().map(|(id, _)| id).collect::<Vec<_>>(),
        [&web()]
    );
    let asked = world.times_asked();
    drop(other);
    assert!(world.certificates.list().is_empty());
    sleep(3 * LIFE).await;
    assert_eq!(world.times_asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_tried_for_as_long_as_it_is_wanted() {
    let world = World::new(&[], Answer::Refuse);
    let pod = world.certificates.want(&web());
    sleep(4 * IDLE_WITHOUT_CERTIFICATE).await;
    let held = world.certificates.held(&web()).unwrap();
    assert!(held.certificate.is_none() && held.failure.unwrap().contains("no such pod"));
    assert!(held.next_attempt.is_some());
    world.then_always(Answer::Good);
    sleep(LONGEST_BACK_OFF).await;
    assert!(world.certificates.held(&web()).unwrap().certificate.is_some());
    drop(pod);
    assert!(world.certificates.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_for_an_attempt_that_is_due_soon_and_for_no_other() {
    let world = World::new(&[Answer::Refuse], Answer::Good);
    let _pod = world.certificates.want(&web());
    settle().await;
    assert!(world.certificates.held(&web()).unwrap().failure.is_some());
    world.get().await.unwrap();

    let world = World::new(&[], Answer::Refuse);
    let _pod = world.certificates.want(&web());
    sleep(10 * SECOND).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let asked_at = Instant::now();
        assert!(world.get().await.is_err());
        assert!(asked_at.elapsed() <= SOON);
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_overcome_at_once_when_the_mesh_knows_better() {
    let world = World::new(&[], Answer::Refuse);
    let _pod = world.certificates.want(&web());
    sleep(100 * SECOND).await;
    world.then_always(Answer::Good);
    let asked = world.times_asked();
    world.certificates.retry(&web());
    settle().await;
    assert_eq!(world.times_asked(), asked + 1);
    world.get().await.unwrap();
    world.certificates.retry(&web());
    settle().await;
    assert_eq!(world.times_asked(), asked + 1, "there is nothing to overcome");
}

#[tokio::test(start_paused = true)]
async fn at_most_eight_are_asked_for_at_once_and_half_of_those_ahead() {
    let world = World::new(&[], Answer::GoodAfter(SECOND));
    let pods: Vec<_> = (0..30)
        .map(|number| world.certificates.want(&numbered(number)))
        .collect();
    settle().await;
    assert_eq!(world.script.under_way.load(Ordering::SeqCst), 4);
    let asking = async {
        let ids: Vec<_> = (40..60).map(numbered).collect();
        join_all(ids.iter().map(|id| world.certificates.get(id))).await
    };
    let watching = async {
        settle().await;
        assert_eq!(world.script.under_way.load(Ordering::SeqCst), 8);
    };
    let began = Instant::now();
    let (answers, ()) = tokio::join!(asking, watching);
    assert!(answers.iter().all(Result::is_ok));
    // Twenty that are awaited have four turns of their own, and what the thirty leave.
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    sleep(10 * SECOND).await;
    assert_eq!(world.times_asked(), 50);
    drop(pods);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_served_before_those_that_are_fetched_ahead() {
    let world = World::new(&[], Answer::GoodAfter(SECOND));
    let pods: Vec<_> = (0..100)
        .map(|number| world.certificates.want(&numbered(number)))
        .collect();
    settle().await;
    // The last in the queue would have its turn after 24 s.
    let began = Instant::now();
    world.certificates.get(&numbered(99)).await.unwrap();
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    drop(pods);
}

#[tokio::test(start_paused = true)]
async fn everything_is_asked_for_anew_within_half_a_minute_and_serves_meanwhile() {
    let world = World::new(&[], Answer::Good);
    let pods: Vec<_> = (0..20)
        .map(|number| world.certificates.want(&numbered(number)))
        .collect();
    settle().await;
    let before = world.certificates.list();
    world.certificates.renew_all();
    settle().await;
    assert!(world.times_asked() < 40, "not all at once");
    assert!(
        world
            .certificates
            .list()
            .iter()
            .all(|(_, held)| held.certificate.is_some())
    );
    sleep(SPREAD).await;
    assert_eq!(world.times_asked(), 40);
    for ((_, one), (_, other)) in before.iter().zip(world.certificates.list()) {
        assert_ne!(
            one.certificate.as_ref().unwrap().serial(),
            other.certificate.unwrap().serial()
        );
    }
    sleep(LIFE / 4).await;
    assert_eq!(world.times_asked(), 40, "once");
    drop(pods);
}

#[tokio::test(start_paused = true)]
async fn other_roots_in_an_answer_have_all_others_renewed() {
    let world = World::new(&[], Answer::Good);
    let pods: Vec<_> = (0..10)
        .map(|number| world.certificates.want(&numbered(number)))
        .collect();
    settle().await;
    let old = world.get().await.unwrap().roots().clone();
    sleep(LIFE / 10).await;
    assert_eq!(world.times_asked(), 11, "the same roots move nobody");
    world.script.turn_to_other_roots();
    let _late = world.certificates.want(&numbered(99));
    sleep(SPREAD + SECOND).await;
    for (id, held) in world.certificates.list() {
        assert!(!same_set(held.certificate.unwrap().roots(), &old), "{id}");
    }
    assert_eq!(
        world.times_asked(),
        22,
        "and the eleventh, which nobody wants, is dropped"
    );
    drop(pods);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_gives_now_these_roots_now_those_is_not_asked_without_end() {
    let world = World::new(&[], Answer::Good);
    let pods: Vec<_> = (0..10)
        .map(|number| world.certificates.want(&numbered(number)))
        .collect();
    settle().await;
    world.script.alternate.store(1, Ordering::SeqCst);
    world.certificates.renew_all();
    sleep(SPREAD + SECOND).await;
    let asked = world.times_asked();
    assert!(asked >= 20);
    // Each of the ten once at a time, and then once a pause.
    sleep(2 * ROOTS_PAUSE).await;
    assert!(world.times_asked() <= asked + 10 * 4, "{}", world.times_asked() - asked);
    drop(pods);
}

#[test]
fn sets_of_roots_are_compared_whatever_their_order() {
    let set = |list: &[&'static [u8]]| list.iter().copied().map(CertificateDer::from).collect::<Vec<_>>();
    let (one, two) = (b"one".as_slice(), b"two".as_slice());
    assert!(same_set(&set(&[one, two]), &set(&[two, one, one])));
    assert!(!same_set(&set(&[one, two]), &set(&[one])));
    assert!(!same_set(&set(&[one]), &set(&[one, two])));
}
