//! Against a CA that does on cue what the real one does not: it refuses one identity, hesitates, names somebody else.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use isthmus_istio::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use rcgen::{CertificateSigningRequestParams, DnType};
use tonic::Response;
use tonic::service::Routes;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

use super::*;
use crate::identity::CertificateError;
use crate::istiod::stage::{Authority, Stage};
use crate::istiod::tests::Scratch;
use crate::istiod::{ContactParts, Headers, Roots, Token};
use crate::tls::with_causes;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the CA was asked.
#[derive(Clone, Debug)]
struct Question {
    impersonated: Option<String>,
    csr: String,
    validity_seconds: i64,
    headers: BTreeMap<String, String>,
}

type Answer = Result<Vec<String>, Status>;
type Script = Box<dyn Fn(&Desk, &Question) -> (Duration, Answer) + Send + Sync>;

/// What the CA signs with, and how it answers.
struct Desk {
    root: Authority,
    issuer: Authority,
    script: Mutex<Script>,
    asked: Mutex<Vec<Question>>,
}

#[derive(Clone)]
struct ScriptedCa(Arc<Desk>);

#[tonic::async_trait]
impl IstioCertificateService for ScriptedCa {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let headers = headers.collect();
        let request = request.into_inner();
        let impersonated = request
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
        let question = Question {
            impersonated: impersonated.map(|value| match &value.kind {
                Some(Kind::StringValue(text)) => text.clone(),
                other => panic!("{other:?}"),
            }),
            csr: request.csr,
            validity_seconds: request.validity_duration,
            headers,
        };
        let (delay, answer) = {
            let script = self.0.script.lock().unwrap();
            script(&self.0, &question)
        };
        self.0.asked.lock().unwrap().push(question);
        tokio::time::sleep(delay).await;
        answer.map(|cert_chain| Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Desk {
    /// A leaf for `id`, valid from `begin` to `end` seconds from now.
    fn leaf(&self, question: &Question, id: &str, (begin, end): (i64, i64)) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(&question.csr).unwrap();
        let now = time::OffsetDateTime::from(SystemTime::now());
        request.params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        request.params.not_before = now + time::Duration::seconds(begin);
        request.params.not_after = now + time::Duration::seconds(end);
        request.signed_by(&self.issuer.issuer).unwrap().pem()
    }

    /// As istiod answers: the leaf, the intermediate, the root.
    fn good(&self, question: &Question) -> Answer {
        let id = question
            .impersonated
            .as_deref()
            .unwrap_or("spiffe://cluster.local/ns/istio-system/sa/gateway");
        let leaf = self.leaf(question, id, (-60, question.validity_seconds));
        Ok(vec![leaf, self.issuer.pem.clone(), self.root.pem.clone()])
    }

    fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap().clone()
    }
}

struct World {
    desk: Arc<Desk>,
    server: Authority,
    stage: Stage,
    scratch: Scratch,
    asks: Asks,
}

impl World {
    fn new(script: impl Fn(&Desk, &Question) -> (Duration, Answer) + Send + Sync + 'static) -> Self {
        let root = Authority::root("mesh root");
        let desk = Arc::new(Desk {
            issuer: root.intermediate("istiod"),
            root,
            script: Mutex::new(Box::new(script)),
            asked: Mutex::default(),
        });
        let server = Authority::root("server");
        let scratch = Scratch::new();
        scratch.file("root-cert.pem", &server.pem);
        scratch.file("token", "first");
        Self {
            stage: Stage::start(routes(&desk), server.server(&["127.0.0.1"])),
            desk,
            server,
            scratch,
            asks: Asks::ForPods,
        }
    }

    fn good() -> Self {
        Self::new(|desk, question| (Duration::ZERO, desk.good(question)))
    }

    fn then(&self, script: impl Fn(&Desk, &Question) -> (Duration, Answer) + Send + Sync + 'static) {
        *self.desk.script.lock().unwrap() = Box::new(script);
    }

    fn ca(&self) -> IstiodCa {
        let contact = Contact::new(&ContactParts {
            address: &format!("https://{}", self.stage.at),
            roots: &Roots::File(self.scratch.0.join("root-cert.pem")),
            other_name: None,
            token: &Token::File(self.scratch.0.join("token")),
            cluster_id: "cluster1",
            headers: &Headers([("X-Tenant".to_owned(), "blue".to_owned())].into()),
        });
        IstiodCa::new(contact.unwrap(), self.asks, DAY)
    }

    /// The server again, with other certificates maybe; connections there were are gone.
    fn restart(&mut self, server: &Authority) {
        let at = self.stage.at;
        let placeholder = Stage::start(Routes::default(), server.server(&["127.0.0.1"]));
        drop(std::mem::replace(&mut self.stage, placeholder));
        self.stage = Stage::start_at(at, routes(&self.desk), server.server(&["127.0.0.1"]));
    }
}

