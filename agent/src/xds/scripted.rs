//! A control plane that does what a test tells it to: what no real istiod does on cue.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::HeaderMap;
use isthmus_istio::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    security, workload,
};
use prost::Message;
use prost_types::Any;
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use tokio_rustls::TlsAcceptor;

use super::kind::Kind;

/// Listens on localhost.
pub(super) struct Istiod {
    pub(super) address: String,
    /// PEM of who it is certified by.
    pub(super) roots: String,
    calls: UnboundedReceiver<Call>,
}

/// A call of discovery.
pub(super) struct Call {
    pub(super) headers: HeaderMap,
    requests: RecvStream,
    read: BytesMut,
    respond: SendResponse<Bytes>,
    answers: Option<SendStream<Bytes>>,
    wind_down: UnboundedSender<()>,
}

impl Istiod {
    pub(super) async fn start() -> Self {
        let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsAcceptor::from(std::sync::Arc::new(tls));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, sender) = (tls.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, sender).await;
                    }
                });
            }
        });
        Self {
            address,
            roots: key.cert.pem(),
            calls,
        }
    }

    pub(super) async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// Whether nobody has called since.
    pub(super) fn is_idle(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

async fn serve(stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, calls: UnboundedSender<Call>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (wind_down, mut winding_down) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            Some(()) = winding_down.recv() => connection.graceful_shutdown(),
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (parts, requests) = request.into_parts();
                let call = Call {
                    headers: parts.headers,
                    requests,
                    read: BytesMut::new(),
                    respond,
                    answers: None,
                    wind_down: wind_down.clone(),
                };
                if calls.send(call).is_err() {
                    return;
                }
            }
        }
    }
}

impl Call {
    /// The next request.
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        loop {
            if let Some(prefix) = self.read.get(..5) {
                let length = 5 + (&prefix[1..]).get_u32() as usize;
                if self.read.len() >= length {
                    let message = self.read.split_to(length).split_off(5);
                    return DeltaDiscoveryRequest::decode(message).unwrap();
                }
            }
            let chunk = self.requests.data().await.expect("more requests").unwrap();
            self.requests.flow_control().release_capacity(chunk.len()).unwrap();
            self.read.extend_from_slice(&chunk);
        }
    }

    /// The first request of each kind.
    pub(super) async fn first_requests(&mut self) -> [DeltaDiscoveryRequest; 2] {
        [self.request().await, self.request().await]
    }

    fn answers(&mut self) -> &mut SendStream<Bytes> {
        let respond = &mut self.respond;
        self.answers.get_or_insert_with(|| {
            let headers = http::Response::builder().header("content-type", "application/grpc");
            respond.send_response(headers.body(()).unwrap(), false).unwrap()
        })
    }

    pub(super) fn bytes(&mut self, bytes: impl Into<Bytes>) {
        self.answers().send_data(bytes.into(), false).unwrap();
    }

    pub(super) fn answer(&mut self, response: &DeltaDiscoveryResponse) {
        let message = response.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message);
        self.bytes(bytes);
    }

    /// Answers both kinds and takes the acknowledgements.
    pub(super) async fn tell(&mut self, addresses: Vec<Resource>, policies: Vec<Resource>) {
        for (kind, resources) in [(Kind::Address, addresses), (Kind::Authorization, policies)] {
            self.answer(&response(kind, resources));
            let acknowledged = self.request().await;
            assert_eq!(acknowledged.type_url, kind.url());
            assert_eq!(acknowledged.response_nonce, nonce(kind));
            assert_eq!(acknowledged.error_detail, None);
        }
    }

    /// Ends the stream with a status.
    pub(super) fn end(mut self, code: u32, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.into());
        trailers.insert("grpc-message", message.parse().unwrap());
        // No base64.
        trailers.insert("grpc-status-details-bin", "?!".parse().unwrap());
        self.answers().send_trailers(trailers).unwrap();
    }

    /// Refuses the call: a status and nothing else.
    pub(super) fn refuse(mut self, code: u32, message: &str) {
        let headers = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", code)
            .header("grpc-message", message);
        self.respond.send_response(headers.body(()).unwrap(), true).unwrap();
    }

    /// Closes the connection as one of a certain age is: no more streams, then none at all.
    pub(super) fn close_for_age(self) {
        self.wind_down.send(()).unwrap();
    }
}

pub(super) fn nonce(kind: Kind) -> String {
    format!("nonce of {kind:?}")
}

pub(super) fn response(kind: Kind, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        type_url: kind.url().to_owned(),
        nonce: nonce(kind),
        ..DeltaDiscoveryResponse::default()
    }
}

fn resource(kind: Kind, name: String, version: &str, message: &impl Message) -> Resource {
    Resource {
        name,
        version: version.to_owned(),
        resource: Some(Any {
            type_url: kind.url().to_owned(),
            value: message.encode_to_vec(),
        }),
        aliases: Vec::new(),
    }
}

/// A pod of the namespace `demo`.
pub(super) fn pod(name: &str, ip: [u8; 4], version: &str) -> Resource {
    let uid = uid(name);
    let workload = workload::Workload {
        uid: uid.clone(),
        name: name.to_owned(),
        namespace: "demo".to_owned(),
        addresses: vec![ip.to_vec()],
        ..workload::Workload::default()
    };
    let address = workload::Address {
        r#type: Some(workload::address::Type::Workload(workload)),
    };
    resource(Kind::Address, uid, version, &address)
}

pub(super) fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/demo/{name}")
}

/// A policy of the namespace `demo`.
pub(super) fn policy(name: &str) -> Resource {
    let policy = security::Authorization {
        name: name.to_owned(),
        namespace: "demo".to_owned(),
        scope: security::Scope::Namespace.into(),
        ..security::Authorization::default()
    };
    resource(Kind::Authorization, format!("demo/{name}"), "", &policy)
}
