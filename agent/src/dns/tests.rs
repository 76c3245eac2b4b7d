use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;

/// Answers when it is let, with what it was told; a server that is slow on cue.
#[derive(Clone)]
struct Scripted(Arc<Script>);

struct Script {
    answer: Mutex<Result<Answer, DnsError>>,
    asked: AtomicUsize,
    answers: Semaphore,
}

impl Scripted {
    fn new(addresses: &[&str], seconds: u64) -> Self {
        let script = Self(Arc::new(Script {
            answer: Mutex::new(Ok(Answer {
                addresses: Vec::new(),
                valid: Duration::ZERO,
            })),
            asked: AtomicUsize::new(0),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
        }));
        script.says(addresses, seconds);
        script
    }

    fn says(&self, addresses: &[&str], seconds: u64) {
        *self.0.answer.lock().unwrap() = Ok(Answer {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            valid: Duration::from_secs(seconds),
        });
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::Relaxed)
    }
}

impl Resolve for Scripted {
    fn resolve(&self, _: Arc<str>) -> Pin<Box<dyn Future<Output = Result<Answer, DnsError>> + Send>> {
        let script = Arc::clone(&self.0);
        script.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            script.answers.acquire().await.unwrap().forget();
            script.answer.lock().unwrap().clone()
        })
    }
}

fn host(name: &str) -> Arc<str> {
    name.into()
}

async fn first(names: &Names, name: &str) -> String {
    names.addresses(&host(name)).await.unwrap()[0].to_string()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_as_long_as_it_holds_within_bounds() {
    let server = Scripted::new(&["10.0.0.1"], 20);
    let names = Names::new(server.clone());
    assert_eq!(first(&names, "a.example").await, "10.0.0.1");
    server.says(&["10.0.0.2"], 0);
    tokio::time::advance(Duration::from_secs(19)).await;
    assert_eq!(first(&names, "a.example").await, "10.0.0.1");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(first(&names, "a.example").await, "10.0.0.2");
    assert_eq!(first(&names, "a.example").await, "10.0.0.2");
    assert_eq!(
        server.asked(),
        2,
        "an answer that holds for no time is kept for a second"
    );
    server.says(&["10.0.0.3"], 1_000_000);
    tokio::time::advance(SHORTEST).await;
    assert_eq!(first(&names, "a.example").await, "10.0.0.3");
    tokio::time::advance(LONGEST).await;
    first(&names, "a.example").await;
    assert_eq!(server.asked(), 4, "and one that holds for ever is not believed");
}

#[tokio::test]
async fn a_name_is_asked_for_once_however_many_wait_and_whoever_goes_away() {
    let server = Scripted::new(&["10.0.0.1"], 20);
    server.0.answers.forget_permits(Semaphore::MAX_PERMITS);
    let names = Names::new(server.clone());
    let ask = |name: &'static str| {
        let names = names.clone();
        tokio::spawn(async move { first(&names, name).await })
    };
    let leaves = ask("a.example");
    while server.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let waiting: Vec<_> = (0..50).map(|_| ask("a.example")).collect();
    let other = ask("b.example");
    while server.asked() < 2 {
        tokio::task::yield_now().await;
    }
    leaves.abort();
    server.0.answers.add_permits(2);
    for waits in waiting.into_iter().chain([other]) {
        assert_eq!(waits.await.unwrap(), "10.0.0.1");
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_and_soon_tried_again() {
    let server = Scripted::new(&[], 300);
    let names = Names::new(server.clone());
    let name = host("a.example");
    let none = DnsError::NoAddress {
        host: Arc::clone(&name),
    };
    assert_eq!(names.addresses(&name).await.unwrap_err(), none);
    server.says(&["10.0.0.1"], 10);
    assert_eq!(names.addresses(&name).await.unwrap_err(), none);
    assert_eq!(server.asked(), 1);
    tokio::time::advance(FAILURE).await;
    assert_eq!(first(&names, "a.example").await, "10.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_waited_for_for_ever() {
    let server = Scripted::new(&["10.0.0.1"], 10);
    server.0.answers.forget_permits(Semaphore::MAX_PERMITS);
    let names = Names::new(server);
    let began = Instant::now();
    let error = names.addresses(&host("a.example")).await.unwrap_err();
    assert!(matches!(error, DnsError::Silent { .. }), "{error}");
    assert!(began.elapsed() <= WAIT + Duration::from_millis(10));
}

#[tokio::test]
async fn an_address_is_its_own_answer() {
    let server = Scripted::new(&["10.0.0.1"], 10);
    let names = Names::new(server.clone());
    assert_eq!(first(&names, "fd00::1").await, "fd00::1");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn the_memory_is_bounded() {
    let names = Names::new(Scripted::new(&["10.0.0.1"], 300));
    for n in 0..MOST + 10 {
        first(&names, &format!("n{n}.example")).await;
    }
    assert_eq!(names.known().len(), MOST);
}