fn routes(desk: &Arc<Desk>) -> Routes {
    Routes::new(IstioCertificateServiceServer::new(ScriptedCa(Arc::clone(desk))))
}

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", "web").unwrap()
}

fn db() -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", "db").unwrap()
}

async fn refusal(ca: &IstiodCa, id: &SpiffeId) -> String {
    with_causes(&ca.issue(id.clone()).await.unwrap_err())
}

#[tokio::test]
async fn a_question_is_what_istiod_wants_to_read() {
    let world = World::good();
    let ca = world.ca();
    let certificate = ca.issue(web()).await.unwrap();
    assert_eq!((certificate.id(), certificate.chain().len()), (&web(), 2));
    assert_eq!(
        certificate.roots().as_ref(),
        std::slice::from_ref(&world.desk.root.certificate)
    );
    let asked = world.desk.asked().remove(0);
    assert_eq!(asked.impersonated.as_deref(), Some(web().as_str()));
    assert_eq!(asked.validity_seconds, 86_400);
    assert_eq!(asked.headers["authorization"], "Bearer first");
    assert_eq!(asked.headers["clusterid"], "cluster1");
    assert_eq!(asked.headers["x-tenant"], "blue");

    let (_, pem) = x509_parser::pem::parse_x509_pem(asked.csr.as_bytes()).unwrap();
    assert_eq!(pem.label, "CERTIFICATE REQUEST");
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    let info = &csr.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0);
    assert_eq!(info.subject_pki.algorithm.algorithm.to_string(), "1.2.840.10045.2.1");
    let names: Vec<_> = csr
        .requested_extensions()
        .unwrap()
        .filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(names, [GeneralName::URI(web().as_str())]);
}

#[tokio::test]
async fn every_certificate_has_its_own_key_and_the_token_as_it_is_then_over_one_connection() {
    let world = World::good();
    let ca = world.ca();
    let first = ca.issue(web()).await.unwrap();
    world.scratch.file("token", "second");
    let second = ca.issue(web()).await.unwrap();
    assert_ne!(first.key(), second.key());
    let tokens: Vec<_> = world
        .desk
        .asked()
        .iter()
        .map(|asked| asked.headers["authorization"].clone())
        .collect();
    assert_eq!(tokens, ["Bearer first", "Bearer second"]);
    world.scratch.file("token", "");
    let text = refusal(&ca, &web()).await;
    assert!(text.contains("token") && text.ends_with("is empty"), "{text}");
    assert_eq!(world.desk.asked().len(), 2, "without a token nothing is asked");
    world.scratch.file("token", "third");
    ca.issue(web()).await.unwrap();
    assert_eq!(world.stage.connections(), 1);
}

#[tokio::test]
async fn a_gateway_asks_in_its_own_name_and_takes_no_other() {
    let mut world = World::good();
    world.asks = Asks::ForItself;
    let ca = world.ca();
    let own = SpiffeId::new("cluster.local", "istio-system", "gateway").unwrap();
    assert_eq!(ca.issue(own.clone()).await.unwrap().id(), &own);
    assert_eq!(world.desk.asked().remove(0).impersonated, None);
    let text = refusal(&ca, &web()).await;
    assert!(
        text.contains("is for spiffe://cluster.local/ns/istio-system/sa/gateway"),
        "{text}"
    );
}

