//! The scripted istiod does what its scripts say, seen by a plain client of istiod's protocol.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use isthmus_istio::{
    ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use isthmus_tests::{
    Because as _, Lab, Netns, Result, ScriptedIstiod,
    scripted_istiod::{Answer, Event, Kind, TOKEN, Terms, Wire, many::Many, resource},
};
use prost_types::{Struct, Value, value};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Request, Streaming, transport::Channel};
use tower_service::Service;

const SOON: Duration = Duration::from_secs(5);
const WEB: &str = "Kubernetes//Pod/demo/web";

/// A lab of one node and one pod, and its scripted istiod.
struct Scene {
    istiod: ScriptedIstiod,
    netns: Arc<Netns>,
    _lab: Lab,
}

impl Scene {
    fn start() -> Result<Self> {
        let lab = Lab::new("scripted istiod")?;
        let node = lab.network("net1")?.node("node1")?;
        let web = node.pod("web").start()?;
        lab.service("web").port(80, 8080).endpoint(&web).add();
        lab.mesh(|mesh| {
            mesh.policy(serde_json::json!({
                "name": "nobody", "namespace": "demo", "scope": "Namespace", "action": "Deny", "rules": [],
            }));
        });
        Ok(Self {
            istiod: ScriptedIstiod::start(&lab)?,
            netns: Arc::clone(node.netns()),
            _lab: lab,
        })
    }

    /// Runs a client on the node.
    fn on_the_node<F: Future<Output = Result>>(&self, client: impl FnOnce() -> F + Send) -> Result {
        self.netns.enter(|| {
            // Its threads are in the namespace too, and go on while this one waits for what the server sees.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?;
            runtime.block_on(client())
        })?
    }

    async fn channel(&self) -> Result<Channel> {
        let options = self.istiod.options();
        let address: Uri = options.address.parse()?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&fs::read(&options.roots)?)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = Connector(TlsConnector::from(Arc::new(config)));
        Ok(Channel::builder(address).connect_with_connector(connector).await?)
    }
}

#[derive(Clone)]
struct Connector(TlsConnector);

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or_default())).await?;
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            Ok(TokioIo::new(tls.connect(name, tcp).await?))
        })
    }
}

fn shown<T>(message: T, token: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("authorization", format!("Bearer {token}").parse()?);
    headers.insert("clusterid", "Kubernetes".parse()?);
    Ok(request)
}

