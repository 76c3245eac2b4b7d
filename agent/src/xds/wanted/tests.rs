use tokio::{
    sync::oneshot::{Receiver, error::TryRecvError},
    time::advance,
};

use super::*;
use crate::{
    mesh::{Mesh, Snapshot},
    xds::fixture::{held, pod, serving, uid, workload},
};

const A: &str = "net1/10.0.0.1";
const WEB: &str = "demo/web.demo.svc";

type Answer = Receiver<Result<(), Unanswered>>;

fn wanted() -> Wanted {
    let (_, _, asks) = Mesh::on_demand(Snapshot::empty());
    Wanted::new(asks)
}

/// The first request of a stream is answered, and everything was told before.
fn open() -> Wanted {
    let mut wanted = wanted();
    wanted.begin();
    wanted.told(&[], &[]);
    wanted.release();
    wanted
}

fn ask(wanted: &mut Wanted, name: &str, need: Need) -> Answer {
    let (answer, answered) = oneshot::channel();
    let name = name.to_owned();
    let ask = Ask {
        wants: vec![Want { name, need }],
        by: Instant::now() + WAIT,
        answer: Some(answer),
    };
    wanted.hear(ask, Instant::now());
    answered
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What is unsubscribed from, and subscribed to.
fn said(wanted: &mut Wanted, held: &Held) -> (Vec<String>, Vec<String>) {
    let requests = wanted.requests(held);
    let unsubscribed = requests.iter().flat_map(|one| one.resource_names_unsubscribe.clone());
    let subscribed = requests.iter().flat_map(|one| one.resource_names_subscribe.clone());
    for request in &requests {
        assert!(
            !request.resource_names_subscribe.is_empty(),
            "istiod would remove everything"
        );
    }
    (
        unsubscribed.collect(),
        subscribed.filter(|name| name != NOTHING).collect(),
    )
}

fn waits(answer: &mut Answer) -> bool {
    answer.try_recv() == Err(TryRecvError::Empty)
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_once_however_many_wait_for_it() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let mut first = ask(&mut wanted, A, Need::Missing);
    assert_eq!(said(&mut wanted, &held), (vec![], names(&[A])));
    let mut second = ask(&mut wanted, A, Need::Missing);
    assert_eq!(said(&mut wanted, &held), (vec![], vec![]));
    assert!(waits(&mut first) && waits(&mut second));
    wanted.told(&names(&[&uid("a"), A]), &[]);
    assert_eq!((first.try_recv(), second.try_recv()), (Ok(Ok(())), Ok(Ok(()))));
}

#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_remembered_for_a_while_and_asked_again_then() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let mut first = ask(&mut wanted, A, Need::Missing);
    said(&mut wanted, &held);
    wanted.told(&[], &names(&[A]));
    assert_eq!(first.try_recv(), Ok(Ok(())));
    assert_eq!(wanted.told_of().absent, 1);
    let mut second = ask(&mut wanted, A, Need::Missing);
    assert_eq!(second.try_recv(), Ok(Ok(())), "it waits for nothing");
    assert_eq!(said(&mut wanted, &held), (vec![], vec![]));
    // What appears under a name is not pushed.
    advance(BELIEVED).await;
    let mut third = ask(&mut wanted, A, Need::Missing);
    assert!(waits(&mut third));
    let requests = wanted.requests(&held);
    assert_eq!(requests.len(), 2, "istiod would subscribe first");
    assert_eq!(requests[0].resource_names_unsubscribe, [A]);
    assert_eq!(requests[1].resource_names_subscribe, [A]);
    // An istiod that does not answer this time does not hold up what was known.
    advance(RECHECK).await;
    wanted.look();
    assert_eq!(third.try_recv(), Ok(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_is_asked_for_again_at_once() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let _first = ask(&mut wanted, A, Need::Missing);
    said(&mut wanted, &held);
    wanted.told(&names(&[&uid("a"), A]), &[]);
    let mut second = ask(&mut wanted, A, Need::Missing);
    assert_eq!(second.try_recv(), Ok(Ok(())));
    // Another name has nothing: that says nothing of this one.
    let _other = ask(&mut wanted, "net1/10.0.0.2", Need::Missing);
    said(&mut wanted, &held);
    wanted.told(&[], &names(&["net1/10.0.0.2"]));
    let mut third = ask(&mut wanted, A, Need::Missing);
    assert_eq!(third.try_recv(), Ok(Ok(())));
    wanted.told(&[], &[uid("a")]);
    let mut fourth = ask(&mut wanted, A, Need::Missing);
    assert!(waits(&mut fourth));
    assert_eq!(said(&mut wanted, &held), (names(&[A]), names(&[A])));
}

#[tokio::test(start_paused = true)]
async fn without_istiod_only_what_was_answered_before_is_answered() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let _first = ask(&mut wanted, A, Need::Missing);
    said(&mut wanted, &held);
    wanted.told(&[], &names(&[A]));
    wanted.end();
    advance(IDLE).await;
    let mut known = ask(&mut wanted, A, Need::Missing);
    assert_eq!(known.try_recv(), Ok(Ok(())));
    let mut unknown = ask(&mut wanted, "net1/10.0.0.2", Need::Missing);
    wanted.look();
    assert!(waits(&mut unknown));
    advance(WAIT).await;
    wanted.look();
    assert_eq!(unknown.try_recv(), Ok(Err(Unanswered::Away)));
}

#[tokio::test(start_paused = true)]
async fn an_istiod_that_says_nothing_is_told_from_one_that_is_away() {
    let mut wanted = open();
    let mut answer = ask(&mut wanted, A, Need::Missing);
    advance(WAIT).await;
    wanted.look();
    assert_eq!(answer.try_recv(), Ok(Err(Unanswered::Silent)));
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_asks_again_for_what_is_waited_for_and_for_what_was_not_there() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let (absent, found) = ("net1/10.0.0.8", "net1/10.0.0.9");
    let _answers = [absent, found].map(|name| ask(&mut wanted, name, Need::Missing));
    said(&mut wanted, &held);
    wanted.told(&names(&[found]), &names(&[absent]));
    let mut waiting = ask(&mut wanted, A, Need::Missing);
    wanted.end();
    assert!(waits(&mut waiting));
    let mut asked = wanted.begin();
    asked.sort();
    assert_eq!(asked, [A, absent]);
    // Those who come meanwhile are asked for when the answer to these is there.
    let mut late = ask(&mut wanted, "net1/10.0.0.2", Need::Missing);
    assert_eq!(said(&mut wanted, &held), (vec![], vec![]));
    wanted.told(&[], &names(&[A]));
    assert_eq!(waiting.try_recv(), Ok(Ok(())));
    assert!(waits(&mut late), "this was an answer to others");
    assert_eq!(said(&mut wanted, &held), (vec![], names(&["net1/10.0.0.2"])));
    let _again = ask(&mut wanted, found, Need::Missing);
    advance(BELIEVED).await;
    let _again = ask(&mut wanted, found, Need::Missing);
    assert_eq!(
        said(&mut wanted, &held),
        (vec![], names(&[found])),
        "nothing is to be unsubscribed from"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_on_before_what_istiod_told_is_published() {
    let (held, _mesh) = held();
    let mut wanted = wanted();
    wanted.begin();
    wanted.told(&[], &[]);
    let mut answer = ask(&mut wanted, A, Need::Missing);
    said(&mut wanted, &held);
    wanted.told(&names(&[A]), &[]);
    assert!(waits(&mut answer), "policies may be missing");
    wanted.release();
    assert_eq!(answer.try_recv(), Ok(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_service_in_use_is_asked_for_again_with_the_endpoints_it_has() {
    let (mut held, _mesh) = held();
    let service = crate::xds::fixture::service(serving("web.demo.svc", [10, 1, 0, 1]), "1");
    held.upsert(Kind::Address, service).unwrap();
    let endpoint = workload(pod("a", [10, 0, 0, 1], &[WEB]), "7");
    held.upsert(Kind::Address, endpoint).unwrap();
    held.finish(Kind::Address);
    let mut wanted = open();
    let mut by_address = ask(&mut wanted, "net1/10.1.0.1", Need::Missing);
    said(&mut wanted, &held);
    wanted.told(&names(&[WEB, "net1/10.1.0.1", &uid("a"), A]), &[]);
    assert_eq!(by_address.try_recv(), Ok(Ok(())));
    let mut used = ask(&mut wanted, WEB, Need::Endpoints);
    assert_eq!(used.try_recv(), Ok(Ok(())));
    assert_eq!(said(&mut wanted, &held), (vec![], vec![]), "it has come just now");
    advance(REFRESHED).await;
    let mut used = ask(&mut wanted, WEB, Need::Endpoints);
    assert_eq!(used.try_recv(), Ok(Ok(())), "nobody waits for it");
    let requests = wanted.requests(&held);
    let last = requests.last().unwrap();
    assert_eq!(last.resource_names_subscribe, [WEB]);
    let expected = [(uid("a"), "7".to_owned())].into();
    assert_eq!(last.initial_resource_versions, expected);
}

#[tokio::test(start_paused = true)]
async fn what_istiod_follows_already_is_unsubscribed_from_before_it_is_asked_for() {
    let (mut held, _mesh) = held();
    let service = crate::xds::fixture::service(serving("web.demo.svc", [10, 1, 0, 1]), "1");
    held.upsert(Kind::Address, service).unwrap();
    held.finish(Kind::Address);
    let mut wanted = open();
    let _used = ask(&mut wanted, WEB, Need::Endpoints);
    assert_eq!(
        said(&mut wanted, &held),
        (names(&[WEB]), names(&[WEB])),
        "it was listed as a resource"
    );
    wanted.told(&names(&[WEB]), &[]);
    held.remove(Kind::Address, WEB);
    wanted.told(&[], &names(&[WEB, "demo/other.demo.svc"]));
    advance(BELIEVED).await;
    for name in [WEB, "demo/other.demo.svc"] {
        let _missed = ask(&mut wanted, name, Need::Missing);
        assert_eq!(said(&mut wanted, &held), (names(&[name]), names(&[name])));
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_was_not_answered_is_repeated() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let _first = ask(&mut wanted, A, Need::Missing);
    assert_eq!(said(&mut wanted, &held), (vec![], names(&[A])));
    advance(REPEATED).await;
    for expected in [names(&[A]), vec![]] {
        let _again = ask(&mut wanted, A, Need::Missing);
        assert_eq!(said(&mut wanted, &held), (expected.clone(), expected));
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_given_up_with_what_only_it_brought() {
    let (mut held, mesh) = held();
    let mut wanted = open();
    let mut here = pod("here", [10, 0, 0, 4], &[]);
    here.node = "node".to_owned();
    for pod in [
        pod("a", [10, 0, 0, 1], &[]),
        pod("b", [10, 0, 0, 2], &[]),
        pod("own", [10, 0, 0, 3], &[]),
        here,
    ] {
        held.upsert(Kind::Address, workload(pod, "1")).unwrap();
    }
    held.finish(Kind::Address);
    let b = "net1/10.0.0.2";
    let own = "net1/10.0.0.3";
    let _answers =
        [(A, Need::Missing), (b, Need::Missing), (own, Need::Own)].map(|(name, need)| ask(&mut wanted, name, need));
    said(&mut wanted, &held);
    wanted.told(&names(&[A, b, own]), &[]);
    advance(IDLE / 2).await;
    assert_eq!(wanted.tidy(&mut held, "node"), 0);
    let _used = ask(&mut wanted, b, Need::Held);
    advance(IDLE / 2).await;
    assert_eq!(wanted.tidy(&mut held, "node"), 1, "{:?}", held.sizes());
    let (unsubscribed, subscribed) = said(&mut wanted, &held);
    assert_eq!(unsubscribed, [A.to_owned(), uid("a")]);
    assert!(subscribed.is_empty());
    assert_eq!(mesh.current().sizes(), [3, 0, 0]);
    assert!(mesh.current().workload(&uid("a")).is_none());
    advance(TIDY).await;
    assert_eq!(wanted.tidy(&mut held, "node"), 0);
    wanted.end();
    advance(10 * IDLE).await;
    assert_eq!(
        wanted.tidy(&mut held, "node"),
        0,
        "while istiod is away nothing could be asked for again"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_to_be_done_without_a_stream_and_without_questions() {
    let (mut held, _mesh) = held();
    let mut wanted = open();
    wanted.end();
    advance(2 * TIDY).await;
    for _ in 0..2 {
        let stirred = tokio::time::timeout(2 * TIDY, wanted.stir()).await;
        assert!(stirred.is_err(), "it would be busy while istiod is away");
        wanted.begin();
    }
    wanted.told(&[], &[]);
    for _ in 0..3 {
        let before = Instant::now();
        wanted.stir().await;
        wanted.tidy(&mut held, "");
        assert!(wanted.tidy > before, "once a while");
    }
    let before = Instant::now();
    wanted.stir().await;
    assert_eq!(before.elapsed(), TIDY);
}

#[tokio::test(start_paused = true)]
async fn there_are_never_too_many_names() {
    let (held, _mesh) = held();
    let mut wanted = open();
    let mut first = ask(&mut wanted, "net1/first", Need::Missing);
    let mut unsubscribed = Vec::new();
    for at in 0..2 * MOST {
        advance(Duration::from_millis(1)).await;
        let _gone = ask(&mut wanted, &format!("net1/{at}"), Need::Missing);
        if at % 1000 == 0 {
            let there: Vec<String> = (0..=at).map(|at| format!("net1/{at}")).collect();
            unsubscribed.extend(said(&mut wanted, &held).0);
            wanted.told(&[], &there);
        }
    }
    assert!(wanted.names.len() <= MOST);
    assert_eq!(
        first.try_recv(),
        Ok(Err(Unanswered::Silent)),
        "it is not taken for answered"
    );
    assert!(unsubscribed.contains(&"net1/first".to_owned()));
}