#[tokio::test]
async fn one_identity_is_refused_and_the_others_are_not() {
    let world = World::new(|desk, question| {
        let answer = if question.impersonated.as_deref() == Some(web().as_str()) {
            Err(Status::unauthenticated("request impersonation authentication failure"))
        } else {
            desk.good(question)
        };
        (Duration::ZERO, answer)
    });
    let certificates = Certificates::new(Arc::new(world.ca()));
    let _pods = [web(), db()].map(|id| certificates.want(&id));
    certificates.get(&db()).await.unwrap();
    let error = certificates.get(&web()).await.unwrap_err();
    let text = with_causes(&error);
    assert!(matches!(error, CertificateError::Issue { .. }), "{text}");
    for word in [
        "CA_TRUSTED_NODE_ACCOUNTS",
        "bound to our pod",
        "demo/web",
        "cluster1",
        "Unauthenticated",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(
        certificates
            .held(&web())
            .unwrap()
            .failure
            .unwrap()
            .contains("CA_TRUSTED_NODE_ACCOUNTS")
    );
    assert!(certificates.held(&db()).unwrap().failure.is_none());
}

#[tokio::test]
async fn refusals_say_what_to_look_at() {
    let world = World::good();
    let ca = world.ca();
    for (status, words) in [
        (
            Status::unauthenticated("request authenticate failure"),
            &["--auth-token", "audience", "cluster1"][..],
        ),
        (
            Status::unimplemented("unknown service"),
            &["--ca-address", "ENABLE_CA_SERVER"],
        ),
        (Status::unavailable("busy\u{7}"), &["Unavailable", "busy\\u{7}"]),
        (Status::internal("x".repeat(5000)), &["Internal"]),
    ] {
        let code = status.code();
        let message = status.message().to_owned();
        world.then(move |_, _| (Duration::ZERO, Err(Status::new(code, message.clone()))));
        let text = refusal(&ca, &web()).await;
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(text.len() < 1000, "{} bytes", text.len());
    }
    assert_eq!(world.stage.connections(), 1, "a refusal is no broken connection");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_by_its_reason() {
    let world = World::good();
    let ca = world.ca();
    let refused_as = async |change: fn(&Desk, &Question) -> Vec<String>, word: &str| {
        world.then(move |desk, question| (Duration::ZERO, Ok(change(desk, question))));
        let text = refusal(&ca, &web()).await;
        assert!(text.contains(word), "{word}: {text}");
    };
    refused_as(|_, _| Vec::new(), "0 parts").await;
    refused_as(|desk, question| vec![desk.good(question).unwrap().remove(0)], "1 parts").await;
    refused_as(
        |desk, question| vec![desk.leaf(question, db().as_str(), (-60, 60)), desk.root.pem.clone()],
        "is for spiffe://cluster.local/ns/demo/sa/db",
    )
    .await;
    refused_as(
        |desk, _| vec![String::new(), desk.root.pem.clone()],
        "certificate chain",
    )
    .await;
    refused_as(
        |desk, _| vec!["nonsense".to_owned(), desk.root.pem.clone()],
        "certificate chain",
    )
    .await;
    refused_as(
        |desk, question| vec![desk.good(question).unwrap().remove(0), "no roots".to_owned()],
        "root",
    )
    .await;
    // Somebody else's key: the leaf certifies another request's.
    refused_as(
        |desk, question| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "x");
            let csr = params.serialize_request(&key).unwrap().pem().unwrap();
            let other = Question {
                csr,
                ..question.clone()
            };
            vec![desk.leaf(&other, web().as_str(), (-60, 60)), desk.root.pem.clone()]
        },
        "does not belong to the certificate",
    )
    .await;
    let too_large = |desk: &Desk, question: &Question| {
        let mut parts = desk.good(question).unwrap();
        parts.push("x".repeat(LARGEST_ANSWER));
        parts
    };
    refused_as(too_large, "message length too large").await;
    world.then(|desk, question| (Duration::ZERO, desk.good(question)));
    ca.issue(web()).await.unwrap();
}

#[tokio::test]
async fn a_bundle_of_roots_and_no_intermediate_are_fine() {
    let world = World::new(|desk, question| {
        let other = Authority::root("another root").pem;
        let leaf = desk.good(question).unwrap().remove(0);
        (Duration::ZERO, Ok(vec![leaf, format!("{}{other}", desk.root.pem)]))
    });
    let certificate = world.ca().issue(web()).await.unwrap();
    assert_eq!((certificate.chain().len(), certificate.roots().len()), (1, 2));
    assert_eq!(certificate.roots()[0], world.desk.root.certificate);
}