/// One stream, as an agent has it.
struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn open(channel: Channel) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(8);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let responses = service
            .delta_aggregated_resources(shown(stream, TOKEN)?)
            .await?
            .into_inner();
        Ok(Self { requests, responses })
    }

    async fn ask(&self, kind: Kind, initial: &[(&str, &str)]) -> Result {
        let text = |text: &str| Value {
            kind: Some(value::Kind::StringValue(text.to_owned())),
        };
        self.requests
            .send(DeltaDiscoveryRequest {
                node: Some(Node {
                    id: "ztunnel~1.1.1.1~a.b~b.svc.cluster.local".to_owned(),
                    cluster: String::new(),
                    metadata: Some(Struct {
                        fields: [("NODE_NAME".to_owned(), text("node1"))].into(),
                    }),
                }),
                type_url: kind.url().to_owned(),
                initial_resource_versions: initial
                    .iter()
                    .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                    .collect::<BTreeMap<_, _>>(),
                ..DeltaDiscoveryRequest::default()
            })
            .await
            .because("asking")
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse> {
        let message = timeout(SOON, self.responses.message()).await??;
        message.because("the stream ended")
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, refused: Option<&str>) -> Result {
        self.requests
            .send(DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                error_detail: refused.map(|message| Status {
                    code: 3,
                    message: message.to_owned(),
                }),
                ..DeltaDiscoveryRequest::default()
            })
            .await
            .because("answering")
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[test]
fn it_serves_the_labs_mesh_and_then_what_changes() -> Result {
    let scene = Scene::start()?;
    scene.on_the_node(|| async {
        let mut client = Client::open(scene.channel().await?).await?;
        client.ask(Kind::Address, &[]).await?;
        let first = client.next().await?;
        assert_eq!(names(&first), [WEB, "demo/web.demo.svc.cluster.local"]);
        client.answer(&first, None).await?;
        client.ask(Kind::Authorization, &[("demo/gone", "")]).await?;
        let policies = client.next().await?;
        assert_eq!(names(&policies), ["demo/nobody"]);
        assert_eq!(
            policies.removed_resources,
            ["demo/gone"],
            "a name it never had is no more"
        );
        client.answer(&policies, Some("demo/nobody: I do not like it")).await?;
        scene.istiod.served(1)?;
        scene.istiod.remove(Kind::Address, &[WEB]);
        let next = client.next().await?;
        assert_eq!(
            (names(&next).len(), &next.removed_resources[..]),
            (0, &[WEB.to_owned()][..])
        );
        Ok(())
    })?;
    let asked = scene.istiod.seen(0, |event| event.asks(Kind::Address));
    let Event::Asked { node, metadata, .. } = &asked[0].event else {
        panic!("{asked:?}")
    };
    assert_eq!(node.as_deref(), Some("ztunnel~1.1.1.1~a.b~b.svc.cluster.local"));
    assert_eq!(metadata["NODE_NAME"], "node1");
    let refused = |event: &Event| matches!(event, Event::Nacked { reason, .. } if reason.contains("do not like"));
    assert_eq!(scene.istiod.seen(0, refused).len(), 1);
    scene.istiod.wait_for(0, "the end of the stream", |event| {
        matches!(event, Event::Closed { .. })
    })?;
    assert_eq!(scene.istiod.agents(), 0);
    Ok(())
}

#[test]
fn who_resumes_is_sent_the_difference_only() -> Result {
    let scene = Scene::start()?;
    scene.on_the_node(|| async {
        let channel = scene.channel().await?;
        let mut client = Client::open(channel.clone()).await?;
        client.ask(Kind::Address, &[]).await?;
        let first = client.next().await?;
        drop(client);
        let mut held: Vec<(&str, &str)> = first
            .resources
            .iter()
            .map(|one| (one.name.as_str(), one.version.as_str()))
            .collect();
        held[0].1 = "another";
        held.push(("Kubernetes//Pod/demo/gone", "x"));
        let mut client = Client::open(channel).await?;
        client.ask(Kind::Address, &held).await?;
        let resumed = client.next().await?;
        assert_eq!(names(&resumed), [held[0].0]);
        assert_eq!(resumed.removed_resources, ["Kubernetes//Pod/demo/gone"]);
        Ok(())
    })
}

#[test]
fn it_refuses_delays_stays_silent_and_talks_nonsense_as_it_is_told() -> Result {
    let scene = Scene::start()?;
    scene.on_the_node(|| async {
        let channel = scene.channel().await?;
        let opened = |answer: Answer| {
            scene.istiod.script(|script| script.discovery = answer);
            let channel = channel.clone();
            async move {
                let mut client = match timeout(SOON, Client::open(channel)).await? {
                    Ok(client) => client,
                    Err(failure) => return Ok(Err(failure.to_string())),
                };
                // Who is answered nonsense at once may ask nothing more.
                let _asked = client.ask(Kind::Address, &[]).await;
                let begin = Instant::now();
                Ok::<_, isthmus_tests::Failure>(
                    match timeout(Duration::from_secs(1), client.responses.message()).await {
                        Ok(Ok(message)) => Ok((message.is_some(), begin.elapsed())),
                        Ok(Err(status)) => Err(status.to_string()),
                        Err(_) => Err("nothing comes".to_owned()),
                    },
                )
            }
        };
        for code in [
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::Unavailable,
            Code::ResourceExhausted,
        ] {
            let said = opened(Answer::Refused(code, "as scripted".to_owned()))
                .await?
                .unwrap_err();
            assert!(said.contains("as scripted"), "{code:?}: {said}");
        }
        let (_, took) = opened(Answer::After(Duration::from_millis(300))).await?.unwrap();
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert_eq!(opened(Answer::Never).await?.unwrap_err(), "nothing comes");
        // A frame of 5 bytes that are no message.
        let garbage = Answer::Bytes(vec![0, 0, 0, 0, 5, 255, 255, 255, 255, 255]);
        let said = opened(garbage).await?.unwrap_err();
        assert!(
            said.to_lowercase().contains("decode") || said.contains("varint"),
            "{said}"
        );
        assert!(opened(Answer::Served).await?.unwrap().0, "the control");
        Ok(())
    })
}

#[test]
fn it_breaks_connections_as_it_is_told() -> Result {
    let scene = Scene::start()?;
    let serve = |wire: Wire| scene.istiod.script(|script| script.wire = wire);
    scene.on_the_node(|| async {
        for wire in [Wire::NoTls, Wire::Silent, Wire::NoHttp2] {
            serve(wire.clone());
            let reached = timeout(Duration::from_millis(500), async {
                let mut client = Client::open(scene.channel().await?).await?;
                client.ask(Kind::Address, &[]).await?;
                client.next().await
            });
            assert!(!matches!(reached.await, Ok(Ok(_))), "{wire:?}");
        }
        serve(Wire::Dribbling {
            bytes: 64,
            pause: Duration::from_millis(1),
        });
        let mut client = Client::open(scene.channel().await?).await?;
        client.ask(Kind::Address, &[]).await?;
        assert_eq!(client.next().await?.resources.len(), 2, "slowly, but whole");
        serve(Wire::Served);

        let mut client = Client::open(scene.channel().await?).await?;
        client.ask(Kind::Address, &[]).await?;
        client.next().await?;
        let many = Many {
            workloads: 2000,
            services: 10,
        };
        scene.istiod.cut_after(100_000);
        scene.istiod.put(Kind::Address, many.resources());
        let ended = client.next().await.expect_err("cut in the middle");
        assert!(scene.istiod.has_cut(), "{ended}");

        let mut client = Client::open(scene.channel().await?).await?;
        client.ask(Kind::Address, &[]).await?;
        assert_eq!(client.next().await?.resources.len(), 2 + 2010);
        scene.istiod.drop_connections();
        client.next().await.expect_err("dropped");

        scene.istiod.kill();
        assert!(scene.channel().await.is_err(), "killed, it is not there");
        scene.istiod.restart()?;
        scene.channel().await?;
        Ok(())
    })
}

#[test]
fn who_does_not_show_the_right_token_is_refused() -> Result {
    let scene = Scene::start()?;
    scene.istiod.rotate_token("another.token.here")?;
    scene.on_the_node(|| async {
        let refused = Client::open(scene.channel().await?)
            .await
            .err()
            .because("the old token")?;
        assert!(refused.to_string().contains("authentication failure"), "{refused}");
        Ok(())
    })?;
    let refusals = scene.istiod.seen(0, |event| matches!(event, Event::Refused { .. }));
    assert_eq!(refusals.len(), 1);
    Ok(())
}

#[test]
fn it_signs_with_the_labs_authority_on_its_terms_and_for_nobody_it_must_not() -> Result {
    let scene = Scene::start()?;
    let (one, other) = (
        "spiffe://cluster.local/ns/demo/sa/web",
        "spiffe://cluster.local/ns/demo/sa/other",
    );
    scene.istiod.script(|script| {
        script.terms = Terms::seconds(20);
        let refused = Answer::Refused(
            Code::Unauthenticated,
            "request impersonation authentication failure".to_owned(),
        );
        script.ca_for.insert(other.to_owned(), refused);
    });
    scene.on_the_node(|| async {
        let mut ca = IstioCertificateServiceClient::new(scene.channel().await?);
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
        let request = |identity: &str| {
            let kind = Some(value::Kind::StringValue(identity.to_owned()));
            let fields = [("ImpersonatedIdentity".to_owned(), Value { kind })].into();
            IstioCertificateRequest {
                csr: csr.clone(),
                validity_duration: 86_400,
                metadata: Some(Struct { fields }),
            }
        };
        let chain = ca
            .create_certificate(shown(request(one), TOKEN)?)
            .await?
            .into_inner()
            .cert_chain;
        let lab_root = fs::read_to_string(scene._lab.authority().dir().join("root.pem"))?;
        assert_eq!((chain.len(), chain[1].trim()), (2, lab_root.trim()));
        CertificateDer::from_pem_slice(chain[0].as_bytes())?;
        let refused = ca
            .create_certificate(shown(request(other), TOKEN)?)
            .await
            .expect_err("scripted");
        assert_eq!(refused.code(), Code::Unauthenticated);
        Ok(())
    })?;
    let signed = |event: &Event| matches!(event, Event::Certificate { signed: true, .. });
    assert_eq!(scene.istiod.seen(0, signed).len(), 1);
    assert_eq!(scene.istiod.seen(0, |event| event.is_certificate_of(other)).len(), 1);
    Ok(())
}

#[test]
fn a_resource_may_be_anything() -> Result {
    let scene = Scene::start()?;
    scene.istiod.put(
        Kind::Address,
        vec![resource::raw(Kind::Address, "nonsense", vec![255; 7])],
    );
    scene.on_the_node(|| async {
        let mut client = Client::open(scene.channel().await?).await?;
        client.ask(Kind::Address, &[]).await?;
        assert_eq!(names(&client.next().await?)[2], "nonsense");
        Ok(())
    })
}
