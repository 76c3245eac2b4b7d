use std::{
    collections::BTreeMap,
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use tonic::service::Routes;

use super::{
    stage::{Authority, Stage},
    *,
};
use crate::tls::with_causes;

/// A directory of its own, gone at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "isthmus-istiod-{}-{}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

struct Way {
    roots: Roots,
    other_name: Option<&'static str>,
    token: Token,
    headers: Headers,
}

impl Way {
    fn trusting(roots: Roots) -> Self {
        Self {
            roots,
            other_name: None,
            token: Token::Literal("a-token".to_owned()),
            headers: Headers::default(),
        }
    }

    fn to(&self, at: SocketAddr) -> Contact {
        self.try_to(&format!("https://{at}")).unwrap()
    }

    fn try_to(&self, address: &str) -> Result<Contact, ContactError> {
        Contact::new(&ContactParts {
            address,
            roots: &self.roots,
            other_name: self.other_name,
            token: &self.token,
            cluster_id: "cluster1",
            headers: &self.headers,
        })
    }
}

fn serve(authority: &Authority, names: &[&str]) -> Stage {
    Stage::start(Routes::default(), authority.server(names))
}

async fn refusal(contact: &Contact) -> String {
    with_causes(&contact.connect().await.unwrap_err())
}

#[tokio::test]
async fn istiod_is_believed_by_its_own_name_or_by_the_other_one_and_by_no_third() {
    let authority = Authority::root("mesh");
    let named = serve(&authority, &["127.0.0.1"]);
    let other = serve(&authority, &["istiod.istio-system.svc"]);
    let mut way = Way::trusting(Roots::Inline(authority.pem.clone()));
    way.to(named.at).connect().await.unwrap();
    let text = refusal(&way.to(other.at)).await;
    assert!(
        text.contains("--xds-hostname") && text.contains("not valid for name"),
        "{text}"
    );
    way.other_name = Some("istiod.istio-system.svc");
    way.to(named.at).connect().await.unwrap();
    way.to(other.at).connect().await.unwrap();
    way.other_name = Some("somebody.else");
    let text = refusal(&way.to(other.at)).await;
    assert!(text.contains("not valid for name"), "{text}");
}

#[tokio::test]
async fn another_name_does_not_make_another_root_good() {
    let (authority, other) = (Authority::root("mesh"), Authority::root("other"));
    let stage = serve(&authority, &["istiod.istio-system.svc"]);
    let mut way = Way::trusting(Roots::Inline(other.pem.clone()));
    way.other_name = Some("istiod.istio-system.svc");
    let text = refusal(&way.to(stage.at)).await;
    assert!(
        text.contains("UnknownIssuer") && text.contains("--xds-root-ca"),
        "{text}"
    );
    way.roots = Roots::Inline(format!("{}{}", other.pem, authority.pem));
    way.to(stage.at).connect().await.unwrap();
}

#[tokio::test]
async fn a_rotated_file_of_roots_holds_from_the_next_connection_on() {
    let scratch = Scratch::new();
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let path = scratch.file("root-cert.pem", &old.pem);
    let way = Way::trusting(Roots::File(path.clone()));
    let (served_by_old, served_by_new) = (serve(&old, &["127.0.0.1"]), serve(&new, &["127.0.0.1"]));
    let (to_old, to_new) = (way.to(served_by_old.at), way.to(served_by_new.at));
    to_old.connect().await.unwrap();
    assert!(refusal(&to_new).await.contains("UnknownIssuer"));
    fs::write(&path, &new.pem).unwrap();
    to_new.connect().await.unwrap();
    assert!(refusal(&to_old).await.contains("UnknownIssuer"));
}

#[tokio::test]
async fn roots_that_are_none_are_said_by_name_and_nobody_is_spoken_to() {
    let scratch = Scratch::new();
    let authority = Authority::root("mesh");
    let stage = serve(&authority, &["127.0.0.1"]);
    let garbage = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    for (roots, word) in [
        (Roots::File(scratch.0.join("missing")), "istio-ca-root-cert"),
        (Roots::File(scratch.file("empty", "")), "hold no certificate"),
        (Roots::File(scratch.file("garbage", garbage)), "can be used as a root"),
        (
            Roots::File(scratch.file("large", &"a".repeat((1 << 20) + 1))),
            "more than 1 MiB",
        ),
        (
            Roots::Inline("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n".to_owned()),
            "not PEM",
        ),
    ] {
        let text = refusal(&Way::trusting(roots).to(stage.at)).await;
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(stage.connections(), 0);
}

#[tokio::test]
async fn whom_nobody_answers_is_told_apart_from_whom_nobody_is() {
    let way = Way::trusting(Roots::Inline(Authority::root("mesh").pem));
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = gone.local_addr().unwrap();
    drop(gone);
    let text = refusal(&way.to(at)).await;
    assert!(text.contains(&format!("istiod at {at} is not reached")), "{text}");
    let text = refusal(&way.try_to("https://no-such-host.invalid:15012").unwrap()).await;
    assert!(
        text.contains("istiod at no-such-host.invalid:15012 is not reached"),
        "{text}"
    );

    // It accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = std::time::Instant::now();
    let text = refusal(&way.to(silent.local_addr().unwrap())).await;
    assert!(text.contains("does not answer within 5 s"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_token_is_read_for_every_call() {
    let scratch = Scratch::new();
    let path = scratch.file("token", "first\n");
    let mut way = Way::trusting(Roots::System);
    way.token = Token::File(path.clone());
    let contact = way.try_to("https://istiod:15012").unwrap();
    let shown = || contact.headers().map(|headers| headers.get("authorization").cloned());
    assert_eq!(shown().unwrap().unwrap(), "Bearer first");
    fs::write(&path, "second").unwrap();
    let second = shown().unwrap().unwrap();
    assert_eq!(second, "Bearer second");
    assert!(second.is_sensitive() && !format!("{second:?}").contains("second"));
    fs::write(&path, " \n").unwrap();
    assert!(matches!(shown(), Err(TokenError::Empty { .. })));
    fs::write(&path, "tok\u{7f}en").unwrap();
    assert!(matches!(shown(), Err(TokenError::Malformed)));
    fs::write(&path, "a".repeat(16 * 1024 + 1)).unwrap();
    assert!(matches!(shown(), Err(TokenError::Unreadable { .. })));
    fs::remove_file(&path).unwrap();
    let error = shown().unwrap_err();
    assert!(error.to_string().contains("audience istio-ca"), "{error}");
    // Only where nothing was said and nothing is there, nothing is shown.
    way.token = Token::File("./var/run/secrets/tokens/istio-token".into());
    assert!(!Path::new("./var/run/secrets/tokens/istio-token").exists());
    let headers = way.try_to("https://istiod:15012").unwrap().headers().unwrap();
    assert!(headers.get("authorization").is_none());
    assert_eq!(headers.get("clusterid").unwrap(), "cluster1");
}

#[test]
fn headers_of_an_operator_are_added_and_their_values_not_shown() {
    let mut way = Way::trusting(Roots::System);
    way.headers = Headers(BTreeMap::from([("X-Tenant".to_owned(), "secret".to_owned())]));
    let contact = way.try_to("https://istiod:15012").unwrap();
    assert_eq!(contact.headers().unwrap().get("x-tenant").unwrap(), "secret");
    assert!(!format!("{contact:?}").contains("secret"));
    for (name, value) in [("not a name", "value"), ("x-name", "line\nbreak")] {
        way.headers = Headers(BTreeMap::from([(name.to_owned(), value.to_owned())]));
        let error = way.try_to("https://istiod:15012").unwrap_err();
        assert!(
            matches!(&error, ContactError::Header { name: told } if told == name),
            "{error}"
        );
    }
}

#[test]
fn an_address_must_be_one_of_https() {
    let way = Way::trusting(Roots::System);
    for address in [
        "http://istiod:15012",
        "istiod:15012",
        "https://",
        "https://a b",
        "",
        "https://-/",
    ] {
        assert!(
            matches!(way.try_to(address), Err(ContactError::Address { .. })),
            "{address:?}"
        );
    }
    for address in ["https://istiod", "https://[::1]:15012", "https://127.0.0.1:15012"] {
        assert!(way.try_to(address).is_ok(), "{address:?}");
    }
}

/// Has something happened within the time a watch needs, and a little?
async fn in_time(event: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(Duration::from_secs(5), event).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_change_of_roots_is_seen_however_it_is_made_and_nothing_else_is() {
    let scratch = Scratch::new();
    let [one, two, three, four] = ["one", "two", "three", "four"].map(|name| Authority::root(name).pem);
    // As a ConfigMap is mounted: the file is a link through a link that is swapped.
    for (name, pem) in [("1", &one), ("2", &two)] {
        fs::create_dir(scratch.0.join(name)).unwrap();
        scratch.file(&format!("{name}/root-cert.pem"), pem);
    }
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, scratch.0.join("..data_tmp")).unwrap();
        fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).unwrap();
    };
    link("1");
    let path = scratch.0.join("root-cert.pem");
    std::os::unix::fs::symlink("..data/root-cert.pem", &path).unwrap();
    let mut watch = RootsWatch::new(&Roots::File(path.clone())).unwrap();
    assert!(!in_time(watch.changed()).await);
    link("2");
    assert!(in_time(watch.changed()).await, "a swapped link");
    assert!(!in_time(watch.changed()).await, "told once");
    fs::write(&path, &two).unwrap();
    assert!(!in_time(watch.changed()).await, "written anew with the same");
    fs::write(&path, "half of a ").unwrap();
    assert!(!in_time(watch.changed()).await, "not good");
    fs::remove_file(&path).unwrap();
    assert!(!in_time(watch.changed()).await, "gone");
    fs::write(&path, &three).unwrap();
    assert!(in_time(watch.changed()).await, "back, as a file");
    scratch.file("new", &four);
    fs::rename(scratch.0.join("new"), &path).unwrap();
    assert!(in_time(watch.changed()).await, "renamed into place");
    assert!(RootsWatch::new(&Roots::System).is_none());
    assert!(RootsWatch::new(&Roots::Inline(one)).is_none());
}