#[tokio::test]
async fn a_certificate_that_is_over_or_begins_later_is_not_used() {
    let world = World::new(|desk, question| {
        let leaf = desk.leaf(question, web().as_str(), (3600, 7200));
        (
            Duration::ZERO,
            Ok(vec![leaf, desk.issuer.pem.clone(), desk.root.pem.clone()]),
        )
    });
    let certificates = Certificates::new(Arc::new(world.ca()));
    let text = with_causes(&certificates.get(&web()).await.unwrap_err());
    let begins = (3500..=3600).any(|seconds| text.contains(&format!("begins in {seconds} s;")));
    assert!(begins && text.contains("clock"), "{text}");
    world.then(|desk, question| {
        let leaf = desk.leaf(question, db().as_str(), (-7200, -3600));
        (
            Duration::ZERO,
            Ok(vec![leaf, desk.issuer.pem.clone(), desk.root.pem.clone()]),
        )
    });
    let text = with_causes(&certificates.get(&db()).await.unwrap_err());
    let ended = (3600..3700).any(|seconds| text.contains(&format!("ended {seconds} s ago;")));
    assert!(ended && text.contains("clock"), "{text}");
    world.then(|desk, question| (Duration::ZERO, desk.good(question)));
    certificates.get(&web()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_ends_in_service_is_not_given_out_and_the_next_one_is() {
    let world = World::new(|desk, question| {
        let leaf = desk.leaf(question, web().as_str(), (-60, 2));
        (
            Duration::ZERO,
            Ok(vec![leaf, desk.issuer.pem.clone(), desk.root.pem.clone()]),
        )
    });
    let certificates = Certificates::new(Arc::new(world.ca()));
    let _pod = certificates.want(&web());
    let short = certificates.get(&web()).await.unwrap();
    world.then(|_, _| (Duration::ZERO, Err(Status::unavailable("away"))));
    let began = Instant::now();
    let error = loop {
        match certificates.get(&web()).await {
            // Renewed once more before the CA went away.
            Ok(still) => assert!(SystemTime::now() < still.not_after() + Duration::from_secs(1)),
            Err(error) => break error,
        }
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(SystemTime::now() >= short.not_after());
    assert!(with_causes(&error).contains("away"), "{}", with_causes(&error));
    assert!(matches!(error, CertificateError::Expired { .. }), "{error}");
    world.then(|desk, question| (Duration::ZERO, desk.good(question)));
    let began = Instant::now();
    while certificates.get(&web()).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_slow_ca_keeps_nobody_from_asking_it_for_others() {
    let world = World::new(|desk, question| {
        let is_slow = question.impersonated.as_deref() == Some(web().as_str());
        let delay = if is_slow {
            Duration::from_secs(3600)
        } else {
            Duration::ZERO
        };
        (delay, desk.good(question))
    });
    let certificates = Certificates::new(Arc::new(world.ca()));
    let slow = certificates.clone();
    let waiting = tokio::spawn(async move { slow.get(&web()).await });
    certificates.get(&db()).await.unwrap();
    assert!(!waiting.is_finished());
    assert_eq!(world.stage.connections(), 1);
    waiting.abort();
}

#[tokio::test]
async fn a_connection_that_ended_is_made_again_and_an_absent_ca_is_told() {
    let mut world = World::good();
    let ca = world.ca();
    ca.issue(web()).await.unwrap();
    let authority = std::mem::replace(&mut world.server, Authority::root("unused"));
    world.restart(&authority);
    ca.issue(web()).await.unwrap();
    assert_eq!(world.stage.connections(), 1);
    let at = world.stage.at;
    let elsewhere = World::good();
    let desk = Arc::clone(&world.desk);
    drop(std::mem::replace(&mut world.stage, elsewhere.stage));
    let text = refusal(&ca, &web()).await;
    assert!(text.contains(&format!("istiod at {at} is not reached")), "{text}");
    world.stage = Stage::start_at(at, routes(&desk), authority.server(&["127.0.0.1"]));
    ca.issue(web()).await.unwrap();
}

#[tokio::test]
async fn many_who_ask_at_once_share_a_connection_and_the_failure_to_make_one() {
    let world = World::good();
    let ca = world.ca();
    let ids = (0..20).map(|number| SpiffeId::new("cluster.local", "demo", &format!("pod-{number}")).unwrap());
    let issued = futures_util::future::join_all(ids.map(|id| ca.issue(id))).await;
    assert!(issued.iter().all(Result::is_ok));
    assert_eq!(world.stage.connections(), 1);
    world.scratch.file("root-cert.pem", &Authority::root("other").pem);
    let ca = world.ca();
    let [web, db] = [web(), db()];
    let (one, other) = tokio::join!(refusal(&ca, &web), refusal(&ca, &db));
    assert!(one.contains("UnknownIssuer") && one.contains("--ca-"), "{one}");
    assert_eq!(one, other);
    assert_eq!(world.stage.connections(), 2);
}

#[tokio::test]
async fn when_the_roots_change_every_certificate_is_asked_for_over_a_new_connection() {
    let mut world = World::good();
    let ca = world.ca();
    let certificates = Certificates::new(Arc::new(ca.clone()));
    let following = tokio::spawn(ca.clone().follow_roots(certificates.clone()));
    let _pod = certificates.want(&web());
    certificates.get(&web()).await.unwrap();
    let soon = || {
        let due = certificates.held(&web()).unwrap().next_attempt.unwrap();
        due < SystemTime::now() + Duration::from_secs(31)
    };
    assert!(!soon());
    let rotated = Authority::root("rotated");
    world.restart(&rotated);
    world.scratch.file("root-cert.pem", &rotated.pem);
    let began = Instant::now();
    while !soon() {
        assert!(began.elapsed() < Duration::from_secs(10), "a look, and time to spare");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ca.issue(db()).await.unwrap();
    assert_eq!(world.stage.connections(), 1);
    following.abort();
}
