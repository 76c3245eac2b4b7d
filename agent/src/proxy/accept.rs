use std::{
    io,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::{
    net::{TcpListener, TcpStream},
    task::unconstrained,
};

use super::{
    SocketOptions,
    descriptors::{Descriptors, Lease},
    leg::{Leg, arm_listener},
};
use crate::drain::Drain;

/// Connections that may wait at a listener which closes (`BACKLOG` in `redirect/sockets.rs`).
const LONGEST_QUEUE: usize = 4096;
/// First and longest wait after the kernel refused to accept.
const BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// A listener that survives a lack of descriptors: it waits, says so, and goes on by itself.
pub(crate) struct Acceptor {
    listener: TcpListener,
    descriptors: Descriptors,
    /// Descriptors one accepted connection needs, those of its way onwards included.
    need: usize,
    options: SocketOptions,
}

/// An accepted connection and the descriptors reserved for it.
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) from: SocketAddr,
    pub(crate) lease: Lease,
}

impl Acceptor {
    /// Accepted sockets are to become [`Leg`]s or the sockets of tunnels.
    pub(crate) fn new(
        listener: TcpListener,
        descriptors: Descriptors,
        need: usize,
        options: SocketOptions,
    ) -> io::Result<Self> {
        arm_listener(&listener, &options)?;
        Ok(Self {
            listener,
            descriptors,
            need,
            options,
        })
    }

    /// Hands on connections until one of the two starts to drain, and closes the listener. Those that the kernel has
    /// established by then are still handed on; a closed listener would reset them.
    pub(crate) async fn until(self, [one, other]: [Drain; 2], mut take: impl FnMut(Accepted)) {
        let mut started = std::pin::pin!(async {
            tokio::select! { () = one.started() => {}, () = other.started() => {} }
        });
        loop {
            tokio::select! {
                biased;
                () = &mut started => break,
                accepted = self.next() => take(accepted),
            }
        }
        for _ in 0..LONGEST_QUEUE {
            match unconstrained(self.next()).now_or_never() {
                Some(accepted) => take(accepted),
                None => return,
            }
        }
    }

    /// The next connection. Errors of single connections are skipped, a lack of descriptors is waited out.
    pub(crate) async fn next(&self) -> Accepted {
        let mut wait = BACK_OFF;
        loop {
            match self.listener.accept().await {
                Ok((tcp, from)) => match self.descriptors.take(self.need) {
                    Some(lease) => return Accepted { tcp, from, lease },
                    None => self.refuse(tcp),
                },
                Err(error) if is_about_one(&error) => {}
                Err(error) => {
                    if FULL.may_say() {
                        tracing::error!(
                            limit = self.descriptors.limit(),
                            used = self.descriptors.used(),
                            %error,
                            "cannot accept connections; if descriptors ran out, raise RLIMIT_NOFILE (LimitNOFILE=)"
                        );
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_BACK_OFF);
                }
            }
        }
    }

    /// Over budget: the client learns at once, by a reset, and what is open keeps running.
    fn refuse(&self, tcp: TcpStream) {
        // Also one that waited from before the listener was prepared must see a reset.
        drop(Leg::accepted(tcp, &self.options));
        if FULL.may_say() {
            tracing::error!(
                limit = self.descriptors.limit(),
                used = self.descriptors.used(),
                "connection reset: its descriptors would exceed the budget left by RLIMIT_NOFILE; \
                 raise it (LimitNOFILE=) or find who opens so many connections"
            );
        }
    }
}

/// Errors that belong to the connection which was about to be accepted (accept(2)), not to us.
fn is_about_one(error: &io::Error) -> bool {
    use nix::libc::{ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPROTO};
    error.raw_os_error().is_some_and(|code| {
        [
            ECONNABORTED,
            EHOSTDOWN,
            EHOSTUNREACH,
            EINTR,
            ENETDOWN,
            ENETUNREACH,
            ENONET,
            ENOPROTOOPT,
            EPROTO,
        ]
        .contains(&code)
    })
}

/// All listeners of the process share one limit and therefore one voice.
static FULL: OncePerSecond = OncePerSecond(Mutex::new(None));

struct OncePerSecond(Mutex<Option<Instant>>);

impl OncePerSecond {
    fn may_say(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        if last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            return false;
        }
        *last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use tokio::io::AsyncReadExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[tokio::test]
    async fn above_the_budget_connections_are_reset_and_below_it_served_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let budget = Descriptors::new(3);
        let acceptor = Acceptor::new(listener, budget.clone(), 2, SocketOptions::default()).unwrap();

        let _first = TcpStream::connect(address).await.unwrap();
        let served = acceptor.next().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let (refused, none) = tokio::join!(
            async { second.read(&mut [0; 1]).await },
            tokio::time::timeout(Duration::from_millis(200), acceptor.next()),
        );
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(none.is_err(), "a connection over budget was served");

        drop(served);
        assert_eq!(budget.used(), 0);
        let third = TcpStream::connect(address).await.unwrap();
        let served = acceptor.next().await;
        assert_eq!(served.from, third.local_addr().unwrap());
    }

    /// The limit belongs to the whole process, so the promise is proven in one of its own.
    #[test]
    fn without_descriptors_it_waits_says_so_and_goes_on() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "proxy::accept::tests::starved", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
    }

    #[tokio::test]
    #[ignore = "changes the limits of its process; run by without_descriptors_it_waits_says_so_and_goes_on"]
    async fn starved() {
        let said = Said::default();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(said.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(listener, Descriptors::new(100), 2, SocketOptions::default()).unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        // Lower than any descriptor that is free.
        setrlimit(Resource::RLIMIT_NOFILE, open.min(3), hard).unwrap();
        let cpu = || {
            nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)
                .unwrap()
                .user_time()
        };
        let before = cpu();
        let none = tokio::time::timeout(Duration::from_millis(700), acceptor.next()).await;
        assert!(none.is_err());
        let spent = cpu() - before;
        assert!(spent.tv_sec() == 0 && spent.tv_usec() < 100_000, "it spins: {spent:?}");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        tokio::time::timeout(Duration::from_secs(5), acceptor.next())
            .await
            .expect("it goes on by itself");
        let said = said.0.lock().unwrap().clone();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("RLIMIT_NOFILE"), "{said:?}");
    }

    /// Error messages.
    #[derive(Clone, Default)]
    struct Said(std::sync::Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Said {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            struct Message(String);
            impl tracing::field::Visit for Message {
                fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                    self.0 += &format!("{field}={value:?} ");
                }
            }
            if *event.metadata().level() == tracing::Level::ERROR {
                let mut message = Message(String::new());
                event.record(&mut message);
                self.0.lock().unwrap().push(message.0);
            }
        }
    }

    #[test]
    fn the_log_is_not_flooded() {
        let voice = OncePerSecond(Mutex::new(None));
        assert!(voice.may_say());
        assert!(!voice.may_say());
    }
}
